"""Which learning classes are looked at, and what is of no use in an objective, worked out by hand."""

import math

import optuna
import pytest
import simulated_runner as simulated
from simulated_runner import setup

from tradeoff.objectives.knowledge.knowledge import Cost
from tradeoff.objectives.measurements.goals import GOALS, metric_goal
from tradeoff.searchspace import Categorical, FloatRange, LearningClass, Precision, SearchSpace, TrialParameters
from tradeoff.studies.samplers.candidates import (
    MAX_CLASSES,
    MAX_NEIGHBOURS,
    Candidate,
    candidates,
    neighbours,
    reference,
)
from tradeoff.studies.samplers.metric_gp import FENCE, RANGE_MARGIN, worst_that_counts

LOSS = GOALS["eval_loss"]
F1 = metric_goal("f1", "maximize")


def test_without_a_constant_answer_the_worst_of_a_few_trainings_is_a_little_better_than_nothing():
    assert worst_that_counts(LOSS, [1.2, 1.6]) == pytest.approx(1.6 + RANGE_MARGIN * 0.4)
    assert worst_that_counts(F1, [0.8, 0.4]) == pytest.approx(0.4 - RANGE_MARGIN * 0.4)


def test_a_training_that_went_wrong_makes_no_others_look_alike():
    # The median is 0.1 from the best: four times that is what counts, and not the loss of 900.
    worst = 1.2 + FENCE * 0.1
    expected = worst + RANGE_MARGIN * (worst - 1.2)
    assert worst_that_counts(LOSS, [1.2, 1.25, 1.3, 1.4, 900.0, math.inf, math.nan]) == pytest.approx(expected)


def test_a_wide_spread_without_outliers_counts_as_a_whole():
    assert worst_that_counts(LOSS, [1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(5.0 + RANGE_MARGIN * 4.0)


def test_before_the_first_training_there_is_a_reference_all_the_same():
    assert worst_that_counts(LOSS, []) == 1.0
    assert worst_that_counts(F1, []) == -1.0


@pytest.mark.parametrize("losses", [[1.0], [2.5, 2.6]])
def test_what_a_constant_answer_reaches_is_of_no_use_whatever_else_was_reached(losses):
    found = reference(
        [], {"eval_loss": losses}, setup(objectives=("eval_loss", "peak_memory_mib")), baselines={"eval_loss": 2.0}
    )
    assert found["eval_loss"] == 2.0


def test_a_cost_is_of_no_use_just_beyond_the_worst():
    values = {"train_time_s": 50.0, "peak_memory_mib": 100.0, "samples_per_s": 20.0, "energy_j": 900.0}
    cost = Cost(known={name: (value, "probe") for name, value in values.items()})
    key = LearningClass(effective_batch_size=8, precision=Precision.FP32)
    only = Candidate(learning_class=key, members=((TrialParameters(per_device_train_batch_size=8), cost),))
    objectives = ("eval_loss", "train_time_s", "peak_memory_mib", "samples_per_s", "energy_j")
    terms = setup(objectives=objectives, memory_limit_mib=500.0)
    found = reference([only], {"eval_loss": [1.0]}, terms, baselines={"eval_loss": 2.0})
    assert found == pytest.approx(
        {"eval_loss": 2.0, "train_time_s": 55.0, "peak_memory_mib": 505.0, "samples_per_s": 20 / 1.1, "energy_j": 990.0}
    )


CONTINUOUS = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((8, 16)),
        "gradient_accumulation_steps": Categorical((1, 2)),
        "optim": Categorical(("adamw_torch", "sgd")),
        "learning_rate": FloatRange(1e-5, 1e-3, True),
        "weight_decay": FloatRange(0.0, 0.1),
    },
    only_with={"weight_decay": {"optim": ("adamw_torch",)}},
)


def known(space, num_trained=20):
    """What is known after some trainings at random, which is the cost of everything, and their records."""
    goal = simulated.objective(simulated.SimulatedRunner(budget_mib=20_000.0), space=space, memory_limit_mib=20_000.0)
    study = simulated.new_study(optuna.samplers.RandomSampler(seed=1))
    study.optimize(goal, n_trials=num_trained)
    snapshot = goal.snapshot(study)
    return snapshot.knowledge, [record for record in snapshot.records if record.outcome == "completed"]


