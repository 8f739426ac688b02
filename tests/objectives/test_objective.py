"""The objective under Optuna, on real trials."""

from dataclasses import fields
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from running import Events, end_trial, prepared, shared_server, tiny_job

from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.records import read_attributes
from tradeoff.objectives.objective import DASHBOARD_CONSTRAINTS, Objective, TrialFailed
from tradeoff.searchspace import KNOBS, EffectiveBatchSizeRange, Reuse, SearchSpace

OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")
SMALL = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "precision": "fp32",
}


def space(**limits: int) -> SearchSpace:
    specs = {
        "per_device_train_batch_size": [8, 16, 64],
        "gradient_accumulation_steps": [1, 2],
        "gradient_checkpointing": [False, True],
        "precision": ["fp32"],
    }
    return SearchSpace(
        domains={name: KNOBS[name].kind.read(spec) for name, spec in specs.items()},
        effective_batch_size=EffectiveBatchSizeRange(**limits),
    )


def objective(**settings: Any) -> Objective:
    job = settings.setdefault("job", tiny_job())
    terms = {field.name: settings.pop(field.name) for field in fields(StudySetup) if field.name in settings}
    given = {"space": space(), "objectives": OBJECTIVES, "num_train": 64, "enforces_memory_limit": "memory_limit_mib" in terms}
    ready = {"setup": StudySetup(**(given | terms)), "data_folders": prepared(job)["folders"], "runner": shared_server()}
    return Objective(**(ready | settings))


