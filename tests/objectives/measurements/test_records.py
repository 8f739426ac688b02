import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tradeoff.objectives.job.jobs import objective_names
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
)
from tradeoff.objectives.measurements.records import measurement_attributes, outcome_attributes, read_record

OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")
PROBE = ProbeResult(
    memory=Memory(peak_memory_mib=50.0, peak_process_mib=400.0, context_mib=300.0),
    micro_step_time_s=0.01,
    optimizer_step_time_s=0.002,
    eval_batch_time_s=0.004,
    estimated_train_time_s=1.5,
    probe_time_s=0.5,
)


def training(*, eval_loss: float = 1.1) -> TrainingResult:
    return TrainingResult(
        memory=Memory(peak_memory_mib=None, peak_process_mib=500.0),
        train_time_s=4.0,
        eval_time_s=1.0,
        num_steps=8,
        num_samples=64,
        samples_per_s=16.0,
        train_loss=1.6,
        curve=[Evaluation(epoch=1, num_samples=64, train_time_s=4.0, accuracy=0.25, eval_loss=eval_loss)],
    )


def test_a_completed_trial_stores_its_objectives_flat_and_the_stages_whole() -> None:
    measurements = Measurements(probe=PROBE, training=training(), trial_time_s=6.0, memory_by_stage_mib={"model": 3.0})
    attributes = outcome_attributes(Completed(measurements=measurements))
    assert attributes["outcome"] == "completed"
    assert (attributes["accuracy"], attributes["train_time_s"], attributes["peak_memory_mib"]) == (0.25, 4.0, 50.0)
    assert attributes["probe"]["estimated_train_time_s"] == 1.5
    assert attributes["training"]["curve"][0]["accuracy"] == 0.25
    assert (attributes["trial_time_s"], attributes["samples_per_s"], attributes["eval_loss"]) == (6.0, 16.0, 1.1)
    assert "reason" not in attributes


def test_of_two_peaks_the_higher_one_is_the_trials() -> None:
    assert measurement_attributes(Measurements(probe=PROBE, training=training()))["peak_process_mib"] == 500.0


def test_what_was_not_measured_is_not_stored() -> None:
    attributes = outcome_attributes(Failed(stage="data", reason="ValueError: no"))
    assert attributes == {"outcome": "failed", "stage": "data", "reason": "ValueError: no"}


def test_a_failure_keeps_its_traceback_and_what_came_before() -> None:
    outcome = Failed(stage="train", reason="ValueError: no", traceback="Traceback", measurements=Measurements(probe=PROBE))
    attributes = outcome_attributes(outcome)
    assert attributes["traceback"] == "Traceback"
    assert attributes["probe"]["probe_time_s"] == 0.5


def test_an_out_of_memory_stores_what_was_asked_for_what_was_free_and_what_is_missing() -> None:
    attributes = outcome_attributes(
        OutOfMemory(stage="probe", reason="no room", shortfall_mib=12.5, requested_mib=20.0, free_mib=7.5)
    )
    assert attributes == {
        "outcome": "out_of_memory", "stage": "probe", "reason": "no room",
        "memory_shortfall_mib": 12.5, "requested_mib": 20.0, "free_mib": 7.5,
    }  # fmt: skip


def test_a_trial_that_was_only_probed_says_so() -> None:
    assert outcome_attributes(Completed(measurements=Measurements(probe=PROBE)))["outcome"] == "probed"


def test_a_loss_that_is_not_a_number_is_stored_as_what_it_is() -> None:
    attributes = measurement_attributes(Measurements(training=training(eval_loss=math.nan)))
    assert math.isnan(attributes["eval_loss"])


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        (Completed(measurements=Measurements(probe=PROBE, training=training())), True),
        (OutOfMemory(stage="probe", reason="", shortfall_mib=1.0), True),
        (TimedOut(stage="train", reason="", limit_s=1.0), True),
        (Completed(measurements=Measurements(probe=PROBE)), False),
        (Interrupted(stage="train"), False),
        (Failed(stage="train", reason=""), False),
    ],
    ids=("completed", "out of memory", "timed out", "probed", "interrupted", "failed"),
)
def test_what_was_trained_or_ran_out_of_memory_or_time_counts(outcome: object, counts: bool) -> None:
    trial = create_trial(state=TrialState.PRUNED, user_attrs=outcome_attributes(outcome))
    assert read_record(trial, OBJECTIVES).counts is counts


def test_a_training_that_an_earlier_version_stopped_has_measured_memory_and_time_alone() -> None:
    trial = create_trial(state=TrialState.PRUNED, user_attrs={"outcome": "stopped_early", "peak_memory_mib": 50.0})
    record = read_record(trial, OBJECTIVES)
    assert (record.outcome, record.attributes) == ("probed", {"peak_memory_mib": 50.0})


def test_a_derived_trial_is_free() -> None:
    trial = create_trial(values=[0.5, 1.0, 2.0], user_attrs={"outcome": "completed", "derived_from": 3})
    record = read_record(trial, OBJECTIVES)
    assert record.is_derived
    assert not record.counts


def test_a_record_has_values_and_sources_by_name() -> None:
    attributes = {"outcome": "completed", "accuracy_source": "measured", "train_time_s_source": "probe", "samples_per_s": 16.0}
    distributions = {"per_device_train_batch_size": optuna.distributions.CategoricalDistribution((8, 16))}
    trial = create_trial(
        values=[0.5, 1.0, 2.0],
        params={"per_device_train_batch_size": 16},
        distributions=distributions,
        user_attrs=attributes,
    )
    record = read_record(trial, OBJECTIVES)
    assert record.values == {"accuracy": 0.5, "train_time_s": 1.0, "peak_memory_mib": 2.0}
    assert record.sources == {"accuracy": "measured", "train_time_s": "probe"}
    assert record.params == {"per_device_train_batch_size": 16}
    assert record.attributes == {"samples_per_s": 16.0}


def test_a_trial_that_runs_has_no_outcome_and_no_values() -> None:
    record = read_record(create_trial(state=TrialState.RUNNING), OBJECTIVES)
    assert (record.outcome, record.values, record.counts) == (None, {}, False)


def test_the_objectives_of_a_study_are_in_its_own_order() -> None:
    stored = {"config": {"objectives": ["peak_memory_mib", "accuracy"]}}
    assert objective_names(stored) == ("peak_memory_mib", "accuracy")


def test_a_study_of_someone_elses_has_no_objectives_of_ours() -> None:
    with pytest.raises(KeyError):
        objective_names({})


@pytest.mark.parametrize("value", [1e195, 1e308, -1e308])
def test_a_value_that_an_earlier_version_took_for_one_is_read_as_diverged(value: float) -> None:
    loss = create_trial(values=[value, 3.0], user_attrs={"outcome": "completed"})
    record = read_record(loss, ("eval_loss", "train_time_s"))
    assert (record.outcome, record.values) == ("diverged", {})
    assert record.reason == f"the training diverged: its evaluation loss is {value}"
