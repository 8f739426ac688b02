"""Which learning class is trained next, in cases small enough to see."""

import math

import numpy as np
import pytest

from tradeoff.objectives.knowledge.knowledge import Cost
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import LearningClass, Precision, TrialParameters
from tradeoff.studies.samplers.acquisition import select_next
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.features import Features
from tradeoff.studies.samplers.hypervolume import Volume
from tradeoff.studies.samplers.metric_gp import MetricGP

OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")
REFERENCE = {"accuracy": 0.2, "train_time_s": 100.0, "peak_memory_mib": 1000.0}


def learning_class(effective_batch, precision=Precision.FP32, rate=None):
    rates = {} if rate is None else {"learning_rate": rate}
    return LearningClass(effective_batch_size=effective_batch, precision=precision, **rates)


def candidate(effective_batch, *costs, precision=Precision.FP32, rate=None):
    """A class with a member for each (time, memory)."""
    members = tuple(
        (
            TrialParameters(per_device_train_batch_size=effective_batch, precision=precision, learning_rate=rate),
            Cost(known={"train_time_s": (time_s, "probe"), "peak_memory_mib": (memory_mib, "probe")}),
        )
        for time_s, memory_mib in costs
    )
    return Candidate(learning_class=learning_class(effective_batch, precision, rate), members=members)


def point(accuracy, train_time_s, peak_memory_mib):
    return {"accuracy": accuracy, "train_time_s": train_time_s, "peak_memory_mib": peak_memory_mib}


# Two trainings as good as each other: what a third one adds is a matter of time and memory.
TRAINED = {learning_class(8): [{"accuracy": 0.6}], learning_class(32): [{"accuracy": 0.6}]}
POINTS = [point(0.6, 50, 500)]


def test_with_no_candidate_there_is_no_decision():
    assert select_next([], TRAINED, POINTS, OBJECTIVES, REFERENCE) is None


def test_the_first_training_is_an_effective_batch_of_32_at_its_fastest():
    slow = candidate(32, (40, 500))
    fast = candidate(32, (20, 500), precision=Precision.FP16)
    decision = select_next([candidate(8, (10, 100)), slow, fast], {}, [], OBJECTIVES, REFERENCE)
    assert decision.candidate is fast
    assert decision.relative_gain == math.inf


def test_the_class_that_adds_more_is_chosen_at_the_same_cost():
    # Both train for 50 s; only one has a member that needs less memory than what is there.
    smaller, larger = candidate(16, (50, 200)), candidate(16, (50, 900), precision=Precision.FP16)
    assert select_next([larger, smaller], TRAINED, POINTS, OBJECTIVES, REFERENCE).candidate is smaller


def test_a_second_member_counts_too():
    one, two = candidate(16, (50, 400)), candidate(16, (50, 400), (90, 100), precision=Precision.BF16)
    assert select_next([one, two], TRAINED, POINTS, OBJECTIVES, REFERENCE).candidate is two


def test_the_cheaper_of_two_equal_gains_is_chosen():
    # In accuracy and memory alone, time is a cost and no objective.
    objectives = ("accuracy", "peak_memory_mib")
    reference = {name: REFERENCE[name] for name in objectives}
    slow, fast = candidate(16, (80, 300)), candidate(16, (20, 300))
    points = [{"accuracy": 0.6, "peak_memory_mib": 500.0}]
    assert select_next([slow, fast], TRAINED, points, objectives, reference).candidate is fast


def test_the_gain_of_a_class_of_known_accuracy_is_its_share_of_the_volume():
    # Without accuracy nothing is uncertain. Done: (1 - 0.5) x (1 - 0.5) = 0.25; the new corner adds 0.5 x 0.2.
    objectives = ("train_time_s", "peak_memory_mib")
    points = [{"train_time_s": 50.0, "peak_memory_mib": 500.0}]
    decision = select_next([candidate(16, (50, 300))], {}, points, objectives, REFERENCE)
    assert decision.relative_gain == pytest.approx(0.5 * 0.2 / 0.25)


def test_what_is_beaten_in_everything_that_counts_adds_nothing():
    objectives = ("train_time_s", "peak_memory_mib")
    points = [{"train_time_s": 50.0, "peak_memory_mib": 500.0}]
    assert select_next([candidate(16, (60, 600))], {}, points, objectives, REFERENCE).relative_gain == 0


def test_what_another_worker_trains_counts_as_done():
    objectives = ("train_time_s", "peak_memory_mib")
    points = [{"train_time_s": 50.0, "peak_memory_mib": 500.0}]
    twin = candidate(16, (50, 300), precision=Precision.FP16)
    alone = select_next([candidate(16, (50, 300))], {}, points, objectives, REFERENCE)
    beside = select_next([candidate(16, (50, 300))], {}, points, objectives, REFERENCE, pending=[twin])
    assert alone.relative_gain > 0
    assert beside.relative_gain == 0


