"""Trainers of the user's own, in the process of a trial."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import shared_server

from tradeoff.objectives.isolation.trial_server import JobError
from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.measurements.outcome import Completed, Failed
from tradeoff.objectives.trainers.custom_trainer import check_keywords
from tradeoff.objectives.trainers.model_files import JobFault
from tradeoff.searchspace import TrialParameters

# A classifier of random tokens, as small as can be, in a module of the user's own.
MODULE = """
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BertConfig, Trainer, TrainingArguments

def table(rows):
    lengths = [4 + row % 5 for row in range(rows)]
    return Dataset.from_dict({
        "input_ids": [[1 + row % 9] * length for row, length in enumerate(lengths)],
        "labels": [row % 2 for row in range(rows)],
    })

def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }

def metrics(prediction):
    return {"share_of_ones": float((prediction.predictions.argmax(-1) == 1).mean())}

def build(args, rows=32, kind=Trainer, model=None, **changes):
    config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                        max_position_embeddings=16)
    model = model or AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    options = dict(train_dataset=table(rows), eval_dataset=table(8), data_collator=collate, compute_metrics=metrics)
    return kind(model=model, args=args, **(options | changes))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(MODULE)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_modules_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test imports in this process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("mine", "small"):
        sys.modules.pop(name, None)


def job(folder: Path, code: str = "", **settings: Any) -> CustomJob:
    """A job whose module `mine` has this code after all of `small`."""
    (folder / "mine.py").write_text("from small import *\nimport small\n\n" + textwrap.dedent(code))
    defaults = {"build": "mine:build", "python_path": str(folder), "epochs": 1, "eval_batch_size": 4}
    return CustomJob(**(defaults | settings))


def prepare(job: CustomJob, **searched: list[Any]) -> dict[str, Any]:
    return shared_server().prepare(job.model_dump(), Path(job.python_path or "") / "cache", searched=searched or None)


def run(
    job: CustomJob, *, batch: int = 8, accumulation: int = 1, stages: tuple[str, ...] = ("probe", "train"), **more: Any
) -> Any:
    parameters = TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **more)
    request = {
        "job": job.model_dump(),
        "parameters": parameters.as_dict(),
        "data_folders": {},
        "stages": list(stages),
        "memory_limit_mib": None,
    }
    return shared_server().run_trial(request)


def test_the_number_of_samples_comes_from_the_trainers_data(folder: Path) -> None:
    facts = prepare(job(folder, kwargs={"rows": 24}, metric="share_of_ones", direction="maximize", baseline=0.5))
    assert (facts["num_train"], facts["num_eval"], facts["baselines"]) == (24, 8, {"eval_share_of_ones": 0.5})


def test_a_keyword_that_is_searched_needs_no_default(folder: Path) -> None:
    code = """
        def build(args, rows, half, name):
            assert name != "bad"
            return small.build(args, rows=rows if half is False else rows // 2)
    """
    facts = prepare(job(folder, code), rows=[24, 48], half=[False, True], name=["good", "bad"])
    assert facts["num_train"] == 24
    assert [lack["values"] for lack in facts["lacks"]] == [{"name": "bad"}]
    with pytest.raises(JobError, match="float"):
        prepare(job(folder, code), rows=[24.5, 48.5], half=[False], name=["good"])


def test_a_trial_probes_and_trains_it_as_any_other_job(folder: Path) -> None:
    outcome = run(job(folder, epochs=2), accumulation=2)
    assert isinstance(outcome, Completed), outcome
    probe, training = outcome.measurements.probe, outcome.measurements.training
    assert probe.micro_step_time_s > 0
    assert probe.eval_batch_time_s > 0
    assert (training.num_steps, training.num_samples) == (4, 64)
    assert [(point.epoch, point.num_samples) for point in training.curve] == [(1, 32), (2, 64)]
    assert set(training.curve[-1].metrics) >= {"eval_loss", "eval_share_of_ones"}


