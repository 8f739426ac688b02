"""A language model is evaluated in the same way whatever its training does, and splits of a batch teach it the same."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tradeoff.objectives.job.arguments import job_of, jobs_of_data, name_of_data, training_arguments
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.trainers.embedded import embedded_tokenizer
from tradeoff.objectives.trainers.language_tokens import IGNORED, cut, num_counted
from tradeoff.objectives.trainers.model_files import JobFault
from tradeoff.objectives.trainers.preparation import prepare_workload
from tradeoff.objectives.trainers.prepared_data import PreparedData, load, prepare
from tradeoff.objectives.trainers.workloads import load_workload
from tradeoff.searchspace import TrialParameters

LENGTH = 128


def lm_job(**settings: Any) -> CausalLMJob:
    small = {"train_samples": 64, "eval_samples": 24, "max_length": LENGTH, "eval_batch_size": 8, "epochs": 1}
    return CausalLMJob(**small | {"learning_rate": 3e-3, "eval_max_length": LENGTH} | settings)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


def trainer_of(job: CausalLMJob, cache: Path, folder: Path, batch: int = 8, accumulation: int = 1, **values: Any) -> Any:
    parameters = TrialParameters(
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **({"precision": "fp32"} | values)
    )
    (of_data,) = jobs_of_data(job, {"packing": [job.packing]})
    workload = load_workload(job_of(job, parameters), {name_of_data(job): str(prepare(of_data, cache).folder)})
    settings = training_arguments(job, parameters, output_dir=str(folder)) | {"use_cpu": True, "disable_tqdm": True}
    return workload.trainer(workload.arguments_class(**settings | {"eval_strategy": "no"}), parameters)


def losses(trainer: Any, rows: Sequence[int]) -> tuple[float, int]:
    """The sum of the losses of training rows, and of how many tokens."""
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, dict(batch)))
    # Packed, the first token of each text is left out of the labels.
    num = int((batch["labels"][:, 1:] != IGNORED).sum())
    return loss * num, num


def test_texts_that_are_packed_together_do_not_see_each_other(cache: Path, tmp_path: Path) -> None:
    padded = trainer_of(lm_job(), cache, tmp_path)
    packed = trainer_of(lm_job(packing=True), cache, tmp_path)
    assert len(packed.train_dataset) < len(padded.train_dataset) / 1.5
    apart = [losses(padded, [row]) for row in range(len(padded.train_dataset))]
    together = [losses(packed, [row, row + 1]) for row in range(0, len(packed.train_dataset) - 1, 2)]
    rest = [losses(packed, [len(packed.train_dataset) - 1])] if len(packed.train_dataset) % 2 else []
    assert sum(num for _, num in apart) == sum(num for _, num in together + rest)
    assert sum(nats for nats, _ in together + rest) == pytest.approx(sum(nats for nats, _ in apart), rel=1e-4)


def test_packing_is_left_out_of_a_model_whose_texts_would_see_each_other(cache: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, OPTConfig

    tokenizer = prepare(lm_job(), cache).tokenizer
    shared = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    lacks = {}
    for name, config in {
        "apart": GPT2Config(**shared, n_embd=8, n_layer=1, n_head=1),
        "together": OPTConfig(**shared, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1),
    }.items():
        config.architectures = [type(config).__name__.replace("Config", "LMHeadModel" if name == "apart" else "ForCausalLM")]
        config.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        job = lm_job(model=str(tmp_path / name))
        lacks[name] = prepare_workload(job, cache, {"packing": [False, True]})["lacks"]
    assert lacks["apart"] == []
    (lack,) = lacks["together"]
    assert lack["values"] == {"packing": True}
    assert "texts that are packed together must not read each other" in lack["reason"]
    with pytest.raises(JobFault, match=r"must not read each other, and in the model .*together' they would; leave packing out"):
        prepare_workload(lm_job(model=str(tmp_path / "together"), packing=True), cache, {})


def test_an_evaluation_is_of_tokens_and_the_same_for_every_training(cache: Path, tmp_path: Path) -> None:
    plain = trainer_of(lm_job(), cache, tmp_path).evaluate()
    for settings in ({"packing": True}, {"eval_batch_size": 3}, {"lora": {"r": 2}}):
        other = trainer_of(lm_job(**settings), cache, tmp_path).evaluate()
        for name in ("eval_loss", "eval_perplexity", "eval_bits_per_character"):
            assert other[name] == pytest.approx(plain[name], rel=1e-5), (settings, name)
    assert plain["eval_perplexity"] == pytest.approx(math.exp(plain["eval_loss"]))


def test_a_trained_model_is_judged_by_its_tokens_however_they_are_split_and_smoothed(cache: Path, tmp_path: Path) -> None:
    trainer = trainer_of(lm_job(), cache, tmp_path, label_smoothing_factor=0.2)
    trainer.train()
    found = []
    for trainer.args.per_device_eval_batch_size in (1, 7):
        found.append(trainer.evaluate())
    batch = trainer.data_collator(list(trainer.eval_dataset))
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    counted = labels != IGNORED
    right = (logits.argmax(-1) == labels)[counted].float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits[counted], labels[counted]).item()
    assert 0 < right < 1
    for metrics in found:
        assert metrics["eval_token_accuracy"] == pytest.approx(right, abs=1e-6)
        assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-5)


def test_a_shorter_training_is_evaluated_at_the_full_length(cache: Path, tmp_path: Path) -> None:
    long, short = jobs_of_data(lm_job(eval_max_length=None), {"max_length": [24, LENGTH]})
    assert long.max_length == LENGTH
    assert short.max_length == 24
    prepared = [prepare(each, cache) for each in (long, short)]
    assert prepared[0].eval["input_ids"] == prepared[1].eval["input_ids"]
    assert len(prepared[0].train) == len(prepared[1].train)
    assert max(prepared[1].train["length"]) == 24


def test_an_evaluation_text_that_is_cut_is_told_with_its_length(cache: Path) -> None:
    whole, cut_off = (
        prepare_workload(lm_job(eval_max_length=length), cache, searched=None, measures_baselines=False)["longest_cut"]
        for length in (10_000, 24)
    )
    assert whole is None
    assert cut_off > 24
    told = prepare_workload(lm_job(eval_max_length=cut_off), cache, searched=None, measures_baselines=False)
    assert told["longest_cut"] is None


@pytest.mark.parametrize("settings", [{}, {"lora": {"r": 4}}, {"packing": True}], ids=["padded", "lora", "packed"])
def test_splits_of_an_effective_batch_learn_the_same(settings: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    found = []
    for batch, accumulation in ((16, 1), (8, 2), (4, 4)):
        trainer = trainer_of(lm_job(**settings), cache, tmp_path, batch, accumulation)
        trainer.train()
        found.append(trainer.evaluate()["eval_loss"])
    assert found[1:] == pytest.approx([found[0]] * 2, rel=2e-4)


def test_the_baseline_is_the_model_before_training(cache: Path, tmp_path: Path) -> None:
    job = lm_job()
    facts = prepare_workload(job, cache, {"lora_rank": [2]}, measures_baselines=True)
    expected = trainer_of(job, cache, tmp_path).evaluate()
    assert facts["baselines"]["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)
    assert facts["baselines"]["perplexity"] == pytest.approx(expected["eval_perplexity"], rel=1e-4)
    again = prepare_workload(job, cache, {"lora_rank": [2]}, measures_baselines=True)
    assert again["baselines"] == facts["baselines"]
    assert prepare_workload(job, cache, {"lora_rank": [2]})["baselines"] == {}  # what trains or fits alone compares with none


def conversations(tmp_path: Path, *, answer: str = "yes it is", question: str = "is it good") -> Path:
    path = tmp_path / "talk.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"{question} {n}"}, {"role": "assistant", "content": answer}]}
        for n in range(12)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def labelled(prepared: PreparedData) -> list[str]:
    tokens = [label for label in prepared.train[0]["labels"] if label != IGNORED]
    return str(prepared.tokenizer.decode(tokens, skip_special_tokens=True)).split()


def test_the_loss_is_of_answers_alone(tmp_path: Path) -> None:
    job = lm_job(dataset=str(conversations(tmp_path)), train_samples=8, eval_samples=4)
    assert labelled(prepare(job, tmp_path / "cache")) == ["yes", "it", "is"]


def test_a_length_that_leaves_no_answer_is_refused_and_one_that_leaves_some_is_said(tmp_path: Path) -> None:
    path = conversations(tmp_path, question="is it good " * 20)
    job = lm_job(dataset=str(path), train_samples=8, eval_samples=4, max_length=16)
    with pytest.raises(JobFault, match=r"max_length must leave some of an answer in the training samples"):
        prepare(job, tmp_path / "cache")
    facts = prepare_workload(job, tmp_path / "cache", {"max_length": [16, LENGTH]})
    assert list(facts["folders"]) == [f"embedded, {LENGTH} tokens"]
    lack = {"values": {"max_length": 16}, "reason": "no answer of the training samples begins within 16 tokens"}
    assert facts["lacks"] == [lack]
    with pytest.raises(JobFault, match="no answer begins within 16 tokens"):
        prepare_workload(job, tmp_path / "cache", {"max_length": [8, 16]})
    rows = path.read_text().splitlines()
    short = conversations(tmp_path).read_text().splitlines()
    path.write_text("\n".join([*rows[:4], *short]))
    prepared = prepare(
        lm_job(dataset=str(path), train_samples=16, eval_samples=0, max_length=16, eval_max_length=None), tmp_path / "cache"
    )
    (notice,) = prepared.notices
    assert notice == "4 of 16 training samples are cut at 16 tokens before their answer begins"
    assert num_counted(prepared.train).count(0) == 4  # kept, so that every length trains on as many samples
    assert load(prepared.folder).notices == prepared.notices


def test_what_is_cut_keeps_its_beginning() -> None:
    import datasets

    samples = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "labels": [[IGNORED, 2, 3], [4]]})
    short = cut(samples, 2)
    assert short["input_ids"] == [[1, 2], [4]]
    assert short["labels"] == [[IGNORED, 2], [4]]
    assert short["length"] == [2, 1]


def test_an_encoder_is_no_language_model(tmp_path: Path) -> None:
    from transformers import BertConfig

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertConfig(vocab_size=500, **sizes).save_pretrained(tmp_path)
    embedded_tokenizer(["it is good"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must write text, and bert models can't"):
        prepare(lm_job(model=str(tmp_path)), tmp_path / "cache")
