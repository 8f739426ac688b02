"""What a study can optimise: names, directions, and values where they are stored."""

import math

import numpy as np
import pytest

from tradeoff.objectives.data.labels import macro_f1
from tradeoff.objectives.measurements.goals import (
    GOALS,
    Estimates,
    Goals,
    cost_goals,
    cost_names,
    energy_names,
    learned_goals,
    learned_names,
    learned_value,
    learning_curve,
    metric_goal,
    metric_name,
)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("eval_loss", "eval_loss"),
        ("loss", "eval_loss"),
        ("bleu", "eval_bleu"),
        ("eval_perplexity", "perplexity"),
        ("eval_rmse", "eval_rmse"),
        ("eval_accuracy", "accuracy"),
        ("accuracy", "accuracy"),
    ],
)
def test_a_metric_has_one_name_with_and_without_the_trainers_prefix(key, name):
    assert metric_name(key) == name


def test_a_metric_of_the_user_is_learned_and_goes_the_way_that_the_user_says():
    goal = metric_goal("f1_macro", "maximize")
    assert (goal.name, goal.label, goal.learned, goal.better(0.6, 0.5)) == ("eval_f1_macro", "f1 macro", True, True)
    assert metric_goal("rmse", "minimize").better(0.5, 0.6)


def test_a_loss_goes_down_unless_the_user_says_otherwise():
    assert metric_goal("mlm_loss", None).direction == "minimize"
    with pytest.raises(ValueError, match="direction must say whether to minimize or to maximize the metric eval_rmse"):
        metric_goal("rmse", None)


def test_what_is_known_can_not_be_turned_round():
    with pytest.raises(ValueError, match="direction must be minimize for the metric eval_loss, got maximize"):
        metric_goal("eval_loss", "maximize")


def test_a_name_means_one_thing_in_a_process():
    goals = Goals()
    goals.add(metric_goal("score", "maximize"))
    goals.add(metric_goal("score", "maximize"))
    with pytest.raises(ValueError, match=r"the direction of eval_score must be maximize, as in another study .*, got minimize"):
        goals.add(metric_goal("score", "minimize"))


def test_a_value_of_unknown_scale_is_shown_with_four_significant_digits():
    goal = metric_goal("mse", "minimize")
    assert [goal.show(value) for value in (1234.56, 0.000123456, 1.5)] == ["1,235", "0.0001235", "1.5"]


def test_objectives_are_learned_or_costs():
    objectives = ("eval_loss", "train_time_s", "accuracy", "samples_per_s", "energy_j", "peak_memory_mib")
    assert learned_names(objectives) == ("eval_loss", "accuracy")
    assert cost_names(objectives) == ("train_time_s", "samples_per_s", "energy_j", "peak_memory_mib")
    assert GOALS["samples_per_s"].better(2, 1)
    assert GOALS["energy_j"].better(1, 2)


def test_a_value_is_found_under_the_keys_of_the_trainer_and_in_what_earlier_versions_stored():
    assert learned_value({"accuracy": 0.5}, "accuracy") == 0.5
    assert learned_value({"accuracy": None, "metrics": {"eval_rmse": 0.7}}, "eval_rmse") == 0.7
    assert learned_value({"metrics": {"bleu": 12.0}}, "eval_bleu") == 12.0
    assert learned_value({"metrics": {"eval_perplexity": 12.0}}, "perplexity") == 12.0
    assert learned_value({"metrics": {"eval_loss": 1.0}}, "eval_rmse") is None


def test_a_curve_leaves_out_what_is_not_a_number():
    training = {
        "curve": [{"num_samples": 8, "metrics": {"eval_f1": math.nan}}, {"num_samples": 16, "metrics": {"eval_f1": 0.5}}]
    }
    assert learning_curve(training, "eval_f1") == [(16, 0.5)]


ESTIMATES = Estimates(peak_memory_mib=(300.0, "probe"), train_time_s=(20.0, "model"), energy_j=None, num_samples=500)


def test_a_cost_is_estimated_from_what_the_studys_models_know_with_its_source():
    estimated = {name: goal.estimated(ESTIMATES) for name, goal in cost_goals().items()}
    assert estimated == {
        "train_time_s": (20.0, "model"),
        "peak_memory_mib": (300.0, "probe"),
        "samples_per_s": (25.0, "model"),
        "energy_j": None,
    }


def test_a_training_of_no_time_has_no_speed():
    assert GOALS["samples_per_s"].estimated(ESTIMATES._replace(train_time_s=(0.0, "probe"))) is None


def test_only_energy_needs_a_device_that_counts_energy():
    assert energy_names(("accuracy", "energy_j", "train_time_s")) == ("energy_j",)
    assert energy_names(("accuracy", "train_time_s")) == ()


def test_a_constant_answer_is_as_accurate_as_the_majority_class_and_loses_the_logarithm_of_their_number():
    baselines = {name: goal.baseline for name, goal in learned_goals().items() if goal.baseline is not None}
    shares = [0.4, 0.3, 0.3, 0.0]
    assert baselines["accuracy"](shares) == 0.4
    assert baselines["eval_loss"](shares) == pytest.approx(math.log(4))


def test_the_constant_answer_has_the_f1_of_one_class_among_those_that_occur():
    labels = np.array([0] * 4 + [1] * 3 + [2] * 3)
    constant = learned_goals()["f1"].baseline([0.4, 0.3, 0.3, 0.0])
    assert constant == pytest.approx(2 * 0.4 / 1.4 / 3)
    assert constant == pytest.approx(macro_f1(np.zeros_like(labels), labels))
    assert learned_goals()["f1"].baseline([0.0, 1.0]) == 1.0


def test_f1_is_known_by_its_bare_name_like_accuracy():
    assert metric_goal("eval_f1", None) is metric_goal("f1", "maximize") is GOALS["f1"]
    with pytest.raises(ValueError, match="direction must be maximize for the metric f1"):
        metric_goal("f1", "minimize")


def test_every_name_of_a_cost_says_its_unit():
    assert all(goal.name.endswith(("_s", "_mib", "_j")) and goal.unit for goal in cost_goals().values())


def test_a_spread_smaller_than_the_last_decimal_of_its_value_is_not_shown_as_none() -> None:
    memory = GOALS["peak_memory_mib"]
    assert [memory.show_spread(std) for std in (12.4, 0.31, 0.0)] == ["12", "0.3", "0"]
    assert GOALS["train_time_s"].show_spread(0.004) == "0.004"
