"""Training a learning class again with another seed: when it pays, and what the study says then."""

import csv
import json
import statistics
from dataclasses import replace

import pytest
import simulated_runner as simulated

from tradeoff.objectives.knowledge.knowledge import Cost
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.measurements.records import TrialRecord, read_attributes
from tradeoff.objectives.measurements.seeds import averaged_attributes
from tradeoff.searchspace import Categorical, LearningClass, Precision, SearchSpace, TrialParameters
from tradeoff.studies.results.evidence import judged
from tradeoff.studies.results.publication import as_they_stand
from tradeoff.studies.results.tables import front_as_csv, front_as_json, shown_value
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.hypervolume import Volume
from tradeoff.studies.samplers.metric_gp import MetricGP
from tradeoff.studies.samplers.repeated_training import worth_of_repeats
from tradeoff.studies.samplers.trial_planner import TrialPlanner

OBJECTIVES = ("accuracy", "train_time_s")
VOLUME = Volume(OBJECTIVES, {"accuracy": 0.2, "train_time_s": 100.0})
QUANTILES = [(-1.28,), (-0.52,), (0.0,), (0.52,), (1.28,)]
SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((1, 2, 4, 8, 16, 32, 64)),
        "gradient_accumulation_steps": Categorical((1, 2)),
        "gradient_checkpointing": Categorical((False, True)),
    }
)


def learning_class(effective_batch):
    return LearningClass(effective_batch_size=effective_batch, precision=Precision.FP32)


def candidate(effective_batch, time_s):
    parameters = TrialParameters(per_device_train_batch_size=effective_batch)
    cost = Cost(known={"train_time_s": (time_s, "probe"), "peak_memory_mib": (1.0, "probe")})
    return Candidate(learning_class=learning_class(effective_batch), members=((parameters, cost),))


def worth(accuracies, times_s, repeatable=None):
    """What a repeat of each class is worth, by effective batch: each class was trained with these accuracies."""
    process = MetricGP([(learning_class(batch), value) for batch, values in accuracies.items() for value in values])
    trained = [candidate(batch, times_s[batch]) for batch in accuracies]
    allowed = {learning_class(batch) for batch in (repeatable or accuracies)}
    found = worth_of_repeats(trained, allowed, [process], ("accuracy",), VOLUME, QUANTILES)
    return {c.learning_class.effective_batch_size: gain for c, gain in found}


# The same batch sizes and the same noise, which the repeated class at 2 shows; two classes are as good as each other.
NOISY = {2: [0.30, 0.36], 8: [0.55], 16: [0.60], 32: [0.59], 128: [0.45]}


def test_a_repeat_is_worth_most_where_two_classes_compete_for_a_place():
    gains = worth(NOISY, {2: 90, 8: 50, 16: 42, 32: 40, 128: 10})
    assert max(gains, key=gains.get) in (16, 32)
    assert gains[max(gains, key=gains.get)] > 0


def test_a_class_that_is_off_the_front_is_not_repeated():
    # All others train faster and learn more.
    assert 2 not in worth(NOISY, {2: 90, 8: 50, 16: 42, 32: 40, 128: 10})


def test_only_what_may_be_repeated_is():
    assert set(worth(NOISY, dict.fromkeys(NOISY, 40) | {128: 10}, repeatable=[128])) <= {128}


def test_before_a_few_classes_are_trained_noise_is_not_told_from_difference():
    assert worth({8: [0.5], 16: [0.6], 32: [0.55]}, {8: 50, 16: 40, 32: 30}) == {}


def record(number, accuracy, seed=None):
    attributes = {"training": {"curve": [{"num_samples": 1, "accuracy": accuracy}]}}
    if seed is not None:
        attributes["seed"] = seed
    return TrialRecord(number=number, outcome="completed", params={}, attributes=attributes)


def test_a_repeat_holds_the_mean_and_the_standard_deviation_and_names_the_trials():
    own = record(9, 0.63).attributes
    averaged = averaged_attributes(own, [record(2, 0.60), record(5, 0.57, seed=43)], ["accuracy"], number=9, seed=44)
    assert averaged["accuracy"] == pytest.approx(0.60)
    assert averaged["accuracy_std"] == pytest.approx(0.03)
    assert averaged["num_seeds"] == 3
    assert averaged["seed"] == 44
    assert averaged["accuracy_source"] == "mean of trials 2, 5 and 9"


@pytest.fixture(scope="module")
def searched():
    """A search in which a seed changes as much as the batch does, so that repeats pay: its study, runner and goal."""
    runner = simulated.SimulatedRunner(noise=0.06)
    # So few evaluation samples that an accuracy is known to vary as much.
    goal = simulated.objective(runner, space=SPACE, publishes_at_end=True, num_eval=60)
    sampler = simulated.decoupled(goal)
    sampler.max_seeds = 3
    study = simulated.new_study(sampler)
    assert simulated.search(study, goal) is not None
    return study, runner, goal


def repeats_of(study):
    return [t for t in study.trials if read_attributes(t.user_attrs).get("seed") is not None]


