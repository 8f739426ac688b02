"""What a search has settled becomes trials of the study, each configuration once, when the search ends."""

import io
from dataclasses import replace

import optuna
import pytest
import simulated_runner as simulated
from optuna.trial import TrialState
from rich.console import Console

from tradeoff.objectives.measurements.outcome import Interrupted
from tradeoff.objectives.measurements.records import UNPUBLISHED, read_attributes
from tradeoff.searchspace import FloatRange, SearchSpace, TrialParameters
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import PlainDisplay
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.results import read_results
from tradeoff.studies.samplers.publishing import SUPERSEDED, publish
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.workers.run import run_study

# 7 batches x 6 accumulations, in fp32 without checkpointing.
SMALL = SearchSpace(
    domains={name: simulated.SPACE.domains[name] for name in ("per_device_train_batch_size", "gradient_accumulation_steps")}
)


class Published:
    """A study in which some configurations were run."""

    def __init__(self, *, space=SMALL, budget_mib=simulated.BUDGET_MIB):
        self.runner = simulated.SimulatedRunner(budget_mib=budget_mib)
        self.goal = simulated.objective(self.runner, space=space, memory_limit_mib=budget_mib, publishes_at_end=True)
        self.study = simulated.new_study(simulated.decoupled(self.goal))

    def run(self, batch, accumulation=1, *, stages=("probe",), rate=None):
        parameters = TrialParameters(
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, learning_rate=rate
        )
        self.study.enqueue_trial(self.goal.setup.space.stored(parameters))
        request = self.goal.request(parameters, stages)
        measures = replace(self.goal)
        run = lambda trial: measures.measure(trial, measures.setup.space.suggest(trial), request)  # noqa: E731
        simulated.tell(self.study, self.study.ask(), run)

    def publish(self):
        """Publish; the configurations of the trials that were added."""
        before = len(self.study.trials)
        assert publish(self.study, self.goal.setup) == len(self.study.trials) - before
        return sorted(tuple(trial.params.values())[:2] for trial in self.study.trials[before:])

    def trial(self, batch, accumulation):
        """The latest trial of a configuration."""
        asked = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        return [trial for trial in self.study.trials if trial.params.items() >= asked.items()][-1]


@pytest.fixture
def surveyed():
    """Batches 1, 2 and 8 are measured with accumulation and 8 without; a batch of 16 does not fit."""
    study = Published()
    for batch, accumulation in ((1, 2), (2, 2), (8, 2), (8, 1), (16, 2)):
        study.run(batch, accumulation)
    return study


def test_a_training_ends_as_pruned_with_all_that_it_has_measured(surveyed):
    surveyed.run(8, 4, stages=("train",))
    trained = surveyed.trial(8, 4)
    assert (trained.state, trained.user_attrs["outcome"], trained.user_attrs["reason"]) == (
        TrialState.PRUNED, "completed", UNPUBLISHED
    )  # fmt: skip
    (record,) = [record for record in surveyed.goal.snapshot(surveyed.study).records if record.outcome == "completed"]
    assert record.values["accuracy"] == read_attributes(trained.user_attrs)["accuracy"] > 0
    assert trained.constraints == {}


def test_nothing_is_published_before_a_training(surveyed):
    assert surveyed.publish() == []


def test_every_member_that_fits_is_published_with_the_training(surveyed):
    surveyed.run(8, 4, stages=("train",))
    assert surveyed.publish() == [(1, 32), (2, 16), (4, 8), (8, 4)]  # of an effective batch of 32; 16 x 2 does not fit


