"""Times that are measured again on a machine that drifts, and what is claimed of them afterwards."""

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import simulated_runner as simulated

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import Categorical, SearchSpace, TrialParameters
from tradeoff.studies.samplers.checks import MAX_PROBES, to_repeat
from tradeoff.studies.samplers.hypervolume import Volume

SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((4, 8)),
        "gradient_accumulation_steps": Categorical((1, 2)),
    }
)
SEARCHED = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((2, 4, 8, 16)),
        "gradient_accumulation_steps": Categorical((1, 2, 4)),
        "gradient_checkpointing": Categorical((False, True)),
    }
)
REFERENCE = {"accuracy": 0.2, "train_time_s": 300.0, "peak_memory_mib": simulated.BUDGET_MIB}


def configuration(batch, accumulation=1):
    return TrialParameters(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)


def probe(number, parameters, *, micro_step_s, trial_time_s=10.0):
    attributes = {
        "peak_memory_mib": 1000.0 * parameters.per_device_train_batch_size / 4,
        "probe": {"micro_step_time_s": micro_step_s, "optimizer_step_time_s": 0.0, "gradients_mib": 0.0},
        "trial_time_s": trial_time_s,
    }
    return TrialRecord(number=number, outcome="probed", params=SPACE.stored(parameters), attributes=attributes)


def training(time_s):
    """Of a class that none of the others belongs to."""
    parameters = configuration(8, 2)
    attributes = {"train_time_s": 250.0, "accuracy": 0.3, "peak_memory_mib": 2500.0, "trial_time_s": time_s}
    return TrialRecord(number=90, outcome="completed", params=SPACE.stored(parameters), attributes=attributes)


def claim(number, parameters, accuracy, knowledge):
    cost = knowledge.cost(parameters)
    values = {"accuracy": accuracy, "train_time_s": cost.train_time_s, "peak_memory_mib": cost.peak_memory_mib}
    return TrialRecord(number=number, outcome="completed", params=SPACE.stored(parameters), values=values)


def repeated(*records, accuracies=(0.6, 0.6), pending=()):
    """What is probed again where one batch takes 4,000 MiB less than the other, and is as accurate or not."""
    knowledge = Knowledge.of(records, simulated.setup(SPACE))
    claims = [
        claim(50 + position, configuration(batch), accuracy, knowledge)
        for position, (batch, accuracy) in enumerate(zip((4, 8), accuracies, strict=True))
    ]
    volume = Volume(simulated.OBJECTIVES, REFERENCE)
    return to_repeat(claims, knowledge, volume, pending, min_gain=0.002)


# A batch of 4 takes twice as many micro-steps as one of 8: it is 2% faster here, or 2% slower.
FASTER = probe(0, configuration(4), micro_step_s=0.098)
SLOWER = probe(0, configuration(4), micro_step_s=0.102)
OTHER = probe(1, configuration(8), micro_step_s=0.2)
LONG = training(1000.0)


def test_what_is_on_the_front_or_off_it_by_less_than_its_error_is_timed_again():
    # More memory for less time than an error of 3%: the batch of 8 is on the front by it, and otherwise would be.
    assert repeated(SLOWER, OTHER, LONG) == configuration(8)
    assert repeated(FASTER, OTHER, LONG) == configuration(8)


def test_a_difference_beyond_the_error_is_taken_as_it_is():
    assert repeated(probe(0, configuration(4), micro_step_s=0.08), OTHER, LONG) is None
    assert repeated(probe(0, configuration(4), micro_step_s=0.15), OTHER, LONG) is None


def test_where_another_objective_decides_no_time_is_measured_again():
    assert repeated(SLOWER, OTHER, LONG, accuracies=(0.5, 0.6)) is None


def test_repeats_are_few_and_never_of_what_another_worker_is_timing():
    assert repeated(SLOWER, OTHER, LONG, pending=[configuration(8, 2)]) is None
    others = [probe(2 + n, configuration(8), micro_step_s=0.2) for n in range(MAX_PROBES - 1)]
    assert repeated(SLOWER, OTHER, *others, LONG) is None


