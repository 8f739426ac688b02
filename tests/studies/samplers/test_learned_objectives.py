"""Whole studies in other objectives than accuracy, time and memory, on simulated trials."""

import dataclasses
import math

import pytest
import simulated_runner as simulated

from tradeoff.objectives.measurements.outcome import Completed
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.results import read_results
from tradeoff.studies.workers import run as study_runner
from tradeoff.studies.workers.run import run_study


def searched(objectives, **settings):
    """A decoupled study that has ended by itself, with what ran and the records of its trials."""
    runner = simulated.SimulatedRunner(**settings)
    goal = simulated.objective(runner, objectives=objectives, publishes_at_end=True)
    study = simulated.new_study(simulated.decoupled(goal), objectives=objectives)
    assert simulated.search(study, goal) is not None
    return runner, simulated.learned(goal, study)[0]


def configurations(front):
    return {tuple(sorted(record.params.items())) for record in front}


def test_a_search_by_loss_finds_the_front_that_a_search_by_accuracy_finds():
    # In the simulation the loss is a straight line of the accuracy, so the two fronts are one.
    fronts, costs = [], []
    for learned in ("accuracy", "eval_loss"):
        objectives = (learned, "train_time_s", "peak_memory_mib")
        runner, records = searched(objectives, noise=0.0)
        found = [simulated.TrialParameters(**record.params) for record in pareto_front(records, objectives)]
        fronts.append(simulated.hypervolume(found))
        costs.append(runner.spent_s)
    assert fronts[1] == pytest.approx(fronts[0], rel=0.02)
    assert costs[1] < 1.5 * costs[0]


def test_values_of_every_objective_are_published_with_where_they_come_from():
    objectives = ("accuracy", "eval_loss", "samples_per_s", "peak_memory_mib")
    _, records = searched(objectives)
    derived = [record for record in records if record.is_derived]
    assert derived
    for record in derived:
        assert set(record.values) == set(objectives)
        assert (
            record.sources["eval_loss"] == record.sources["accuracy"] == f"trained in trial {record.attributes['derived_from']}"
        )
        assert record.sources["samples_per_s"] in ("measured", "probe", "model")
        samples = 3 * simulated.NUM_TRAIN
        assert record.values["samples_per_s"] == pytest.approx(samples / record.attributes["train_time_s"])


def ending_in(value, *, above=32):
    """Trainings with an effective batch above a size end in this evaluation loss."""

    def diverging(parameters, stages):
        if "train" not in stages or parameters.effective_batch_size() <= above:
            return None
        whole = simulated.SimulatedRunner().run_trial(
            {"parameters": parameters.as_dict(), "stages": stages}, time_limit_s=None, on_progress=None
        )
        if not isinstance(whole, Completed):
            return whole
        training = whole.measurements.training
        last = dataclasses.replace(training.curve[-1], eval_loss=value)
        curve = [*training.curve[:-1], last]
        return Completed(
            measurements=dataclasses.replace(whole.measurements, training=dataclasses.replace(training, curve=curve))
        )

    return diverging


LOSS = ("eval_loss", "train_time_s", "peak_memory_mib")


@pytest.mark.parametrize(("value", "above"), [(0.0, 0), (5e-324, 0), (5e-324, 64), (1e30, 64), (-1e30, 0)])
def test_a_search_ends_whatever_number_trainings_end_in(value, above):
    _, records = searched(LOSS, instead=ending_in(value, above=above))
    assert pareto_front(records, LOSS)


@pytest.mark.parametrize("time_s", [0.0, -1.0, 5e-324])
def test_a_search_ends_where_a_clock_stood_still_or_was_set_back(time_s):
    def timeless(parameters, stages):
        whole = simulated.SimulatedRunner().run_trial(
            {"parameters": parameters.as_dict(), "stages": stages}, time_limit_s=None, on_progress=None
        )
        if not isinstance(whole, Completed):
            return whole
        probe, training = whole.measurements.probe, whole.measurements.training
        if probe is not None:
            probe = dataclasses.replace(probe, micro_step_time_s=time_s, optimizer_step_time_s=0.0)
        if training is not None:
            training = dataclasses.replace(training, train_time_s=time_s)
        return Completed(measurements=dataclasses.replace(whole.measurements, probe=probe, training=training))

    _, records = searched(LOSS, instead=timeless)
    assert pareto_front(records, LOSS)


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e195, -1e308])
def test_what_learns_nothing_that_can_be_compared_is_pruned_and_not_trained_again(value):
    _, records = searched(LOSS, instead=ending_in(value))
    diverged = [record for record in records if record.outcome == "diverged"]
    assert diverged
    assert diverged[0].reason == "the training diverged: its evaluation loss is " + str(value)
    assert all(record.counts and not record.values for record in diverged)
    batches = [simulated.TrialParameters(**record.params).effective_batch_size() for record in diverged]
    assert len(batches) == len({*batches})
    completed = [record for record in records if record.outcome == "completed"]
    assert max(simulated.TrialParameters(**record.params).effective_batch_size() for record in completed) <= 32


def test_energy_is_refused_where_nothing_counts_it(monkeypatch, tmp_path):
    monkeypatch.setattr(study_runner, "TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner()))
    config = StudyConfig(objectives=("accuracy", "energy_j"))
    with pytest.raises(
        TradeoffError, match="energy_j can't be an objective on Simulated GPU, whose energy can't be measured; remove it"
    ):
        run_study(config, storage=f"sqlite:///{tmp_path}/a.db")


class CountingCard(simulated.SimulatedServer):
    """A card whose probes measure 200 W, and whose trainings measure 190 W."""

    def describe_device(self):
        return simulated.DEVICE | {"measures_energy": True}

    def run_trial(self, request, **arguments):
        assert request["measures_power"]
        outcome = super().run_trial(request, **arguments)
        if not isinstance(outcome, Completed):
            return outcome
        probe, training = outcome.measurements.probe, outcome.measurements.training
        if probe is not None:
            probe = dataclasses.replace(probe, power_w=200.0)
        if training is not None:
            training = dataclasses.replace(training, energy_j=190.0 * training.train_time_s)
        return Completed(measurements=dataclasses.replace(outcome.measurements, probe=probe, training=training))


def test_energy_of_what_was_not_trained_follows_from_power_and_time_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(study_runner, "TrialServer", lambda: CountingCard(simulated.SimulatedRunner()))
    config = StudyConfig(
        objectives=("accuracy", "energy_j"), space={"per_device_train_batch_size": [1, 2, 4], "precision": "fp32"}, trials=12
    )
    results = read_results(run_study(config, storage=f"sqlite:///{tmp_path}/a.db"))
    completed = [record for record in results.records if record.outcome == "completed"]
    assert {record.sources["energy_j"] for record in completed} > {"measured"}
    for record in completed:
        assert record.values["energy_j"] == pytest.approx(190.0 * record.attributes["train_time_s"], rel=0.02)
