"""When a training is ended because its class can't reach the front; thresholds are worked out by hand."""

import pytest

from tradeoff.objectives.knowledge.early_stopping import SLACK, SLACK_SHARE, expected_final, stop_rule
from tradeoff.objectives.measurements.goals import GOALS

# What the three gained from the first epoch on: 0.2, 0.1 and 0.3, so that 0.4 is granted; from the second: 0.05, 0 and 0.1.
CURVES = [
    [(1000, 0.40), (2000, 0.55), (3000, 0.60)],
    [(1000, 0.40), (2000, 0.50), (3000, 0.50)],
    [(1000, 0.25), (2000, 0.45), (3000, 0.55)],
]


def member(train_time_s, peak_memory_mib):
    return {"train_time_s": train_time_s, "peak_memory_mib": peak_memory_mib}


def finished(number, accuracy, train_time_s, peak_memory_mib):
    return number, {"accuracy": accuracy, **member(train_time_s, peak_memory_mib)}


FAST_AND_SMALL = finished(4, 0.60, 10.0, 1000.0)


def test_the_largest_gain_seen_and_its_lead_over_the_second_are_granted():
    rule = stop_rule([member(20, 2000)], [FAST_AND_SMALL], CURVES)
    assert rule.thresholds == pytest.approx({1000: 0.60 - 0.40 - SLACK, 2000: 0.60 - 0.15 - SLACK})
    assert rule.required == 0.60
    assert rule.dominating == (4,)


def test_the_last_evaluation_has_no_threshold():
    assert 3000 not in stop_rule([member(20, 2000)], [FAST_AND_SMALL], CURVES).thresholds


def test_accuracy_that_falls_towards_the_end_is_granted_no_loss():
    falling = [[(1000, 0.6), (2000, 0.5)]] * 3
    assert stop_rule([member(20, 2000)], [FAST_AND_SMALL], falling).thresholds == pytest.approx({1000: 0.60 - SLACK})


def test_a_training_that_was_stopped_would_have_gained_what_others_gained_from_there_on():
    # 0.2, 0.1 and 0.3 from the first evaluation on; nothing is known of another number of samples.
    assert expected_final([(1000, 0.30)], CURVES) == pytest.approx(0.50)
    assert expected_final([(500, 0.20), (1000, 0.30)], CURVES[:1]) == pytest.approx(0.50)
    assert expected_final([(1500, 0.30)], CURVES) == 0.30


def test_two_curves_are_too_few():
    assert stop_rule([member(20, 2000)], [FAST_AND_SMALL], CURVES[:2]) is None


def test_an_evaluation_that_two_curves_reached_has_no_threshold():
    curves = [*CURVES[:2], CURVES[2][:2]]
    assert list(stop_rule([member(20, 2000)], [FAST_AND_SMALL], curves).thresholds) == [1000]


@pytest.mark.parametrize("on_the_front", [member(9, 2000), member(20, 999)], ids=["faster", "smaller"])
def test_a_class_with_a_member_that_nobody_dominates_is_never_stopped(on_the_front):
    assert stop_rule([member(20, 2000), on_the_front], [FAST_AND_SMALL], CURVES) is None


def test_a_class_without_members_has_no_rule():
    assert stop_rule([], [FAST_AND_SMALL], CURVES) is None


def test_the_best_of_those_in_the_way_is_what_a_member_must_beat():
    rule = stop_rule([member(20, 2000)], [FAST_AND_SMALL, finished(5, 0.64, 15.0, 1500.0)], CURVES)
    assert (rule.required, rule.dominating) == (0.64, (5,))


def test_the_class_needs_what_the_member_with_the_least_hurdle_needs():
    # The slow one must beat both, the small one only the less accurate of them.
    rule = stop_rule([member(20, 2000), member(20, 1200)], [FAST_AND_SMALL, finished(5, 0.64, 15.0, 1500.0)], CURVES)
    assert (rule.required, rule.dominating) == (0.60, (4,))


def test_a_study_without_memory_compares_times_alone():
    rule = stop_rule([{"train_time_s": 20.0}], [(3, {"accuracy": 0.5, "train_time_s": 10.0})], CURVES)
    assert (rule.required, rule.dominating) == (0.5, (3,))


def test_the_rule_goes_to_the_trials_process_as_plain_data():
    plain = stop_rule([member(20, 2000)], [FAST_AND_SMALL], CURVES).as_dict()
    assert dict(plain["thresholds"]) == pytest.approx({1000: 0.19, 2000: 0.44})
    assert (plain["required"], plain["dominating"]) == (0.6, [4])


def test_a_loss_is_bounded_from_below():
    # The mirror image: from the first evaluation on losses fell by 0.2, 0.1 and 0.3; the final ones span 0.1.
    losses = [[(samples, 2 - accuracy) for samples, accuracy in curve] for curve in CURVES]
    in_the_way = (4, {"eval_loss": 1.40, "train_time_s": 10.0, "peak_memory_mib": 1000.0})
    rule = stop_rule([member(20, 2000)], [in_the_way], losses, GOALS["eval_loss"])
    slack = SLACK_SHARE * 0.1
    assert rule.thresholds == pytest.approx({1000: 1.40 + 0.40 + slack, 2000: 1.40 + 0.15 + slack})
    assert (rule.required, rule.dominating) == (1.40, (4,))


def test_the_lowest_loss_of_those_in_the_way_is_what_a_member_must_beat():
    worse = (5, {"eval_loss": 1.5, "train_time_s": 9.0, "peak_memory_mib": 900.0})
    better = (4, {"eval_loss": 1.4, "train_time_s": 10.0, "peak_memory_mib": 1000.0})
    assert stop_rule([member(20, 2000)], [worse, better], CURVES, GOALS["eval_loss"]).dominating == (4,)


def test_a_member_that_is_faster_in_samples_per_s_is_never_stopped():
    slow = (3, {"accuracy": 0.6, "samples_per_s": 100.0})
    assert stop_rule([{"samples_per_s": 101.0}], [slow], CURVES) is None
    assert stop_rule([{"samples_per_s": 99.0}], [slow], CURVES).dominating == (3,)