def test_a_second_worker_decides_before_anything_is_trained():
    decision = select_next(
        [candidate(8, (50, 300)), candidate(128, (20, 900))], {}, [], OBJECTIVES, REFERENCE, [candidate(32, (30, 500))]
    )
    assert decision.candidate.learning_class.effective_batch_size in (8, 128)


def test_accuracy_is_expected_to_be_like_that_of_the_nearest_batch():
    process = MetricGP([(learning_class(4), 0.60), (learning_class(8), 0.61), (learning_class(256), 0.40)])
    means, deviations = process.predict([learning_class(6), learning_class(200), learning_class(40)])
    assert means[0] == pytest.approx(0.605, abs=0.02)
    assert means[1] == pytest.approx(0.42, abs=0.05)
    assert deviations[2] > deviations[0]


def test_after_a_single_training_nearby_classes_are_alike_and_far_ones_uncertain_and_expected_to_be_worse():
    means, deviations = MetricGP([(learning_class(32), 0.6)], worst=0.2).predict(
        [learning_class(32), learning_class(16), learning_class(1)]
    )
    assert means[0] == pytest.approx(0.6, abs=0.01)
    assert means[0] > means[1] > means[2] > 0.4
    assert deviations[0] < deviations[1] < deviations[2]


def test_the_best_learning_rate_of_a_batch_tells_that_of_a_larger_one_to_grow_with_its_root():
    # Tried at a batch of 16, three rates; four times the batch wants twice the rate.
    trained = [(learning_class(16, rate=rate), accuracy) for rate, accuracy in ((1e-4, 0.5), (1e-3, 0.7), (1e-2, 0.3))]
    rates = (2e-4, 2e-3, 2e-2)
    means, _ = MetricGP(trained, worst=0.2).predict([learning_class(64, rate=rate) for rate in rates])
    assert means.argmax() == 1


def test_the_first_training_takes_the_learning_rate_in_the_middle():
    rates = (1e-5, 1e-4, 1e-3)
    classes = [candidate(32, (20 - i, 500), rate=rate) for i, rate in enumerate(rates)]
    assert select_next(classes, {}, [], OBJECTIVES, REFERENCE).candidate.learning_class["learning_rate"] == 1e-4


def test_learning_rates_far_apart_tell_little_of_each_other():
    trained = {learning_class(8, rate=1e-5): 0.3, learning_class(8, rate=1e-4): 0.6, learning_class(8, rate=1.1e-4): 0.6}
    means, deviations = MetricGP(list(trained.items())).predict([learning_class(8, rate=1.05e-4), learning_class(8, rate=1e-2)])
    assert means[0] == pytest.approx(0.6, abs=0.03)
    assert deviations[1] > deviations[0]


def test_more_classes_than_the_lengths_are_learnt_from_are_all_used():
    rng = np.random.default_rng(0)
    trained = {learning_class(8 * n): 0.3 + 0.1 * (n > 100) + rng.normal(0, 1e-3) for n in range(1, 160)}
    means, _ = MetricGP(list(trained.items())).predict([learning_class(8 * 40), learning_class(8 * 150)])
    assert means == pytest.approx([0.3, 0.4], abs=0.03)


LOSS = ("eval_loss", "train_time_s", "peak_memory_mib")
LOSS_REFERENCE = {"eval_loss": 2.0, "train_time_s": 100.0, "peak_memory_mib": 1000.0}


def test_a_loss_and_an_accuracy_that_mirror_each_other_lead_to_the_same_choice_and_gain():
    classes = [candidate(16, (50, 200)), candidate(64, (30, 600)), candidate(256, (10, 900))]
    accuracies = {8: 0.6, 32: 0.55, 128: 0.4}
    by_accuracy = select_next(
        classes,
        {learning_class(batch): [{"accuracy": accuracy}] for batch, accuracy in accuracies.items()},
        [point(accuracy, 800 / batch, 500) for batch, accuracy in accuracies.items()],
        OBJECTIVES,
        REFERENCE,
    )
    by_loss = select_next(
        classes,
        {learning_class(batch): [{"eval_loss": 2.2 - accuracy}] for batch, accuracy in accuracies.items()},
        [
            {"eval_loss": 2.2 - accuracy, "train_time_s": 800 / batch, "peak_memory_mib": 500}
            for batch, accuracy in accuracies.items()
        ],
        LOSS,
        LOSS_REFERENCE,
    )
    assert by_loss.candidate is by_accuracy.candidate
    # Beforehand a loss is believed to vary by a share of its size, and an accuracy by as much as accuracies do.
    assert by_loss.relative_gain == pytest.approx(by_accuracy.relative_gain, rel=0.02)


