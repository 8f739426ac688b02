"""The marks of a front's rows: by the constant answer, and by the errors of their values."""

from dataclasses import replace

import pytest
from stored_studies import OBJECTIVES, make_study, record

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.results import BASELINES, read_results

RESULTS = read_results(make_study(None))


def judged(*records: TrialRecord, baselines: dict[str, float] | None = None) -> JudgedFront:
    objectives = tuple(records[0].values) if records else OBJECTIVES
    return judged_front(replace(RESULTS, objectives=objectives, records=records, baselines=baselines or {}))


def on_front(front: JudgedFront) -> list[int]:
    return [one.number for one in front.records]


def test_a_study_says_what_a_constant_answer_gives() -> None:
    study = make_study(None)
    assert read_results(study).baselines == {}
    study.set_user_attr(BASELINES, {"accuracy": 0.42})
    assert read_results(study).baselines == {"accuracy": 0.42}


def test_what_is_not_better_than_a_constant_answer_is_marked_and_neither_knee_nor_extreme() -> None:
    front = judged(
        record(0, (0.50, 30.0, 900.0)),
        record(1, (0.42, 10.0, 900.0)),  # as good as the constant answer is not better
        record(2, (0.17, 5.0, 100.0)),
        baselines={"accuracy": 0.42},
    )
    assert on_front(front) == [0, 1, 2]
    assert [front.standings[number].not_better_than_constant for number in (0, 1, 2)] == [False, True, True]
    assert front.knee is front.records[0]
    assert {best.number for best in front.extremes.values()} == {0}
    assert front.warning is None
    assert front.standings[1].words() == ["no better than a constant answer"]


def test_a_lead_over_the_constant_answer_within_the_error_is_none() -> None:
    averaged = {"num_seeds": 4, "accuracy_std": 0.04}  # the mean of four has an error of 0.02
    front = judged(record(0, (0.43, 30.0), **averaged), record(1, (0.45, 40.0), **averaged), baselines={"accuracy": 0.42})
    assert [front.standings[number].not_better_than_constant for number in (0, 1)] == [True, False]


def test_a_front_with_nothing_better_than_a_constant_answer_says_so_and_recommends_nothing() -> None:
    front = judged(record(0, (0.40, 30.0)), record(1, (0.30, 10.0)), baselines={"accuracy": 0.42, "eval_loss": 1.6})
    assert (front.recommended, front.knee, front.extremes) == ((), None, {})
    assert front.warning is not None
    assert "constant answer (accuracy 0.420); what usually helps: more epochs" in front.warning
    assert judged(baselines={"accuracy": 0.42}).warning is None  # an empty front has nothing to warn of


def test_without_a_known_baseline_nothing_is_compared_with_it() -> None:
    front = judged(record(0, (0.01, 30.0)))
    assert not front.standings[0].is_marked
    assert front.warning is None


def test_a_row_whose_place_hangs_on_a_difference_within_the_error_names_the_row_that_is_clearly_ahead() -> None:
    # Trial 1 needs 300 MiB more than trial 0 and is 0.2 s faster, with an error of half a second each.
    front = judged(
        record(0, (0.8, 10.2, 900.0), train_time_s_std=0.5),
        record(1, (0.8, 10.0, 1200.0), train_time_s_std=0.5),
        record(2, (0.8, 5.0, 1200.0), train_time_s_std=0.5),
    )
    assert front.standings[0].within_error_of is None
    assert on_front(front) == [2, 0]  # trial 2 dominates trial 1 strictly
    front = judged(record(0, (0.8, 10.2, 900.0), train_time_s_std=0.5), record(1, (0.8, 10.0, 1200.0), train_time_s_std=0.5))
    assert on_front(front) == [1, 0]
    assert front.standings[1].within_error_of == 0
    assert front.standings[1].words() == ["within the error of trial 0"]
    assert [one.number for one in front.recommended] == [0]


def test_a_row_that_was_measured_badly_takes_no_place_of_one_that_was_measured_well() -> None:
    well = record(0, (0.50, 10.0), train_time_s_std=0.3)
    badly = record(1, (0.60, 22.0), train_time_s_std=18.0)
    for records in ((well, badly), (replace(well, attributes={"train_time_s_std": 18.0}), badly)):
        front = judged(*records)
        assert front.standings[0].within_error_of == (None if records[0] is well else 1)


def test_without_errors_no_difference_is_within_them() -> None:
    front = judged(record(0, (0.8, 10.2, 900.0)), record(1, (0.8, 10.0, 1200.0)))
    assert not any(standing.is_marked for standing in front.standings.values())


def test_a_predicted_value_has_the_usual_error_of_predictions() -> None:
    predicted = replace(record(1, (0.8, 10.0, 1200.0)), sources={"train_time_s": "model"})
    front = judged(record(0, (0.8, 10.5, 900.0)), predicted)
    assert front.standings[1].within_error_of == 0
    assert front.error(predicted, "train_time_s") == pytest.approx(1.0)


def test_a_single_seed_has_the_spread_that_other_configurations_have_over_theirs() -> None:
    repeated = {"num_seeds": 2, "accuracy_std": 0.03}
    front = judged(record(0, (0.80, 10.0), **repeated), record(1, (0.81, 40.0)))
    assert front.pooled_std == {"accuracy": pytest.approx(0.03)}
    assert front.standings[1].within_error_of == 0  # 0.01 more in four times the time, with an error of 0.03


def test_what_strict_dominance_dropped_by_less_than_the_error_is_listed_with_the_row_it_ties_with() -> None:
    front = judged(
        record(0, (0.8, 10.0, 900.0), train_time_s_std=0.5),
        record(1, (0.8, 10.1, 900.0), train_time_s_std=0.5),
        record(2, (0.8, 19.0, 900.0), train_time_s_std=0.5),
    )
    assert on_front(front) == [0]
    assert front.standings[0].equal_within_error == (1,)
    assert not front.standings[0].is_marked
    assert front.standings[0].as_dict() == {
        "not_better_than_constant": False, "within_error_of": None, "equal_within_error": [1]
    }  # fmt: skip


def test_three_rows_that_mark_each_other_in_a_circle_are_still_recommended() -> None:
    # Each is ahead of the next by 2 in one objective, and behind by 1 in the others, with an error of 1.4 between any two.
    names = ("train_time_s", "peak_memory_mib", "energy_j")
    errors = {f"{name}_std": 1.0 for name in names}
    costs = ((10.0, 11.0, 12.0), (12.0, 10.0, 11.0), (11.0, 12.0, 10.0))
    records = [replace(record(n, (), **errors), values=dict(zip(names, each, strict=True))) for n, each in enumerate(costs)]
    front = judged(*records)
    assert [front.standings[number].within_error_of for number in (0, 1, 2)] == [2, 0, 1]
    assert len(front.recommended) == 3