def test_the_longest_sequences_are_probed_first(folder: Path) -> None:
    code = """
    seen = []

    def collate_and_look(rows):
        seen.append(sorted(len(row["input_ids"]) for row in rows))
        if len(seen) == 3:
            raise RuntimeError(f"evaluated {seen[0]}, trained {seen[1:]}")
        return collate(rows)

    def build(args):
        return small.build(args, data_collator=collate_and_look)
    """
    outcome = run(job(folder, code), batch=4)
    assert isinstance(outcome, Failed)
    # Of 32 rows six are 8 tokens long, of the 8 evaluation rows one; two steps are trained on the same four.
    assert "evaluated [6, 6, 7, 8], trained [[8, 8, 8, 8], [8, 8, 8, 8]]" in outcome.reason


def test_what_an_evaluate_of_ones_own_adds_is_measured(folder: Path) -> None:
    code = """
    import math

    class Perplexed(Trainer):
        def evaluate(self, *args, **kwargs):
            metrics = super().evaluate(*args, **kwargs)
            return metrics | {"perplexity": torch.tensor(math.exp(metrics["eval_loss"]))}

    def build(args):
        return small.build(args, kind=Perplexed)
    """
    perplexed = job(folder, code, metric="eval_perplexity", direction="minimize")
    prepare(perplexed)
    (point,) = run(perplexed, stages=("train",)).measurements.training.curve
    assert point.metrics["perplexity"] == pytest.approx(2.718281828 ** point.metrics["eval_loss"], rel=1e-4)


def test_several_evaluation_data_sets_are_one_evaluation(folder: Path) -> None:
    code = """
    def build(args):
        return small.build(args, eval_dataset={"a": table(8), "b": table(4)})
    """
    both = job(folder, code, metric="a_loss")
    assert prepare(both)["num_eval"] == 12
    (point,) = run(both).measurements.training.curve
    assert {"eval_a_loss", "eval_b_loss"} <= point.metrics.keys()


def test_metrics_that_a_few_samples_can_not_tell_fail_no_probe(folder: Path) -> None:
    code = """
    def demanding(prediction):
        if len(prediction.label_ids) < 8:
            raise ValueError("at least 8 samples")
        return metrics(prediction)

    def build(args):
        return small.build(args, compute_metrics=demanding)
    """
    demanding = job(folder, code, metric="share_of_ones", direction="maximize", eval_batch_size=2)
    assert prepare(demanding)["num_eval"] == 8
    assert isinstance(run(demanding), Completed)


def test_a_data_set_that_is_iterated_over_and_knows_its_length_is_trained_on(folder: Path) -> None:
    code = """
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 16

        def __iter__(self):
            return iter(list(table(16)))

    def build(args):
        return small.build(args, train_dataset=Stream())
    """
    streamed = job(folder, code)
    assert prepare(streamed)["num_train"] == 16
    outcome = run(streamed, batch=4)
    assert isinstance(outcome, Completed), outcome
    assert outcome.measurements.training.num_steps == 4


@pytest.mark.parametrize(
    ("code", "settings", "message"),
    [
        (
            "",
            {"build": "absent:build"},
            "'absent:build' must name a module, and there is no module absent in /.*; set job.python_path",
        ),
        ("", {"build": "mine:buidl"}, r"'mine:buidl' must name a function, and .*mine\.py has no function buidl"),
        ("import nowhere", {}, r"'mine:build' fails \(.*mine\.py, line 4\): ModuleNotFoundError: No module named 'nowhere'"),
        ("def build(args):\n    return {}['a']", {}, r"'mine:build' fails \(.*mine\.py, line 5\): KeyError: 'a'"),
        ("def build(args):\n    raise ValueError('no data')", {}, r"fails \(.*mine\.py, line 5\): ValueError: no data"),
        ("def build(args):\n    return 1", {}, r"'mine:build' must return a transformers\.Trainer, got int"),
        (
            "def build(args):\n    args.per_device_train_batch_size = 4\n    return small.build(args)",
            {},
            "must pass on the TrainingArguments that it is given: the trial sets per_device_train_batch_size to 1, .* has 4",
        ),
        (
            "def build(args):\n    return small.build(args, train_dataset=None)",
            {},
            "must have a train_dataset whose length is known",
        ),
        (
            "def build(args):\n    return small.build(args, eval_dataset=None)",
            {},
            "must have an eval_dataset for job.metric eval_loss",
        ),
        (
            "",
            {"metric": "f1", "direction": "maximize"},
            "job.metric must be a key of the Trainer's evaluation, got 'f1'; its keys are eval_loss, .*eval_share_of_ones",
        ),
        (
            "def build(args):\n    args.warmup_steps = 500\n    return small.build(args)",
            {},
            "the trial sets warmup_steps to 0.0, and its Trainer has 500; set job.warmup_steps in the study file instead",
        ),
        ("def build(args):\n    raise SystemExit(3)", {}, r"fails \(.*mine\.py, line 5\): SystemExit: 3"),
        ("", {"kwargs": {"raws": 1}}, "fails .*TypeError: .*unexpected keyword argument 'raws'"),
    ],
)
def test_what_is_wrong_with_a_job_is_said_before_the_study_starts(
    folder: Path, code: str, settings: dict[str, Any], message: str
) -> None:
    broken = job(folder, code, **settings)
    with pytest.raises(JobError, match=message):
        prepare(broken)