def classes(found):
    return {candidate.learning_class for candidate in found}


def test_of_a_small_space_every_class_is_looked_at_with_all_its_members():
    space = SearchSpace(
        domains={**CONTINUOUS.domains, "learning_rate": Categorical((1e-4, 1e-3)), "weight_decay": Categorical((0.0,))}
    )
    found = candidates(known(space)[0])
    assert classes(found) == {parameters.learning_class() for parameters in space.grid()}
    by_class = {candidate.learning_class: candidate for candidate in found}
    sixteen = next(c for key, c in by_class.items() if key.effective_batch_size == 16 and key["learning_rate"] == 1e-3)
    assert len(sixteen.members) == 2
    assert sixteen.fastest[0]["learning_rate"] == 1e-3


def test_the_pool_of_a_continuous_space_is_the_same_at_every_decision_and_another_with_another_seed():
    few, many = known(CONTINUOUS)[0], known(CONTINUOUS, 25)[0]
    pool = classes(candidates(few, seed=0))
    assert len(pool) >= MAX_CLASSES
    new = classes(candidates(many, seed=0)) - pool
    assert new <= {many.class_of(o.parameters) for o in many.observations}
    assert len(pool & classes(candidates(few, seed=1))) < MAX_CLASSES / 4


def test_what_is_trained_and_what_is_running_is_looked_at():
    knowledge, _ = known(CONTINUOUS)
    running = TrialParameters(per_device_train_batch_size=8, optim="sgd", learning_rate=1.234e-4)
    found = classes(candidates(knowledge, running=[running]))
    assert {running.learning_class(), *(knowledge.class_of(o.parameters) for o in knowledge.observations)} <= found


def test_the_neighbours_of_the_front_are_looked_at():
    knowledge, completed = known(CONTINUOUS)
    with_front = classes(candidates(knowledge, completed=completed)) - classes(candidates(knowledge))
    assert 0 < len(with_front) <= MAX_NEIGHBOURS


def test_a_parameter_whose_condition_is_not_met_is_in_no_class():
    found = classes(candidates(known(CONTINUOUS)[0]))
    assert {("weight_decay" in each) == (each["optim"] == "adamw_torch") for each in found} == {True}


def test_members_that_differ_in_what_is_set_are_of_different_classes():
    # Nothing that is learned depends on the workers, but whether there is a rate does.
    domains = {"per_device_train_batch_size": Categorical((8,)), "dataloader_num_workers": Categorical((0, 2))}
    rate = {"learning_rate": Categorical((1e-4, 1e-3))}
    space = SearchSpace(domains=domains | rate, only_with={"learning_rate": {"dataloader_num_workers": (2,)}})
    found = candidates(known(space)[0])
    assert classes(found) == {parameters.learning_class() for parameters in space.grid()}
    assert [len(candidate.members) for candidate in found] == [1, 1, 1]


def test_a_neighbour_is_one_step_away_in_one_parameter():
    domains = {
        "per_device_train_batch_size": Categorical((4, 8, 16)),
        "optim": Categorical(("adamw_torch", "sgd", "adafactor")),
        "learning_rate": FloatRange(1e-5, 1e-3, True),
    }
    space = SearchSpace(domains=domains)
    centre = TrialParameters(per_device_train_batch_size=4, optim="sgd", learning_rate=1e-3)
    found = list(neighbours([centre], space))
    changed = [{name: p[name] for name in domains if p[name] != centre[name]} for p in found]
    assert changed[:3] == [{"per_device_train_batch_size": 8}, {"optim": "adamw_torch"}, {"optim": "adafactor"}]
    # A tenth of two decades below; nothing is above.
    assert changed[3:] == [{"learning_rate": pytest.approx(1e-3 / 10**0.2)}]


def test_with_a_new_value_what_it_needs_gets_the_middle_of_its_domain():
    domains = {
        "per_device_train_batch_size": Categorical((8,)),
        "lora_rank": Categorical((None, 8)),
        "lora_alpha": FloatRange(4.0, 8.0),
    }
    found = list(neighbours([TrialParameters(per_device_train_batch_size=8, lora_rank=None)], SearchSpace(domains=domains)))
    assert [(p["lora_rank"], p["lora_alpha"]) for p in found] == [(8, 6.0)]
