"""Optimizer, attention and padding in real trials. The embedded model has no dropout: equal learning is equal numbers."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import prepared, request, run, tiny_job

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.arguments import job_of_data
from tradeoff.objectives.measurements.outcome import Completed
from tradeoff.objectives.measurements.outcome import Measurements as Measured

FEW = tiny_job(max_length=64)
HELPERS = Path(__file__).parents[2] / "helpers"


@functools.cache
def trained(**knobs: Any) -> Measured:
    outcome = run(FEW, stages=("train",), **knobs)
    assert isinstance(outcome, Completed), outcome
    return outcome.measurements


def eval_loss(**knobs: Any) -> float:
    training = trained(**knobs).training
    assert training is not None
    loss = training.curve[-1].eval_loss
    assert loss is not None
    return loss


@pytest.mark.parametrize(
    "knobs",
    [
        {"padding": "longest"},
        {"padding": "max_length"},
        {"attn_implementation": "eager"},
        {"attn_implementation": "sdpa"},
        {"optim": "adamw_torch_fused"},
        {"train_sampling_strategy": "random"},
    ],
    ids=str,
)
def test_what_shares_accuracy_learns_the_same_up_to_rounding(knobs: dict[str, str]) -> None:
    assert eval_loss(**knobs) == pytest.approx(eval_loss(), rel=1e-4)


@pytest.mark.parametrize(
    "knobs", [{"optim": "sgd"}, {"optim": "adafactor"}, {"train_sampling_strategy": "group_by_length"}], ids=str
)
def test_what_is_a_learning_class_of_its_own_learns_something_else(knobs: dict[str, str]) -> None:
    assert eval_loss(**knobs) != pytest.approx(eval_loss(), rel=1e-3)


@pytest.mark.parametrize("knobs", [{"label_smoothing_factor": 0.5}, {"dataloader_drop_last": True}], ids=str)
def test_what_would_change_an_evaluation_too_changes_the_training_alone(knobs: dict[str, Any]) -> None:
    # Of 20 samples, the last batch of an evaluation holds 4. At such a rate nothing is learned.
    job = tiny_job(max_length=64, eval_samples=20, eval_batch_size=8, learning_rate=1e-12)
    plain, changed = (run(job, stages=("train",), **each).measurements.training for each in ({}, knobs))
    assert changed.curve[-1].eval_loss == pytest.approx(plain.curve[-1].eval_loss, rel=1e-5)
    assert changed.curve[-1].accuracy == plain.curve[-1].accuracy


def test_batches_padded_to_their_longest_need_less_memory_than_those_padded_to_the_limit(tmp_path: Path) -> None:
    rows = [f"the food was good and review {number} says so,{number % 5}" for number in range(96)]
    (tmp_path / "short.csv").write_text("\n".join(["text,label", *rows]))
    job = tiny_job(dataset=str(tmp_path / "short.csv"), max_length=256)
    whole, short = (run(job, stages=("probe",), padding=name).measurements.probe for name in ("max_length", "longest"))
    assert short.memory.peak_memory_mib < whole.memory.peak_memory_mib / 2


def test_data_is_prepared_once_for_both_paddings_and_as_before_where_neither_is_searched() -> None:
    assert job_of_data(FEW, ("optim", "attn_implementation")) == FEW
    assert job_of_data(FEW, ("padding",)) == job_of_data(FEW, ("train_sampling_strategy",))
    assert prepared(FEW)["is_padded"] is True
    assert prepared(job_of_data(FEW, ("padding",)))["is_padded"] is False


def test_the_model_says_which_attention_it_has() -> None:
    assert prepared(FEW)["model"]["attention"] == ["eager", "sdpa", "flash_attention_2"]


@pytest.fixture
def compiling_server() -> Iterator[TrialServer]:
    """A server without a C++ compiler's minutes: what dynamo traces is run as it is."""
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    with TrialServer(environment={"PYTHONPATH": path}, modules=("eager_inductor",)) as server:
        yield server


def test_a_compiled_model_learns_the_same_and_its_compilation_is_no_part_of_a_step(compiling_server: TrialServer) -> None:
    # The last of the 7.5 batches of an epoch is smaller, which makes the training compile a second time.
    few = FEW.model_copy(update={"train_samples": 60})
    outcome = compiling_server.run_trial(request(few, torch_compile=True), time_limit_s=None)
    assert isinstance(outcome, Completed), outcome
    probe, training = outcome.measurements.probe, outcome.measurements.training
    assert probe is not None
    assert training is not None
    plain = run(few, stages=("train",)).measurements.training
    assert training.curve[-1].eval_loss == pytest.approx(plain.curve[-1].eval_loss, rel=1e-4)
    assert probe.compile_time_s > 5 * probe.micro_step_time_s > 0
    assert probe.estimated_train_time_s > probe.compile_time_s
    assert training.train_time_s > plain.train_time_s + probe.compile_time_s / 2