KEEPS_BEST = """
from transformers import EarlyStoppingCallback, TrainerCallback

class Worse(TrainerCallback):
    \"\"\"Spoils the weights after the first epoch, so that the first evaluation is the best.\"\"\"

    def on_epoch_end(self, args, state, control, model, **kwargs):
        if state.epoch > 1:
            with torch.no_grad():
                model.classifier.bias[0] += 50 * state.epoch

def build(args):
    {how}
    trainer = small.build(args, callbacks=[EarlyStoppingCallback(early_stopping_patience=2), Worse()])
    return trainer
"""
IN_PLACE = "args.load_best_model_at_end, args.metric_for_best_model = True, 'eval_loss'; args.greater_is_better = False"
REPLACED = (
    "import dataclasses; args = dataclasses.replace(args, load_best_model_at_end=True, save_strategy='epoch',"
    " metric_for_best_model='eval_loss')"
)


@pytest.mark.parametrize("how", [IN_PLACE, REPLACED])
def test_a_trainer_that_stops_early_and_keeps_its_best_model_is_measured_by_that(folder: Path, how: str) -> None:
    keeping = job(folder, KEEPS_BEST.format(how=how), epochs=6, learning_rate=1e-4)
    assert prepare(keeping, per_device_train_batch_size=[8])["lacks"] == []
    training = run(keeping).measurements.training
    assert training.num_steps == 12  # the second and the third epoch were worse than the first: the patience is at its end
    first, *_, last = [point.metrics["eval_loss"] for point in training.curve]
    assert len(training.curve) == 3
    assert last == pytest.approx(first)
    assert training.train_time_s > 0


def test_an_option_that_fails_wherever_it_occurs_is_found_before_the_study(folder: Path) -> None:
    code = """
    from transformers import AlbertConfig

    def build(args, attn_implementation):
        if attn_implementation == "eager":
            raise RuntimeError("not eager")
        config = AlbertConfig(vocab_size=16, embedding_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                              intermediate_size=8)
        return small.build(args, model=AutoModelForSequenceClassification.from_config(config))
    """
    searched = {"gradient_checkpointing": [True, False], "attn_implementation": ["eager", "sdpa"]}
    lacks = prepare(job(folder, code), per_device_train_batch_size=[4, 8], **searched)["lacks"]
    by_value = {value: lack["reason"] for lack in lacks for value in lack["values"].values()}
    assert by_value.keys() == {True, "eager"}
    assert "AlbertForSequenceClassification, can't compute its activations again" in by_value[True]
    assert "line 9): RuntimeError: not eager" in by_value["eager"]


def test_what_training_arguments_have_no_place_for_is_given_to_the_function(folder: Path) -> None:
    code = """
    def build(args, padding):
        raise RuntimeError(f"pads to {padding}, groups {args.train_sampling_strategy}")
    """
    outcome = run(job(folder, code), stages=("train",), padding="longest", train_sampling_strategy="group_by_length")
    assert outcome.reason == "RuntimeError: pads to longest, groups group_by_length"


