"""What is of no use in an objective, worked out by hand."""

import math

import pytest
from simulated_runner import setup

from tradeoff.objectives.knowledge.knowledge import Cost
from tradeoff.objectives.measurements.goals import GOALS, metric_goal
from tradeoff.searchspace import LearningClass, Precision, TrialParameters
from tradeoff.studies.samplers.acquisition import Candidate
from tradeoff.studies.samplers.candidates import FENCE, RANGE_MARGIN, reference, worst_that_counts

LOSS = GOALS["eval_loss"]
F1 = metric_goal("f1", "maximize")


def test_what_a_constant_answer_reaches_is_of_no_use():
    assert worst_that_counts(GOALS["accuracy"], [0.5, 0.1], 0.2) == 0.2
    assert worst_that_counts(LOSS, [1.2, 3.0], 1.6) == 1.6


def test_while_nothing_beats_a_constant_answer_everything_counts():
    assert worst_that_counts(GOALS["accuracy"], [0.2, 0.15], 0.2) == pytest.approx(0.14)
    assert worst_that_counts(LOSS, [1.7, 2.0], 1.6) == pytest.approx(2.0 + RANGE_MARGIN * 1.6)


def test_without_a_constant_answer_the_worst_of_a_few_trainings_is_a_little_better_than_nothing():
    assert worst_that_counts(LOSS, [1.2, 1.6], None) == pytest.approx(1.6 + RANGE_MARGIN * 0.4)
    assert worst_that_counts(F1, [0.8, 0.4], None) == pytest.approx(0.4 - RANGE_MARGIN * 0.4)


def test_a_training_that_went_wrong_makes_no_others_look_alike():
    # The median is 0.1 from the best: four times that is what counts, and not the loss of 900.
    worst = 1.2 + FENCE * 0.1
    expected = worst + RANGE_MARGIN * (worst - 1.2)
    assert worst_that_counts(LOSS, [1.2, 1.25, 1.3, 1.4, 900.0, math.inf, math.nan], None) == pytest.approx(expected)


def test_a_wide_spread_without_outliers_counts_as_a_whole():
    assert worst_that_counts(LOSS, [1.0, 2.0, 3.0, 4.0, 5.0], None) == pytest.approx(5.0 + RANGE_MARGIN * 4.0)


def test_before_the_first_training_there_is_a_reference_all_the_same():
    assert worst_that_counts(LOSS, [], None) == 1.0
    assert worst_that_counts(F1, [], None) == -1.0


def test_a_cost_is_of_no_use_just_beyond_the_worst():
    values = {"train_time_s": 50.0, "peak_memory_mib": 100.0, "samples_per_s": 20.0, "energy_j": 900.0}
    cost = Cost(known={name: (value, "probe") for name, value in values.items()})
    key = LearningClass(effective_batch_size=8, precision=Precision.FP32)
    only = Candidate(learning_class=key, members=((TrialParameters(per_device_train_batch_size=8), cost),))
    objectives = ("eval_loss", "train_time_s", "peak_memory_mib", "samples_per_s", "energy_j")
    terms = setup(objectives=objectives, memory_limit_mib=500.0)
    found = reference([only], {"eval_loss": [1.0]}, terms, baselines={"eval_loss": 2.0})
    assert found == pytest.approx(
        {"eval_loss": 2.0, "train_time_s": 50.5, "peak_memory_mib": 505.0, "samples_per_s": 20 / 1.01, "energy_j": 909.0}
    )
