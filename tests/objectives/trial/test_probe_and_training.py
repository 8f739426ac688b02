import functools
import math
from typing import Any

import pytest
from running import prepared, run, tiny_job

from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.measurements.goals import measured_values
from tradeoff.objectives.measurements.outcome import Completed, OutOfMemory
from tradeoff.searchspace import TrialParameters

TWO_EPOCHS = tiny_job(epochs=2)


@functools.cache
def measured(job: Any = TWO_EPOCHS, **settings: Any) -> Any:
    """What a trial measures; two tests that ask for the same trial share it."""
    outcome = run(job, **settings)
    assert isinstance(outcome, Completed), outcome
    return outcome.measurements


@functools.cache
def starved() -> Any:
    """A trial whose micro-batch needs forty times its budget: more than any room that malloc has to spare."""
    outcome = run(per_device_train_batch_size=1024, memory_limit_mib=3)
    assert isinstance(outcome, OutOfMemory), outcome
    return outcome


def accuracies(measurements: Any) -> list[float]:
    return [evaluation.accuracy for evaluation in measurements.training.curve]


def test_a_trial_beyond_its_budget_runs_out_of_memory_in_the_probe() -> None:
    assert starved().stage == "probe"
    assert "DefaultCPUAllocator: can't allocate memory" in starved().reason


def test_an_out_of_memory_says_what_was_asked_for_what_was_free_and_what_is_missing() -> None:
    outcome = starved()
    assert outcome.requested_mib > outcome.free_mib >= 0
    assert outcome.shortfall_mib == pytest.approx(max(1.0, outcome.requested_mib - outcome.free_mib))


def test_an_out_of_memory_keeps_what_was_held_before() -> None:
    assert set(starved().measurements.memory_by_stage_mib) == {"context", "model"}
    assert starved().measurements.training is None


def test_a_peak_a_little_above_the_budget_is_out_of_memory_by_the_difference() -> None:
    # The system's limit leaves room for what libraries map and never touch; there the meter decides.
    peak_mib = measured(stages=("probe",), per_device_train_batch_size=64).probe.memory.peak_memory_mib
    outcome = run(stages=("probe",), per_device_train_batch_size=64, memory_limit_mib=peak_mib - 2)
    assert isinstance(outcome, OutOfMemory)
    assert 0 < outcome.shortfall_mib < peak_mib / 2


def test_a_trial_within_its_budget_completes() -> None:
    peak_mib = measured(stages=("probe",), per_device_train_batch_size=64).probe.memory.peak_memory_mib
    assert isinstance(run(per_device_train_batch_size=64, memory_limit_mib=peak_mib * 1.1), Completed)


def test_the_same_configuration_and_seed_reach_the_same_accuracies_and_losses() -> None:
    again = run(TWO_EPOCHS).measurements
    assert accuracies(again) == accuracies(measured())
    assert again.training.train_loss == measured().training.train_loss


def test_another_seed_learns_something_else() -> None:
    assert measured(tiny_job(epochs=2, seed=1)).training.train_loss != measured().training.train_loss


def test_checkpointing_changes_nothing_that_is_learned() -> None:
    checkpointed = measured(gradient_checkpointing=True)
    assert accuracies(checkpointed) == accuracies(measured())
    assert checkpointed.training.train_loss == measured().training.train_loss


def test_a_training_after_a_probe_learns_what_it_learns_alone() -> None:
    assert measured(stages=("train",)).training.train_loss == measured().training.train_loss


def test_the_curve_has_an_evaluation_for_each_epoch() -> None:
    curve = measured().training.curve
    assert [(point.epoch, point.num_samples) for point in curve] == [(1, 64), (2, 128)]
    assert 0 < curve[0].train_time_s < curve[1].train_time_s <= measured().training.train_time_s
    assert all(0 <= point.accuracy <= 1 for point in curve)
    assert all(point.loss > 0 and point.eval_loss > 0 for point in curve)


def test_an_accuracy_is_a_share_of_the_evaluation_samples() -> None:
    assert all((accuracy * 32).is_integer() for accuracy in accuracies(measured()))


@pytest.mark.parametrize(
    ("batch", "accumulation", "num_steps"),
    [
        (8, 1, 16),  # 64 / 8 = 8 an epoch
        (8, 4, 4),  # 8 micro-batches in two groups of 4
        (24, 2, 4),  # 24 + 24, 16: two steps an epoch
        (32, 16, 2),  # all of an epoch is one step
    ],
)
def test_the_steps_of_a_training_are_those_of_its_schedule(batch: int, accumulation: int, num_steps: int) -> None:
    training = measured(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation).training
    assert (training.num_steps, training.num_samples) == (num_steps, 128)
    parameters = TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    assert Schedule.of(TWO_EPOCHS, parameters, num_samples=64).num_updates == num_steps


