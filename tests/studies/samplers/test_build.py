"""Optuna's own samplers over the same objective: what is settled costs nothing, and an exhausted space ends the study."""

import contextlib
import io

import optuna
import pytest
import simulated_runner as simulated
from optuna.trial import TrialState
from rich.console import Console

from tradeoff.objectives.objective import REPEATED
from tradeoff.searchspace import Categorical, SearchSpace
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import PlainDisplay
from tradeoff.studies.samplers.build import build_sampler
from tradeoff.studies.samplers.constrained_gp import _WithInfeasible
from tradeoff.studies.workers.run import run_study

FEW = SpaceConfig(
    per_device_train_batch_size=[4, 8, 64],
    gradient_accumulation_steps=[1, 2],
    gradient_checkpointing=[False],
    precision=["fp32"],
)


def run(config, storage, monkeypatch, runner=None):
    """`run_study` on a simulated server: the study, what was run, and what was printed."""
    runner = runner or simulated.SimulatedRunner()
    monkeypatch.setattr("tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(runner))
    text = io.StringIO()
    study = run_study(config, storage=storage, display=PlainDisplay(Console(file=text, width=500)))
    return study, runner, text.getvalue()


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def study_of(configurations, space):
    """A study in which configurations are run in this order."""
    runner = simulated.SimulatedRunner()
    goal = simulated.objective(runner, space=space)
    values = [dict(zip(space.domains, configuration, strict=True)) for configuration in configurations]
    study = simulated.new_study(_Listed(values))
    for _ in values:
        with contextlib.suppress(optuna.TrialPruned):
            study.optimize(goal, n_trials=1)
    return study, runner, goal


class _Listed(optuna.samplers.RandomSampler):
    """A sampler that draws what a list says."""

    def __init__(self, values):
        super().__init__(seed=0)
        self._values = values

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self._values[trial.number][param_name]


SPACE = SearchSpace(
    domains={
        "per_device_train_batch_size": Categorical((4, 8, 32, 64)),
        "gradient_accumulation_steps": Categorical((1, 2, 4)),
    }
)


def test_what_is_known_not_to_fit_ends_as_skipped_and_names_the_trial_that_settles_it():
    study, runner, goal = study_of([(32, 1), (64, 2)], SPACE)
    settling, skipped = study.trials
    assert settling.user_attrs["outcome"] == "out_of_memory"
    assert skipped.state == TrialState.PRUNED
    assert skipped.user_attrs["outcome"] == "skipped"
    assert "trial 0" in skipped.user_attrs["reason"]
    assert len(runner.requests) == 1
    assert [record.counts for record in simulated.learned(goal, study)[0]] == [True, False]


def test_a_skipped_trial_is_as_infeasible_as_the_measured_one():
    study, _, _ = study_of([(32, 1), (64, 2)], SPACE)
    measured, skipped = (trial.constraints for trial in study.trials)
    assert skipped == measured
    assert skipped["memory_shortfall_mib"] > 0
    assert study.best_trials == []


def test_a_class_that_was_trained_is_derived_and_free():
    study, runner, goal = study_of([(8, 1), (4, 2)], SPACE)
    trained, derived = study.trials
    assert derived.state == TrialState.COMPLETE
    assert derived.values[0] == trained.values[0]
    assert derived.user_attrs["derived_from"] == 0
    assert len(runner.trained) == 1
    # Its time and memory were not known: it was probed.
    assert runner.requests[-1]["stages"] == ["probe"]
    assert [record.counts for record in simulated.learned(goal, study)[0]] == [True, False]


def test_the_same_configuration_again_costs_nothing():
    study, runner, _ = study_of([(8, 1), (4, 2), (8, 1), (4, 2)], SPACE)
    assert len(runner.requests) == 2  # a training, and a probe of what is derived from it
    assert [trial.state for trial in study.trials[2:]] == [TrialState.PRUNED] * 2
    reasons = [(trial.user_attrs["outcome"], trial.user_attrs["reason"]) for trial in study.trials[2:]]
    assert reasons == [("skipped", "trial 0 has measured it"), ("skipped", "trial 1 has measured it")]
    assert all(trial.constraints[REPEATED] > 0 for trial in study.trials[2:])


def test_what_turns_out_not_to_fit_while_it_is_derived_is_out_of_memory():
    study, runner, _ = study_of([(8, 4), (32, 1)], SPACE)
    assert study.trials[1].user_attrs["outcome"] == "out_of_memory"
    assert "derived_from" not in study.trials[1].user_attrs
    assert len(runner.trained) == 1


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_space_that_is_exhausted_ends_the_study_with_a_sentence(sampler, storage, monkeypatch):
    monkeypatch.setattr("tradeoff.studies.execution.loop.MAX_FREE_IN_A_ROW", 20)
    config = StudyConfig(name="few", job=simulated.JOB, space=FEW, sampler=sampler, sampler_seed=0, trials=100)
    study, runner, text = run(config, storage, monkeypatch)
    assert "the space is exhausted" in text
    # 4, 8 and 16 are trained; 64 does not fit, nor does it with accumulation.
    assert len(runner.trained) == 3
    assert len(study.trials) < 100


def test_a_grid_ends_when_every_configuration_was_tried(storage, monkeypatch):
    config = StudyConfig(name="few", job=simulated.JOB, space=FEW, sampler="grid", trials=100)
    study, _, text = run(config, storage, monkeypatch)
    assert "every configuration of the grid has been tried" in text
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 6


def test_the_decoupled_search_ends_a_study_with_its_reason(storage, monkeypatch):
    config = StudyConfig(name="few", job=simulated.JOB, space=FEW, trials=100)
    study, runner, text = run(config, storage, monkeypatch)
    assert study.sampler.finished_because in text
    again = run(config, storage, monkeypatch)[1]
    assert runner.trained
    assert again.requests == []


def test_every_named_sampler_is_built():
    goal = simulated.objective(simulated.SimulatedRunner(), space=SPACE)
    kinds = {}
    for name in ("decoupled", "tpe", "nsga2", "gp", "random", "grid"):
        config = StudyConfig(sampler=name, sampler_seed=1)
        kinds[name] = type(build_sampler(config, goal, baselines={"accuracy": 0.2}, num_trials=0)).__name__
    assert kinds == {
        "decoupled": "DecoupledSampler",
        "tpe": "TPESampler",
        "nsga2": "NSGAIISampler",
        "gp": "ConstrainedGPSampler",
        "random": "RandomSampler",
        "grid": "Grid",
    }


def test_the_gp_sampler_sees_what_ran_out_of_memory_and_the_storage_stays_as_it_is():
    study, _, _ = study_of([(4, 1), (8, 1), (32, 1), (64, 2)], SPACE)
    before = study.get_trials()
    seen = _WithInfeasible(study, simulated.BUDGET_MIB)._get_trials(states=(TrialState.COMPLETE,))
    assert [trial.number for trial in seen] == [0, 1, 2, 3]
    assert [sorted(trial.constraints) for trial in seen] == [["memory_shortfall_mib"]] * 4
    fits = [trial.constraints["memory_shortfall_mib"] <= 0 for trial in seen]
    assert fits == [True, True, False, False]
    assert seen[0].constraints["memory_shortfall_mib"] == pytest.approx(before[0].values[2] - simulated.BUDGET_MIB)
    worst = [min(t.values[0] for t in before[:2]), *(max(t.values[i] for t in before[:2]) for i in (1, 2))]
    assert seen[2].values == seen[3].values == worst
    assert study.get_trials() == before


CONDITIONAL = SpaceConfig.model_validate(
    {
        "per_device_train_batch_size": [4, 8],
        "gradient_accumulation_steps": [1],
        "gradient_checkpointing": [False],
        "precision": ["fp32"],
        "lr_scheduler_type": ["linear", "cosine"],
        "neftune_noise_alpha": [None, 5],
        "warmup_ratio": {"values": [0.0, 0.1], "only_with": {"lr_scheduler_type": "linear"}},
        "dataloader_drop_last": {"values": [False, True], "changes": ["learning"]},
    }
)


@pytest.mark.parametrize("sampler", ["decoupled", "tpe", "nsga2", "gp", "random", "grid"])
def test_every_sampler_searches_none_truth_values_words_and_conditions(sampler, storage, monkeypatch):
    # Ten trials of GP's are drawn before it uses its model.
    trials = 14 if sampler == "gp" else 8
    config = StudyConfig(name="few", job=simulated.JOB, space=CONDITIONAL, sampler=sampler, sampler_seed=0, trials=trials)
    study, runner, _ = run(config, storage, monkeypatch)
    space = config.search_space()
    assert runner.trained
    for trial in study.trials:
        assert ("warmup_ratio" in trial.params) == (trial.params["lr_scheduler_type"] == "linear")
        assert space.foreign(trial.params) is None
        assert space.stored(space.read(trial.params)) == trial.params
    assert {trial.params["neftune_noise_alpha"] for trial in study.trials} == {None, 5.0}
    assert run_study(config, storage=storage, display=PlainDisplay(Console(file=io.StringIO()))).trials == study.trials