def test_publishing_twice_adds_nothing(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    assert surveyed.publish() == []


def test_while_another_worker_runs_a_trial_nothing_is_published(surveyed):
    surveyed.run(8, 4, stages=("train",))
    other = surveyed.study.ask()
    assert surveyed.publish() == []
    surveyed.study.tell(other, state=TrialState.FAIL)
    assert len(surveyed.publish()) == 4


def test_a_published_trial_says_where_its_values_come_from(surveyed):
    surveyed.run(8, 4, stages=("train",))
    trained = surveyed.trial(8, 4)
    surveyed.publish()
    own, probed, modelled = surveyed.trial(8, 4), surveyed.trial(2, 16), surveyed.trial(4, 8)
    assert {trial.state for trial in (own, probed, modelled)} == {TrialState.COMPLETE}
    assert own.values == [read_attributes(trained.user_attrs)[name] for name in simulated.OBJECTIVES]
    assert own.user_attrs["publishes"] == trained.number
    assert "trial_time_s" not in read_attributes(own.user_attrs)  # it costs nothing again
    assert probed.values[0] == modelled.values[0] == own.values[0]
    assert read_attributes(probed.user_attrs)["accuracy_source"] == f"trained in trial {trained.number}"
    assert probed.user_attrs["derived_from"] == trained.number
    names = ("train_time_s_source", "peak_memory_mib_source")
    assert [read_attributes(own.user_attrs)[name] for name in names] == ["measured", "measured"]
    assert [read_attributes(probed.user_attrs)[name] for name in names] == ["probe", "probe"]
    assert [read_attributes(modelled.user_attrs)[name] for name in names] == ["model", "model"]


def test_a_published_trial_has_its_own_time_and_memory(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    asked = TrialParameters(per_device_train_batch_size=4, gradient_accumulation_steps=8)
    _, time_s, memory_mib = surveyed.trial(4, 8).values
    assert time_s == pytest.approx(simulated.train_time_s(asked))
    assert memory_mib == pytest.approx(simulated.memory_mib(asked))


def test_a_probe_after_the_end_supersedes_a_models_word_and_the_study_says_so(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    before = surveyed.trial(4, 8).number
    surveyed.run(4, 8)
    assert surveyed.publish() == [(4, 8)]
    after = surveyed.trial(4, 8)
    assert read_attributes(after.user_attrs)["train_time_s_source"] == "probe"
    assert surveyed.study.user_attrs[SUPERSEDED] == {str(before): after.number}
    assert surveyed.publish() == []


def test_a_training_of_its_own_after_the_end_supersedes_what_was_derived(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    before = surveyed.trial(4, 8).number
    surveyed.run(4, 8, stages=("probe", "train"))
    assert surveyed.publish() == [(4, 8)]
    assert surveyed.study.user_attrs[SUPERSEDED] == {str(before): surveyed.trial(4, 8).number}


def test_what_runs_out_of_memory_is_never_published(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.publish()
    assert not [trial for trial in surveyed.study.trials if trial.params["per_device_train_batch_size"] > 8 and trial.values]


def test_what_is_predicted_not_to_fit_is_not_published():
    study = Published()
    for batch in (2, 8):
        study.run(batch, 2)
    study.run(8, 4, stages=("train",))
    assert (16, 2) not in study.publish()
    assert study.trial(8, 4).values is not None


def test_a_training_of_its_own_is_not_replaced_by_a_derived_one(surveyed):
    surveyed.run(8, 4, stages=("train",))
    surveyed.run(4, 8, stages=("train",))
    assert surveyed.publish() == [(1, 32), (2, 16), (4, 8), (8, 4)]
    assert read_attributes(surveyed.trial(4, 8).user_attrs)["accuracy_source"] == "measured"


def test_only_the_trained_learning_rate_is_published():
    study = Published(space=SearchSpace(domains={**SMALL.domains, "learning_rate": FloatRange(1e-5, 1e-3, log=True)}))
    for batch in (2, 8):
        study.run(batch, 2, rate=1e-5)
    study.run(8, 2, stages=("train",), rate=3e-4)
    assert study.publish() == [(1, 16), (2, 8), (4, 4), (8, 2)]
    assert {trial.params["learning_rate"] for trial in study.study.trials if trial.values} == {3e-4}


FEW = SpaceConfig.model_validate(
    {
        "per_device_train_batch_size": [2, 4, 8],
        "gradient_accumulation_steps": [1, 2],
        "gradient_checkpointing": [False, True],
        "precision": "fp32",
    }
)


def run(storage, monkeypatch, *, instead=None, **settings):
    runner = simulated.SimulatedRunner(instead=instead)
    # Plots take most of the time, and have tests of their own.
    monkeypatch.setattr("tradeoff.studies.reporting.annotate.annotate_study", lambda *_, **__: None)
    monkeypatch.setattr("tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(runner))
    given = {"name": "few", "job": simulated.JOB, "space": FEW, "sampler_seed": 0, "trials": 60}
    config = StudyConfig.model_validate(given | settings)
    study = run_study(config, storage=str(storage), display=PlainDisplay(Console(file=io.StringIO(), width=500)))
    return study, runner


def raw(storage):
    """The study as anybody reads it with Optuna alone."""
    url = f"sqlite:///{storage}"
    return optuna.load_study(study_name="few", storage=optuna.storages.RDBStorage(url))


def complete(study):
    return [tuple(sorted(t.params.items())) for t in study.get_trials(states=(TrialState.COMPLETE,))]


@pytest.mark.parametrize("sampler", ["decoupled", "tpe", "nsga2", "gp", "random", "grid"])
def test_the_best_trials_of_optuna_are_the_front_and_no_configuration_is_complete_twice(sampler, tmp_path, monkeypatch):
    monkeypatch.setattr("tradeoff.studies.execution.loop.MAX_FREE_IN_A_ROW", 8)
    storage = tmp_path / "a.db"
    study, _ = run(storage, monkeypatch, sampler=sampler, trials=14)
    found = complete(raw(storage))
    assert len(found) == len(set(found)) > 5
    front = judged_front(read_results(study)).records
    assert sorted(trial.number for trial in raw(storage).best_trials) == sorted(record.number for record in front)
    assert all(record.number >= 0 for record in read_results(study).records)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_study_that_goes_on_publishes_only_what_is_new(seeds, tmp_path, monkeypatch):
    storage = tmp_path / "a.db"
    run(storage, monkeypatch, trials=2, seeds_per_class=seeds)
    first = complete(raw(storage))
    study, _ = run(storage, monkeypatch, trials=60, seeds_per_class=seeds)
    found, results = complete(raw(storage)), read_results(study)
    standing = {record.number for record in results.records if record.outcome == "completed"}
    assert len(found) > len(first)
    assert len(standing) == len(set(found))
    superseded = study.user_attrs.get(SUPERSEDED, {})
    assert {int(number) for number in superseded} == {r.number for r in results.records if r.outcome == "superseded"}
    assert set(superseded.values()) <= standing
    before = len(study.trials)
    run(storage, monkeypatch, trials=60, seeds_per_class=seeds)
    assert len(raw(storage).trials) == before


def test_after_ctrl_c_everything_measured_is_published(tmp_path, monkeypatch):
    storage, trained = tmp_path / "a.db", []

    def press(parameters, stages):
        trained.extend(["train"] * ("train" in stages))
        return Interrupted(stage="train") if len(trained) == 3 else None

    with pytest.raises(KeyboardInterrupt):
        run(storage, monkeypatch, instead=press)
    held = [t for t in raw(storage).trials if t.user_attrs.get("reason") == UNPUBLISHED]
    assert len(held) == 2
    assert {t.user_attrs["publishes"] for t in raw(storage).trials if "publishes" in t.user_attrs} == {t.number for t in held}


def test_while_the_search_runs_the_front_shows_what_is_derived_without_a_number(tmp_path, monkeypatch):
    storage, seen = tmp_path / "a.db", []

    def look(parameters, stages):
        if "train" in stages:
            seen.append(read_results(load_study("few", open_storage(str(storage)))))
        return None

    study, _ = run(storage, monkeypatch, instead=look, seeds_per_class=1)
    front = judged_front(seen[-1]).records
    assert any(record.number < 0 for record in front)
    assert {record.title for record in front if record.number < 0} == {"not published yet"}
    assert seen[-1].summary().startswith(f"{sum(r.number >= 0 for r in seen[-1].records)} trials")
    done = read_results(study)
    kinds = {record.outcome for record in done.records}
    assert {"completed", "trained", "probed"} <= kinds
    trained = next(record for record in done.records if record.outcome == "trained")
    assert trained.reason == f"published as trial {done.stands_for[trained.number].number}"
    assert done.stands_for[trained.number].attributes["training"] == trained.attributes["training"]