@pytest.mark.parametrize(
    ("signature", "searched", "sentence"),
    [
        ("args, pooling='mean'", ["poolign"], "space.poolign: job.build 'mine:build' must take the keyword, and does not;"
         " did you mean 'pooling' (of mine:build)?"),
        ("args, pooling='mean'", ["weight_dcay"], "did you mean 'weight_decay' (of TrainingArguments)?"),
        ("args, size=3", ["zzz"], "there may be what mine:build takes: size"),
        ("args, size=3", ["args"], "space.args: job.build 'mine:build' is given the TrainingArguments for it; leave it out"),
        ("args, *, size", ["size"], "space.size: it is not always set (only_with), so job.build 'mine:build' must"),
        ("args, /, size=3", ["dropout"], "space.dropout: job.build 'mine:build' must take the keyword, and does not"),
    ],
)  # fmt: skip
def test_a_keyword_that_the_function_does_not_take_is_refused_with_the_nearest_one(
    folder: Path, signature: str, searched: list[str], sentence: str
) -> None:
    own = job(folder, f"def build({signature}):\n    return small.build(args)")
    with pytest.raises(JobFault) as caught:
        check_keywords(own, searched, searched)
    assert sentence in str(caught.value)


def test_a_keyword_of_kwargs_is_looked_up_as_well_and_a_function_may_take_any(folder: Path) -> None:
    own = job(folder, "def build(args, size=3):\n    return small.build(args)", kwargs={"sice": 1})
    with pytest.raises(JobFault, match=r"job.kwargs.sice: .* did you mean 'size' \(of mine:build\)\?"):
        check_keywords(own, [])
    check_keywords(job(folder, kwargs={"sice": 1}, build="small:build"), ["anything"])


def test_values_of_keywords_are_tried_out_where_their_conditions_are_met(folder: Path) -> None:
    own = job(
        folder,
        """
        def build(args, pooling="mean", tail=None):
            if pooling == "max" or (tail is not None) != (pooling == "cls") or tail == "long":
                raise ValueError(f"no {pooling} with {tail}")
            return small.build(args)
        """,
    )
    searched = {"per_device_train_batch_size": [2], "pooling": ["mean", "max", "cls"], "tail": ["short", "long"]}
    conditions = {"pooling": {}, "tail": {"pooling": ["cls"]}}
    facts = shared_server().prepare(own.model_dump(), folder / "cache", searched=searched, conditions=conditions)
    assert [lack["values"] for lack in facts["lacks"]] == [{"pooling": "max"}, {"tail": "long"}]
    assert "ValueError: no max with None" in facts["lacks"][0]["reason"]


@pytest.mark.parametrize(
    ("searched", "sentence"),
    [
        ({"dataloader_prefetch_factor": [None, 2]}, "space.dataloader_prefetch_factor: TrainingArguments refuses 2 ("),
        ({"tf32": [None, True]}, "space.tf32: TrainingArguments refuses True ("),  # on a CPU
        ({"lr_scheduler_kwargs": ["{"]}, "space.lr_scheduler_kwargs: TrainingArguments refuses '{' ("),
    ],
)
def test_a_value_that_training_arguments_refuse_is_found_with_their_own_sentence(
    folder: Path, searched: dict[str, list[Any]], sentence: str
) -> None:
    with pytest.raises(JobError) as caught:
        prepare(job(folder, "build = small.build"), **searched)
    assert sentence in str(caught.value)


def test_an_argument_that_is_searched_must_reach_the_trainer(folder: Path) -> None:
    code = "def build(args):\n    args.adam_beta2 = 0.5\n    return small.build(args)"
    outcome = run(job(folder, code), adam_beta2=0.9)
    assert isinstance(outcome, Failed)
    assert "the trial sets adam_beta2 to 0.9, and its Trainer has 0.5" in outcome.reason


def test_an_error_in_a_trial_fails_it_with_its_traceback(folder: Path) -> None:
    code = """
    def build(args):
        if args.per_device_train_batch_size > 1:
            raise RuntimeError("too much for me")
        return small.build(args)
    """
    outcome = run(job(folder, code))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "RuntimeError: too much for me"
    assert "mine.py" in outcome.traceback
