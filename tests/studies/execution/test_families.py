"""Models of ten families, each from its directory to an export: with checkpointing, in bf16, and with its own tokenizer."""

import csv
import itertools
from pathlib import Path

import pytest
from families import FAMILIES, save
from forked import run_python
from running import Recorder, SharedTrialServer, tiny_job, tiny_study

from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.studies.export.export import export
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.results import StudyResults, read_results
from tradeoff.studies.results.selection import Selection, choose
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import run_study

# The others differ less from what the rest of the tests trains.
OFTEN = {"gpt2", "modernbert", "t5"}
# Its layers share their weights, and its class in transformers can't compute activations again.
WITHOUT_CHECKPOINTING = {"albert"}
# What tokenizers take for tokens of their own, although it is part of a text.
SPECIAL = "Well</s> that <|endoftext|> is [SEP] it <pad> [PAD]: "


def searched(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudyResults, list[str]]:
    save(name, folder / "model")
    with (folder / "reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number, review in enumerate(generate_reviews(48, seed=1)):
            writer.writerow([SPECIAL * (number % 3 == 0) + review.text, review.stars - 1])
    job = tiny_job(
        model=str(folder / "model"), dataset=str(folder / "reviews.csv"), train_samples=32, eval_samples=16, eval_batch_size=16
    )
    config = tiny_study(
        job=job.model_dump(),
        space={
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": [False, True],
            "precision": ["fp32", "bf16"],
        },
        sampler="grid",
        trials=4,
    )
    display = Recorder()
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    study = run_study(config, storage=f"sqlite:///{folder}/a.db", display=display, cache=folder / "cache")
    return read_results(study), display.messages


@pytest.mark.parametrize("name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
def test_a_family_is_trained_with_checkpointing_and_in_bf16_and_exported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, messages = searched(name, tmp_path, monkeypatch)
    lines = [line for line in messages if line.startswith("gradient_checkpointing left out: ")]
    assert bool(lines) == (name in WITHOUT_CHECKPOINTING)
    losses = {
        (record.params["gradient_checkpointing"], record.params["precision"]): record.attributes["eval_loss"]
        for record in results.records
        if record.outcome == "completed"
    }
    assert losses.keys() == set(itertools.product([False] if lines else [False, True], ["fp32", "bf16"]))
    if not lines:
        assert losses[True, "fp32"] == pytest.approx(losses[False, "fp32"], rel=1e-4)
    front = pareto_front(results.records, results.objectives)
    assert front
    export(results, choose(results, Selection(trial=front[0].number)), tmp_path / "chosen")
    assert {"train.py", "training_args.json", "README.md"} <= {path.name for path in (tmp_path / "chosen").iterdir()}
    if name in OFTEN:
        done = run_python(str(tmp_path / "chosen" / "train.py"), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"accuracy {front[0].values['accuracy']}" in done.stdout.splitlines()
