import random

import pytest
from stored_studies import OBJECTIVES, record

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.front import extremes, feasible, knee, manhattan_distances, pareto_front

TWO = ("accuracy", "train_time_s")


def numbers(records: list[TrialRecord]) -> list[int]:
    return [record.number for record in records]


def test_the_front_keeps_what_nothing_dominates_and_lists_the_best_accuracy_first() -> None:
    records = [record(0, (0.5, 10.0)), record(1, (0.8, 30.0)), record(2, (0.7, 30.0)), record(3, (0.6, 20.0))]
    assert numbers(pareto_front(records, TWO)) == [1, 3, 0]


def test_a_trial_that_is_equal_in_one_objective_and_worse_in_another_is_dominated() -> None:
    records = [record(0, (0.8, 10.0, 100.0)), record(1, (0.8, 10.0, 101.0))]
    assert numbers(pareto_front(records, OBJECTIVES)) == [0]


def test_two_configurations_with_equal_values_are_both_on_the_front() -> None:
    assert numbers(pareto_front([record(0, (0.8, 10.0)), record(1, (0.8, 10.0))], TWO)) == [0, 1]


def test_a_third_objective_saves_what_two_would_drop() -> None:
    records = [record(0, (0.8, 10.0, 900.0)), record(1, (0.7, 12.0, 300.0))]
    assert numbers(pareto_front(records, TWO)) == [0]
    assert numbers(pareto_front(records, OBJECTIVES)) == [0, 1]


def test_trials_that_did_not_complete_are_not_on_the_front() -> None:
    out = TrialRecord(number=1, outcome="out_of_memory", params={"per_device_train_batch_size": 64})
    running = TrialRecord(number=2, outcome=None, params={"per_device_train_batch_size": 2})
    assert numbers(pareto_front([record(0, (0.5, 10.0)), out, running], TWO)) == [0]
    assert pareto_front([out, running], TWO) == []


def test_a_completed_trial_that_breaks_a_limit_neither_stands_on_the_front_nor_dominates_another() -> None:
    over = record(0, (0.9, 5.0), violated={"memory_shortfall_mib": 3.0})
    assert numbers(pareto_front([over, record(1, (0.5, 10.0))], TWO)) == [1]


def test_of_two_runs_of_a_configuration_the_later_one_counts() -> None:
    same = {"per_device_train_batch_size": 8}
    records = [record(0, (0.9, 10.0), same), record(1, (0.8, 12.0), same)]
    assert numbers(pareto_front(records, TWO)) == [1]


def test_a_run_of_its_own_counts_more_than_derived_values_before_or_after_it() -> None:
    same = {"per_device_train_batch_size": 8}
    derived, own = record(0, (0.9, 10.0), same, derived_from=5), record(1, (0.8, 12.0), same)
    assert numbers(feasible([derived, own])) == [1]
    assert numbers(feasible([record(0, (0.8, 12.0), same), record(1, (0.9, 10.0), same, derived_from=5)])) == [0]


def test_a_derived_configuration_that_then_runs_out_of_memory_leaves_the_front() -> None:
    same = {"per_device_train_batch_size": 8}
    confirmed = TrialRecord(number=1, outcome="out_of_memory", params=same)
    assert pareto_front([record(0, (0.9, 10.0), same, derived_from=5), confirmed], TWO) == []


def test_a_run_that_crashed_says_nothing_of_an_earlier_one() -> None:
    same = {"per_device_train_batch_size": 8}
    crashed = TrialRecord(number=1, outcome="failed", params=same)
    assert numbers(pareto_front([record(0, (0.9, 10.0), same), crashed], TWO)) == [0]


def test_the_front_of_random_trials_is_what_the_definition_says() -> None:
    generator = random.Random(0)
    records = [record(n, tuple(float(generator.randint(0, 6)) for _ in range(3))) for n in range(80)]

    def dominates(a: TrialRecord, b: TrialRecord) -> bool:
        gains = [a.values["accuracy"] - b.values["accuracy"]]
        gains += [b.values[name] - a.values[name] for name in ("train_time_s", "peak_memory_mib")]
        return min(gains) >= 0 and max(gains) > 0

    expected = {b.number for b in records if not any(dominates(a, b) for a in records)}
    assert set(numbers(pareto_front(records, OBJECTIVES))) == expected


def test_the_distance_from_the_ideal_point_is_the_sum_of_the_scaled_objectives() -> None:
    # accuracy 0.8, 0.7, 0.4 scales to 0, 0.25, 1; time 50, 20, 10 to 1, 0.25, 0.
    front = [record(0, (0.8, 50.0)), record(1, (0.7, 20.0)), record(2, (0.4, 10.0))]
    assert manhattan_distances(front, TWO, {}) == pytest.approx([1.0, 0.5, 1.0])
    assert knee(front, TWO).number == 1


def test_weights_move_the_knee() -> None:
    front = [record(0, (0.8, 50.0)), record(1, (0.7, 20.0)), record(2, (0.4, 10.0))]
    assert manhattan_distances(front, TWO, {"accuracy": 8.0}) == pytest.approx([1.0, 2.25, 8.0])
    assert knee(front, TWO, {"accuracy": 8.0}).number == 0


def test_an_objective_in_which_all_are_equal_does_not_move_the_knee() -> None:
    front = [record(0, (0.8, 50.0, 7.0)), record(1, (0.7, 20.0, 7.0)), record(2, (0.4, 10.0, 7.0))]
    assert knee(front, OBJECTIVES).number == 1


def test_the_knee_of_one_point_is_that_point() -> None:
    assert knee([record(3, (0.8, 50.0))], TWO).number == 3


def test_an_extreme_is_the_best_in_one_objective_and_of_equals_the_better_in_the_others() -> None:
    front = [record(0, (0.8, 50.0, 300.0)), record(1, (0.8, 60.0, 200.0)), record(2, (0.4, 10.0, 900.0))]
    found = {name: chosen.number for name, chosen in extremes(front, OBJECTIVES).items()}
    assert found == {"accuracy": 0, "train_time_s": 2, "peak_memory_mib": 1}
