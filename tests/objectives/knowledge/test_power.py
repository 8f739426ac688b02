"""Energy of trainings from power that was probed, worked out by hand."""

from types import SimpleNamespace

import pytest

from tradeoff.objectives.knowledge.power import PowerModel
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.trial.probe import _UntilTimed
from tradeoff.objectives.trial.ranks import Ranks
from tradeoff.searchspace import TrialParameters


def batch(size, accumulation=1, **changes):
    return TrialParameters(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, **changes)


def probed(parameters, power_w):
    record = TrialRecord(number=0, outcome="probed", params={}, attributes={"probe": {"power_w": power_w}})
    return parameters, record


def trained(parameters, energy_j, train_time_s):
    attributes = {"energy_j": energy_j, "train_time_s": train_time_s}
    return parameters, TrialRecord(number=1, outcome="completed", params={}, attributes=attributes)


def test_energy_is_probed_power_over_the_time_that_a_training_takes():
    model = PowerModel.of([probed(batch(8), 200.0)])
    assert model.energy_j(batch(8), 10.0, "probe") == (2000.0, "probe")
    # Accumulation changes the number of updates, and not what a step draws.
    assert model.energy_j(batch(8, 4), 9.0, "model") == (1800.0, "model")


def test_between_probed_batches_power_is_interpolated():
    model = PowerModel.of([probed(batch(8), 200.0), probed(batch(16), 300.0)])
    assert model.energy_j(batch(12), 10.0, "probe") == (2500.0, "model")


def test_another_way_to_compute_borrows_the_power_that_is_known():
    model = PowerModel.of([probed(batch(8), 200.0), probed(batch(16), 300.0)])
    assert model.energy_j(batch(8, gradient_checkpointing=True), 10.0, "probe") == (2500.0, "model")


def test_what_a_training_measured_counts_first_and_corrects_the_others():
    model = PowerModel.of([probed(batch(8), 200.0), probed(batch(16), 300.0), trained(batch(8, 2), 900.0, 5.0)])
    assert model.energy_j(batch(8, 2), 5.0, "measured") == (900.0, "measured")
    # The training drew 180 W where its probe had 200 W: nine tenths, for the others too.
    assert model.energy_j(batch(16), 10.0, "probe") == (pytest.approx(2700.0), "probe")


def test_without_a_meter_there_is_no_energy():
    assert PowerModel.of([probed(batch(8), None)]).energy_j(batch(8), 10.0, "probe") is None


class Control:
    should_training_stop = False


class State:
    def __init__(self, global_step):
        self.global_step = global_step


def run_steps(times_s, energies_j):
    """What timing steps tells that end at these times, on a card whose counter then stands at these energies."""
    moments = iter(zip(times_s, energies_j, strict=True))
    now = [0.0, 0.0]
    clock = SimpleNamespace(update_s=[], micro_step_spread=0.01)
    until = _UntilTimed(clock, lambda: now[0], lambda: now[1], 2.0, Ranks())
    control = Control()
    for step, moment in enumerate(moments, start=1):
        now[:] = moment
        if step > 1:  # the first one warms up
            clock.update_s.append(0.0)
        until.on_step_end(None, State(step), control)
        if control.should_training_stop:
            break
    until.on_train_end()
    return step, until.power_w


def test_power_is_that_of_the_steps_after_the_warm_up():
    assert run_steps([1.0, 2.0, 3.5, 9.0], [1000.0, 1100.0, 1500.0, 9999.0]) == (3, pytest.approx(200.0))


def test_steps_that_are_over_before_their_time_have_a_power_too():
    assert run_steps([1.0, 1.5], [1000.0, 1100.0]) == (2, pytest.approx(200.0))


def test_a_card_that_counts_no_energy_has_no_power():
    assert run_steps([1.0, 4.0], [None, None]) == (2, None)