def test_a_loss_is_scaled_so_that_its_reference_is_1_and_less_is_better():
    volume = Volume(("eval_loss", "samples_per_s"), {"eval_loss": 2.0, "samples_per_s": 10.0})
    assert volume.scaled({"eval_loss": 2.0, "samples_per_s": 10.0}) == [1.0, 1.0]
    assert volume.scaled({"eval_loss": 1.0, "samples_per_s": 20.0}) == [0.5, 0.0]
    assert volume.scaled({"eval_loss": 3.0, "samples_per_s": 5.0}) == [1.5, 1.5]


def test_two_metrics_that_are_learned_count_apart():
    # One class is expected to be as accurate as what is there, the other one to have a lower loss as well.
    objectives = ("accuracy", "eval_loss", "train_time_s")
    trained = {
        learning_class(4): [{"accuracy": 0.6, "eval_loss": 1.0}],
        learning_class(8): [{"accuracy": 0.6, "eval_loss": 1.0}],
        learning_class(512): [{"accuracy": 0.6, "eval_loss": 1.5}],
        learning_class(1024): [{"accuracy": 0.6, "eval_loss": 1.5}],
    }
    points = [{"accuracy": 0.6, "eval_loss": 1.3, "train_time_s": 50.0}]
    reference = {"accuracy": 0.2, "eval_loss": 2.0, "train_time_s": 100.0}
    low, high = candidate(6, (50, 1)), candidate(700, (50, 1))
    assert select_next([high, low], trained, points, objectives, reference).candidate is low


def test_a_training_that_diverged_says_that_its_neighbours_are_of_no_use_and_nothing_of_the_others():
    trained = {learning_class(8): 1.2, learning_class(16): 1.3, learning_class(32): 1.25, learning_class(4096): math.nan}
    means, _ = MetricGP(list(trained.items()), GOALS["eval_loss"], 2.0).predict([learning_class(12), learning_class(3000)])
    assert means[0] == pytest.approx(1.25, abs=0.1)
    assert means[1] == pytest.approx(2.0, abs=0.2)


def test_a_loss_of_thousands_makes_no_other_loss_look_alike():
    trained = {learning_class(8): 1.2, learning_class(64): 1.6, learning_class(4096): 9000.0}
    means, _ = MetricGP(list(trained.items()), GOALS["eval_loss"], 2.0).predict([learning_class(8), learning_class(64)])
    assert means == pytest.approx([1.2, 1.6], abs=0.1)


def test_equal_values_that_are_no_better_than_the_baseline_say_nothing_of_the_spread_of_others():
    trained = [(learning_class(batch), REFERENCE["accuracy"]) for batch in (2, 4, 8, 16, 32, 64)]
    _, (deviation,) = MetricGP(trained, worst=REFERENCE["accuracy"]).predict([learning_class(4096)])
    assert deviation > 0.05
    learnt = [(learning_class(batch), 0.7) for batch in (2, 4, 8, 16, 32, 64)]
    _, (smaller,) = MetricGP(learnt, worst=REFERENCE["accuracy"]).predict([learning_class(4096)])
    assert smaller < deviation


def test_while_nothing_is_better_than_the_baseline_a_class_is_worth_its_expected_improvement_over_that():
    # Far from what was trained; the nearer one is cheaper, and as dull as what is there.
    trained = {learning_class(batch): [{"accuracy": REFERENCE["accuracy"]}] for batch in (8, 16, 32)}
    near, far = candidate(12, (40, 500)), candidate(2048, (50, 500))
    points = [point(REFERENCE["accuracy"], 40, 500)]
    decision = select_next([near, far], trained, points, OBJECTIVES, REFERENCE)
    assert decision.candidate is far
    process = MetricGP(
        [(key, REFERENCE["accuracy"]) for key in trained],
        worst=REFERENCE["accuracy"],
        features=Features.of([*trained, near.learning_class, far.learning_class]),
    )
    means, shifts = process.posterior([far.learning_class])
    assert decision.is_first
    assert means[0] == pytest.approx(REFERENCE["accuracy"])
    # The mean is at the baseline, so what is expected beyond it is the deviation / root of 2 pi.
    assert decision.relative_gain == pytest.approx(shifts[0] * 0.39894 / (1 - REFERENCE["accuracy"]), rel=0.05)


def test_losses_worse_than_the_baseline_still_tell_in_which_direction_they_fall():
    trained = [(learning_class(batch), loss) for batch, loss in ((4, 2.4), (16, 2.1), (64, 1.8), (4096, 1e9), (2048, 2.4))]
    means, _ = MetricGP(trained, GOALS["eval_loss"], 1.6).predict([learning_class(4), learning_class(64)])
    assert means[1] < means[0] - 0.2
