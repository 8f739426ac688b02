"""How far off a time may be: what one sample is assumed to be off by, and what repeats say of the machine."""

import math

import pytest
import simulated_runner as simulated

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.knowledge.derivation import derived_attributes, measured_errors
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.prediction.time_error import DRIFT, TimeSample, combine, error_factor
from tradeoff.searchspace import TrialParameters

JOB = TextClassificationJob(train_samples=1000, epochs=3)


def configuration(batch, accumulation=1):
    return TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)


def record(number, outcome, parameters, **attributes):
    return TrialRecord(number=number, outcome=outcome, params=parameters.as_dict(), attributes=attributes)


def probed(number, parameters, memory_mib):
    probe = {"micro_step_time_s": 0.1, "optimizer_step_time_s": 0.02, "gradients_mib": 100.0}
    return record(number, "probed", parameters, peak_memory_mib=memory_mib, probe=probe)


def known(*records):
    return Knowledge.of(records, simulated.setup(job=JOB, num_train=1000))


def samples(*times_s, **known_of_them):
    return [TimeSample.of(time_s, **known_of_them) for time_s in times_s]


def test_a_sample_is_off_by_drift_by_its_steps_and_by_what_others_took():
    assert TimeSample.of(2.0).relative_std == DRIFT
    assert TimeSample.of(2.0, spread=0.04).relative_std == pytest.approx(math.hypot(0.03, 0.04))
    # Half of the processors gone: a factor between 1 and 2, in logarithms uniform over 0.693.
    assert TimeSample.of(2.0, busy_share=0.5).relative_std == pytest.approx(math.hypot(0.03, math.log(2) / math.sqrt(12)))
    assert math.isfinite(TimeSample.of(2.0, busy_share=1.0).relative_std)


def test_one_sample_that_went_wrong_does_not_move_the_others():
    assert combine(samples(1.0, 1.1, 2.5)).time_s == 1.1
    assert combine(samples(1.0, 1.2)).time_s == pytest.approx(1.1)


def test_a_sample_of_a_busy_minute_counts_for_little():
    quiet, busy = TimeSample.of(1.0), TimeSample.of(2.0, busy_share=0.5)
    assert combine([quiet, busy]).time_s < 1.05
    assert combine([quiet, busy]).relative_std < quiet.relative_std


def test_repeats_say_how_much_more_or_less_a_machine_drifts():
    assert error_factor([samples(1.0), samples(2.0)]) == 1.0
    # Two pairs and no scatter: 2 of 4 degrees of freedom are left of the assumption.
    assert error_factor([samples(1.0, 1.0), samples(2.0, 2.0)]) == pytest.approx(math.sqrt(2 / 4))
    # Two samples that are 0.4 apart in logarithms: 2 x 0.2^2 / 0.03^2.
    assert error_factor([samples(1.0, math.exp(0.4))]) == pytest.approx(math.sqrt((2 + 0.08 / 0.0009) / 3))


def test_the_error_of_a_time_comes_with_it():
    # One probe each: 3% of 45 s, and of what derives from it.
    cost = known(probed(0, configuration(8), 1000.0)).cost(configuration(8))
    assert cost.error("train_time_s") == pytest.approx(0.03 * 45.0)
    assert cost.error("samples_per_s") == pytest.approx(0.03 * cost.value("samples_per_s"))
    assert cost.error("peak_memory_mib") == 0.0
    twice = known(probed(0, configuration(8), 1000.0), probed(1, configuration(8), 1000.0)).cost(configuration(8))
    assert twice.error("train_time_s") == pytest.approx(45.0 * 0.03 * math.sqrt(2 / 3) / math.sqrt(2))


def test_a_time_between_two_probes_is_off_by_the_interpolation_too():
    cost = known(probed(0, configuration(4), 1000.0), probed(1, configuration(16), 2200.0)).cost(configuration(8))
    assert cost.error("train_time_s") == pytest.approx(math.hypot(0.03, 0.1) * cost.train_time_s)
    assert cost.error("peak_memory_mib") == pytest.approx(0.02 * cost.peak_memory_mib)


def test_trainings_that_miss_their_predictions_make_the_others_less_sure():
    def error(*times_s):
        trained = [
            record(number, "completed", configuration(batch), train_time_s=time_s)
            for number, (batch, time_s) in enumerate(zip((4, 8, 16), times_s, strict=True), start=10)
        ]
        probes = [probed(number, configuration(batch), 1000.0) for number, batch in enumerate((4, 8, 16, 32))]
        cost = known(*probes, *trained).cost(configuration(32))
        return cost.error("train_time_s") / cost.train_time_s

    # Predicted: 750, 375 and 188 x 3 / 3 micro-steps and updates of 0.12 s.
    assert error(90.0, 45.0, 22.68) < 0.04
    assert error(60.0, 45.0, 34.0) > 0.15


def test_a_training_has_the_error_of_one_sample_and_trainings_of_one_configuration_count_together():
    first, second = (record(n, "completed", configuration(8), train_time_s=time_s) for n, time_s in ((1, 54.0), (2, 56.0)))
    once, twice = (known(probed(0, configuration(8), 1000.0), *trained) for trained in ([first], [first, second]))
    # Half of what a single prediction may be off by, 3% over two of two degrees of freedom, may be the training's own.
    assert once.cost(configuration(8)).error("train_time_s") == pytest.approx(54.0 * 0.03 * math.sqrt(1 + 1 / 2))
    assert twice.time_s(configuration(8)) == (55.0, "measured")
    assert twice.cost(configuration(8)).error("train_time_s") < once.cost(configuration(8)).error("train_time_s")


def test_trials_store_the_error_beside_the_value():
    trained = record(1, "completed", configuration(8, 2), accuracy=0.6, train_time_s=50.0, samples_per_s=60.0)
    knowledge = known(probed(0, configuration(4, 4), 1000.0), trained)
    own = measured_errors(trained, configuration(8, 2), knowledge)
    assert own == pytest.approx({"train_time_s_std": 1.5, "samples_per_s_std": 1.8})
    derived = derived_attributes(configuration(4, 4), knowledge.observations[1], knowledge)
    assert derived["train_time_s_std"] == knowledge.cost(configuration(4, 4)).error("train_time_s") > 0
    assert derived["peak_memory_mib_std"] is None