@pytest.mark.parametrize("outcome", ["failed", "timed_out", "out_of_memory"])
def test_a_repeat_that_failed_is_not_tried_again(outcome):
    failed = TrialRecord(number=95, outcome=outcome, params=SPACE.stored(configuration(8)), attributes={"trial_time_s": 10.0})
    assert repeated(SLOWER, OTHER, LONG, failed) is None


def test_repeats_take_a_small_share_of_the_study_s_time():
    assert repeated(SLOWER, OTHER, training(10.0)) is None
    # A tenth of 10 + 10 + 80 s is one probe.
    assert repeated(SLOWER, OTHER, training(80.0)) == configuration(8)
    assert repeated(SLOWER, OTHER, replace(OTHER, number=2), training(80.0)) is None


class Timed(simulated.SimulatedRunner):
    """Trials whose time is what they took."""

    def run_trial(self, request, **arguments):
        begin_s = self.spent_s
        outcome = super().run_trial(request, **arguments)
        return replace(outcome, measurements=replace(outcome.measurements, trial_time_s=self.spent_s - begin_s))


@pytest.fixture(scope="module")
def noisy():
    """A search on a machine whose times vary by a tenth at once, and by a tenth within minutes; and plans of another worker."""
    runner = Timed(slowness=simulated.drifting(seed=1, noise=0.1, drift=0.1))
    goal = simulated.objective(runner, space=SEARCHED, publishes_at_end=True)
    study, other = simulated.new_study(simulated.decoupled(goal)), simulated.decoupled(goal)
    stood = []
    while study.sampler.finished(study) is None:
        # The other worker plans the same as this one, which is quicker.
        is_repeat = study.sampler.planner(goal.snapshot(study)).next_plan().why.startswith("times it again")
        other.finished(study)
        before = other.plan_stands(goal.snapshot(study))
        simulated.tell(study, study.ask(), goal)
        if is_repeat:
            stood.append((before, other.plan_stands(goal.snapshot(study))))
    return runner, simulated.learned(goal, study)[1], stood


def test_on_a_noisy_machine_a_search_times_again_what_matters_and_ends(noisy):
    runner, _, _ = noisy
    counts = Counter((p.speed_class(), p.per_device_train_batch_size) for p in runner.probed)
    again = len(runner.probed) - len(set(runner.probed))
    assert again > 0
    assert max(counts.values()) <= MAX_PROBES
    assert again * simulated.PROBE_S <= 0.1 * runner.spent_s


def test_of_two_workers_that_would_time_the_same_again_one_does(noisy):
    assert set(noisy[2]) == {(True, False)}


def test_no_order_is_claimed_within_the_error_and_real_differences_are_told_apart(noisy):
    _, knowledge, _ = noisy
    costs = [(simulated.train_time_s(p), cost) for p in SEARCHED.structures if (cost := knowledge.cost(p)) is not None]
    wrong = claimed = told = 0
    pairs = [(a, b) for a, b in combinations(costs, 2) if a[0] != b[0]]
    for (true_a, a), (true_b, b) in pairs:
        lead = math.log(a.train_time_s / b.train_time_s)
        error = math.hypot(*(each.error("train_time_s") / each.train_time_s for each in (a, b)))
        if abs(lead) > 2 * error:
            claimed += 1
            wrong += (lead > 0) != (true_a > true_b)
            told += max(true_a, true_b) > 1.5 * min(true_a, true_b)
    far_apart = sum(max(a, b) > 1.5 * min(a, b) for (a, _), (b, _) in pairs)
    assert wrong / claimed < 0.05
    assert told / far_apart >= 0.8


def test_errors_are_as_large_as_times_are_off(noisy):
    _, knowledge, _ = noisy
    costs = [(simulated.train_time_s(p), cost) for p in SEARCHED.structures if (cost := knowledge.cost(p)) is not None]
    off = [
        math.log(cost.train_time_s / true) / (cost.error("train_time_s") / cost.train_time_s)
        for true, cost in costs
        if cost.source("train_time_s") == "probe"
    ]
    assert len(off) > 5
    assert 0.3 < np.sqrt(np.mean(np.square(off))) < 2.0
