"""Real studies of optimizer, attention and the job's own settings: accuracy is shared where it may be, and nowhere else."""

from collections import defaultdict
from pathlib import Path

import pytest
from running import Recorder, SharedTrialServer, cache_folder, tiny_study
from transformers import BertConfig

from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.trainers.embedded import embedded_tokenizer
from tradeoff.studies.cli.compare import as_json
from tradeoff.studies.reporting.notes import study_note, trial_note
from tradeoff.studies.results.compare import compare_trials
from tradeoff.studies.results.results import read_results
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study


def test_attention_shares_the_accuracy_of_an_optimizer_and_optimizers_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    config = tiny_study(
        space={
            "per_device_train_batch_size": [8, 16],
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "precision": "fp32",
            "optim": ["adamw_torch", "adafactor", "stable_adamw"],
            "attn_implementation": ["sdpa", "eager", "flash_attention_2"],
        },
        sampler="decoupled",
        reuse="effective-batch",
        memory_estimate="off",
        seeds_per_class=1,
        trials=6,
    )
    display = Recorder()
    study = run_study(config, storage=f"sqlite:///{tmp_path}/a.db", display=display, cache=cache_folder())
    results = read_results(study)
    assert any("stable_adamw left out: needs the package optimi" in line for line in display.messages)
    assert any("flash_attention_2 left out" in line for line in display.messages)

    completed = [record for record in results.records if record.outcome == "completed"]
    trained = [record for record in completed if not record.is_derived]
    classes = defaultdict(list)
    for record in completed:
        classes[record.params["per_device_train_batch_size"], record.params["optim"]].append(record)
    assert len(trained) == len(classes) > 1
    for members in classes.values():
        assert {record.params["attn_implementation"] for record in members} == {"sdpa", "eager"}
        assert len({record.values["accuracy"] for record in members}) == 1
        assert len({record.values["train_time_s"] for record in members}) > 1
    assert {optimizer for _, optimizer in classes} == {"adamw_torch", "adafactor"}

    first = trained[0]
    other = next(record for record in completed if record.params["optim"] != first.params["optim"])
    assert '"optim"' in as_json(compare_trials(results, first.number, other.number))
    assert first.params["optim"] in trial_note(first)
    assert "attention: sdpa, eager" in study_note(results)


def test_models_lengths_and_adapters_are_searched_jointly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    vocabulary = embedded_tokenizer([review.text for review in generate_reviews(100, seed=1)])
    short = str(tmp_path / "short")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertConfig(vocab_size=len(vocabulary), max_position_embeddings=16, **size).save_pretrained(short)
    vocabulary.save_pretrained(short)
    config = tiny_study(
        space={
            "per_device_train_batch_size": [8],
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "precision": "fp32",
            "model": ["embedded", short],
            "max_length": [16, 32],
            "lora_rank": [None, 2],
        },
        sampler="grid",
        memory_estimate="off",
        trials=6,
    )
    display = Recorder()
    study = run_study(config, storage=f"sqlite:///{tmp_path}/a.db", display=display, cache=cache_folder())
    assert f"max_length 32 with {short} left out: the model {short!r} has 16 positions" in display.messages
    records = [record for record in read_results(study).records if record.outcome == "completed"]
    assert {(record.params["model"], record.params["max_length"], record.params["lora_rank"]) for record in records} == {
        (model, length, rank) for model, length in (("embedded", 16), ("embedded", 32), (short, 16)) for rank in (None, 2)
    }
    gradients = {record.params["lora_rank"]: record.attributes["probe"]["gradients_mib"] for record in records}
    assert gradients[2] < gradients[None] / 2