def test_a_noisy_search_repeats_classes_with_the_next_seeds(searched):
    study, runner, _ = searched
    assert repeats_of(study)
    seeds = {}
    for request in runner.requests:
        if "train" in request["stages"]:
            parameters = TrialParameters(**request["parameters"])
            seeds.setdefault(parameters.effective_batch_size(), []).append(request["job"]["seed"])
    assert all(found == [42, 43, 44][: len(found)] for found in seeds.values())
    # What has been tried once only is worth a training before what has been tried twice.
    assert [request["job"]["seed"] for request in runner.requests if "train" in request["stages"]][:4] == [42] * 4


def test_every_member_of_a_repeated_class_is_published_with_the_mean(searched):
    study, _, goal = searched
    records, knowledge = simulated.learned(goal, study)
    repeat = records[repeats_of(study)[-1].number]
    learning_class = knowledge.class_of(goal.setup.space.read(repeat.params))
    latest = {}
    for other in records:
        if other.outcome == "completed" and knowledge.class_of(goal.setup.space.read(other.params)) == learning_class:
            latest[json.dumps(dict(other.params))] = other
    assert {other.values["accuracy"] for other in latest.values()} == {repeat.values["accuracy"]}
    assert {other.attributes["num_seeds"] for other in latest.values()} == {repeat.attributes["num_seeds"]}
    assert all(other.sources["accuracy"].startswith("mean of trials") for other in latest.values())


def test_the_mean_is_that_of_the_trainings_own_accuracies(searched):
    study, _, goal = searched
    records, knowledge = simulated.learned(goal, study)
    repeat = records[repeats_of(study)[-1].number]
    own = [
        o.record.attributes["training"]["curve"][-1]["accuracy"]
        for o in knowledge.trained(goal.setup.space.read(repeat.params))
    ]
    assert repeat.values["accuracy"] == pytest.approx(statistics.fmean(own))
    assert repeat.attributes["accuracy_std"] == pytest.approx(statistics.stdev(own))


def test_the_front_shows_the_spread_over_seeds(searched):
    study, _, goal = searched
    records, _ = as_they_stand(simulated.learned(goal, study)[0])
    front = judged(records, goal.setup.objectives, {}, "a constant answer")
    averaged = [record for record in front.records if "num_seeds" in record.attributes]
    assert averaged
    assert all(" ± " in shown_value(record, "accuracy") for record in averaged)
    rows = {row["trial"]: row for row in json.loads(front_as_json(front))}
    assert rows[averaged[0].number]["accuracy_std"] == averaged[0].attributes["accuracy_std"]
    header, *lines = csv.reader(front_as_csv(front).splitlines())
    assert {"num_seeds", "accuracy_std"} <= set(header)
    assert {len(line) for line in lines} == {len(header)}


def test_with_a_single_seed_allowed_nothing_is_repeated():
    runner = simulated.SimulatedRunner(noise=0.06)
    goal = simulated.objective(runner, space=SPACE, publishes_at_end=True)
    study = simulated.new_study(simulated.decoupled(goal))
    assert simulated.search(study, goal) is not None
    assert repeats_of(study) == []


def test_a_class_whose_repeat_failed_is_not_repeated_again(searched):
    study, _, goal = searched
    records, knowledge = simulated.learned(goal, study)
    planner = TrialPlanner(
        baselines={"accuracy": 0.2},
        seed=0,
        max_seeds=9,
        records=records,
        knowledge=knowledge,
        running=[],
    )
    (one, *_) = planner._trained
    assert one in planner._repeatable({one})
    latest = planner._trained[one][-1]
    planner._trained[one][-1] = replace(latest, record=replace(latest.record, outcome="diverged"))
    assert one not in planner._repeatable({one})


def search(space, budget_mib):
    runner = simulated.SimulatedRunner(budget_mib=budget_mib)
    goal = simulated.objective(runner, space=space, memory_limit_mib=budget_mib, publishes_at_end=True)
    sampler = simulated.decoupled(goal)
    sampler.max_seeds = 3
    return simulated.search(simulated.new_study(sampler), goal), runner


def test_where_nothing_fits_the_search_ends_with_that_reason():
    why, runner = search(SPACE, budget_mib=100.0)
    assert why == "no configuration of the space is known to fit"
    assert runner.trained == []


def test_where_the_first_way_to_compute_does_not_fit_the_others_are_searched():
    # 2,698 MiB at a batch of 1 without checkpointing, 2,160 with it.
    why, runner = search(SPACE, budget_mib=2500.0)
    assert why is not None
    assert runner.trained
    assert all(parameters.gradient_checkpointing for parameters in runner.trained)


def test_of_several_trainings_the_one_with_most_seeds_behind_it_speaks_for_the_class(searched):
    study, _, goal = searched
    records, knowledge = simulated.learned(goal, study)
    repeat = records[repeats_of(study)[-1].number]
    parameters = goal.setup.space.read(repeat.params)
    latest = max(record.number for record in records) + 1
    single = record(latest, 0.99)
    confirmed = knowledge.with_observation(Observation(record=single, parameters=parameters))
    assert confirmed.trainings[knowledge.class_of(parameters)].record.number == repeat.number