def tell(objective: Objective, *configurations: dict[str, Any], study: optuna.Study | None = None) -> list[FrozenTrial]:
    """Runs the objective on configurations as a sampler would propose them, and returns the trials."""
    if study is None:
        study = optuna.create_study(
            directions=["maximize", "minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0)
        )
    for configuration in configurations:
        study.sampler = optuna.samplers.PartialFixedSampler(configuration, optuna.samplers.RandomSampler(seed=0))
        study.optimize(objective, n_trials=1, catch=(TrialFailed,))
    return study.get_trials()


@pytest.fixture(scope="module")
def out_of_memory() -> list[FrozenTrial]:
    """A configuration beyond the budget, and then one that needs more."""
    limited = objective(memory_limit_mib=3)
    large = SMALL | {"per_device_train_batch_size": 16}
    return tell(limited, large, SMALL | {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 2})


def test_a_trial_that_completes_has_its_objectives_as_values_and_says_that_they_were_measured() -> None:
    (trial,) = tell(objective(), SMALL)
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [read_attributes(trial.user_attrs)[name] for name in OBJECTIVES]
    assert {read_attributes(trial.user_attrs)[f"{name}_source"] for name in OBJECTIVES} == {"measured"}
    assert trial.user_attrs["outcome"] == "completed"


def test_values_are_in_the_order_of_the_studys_objectives() -> None:
    two = objective(objectives=("peak_memory_mib", "train_time_s"))
    (trial,) = tell(two, SMALL, study=optuna.create_study(directions=["minimize", "minimize"]))
    assert trial.values == [
        read_attributes(trial.user_attrs)["peak_memory_mib"],
        read_attributes(trial.user_attrs)["train_time_s"],
    ]


def test_out_of_memory_is_pruned_and_infeasible_by_what_is_missing(out_of_memory: list[FrozenTrial]) -> None:
    trial = out_of_memory[0]
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["outcome"] == "out_of_memory"
    assert read_attributes(trial.user_attrs)["stage"] == "probe"
    shortfall_mib = read_attributes(trial.user_attrs)["memory_shortfall_mib"]
    assert shortfall_mib > 0
    assert trial.constraints["memory_shortfall_mib"] == shortfall_mib
    assert trial.system_attrs[DASHBOARD_CONSTRAINTS] == [shortfall_mib]


def test_what_needs_more_memory_than_what_did_not_fit_is_not_run(out_of_memory: list[FrozenTrial]) -> None:
    trial = out_of_memory[1]
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["outcome"] == "skipped"
    assert trial.user_attrs["reason"] == "needs at least as much memory as trial 0, which ran out of memory"
    assert trial.constraints["memory_shortfall_mib"] > 0
    assert "trial_time_s" not in read_attributes(trial.user_attrs)


def test_a_broken_rule_of_the_space_is_skipped_and_infeasible() -> None:
    bounded = objective(space=space(high=16))
    (trial,) = tell(bounded, SMALL | {"per_device_train_batch_size": 64})
    assert (trial.state, trial.user_attrs["outcome"]) == (TrialState.PRUNED, "skipped")
    assert next(iter(trial.constraints.values())) > 0


def test_a_trial_that_takes_too_long_is_pruned_and_infeasible_in_time() -> None:
    (trial,) = tell(objective(job=tiny_job(epochs=100_000), time_limit_s=4), SMALL)
    assert (trial.state, trial.user_attrs["outcome"]) == (TrialState.PRUNED, "timed_out")
    assert trial.constraints["time_excess_s"] == 4


def test_a_killed_trial_fails_and_keeps_its_reason_and_its_probe() -> None:
    endless = objective(job=tiny_job(epochs=100_000), on_progress=Events("train", end_trial(9)))
    (trial,) = tell(endless, SMALL)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["outcome"] == "failed"
    assert trial.user_attrs["reason"] == "the trial's process was killed by SIGKILL, in stage 'train'"
    assert read_attributes(trial.user_attrs)["probe"]["micro_step_time_s"] > 0
    assert trial.constraints == {}


def test_an_interrupted_trial_is_first_in_line_again() -> None:
    def press() -> None:
        raise KeyboardInterrupt

    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    endless = objective(job=tiny_job(epochs=100_000), on_progress=Events("train", press))
    with pytest.raises(KeyboardInterrupt):
        tell(endless, SMALL, study=study)
    interrupted, waiting = study.get_trials()
    assert (interrupted.state, interrupted.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert read_attributes(interrupted.user_attrs)["probe"]["micro_step_time_s"] > 0
    assert waiting.state == TrialState.WAITING
    assert waiting.user_attrs == {"retry_of": 0}
    tell(objective(), SMALL | {"per_device_train_batch_size": 16}, study=study)
    assert study.trials[1].params == interrupted.params


def test_another_split_of_the_same_effective_batch_takes_the_accuracy_and_is_probed() -> None:
    trained, derived = tell(
        objective(), SMALL | {"per_device_train_batch_size": 16}, SMALL | {"gradient_accumulation_steps": 2}
    )
    assert derived.state == TrialState.COMPLETE
    assert derived.user_attrs["derived_from"] == 0
    assert derived.values[0] == trained.values[0]
    assert read_attributes(derived.user_attrs)["accuracy_source"] == "trained in trial 0"
    assert read_attributes(derived.user_attrs)["probe"]["probe_time_s"] > 0
    assert "training" not in read_attributes(derived.user_attrs)


def test_without_reuse_every_configuration_is_trained() -> None:
    alone = objective(reuse=Reuse.OFF)
    trials = tell(alone, SMALL | {"per_device_train_batch_size": 16}, SMALL | {"gradient_accumulation_steps": 2})
    assert all("training" in read_attributes(trial.user_attrs) for trial in trials)


def test_a_configuration_that_the_user_enqueues_is_trained_whatever_is_known() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.enqueue_trial(SMALL)
    study.enqueue_trial(SMALL)
    study.optimize(objective(), n_trials=2)
    assert ["training" in read_attributes(trial.user_attrs) for trial in study.trials] == [True, True]
    assert study.trials[0].values[0] == study.trials[1].values[0]


def test_a_missing_objective_is_a_failure_that_names_it() -> None:
    without = objective(job=tiny_job(eval_samples=0))
    (trial,) = tell(without, SMALL)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "the trial measured no accuracy"
    assert read_attributes(trial.user_attrs)["train_time_s"] > 0


def test_start_and_progress_are_told() -> None:
    started: list[tuple[int, int]] = []
    events = Events()
    watching = objective(on_start=lambda number, p: started.append((number, p.per_device_train_batch_size)), on_progress=events)
    tell(watching, SMALL)
    assert started == [(0, 8)]
    assert events.stages == ["data", "probe", "train"]
