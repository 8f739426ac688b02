"""`tradeoff.Objective` under Optuna's own loop, with Optuna's samplers and ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import line_trainer
import optuna
import pytest
from line_trainer import JOB, SPACE
from optuna.trial import TrialState
from running import LentServer, cache_folder

import tradeoff
from tradeoff.studies.python import objective as module

NAMES = ["eval_loss", "train_time_s", "peak_memory_mib"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(module, "TrialServer", LentServer)
    monkeypatch.setenv("TRADEOFF_CACHE", str(cache_folder()))
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def made(build: Any = line_trainer.build, **settings: Any) -> tradeoff.Objective:
    return tradeoff.Objective(build, **{"space": SPACE, "job": JOB} | settings)


def test_optunas_loop_runs_trials_with_its_callbacks_and_reads_the_front() -> None:
    width = 2
    objective = made(lambda args: line_trainer.build(args, width))
    study = optuna.create_study(directions=objective.directions, sampler=optuna.samplers.TPESampler(seed=0))
    study.set_metric_names(objective.metric_names)
    ended: list[int] = []
    study.optimize(objective, n_trials=2, callbacks=[lambda study, trial: ended.append(trial.number)])
    assert ended == [0, 1]
    assert objective.metric_names == NAMES
    first = study.trials[0]
    assert first.state == TrialState.COMPLETE
    assert first.user_attrs["outcome"] == "completed"
    assert first.user_attrs["measurements"]["probe"]["num_timed_steps"] > 0
    assert study.best_trials
    assert optuna.visualization.plot_pareto_front(study).data


def test_a_study_with_other_directions_is_refused_before_a_trial_runs() -> None:
    objective = made()
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    with pytest.raises(
        tradeoff.TradeoffError, match=r"a direction for each of eval_loss, .* create it with directions=objective"
    ):
        study.optimize(objective, n_trials=1)
    assert study.trials[0].params == {}
    with pytest.raises(tradeoff.TradeoffError, match=r"is made for a tradeoff\.Objective, got 5"):
        tradeoff.DecoupledSampler(5)  # type: ignore[arg-type]


def test_out_of_memory_is_pruned_and_a_real_error_is_for_catch() -> None:
    def build(args: Any, what: str) -> Any:
        if what == "memory":
            raise MemoryError
        if what == "error":
            raise ZeroDivisionError("division by zero")
        return line_trainer.build(args)

    objective = made(build, space={**SPACE, "what": ["nothing", "memory"]})
    study = optuna.create_study(directions=objective.directions)
    study.enqueue_trial({"per_device_train_batch_size": 8, "what": "memory"} | _fixed())
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert study.trials[0].user_attrs["outcome"] == "out_of_memory"
    assert study.trials[0].constraints["memory_shortfall_mib"] > 0
    # One value fails alone, and is left out before the first trial.
    broken = made(build, space={**SPACE, "what": ["error"]})
    with pytest.raises(tradeoff.TradeoffError, match="ZeroDivisionError"):
        optuna.create_study(directions=broken.directions).optimize(broken, n_trials=1)


def test_a_trial_that_fails_leaves_the_study_to_catch(tmp_path: Path) -> None:
    marker = tmp_path / "prepared"

    def build(args: Any) -> Any:
        if marker.exists():
            raise ZeroDivisionError("division by zero")
        return line_trainer.build(args)

    objective = made(build)
    objective.prepared()
    marker.touch()
    study = optuna.create_study(directions=objective.directions)
    study.optimize(objective, n_trials=1, catch=(tradeoff.TrialFailed,))
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs["reason"] == "ZeroDivisionError: division by zero"
    with pytest.raises(tradeoff.TrialFailed, match="division by zero"):
        study.optimize(objective, n_trials=1)


@pytest.mark.parametrize("storage", [None, "sqlite:///a.db"])
def test_our_sampler_probes_trains_stops_the_study_and_publishes_the_rest(storage: str | None) -> None:
    # An effective batch of 16 is 8 x 2 and 16 x 1: one training settles both.
    objective = made(space={**SPACE, "gradient_accumulation_steps": [1, 2]})
    sampler = tradeoff.DecoupledSampler(objective, seed=0, seeds_per_class=1, stop_below_gain=0.0)
    study = optuna.create_study(storage=storage, directions=objective.directions, sampler=sampler)
    study.optimize(objective, n_trials=40)
    assert len(study.trials) < 40
    assert study.trials[-1].state == TrialState.PRUNED
    stages = [trial.user_attrs["outcome"] for trial in study.trials]
    assert {"probed", "completed"} <= set(stages)
    assert stages.count("completed") == 3
    assert objective.publish(study) == 1
    published = study.trials[-1]
    assert published.user_attrs["sources"]["eval_loss"].startswith("trained in trial")
    assert objective.publish(study) == 0


def _fixed() -> dict[str, Any]:
    return {name: value for name, value in SPACE.items() if not isinstance(value, list)}
