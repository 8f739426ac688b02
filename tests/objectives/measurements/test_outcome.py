import json
import math

import pytest

from tradeoff.objectives.measurements.goals import measured_values
from tradeoff.objectives.measurements.outcome import (
    Completed,
    Evaluation,
    Failed,
    Interrupted,
    Measurements,
    Memory,
    OutOfMemory,
    ProbeResult,
    TimedOut,
    TrainingResult,
    from_json,
    to_json,
)


def probe(peak_memory_mib: float | None = 50.0) -> ProbeResult:
    return ProbeResult(
        memory=Memory(peak_memory_mib=peak_memory_mib, context_mib=300.0),
        micro_step_time_s=0.01,
        optimizer_step_time_s=0.002,
        eval_batch_time_s=None,
        estimated_train_time_s=1.5,
        probe_time_s=0.5,
    )


def training(peak_memory_mib: float | None = None, *accuracies: float | None) -> TrainingResult:
    curve = [
        Evaluation(epoch=epoch, num_samples=64 * epoch, train_time_s=2.0 * epoch, accuracy=accuracy)
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    return TrainingResult(
        memory=Memory(peak_memory_mib=peak_memory_mib),
        train_time_s=4.0,
        eval_time_s=1.0,
        num_steps=16,
        num_samples=128,
        samples_per_s=32.0,
        train_loss=1.6,
        curve=curve,
    )


OUTCOMES = (
    Completed(measurements=Measurements(probe=probe(), training=training(60.0, 0.3, 0.4), memory_by_stage_mib={"model": 3.0})),
    OutOfMemory(stage="probe", reason="no room", shortfall_mib=12.5, requested_mib=20.0, free_mib=7.5),
    TimedOut(stage="train", reason="too long", limit_s=3.0, measurements=Measurements(probe=probe())),
    Failed(stage="data", reason="ValueError: no", traceback="Traceback ...\nValueError: no"),
    Interrupted(stage="start"),
)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.kind)
def test_an_outcome_crosses_the_process_boundary_whole(outcome: object) -> None:
    assert from_json(to_json(outcome)) == outcome


def test_a_loss_that_is_not_a_number_stays_one() -> None:
    evaluation = Evaluation(epoch=1, num_samples=64, train_time_s=1.0, loss=math.inf, eval_loss=math.nan)
    result = from_json(to_json(Completed(measurements=Measurements(training=TrainingResult(
        memory=Memory(peak_memory_mib=None), train_time_s=1.0, eval_time_s=0.0, num_steps=1, num_samples=64,
        samples_per_s=64.0, train_loss=math.nan, curve=[evaluation],
    )))))  # fmt: skip
    assert math.isnan(result.measurements.training.train_loss)
    assert math.isnan(result.measurements.training.curve[0].eval_loss)
    assert result.measurements.training.curve[0].loss == math.inf


@pytest.mark.parametrize(
    "text", ["", "nonsense", "{}", '{"kind": "won"}', '{"kind": "out_of_memory", "stage": "probe", "reason": "no shortfall"}']
)
def test_what_is_no_outcome_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        from_json(text)


def test_an_outcome_is_plain_json() -> None:
    assert json.loads(to_json(OUTCOMES[1])) == {
        "stage": "probe",
        "reason": "no room",
        "shortfall_mib": 12.5,
        "requested_mib": 20.0,
        "free_mib": 7.5,
        "kind": "out_of_memory",
        "measurements": {
            "probe": None, "training": None, "trial_time_s": None, "first_step_time_s": None, "memory_by_stage_mib": {}
        },
    }  # fmt: skip


def test_the_objectives_are_the_last_accuracy_the_training_time_and_the_higher_peak() -> None:
    higher_in_training = Measurements(probe=probe(50.0), training=training(60.0, 0.3, 0.2))
    assert measured_values(higher_in_training) == {
        "accuracy": 0.2,
        "train_time_s": 4.0,
        "samples_per_s": 32.0,
        "peak_memory_mib": 60.0,
    }
    higher_in_probe = Measurements(probe=probe(70.0), training=training(60.0, 0.3))
    assert measured_values(higher_in_probe)["peak_memory_mib"] == 70.0


def test_a_peak_that_only_the_probe_measures_is_the_objective() -> None:
    assert measured_values(Measurements(probe=probe(50.0), training=training(None, 0.3)))["peak_memory_mib"] == 50.0


def test_what_was_not_measured_is_no_objective() -> None:
    assert measured_values(Measurements()) == {}
    assert measured_values(Measurements(probe=probe())) == {}
    assert measured_values(Measurements(training=training(None))) == {"train_time_s": 4.0, "samples_per_s": 32.0}
    assert "accuracy" not in measured_values(Measurements(training=training(1.0, None)))