def test_half_an_epoch_trains_on_half_of_the_samples() -> None:
    training = measured(tiny_job(epochs=0.5)).training
    assert (training.num_steps, training.num_samples) == (4, 32)
    assert len(training.curve) == 1


def test_throughput_is_samples_over_the_time_of_training_alone() -> None:
    training = measured().training
    assert training.samples_per_s == pytest.approx(128 / training.train_time_s)
    assert training.train_time_s + training.eval_time_s < measured().trial_time_s


def test_memory_grows_with_the_micro_batch_and_less_so_with_checkpointing() -> None:
    def peak_mib(batch: int, **settings: Any) -> float:
        probe = measured(stages=("probe",), per_device_train_batch_size=batch, **settings).probe
        return float(probe.memory.peak_memory_mib)

    assert peak_mib(8) < peak_mib(32) < peak_mib(64)
    assert peak_mib(64, gradient_checkpointing=True) < peak_mib(64)


def test_a_probe_leaves_training_out_and_estimates_its_time() -> None:
    measurements = measured(stages=("probe",), gradient_accumulation_steps=2)
    probe = measurements.probe
    assert measurements.training is None
    # 8 micro-batches and 4 updates an epoch, two epochs.
    expected_s = 16 * probe.micro_step_time_s + 8 * probe.optimizer_step_time_s
    assert probe.estimated_train_time_s == pytest.approx(expected_s)
    assert probe.micro_step_time_s > 0
    assert probe.eval_batch_time_s > 0
    assert 0 < probe.probe_time_s < measurements.trial_time_s
    assert probe.num_timed_steps >= 3
    assert probe.micro_step_spread > 0
    assert 0 <= probe.busy_share <= 1
    assert 0 <= measured().training.busy_share <= 1
    assert probe.num_other_processes is None


def test_a_probe_counts_the_gradients_of_every_weight() -> None:
    # The embedded model: width 32, feed-forward 64, 2 layers, 5 classes; the vocabulary is the data's.
    embeddings = (prepared(TWO_EPOCHS)["model"]["vocab_size"] + 32 + 2) * 32 + 2 * 32
    layer = 4 * (32 * 32 + 32) + 2 * 32 + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 32
    head = (32 * 32 + 32) + (32 * 5 + 5)
    assert measured(stages=("probe",)).probe.gradients_mib == pytest.approx((embeddings + 2 * layer + head) * 4 / 2**20)


def test_the_first_step_is_noted_and_memory_is_held_by_stage() -> None:
    measurements = measured()
    assert 0 < measurements.first_step_time_s < measurements.trial_time_s
    assert list(measurements.memory_by_stage_mib) == ["context", "model", "probe", "train"]
    assert measurements.memory_by_stage_mib["context"] <= measurements.memory_by_stage_mib["model"]


def test_a_cpu_s_peak_is_the_probes_and_never_the_trainings() -> None:
    # Only while freed blocks go back to the system is a peak comparable.
    assert measured().training.memory.peak_memory_mib is None
    assert measured().probe.memory.peak_memory_mib > 0


def test_a_loss_that_is_not_a_number_is_stored_as_it_is_and_no_other_value_becomes_one() -> None:
    measurements = measured(tiny_job(learning_rate=1e30))
    assert math.isnan(measurements.training.curve[-1].eval_loss)
    values = measured_values(measurements)
    assert set(values) == {"accuracy", "f1", "eval_loss", "train_time_s", "samples_per_s", "peak_memory_mib"}
    # Where the loss is an objective, such a trial ends as diverged (`tradeoff.objectives.objective`).
    assert {name for name, value in values.items() if not math.isfinite(value)} == {"eval_loss"}


def test_a_job_that_does_not_evaluate_has_no_curve_and_no_accuracy() -> None:
    measurements = measured(tiny_job(eval_samples=0))
    assert measurements.training.curve == []
    assert measurements.probe.eval_batch_time_s is None
    assert set(measured_values(measurements)) == {"train_time_s", "samples_per_s", "peak_memory_mib"}


def test_random_tokens_measure_time_and_memory() -> None:
    measurements = measured(tiny_job(dataset="random-tokens", eval_samples=0))
    assert measurements.training.num_steps == 8
    assert measured_values(measurements)["peak_memory_mib"] > 0


def test_padding_to_the_longest_of_the_batch_trains_the_same_samples() -> None:
    training = measured(tiny_job(padding="longest")).training
    assert (training.num_steps, training.num_samples) == (8, 64)


def test_bf16_trains_where_the_device_has_it() -> None:
    assert measured(precision="bf16").training.num_steps == 16


def test_data_loaders_change_nothing_that_is_learned() -> None:
    assert measured(dataloader_num_workers=1).training.train_loss == measured().training.train_loss
