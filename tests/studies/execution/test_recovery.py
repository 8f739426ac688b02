"""Workers that are killed, databases that stop, and what the next worker makes of it: real processes on real storages."""

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from grpc_proxy import Proxy
from optuna.trial import FrozenTrial, TrialState
from postgres import PostgresServer
from running import Recorder, poll
from simulated_worker import Worker, small_study

from tradeoff.objectives.measurements.outcome import Interrupted
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.recovery import FaultTolerantStudy
from tradeoff.studies.execution.trial import run_trial
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import RetryPolicy
from tradeoff.studies.storage.retrying import RetryingStorage
from tradeoff.studies.storage.stored_study import StoredStudy
from tradeoff.studies.workers.run import run_study


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres
    postgres.start()


def trials_of(url: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name="small", storage=open_storage(url, create=False)).trials


def go_on(url: str, config: StudyConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> Recorder:
    """The same study in this process."""
    runner = simulated.SimulatedRunner(**attributes)
    monkeypatch.setattr("tradeoff.studies.workers.run.TrialServer", lambda: simulated.SimulatedServer(runner))
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(folder / "artifacts"))
    display = Recorder()
    run_study(config, storage=url, display=display)
    return display


def killed_in_a_trial(url: str, config: StudyConfig, folder: Path) -> None:
    worker = Worker(url, config, folder, hold=True)
    poll(lambda: worker.has_begun, "the trial's begin")
    worker.kill()
    worker.release()


def outcomes(url: str) -> Counter[str]:
    return Counter(trial.user_attrs.get("outcome", trial.state.name) for trial in trials_of(url))


def test_the_configuration_of_a_killed_worker_is_tried_again_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_study()
    killed_in_a_trial(url, config, tmp_path)
    display = go_on(url, config, tmp_path, monkeypatch)
    lost, again, *_ = trials_of(url)
    assert (lost.state, lost.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert "died or went silent" in lost.user_attrs["reason"]
    assert (again.state, again.user_attrs["retry_of"], again.params) == (TrialState.COMPLETE, 0, lost.params)
    assert [trial.user_attrs.get("retry_of") for trial in trials_of(url)].count(0) == 1
    assert outcomes(url) == {"interrupted": 1, "completed": 4}
    assert [line for line in display.messages if "it is tried again" in line]


def test_a_planned_trial_of_a_killed_worker_is_planned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, config = f"sqlite:///{tmp_path}/a.db", small_study(sampler="decoupled", reuse="effective-batch", trials=20)
    killed_in_a_trial(url, config, tmp_path)
    go_on(url, config, tmp_path, monkeypatch)
    lost, *others = trials_of(url)
    plan = lost.system_attrs["tradeoff:plan"]
    assert lost.user_attrs["outcome"] == "interrupted"
    plans = [trial.system_attrs.get("tradeoff:plan", {}) for trial in others]
    assert [planned["params"] for planned in plans if planned].count(plan["params"]) >= 1
    assert all(trial.state.is_finished() for trial in others)


def test_a_configuration_whose_workers_are_killed_twice_is_tried_a_third_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = f"sqlite:///{tmp_path}/a.db", small_study()
    killed_in_a_trial(url, config, tmp_path)
    killed_in_a_trial(url, config, tmp_path)
    go_on(url, config, tmp_path, monkeypatch)
    first, second, third, *_ = trials_of(url)
    assert first.params == second.params == third.params
    assert (third.state, third.user_attrs["retry_of"]) == (TrialState.COMPLETE, 1)
    assert outcomes(url) == {"interrupted": 2, "completed": 4}


@pytest.mark.parametrize(
    ("before", "boot", "is_excluded"), [(-1, {}, True), (0, {}, False), (None, {}, False), (-1, {"boot": "another"}, False)]
)
def test_a_configuration_is_given_up_once_two_workers_died_while_the_kernel_killed_for_lack_of_memory(
    before: int | None, boot: dict[str, str], is_excluded: bool, fault_tolerant: FaultTolerantStudy
) -> None:
    study, here = fault_tolerant.study, Owner.here().as_dict()
    kills = here["memory_kills"] if before is None or here["memory_kills"] is None else here["memory_kills"] + before
    dead = {**here, **boot, "pid": 2**30, "memory_kills": None if before is None else kills}
    for number in range(2):
        trial = study.ask()
        assert trial.number == number
        fault_tolerant.objective.setup.space.suggest(trial)
        study.storage.set_trial_system_attr(study.trial_id(number), OWNER_ATTRIBUTE, dead)
        fault_tolerant.recover()
    assert [trial.user_attrs["outcome"] for trial in study.trials[:2]] == [
        "interrupted",
        "failed" if is_excluded else "interrupted",
    ]
    assert [trial.state for trial in study.trials[2:]] == ([] if is_excluded else [TrialState.WAITING])
    if is_excluded:
        assert (
            "as that of trial 0 with the same configuration did: it is not tried again" in study.trials[1].user_attrs["reason"]
        )


def test_all_workers_are_killed_at_once_and_the_study_goes_on_to_the_same_total(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_study(trials=5)
    go_on(url, small_study(trials=2), tmp_path, monkeypatch)
    before = trials_of(url)
    workers = [Worker(url, config, tmp_path, hold=True) for _ in range(2)]
    poll(lambda: [trial.state for trial in trials_of(url)].count(TrialState.RUNNING) == 2, "two trials")
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()
    go_on(url, config, tmp_path, monkeypatch)
    assert [(t.params, t.values) for t in trials_of(url)[:2]] == [(t.params, t.values) for t in before]
    assert outcomes(url) == {"interrupted": 2, "completed": 5}


def test_a_database_that_stops_during_a_trial_is_waited_for_and_the_study_ends(
    server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    worker = Worker(postgres_url, small_study(), tmp_path, hold=True)
    poll(lambda: worker.has_begun, "the trial's begin")
    server.stop(at_once=True)
    worker.release()
    poll(lambda: "waiting for it, nothing measured is lost" in worker.output(), "the line that says so")
    assert len(worker.untold) == 1
    server.start()
    output = worker.end()
    assert "the storage answers again after" in output
    assert server.password not in output
    assert worker.untold == []
    assert outcomes(postgres_url) == {"completed": 4}


def test_a_worker_that_is_killed_while_the_database_is_away_leaves_its_outcome_to_the_next(
    server: PostgresServer, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_study()
    worker = Worker(postgres_url, config, tmp_path, hold=True)
    poll(lambda: worker.has_begun, "the trial's begin")
    server.stop(at_once=True)
    worker.release()
    (kept,) = poll(lambda: worker.untold, "the outcome on disk")
    poll(lambda: "waiting for it" in worker.output(), "the wait")
    worker.kill()
    measured = json.loads(kept.read_text())
    server.start()
    display = go_on(postgres_url, config, tmp_path, monkeypatch)
    told = trials_of(postgres_url)[0]
    curve = measured["outcome"]["measurements"]["training"]["curve"]
    assert (told.number, told.state) == (measured["trial"], TrialState.COMPLETE)
    assert told.values[0] == curve[-1]["accuracy"]
    assert worker.untold == []
    assert [line for line in display.messages if line.startswith("trial 0: recorded what process")]
    assert len(display.started) == 3
    assert outcomes(postgres_url) == {"completed": 4}


def test_ctrl_c_while_the_database_is_away_ends_the_worker_and_keeps_the_outcome(
    server: PostgresServer, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(postgres_url, small_study(), tmp_path, hold=True)
    poll(lambda: worker.has_begun, "the trial's begin")
    server.stop()
    worker.release()
    poll(lambda: "waiting for it" in worker.output(), "the wait")
    worker.process.send_signal(2)
    worker.process.wait(timeout=100)
    assert len(worker.untold) == 1
    server.start()
    go_on(postgres_url, small_study(), tmp_path, monkeypatch)
    assert outcomes(postgres_url) == {"completed": 4}


@pytest.fixture
def fault_tolerant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultTolerantStudy:
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(tmp_path / "artifacts"))
    study = simulated.new_study(optuna.samplers.RandomSampler(seed=0), storage=open_storage(f"sqlite:///{tmp_path}/a.db"))
    goal = simulated.objective(simulated.SimulatedRunner(), space=small_study().search_space())
    return FaultTolerantStudy.of(study, goal, lambda _: None)


def test_a_trial_that_the_user_ends_while_the_storage_is_waited_for_has_a_reason_and_is_tried_again(
    fault_tolerant: FaultTolerantStudy,
) -> None:
    study, goal = fault_tolerant.study, fault_tolerant.objective

    def wait(trial: optuna.Trial) -> Any:
        goal.setup.space.suggest(trial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fault_tolerant.run(study.ask(), wait)
    ended, again = study.trials
    assert (ended.state, ended.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert ended.user_attrs["reason"] == "interrupted by the user"
    assert (again.state, again.user_attrs["retry_of"]) == (TrialState.WAITING, 0)
    assert again.system_attrs["fixed_params"] == ended.params


def test_an_outcome_that_the_user_does_not_wait_to_be_told_is_left_to_the_next_worker(
    fault_tolerant: FaultTolerantStudy, tmp_path: Path
) -> None:
    study, goal = fault_tolerant.study, fault_tolerant.objective

    def wait(trial: optuna.Trial) -> Any:
        parameters = goal.setup.space.suggest(trial)
        outcome = goal.runner.run_trial(goal.request(parameters), time_limit_s=None, on_progress=None)
        goal.on_outcome(trial, parameters, outcome)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fault_tolerant.run(study.ask(), wait)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    (path,) = (tmp_path / "artifacts" / "pending-outcomes").iterdir()
    gone = {**json.loads(path.read_text()), "owner": {**Owner.here().as_dict(), "pid": 2**30}}
    path.write_text(json.dumps(gone))
    fault_tolerant.recover()
    assert [(trial.state, trial.user_attrs["outcome"]) for trial in study.trials] == [(TrialState.COMPLETE, "completed")]


def test_a_trial_that_an_error_of_ours_ends_says_which(fault_tolerant: FaultTolerantStudy) -> None:
    study = fault_tolerant.study
    with pytest.raises(ZeroDivisionError):
        fault_tolerant.run(study.ask(), lambda _: (1 / 0,))
    (trial,) = study.trials
    assert (trial.state, trial.user_attrs["outcome"]) == (TrialState.FAIL, "failed")
    assert trial.user_attrs["reason"] == "ZeroDivisionError: division by zero"


@pytest.fixture
def taken_for_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the first trial look like one of another machine that has been silent, and has another worker give it up."""
    url = f"sqlite:///{tmp_path}/a.db"
    done: list[bool] = []

    def give_up(*_: Any) -> None:
        if done:
            return
        done.append(True)
        other = StoredStudy("small", open_storage(url))
        (trial_id,) = [trial._trial_id for trial in other.trials if trial.state == TrialState.RUNNING]
        gone = {**Owner.here().as_dict(), "pid": 2**30}
        other.storage.set_trial_system_attr(trial_id, OWNER_ATTRIBUTE, gone)
        goal = simulated.objective(simulated.SimulatedRunner(), space=small_study().search_space())
        FaultTolerantStudy.of(other, goal, lambda _: None).recover()

    return url, give_up


@pytest.mark.parametrize("sampler", ["grid", "decoupled"])
def test_an_outcome_of_a_trial_that_was_taken_for_lost_goes_to_the_one_in_its_place(
    sampler: str, taken_for_lost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, give_up = taken_for_lost
    display = go_on(url, small_study(sampler=sampler), tmp_path, monkeypatch, instead=give_up)
    lost, told, *_ = trials_of(url)
    assert (lost.state, lost.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert told.params == lost.params
    assert told.user_attrs["measured_in"] == 0
    assert told.user_attrs["outcome"] in ("completed", "probed")
    if sampler == "grid":
        assert lost.params not in [params for _, params in display.started[1:]]
    assert not list((tmp_path / "artifacts" / "pending-outcomes").iterdir())


@pytest.mark.parametrize("asked_for", [True, False])
def test_what_was_asked_for_still_is_when_it_is_tried_again_after_its_worker_died(asked_for: bool, tmp_path: Path) -> None:
    study = simulated.new_study(optuna.samplers.RandomSampler(seed=0), storage=open_storage(f"sqlite:///{tmp_path}/a.db"))
    goal = simulated.objective(simulated.SimulatedRunner(), space=small_study().search_space())
    if asked_for:
        study.enqueue_trial({"per_device_train_batch_size": 4})
    trial = study.ask()
    goal.setup.space.suggest(trial)
    study.storage.set_trial_system_attr(study.trial_id(trial.number), OWNER_ATTRIBUTE, {**Owner.here().as_dict(), "pid": 2**30})
    FaultTolerantStudy.of(study, goal, lambda _: None).recover()
    _, again = study.trials
    assert again.system_attrs["fixed_params"] == trial.params
    assert again.user_attrs == {"retry_of": 0} | ({"asked_for": True} if asked_for else {})


def test_a_trial_whose_worker_died_while_it_was_drawn_is_not_tried_again_by_halves(tmp_path: Path) -> None:
    study = simulated.new_study(optuna.samplers.RandomSampler(seed=0), storage=open_storage(f"sqlite:///{tmp_path}/a.db"))
    goal = simulated.objective(simulated.SimulatedRunner())
    trial = study.ask()
    name, domain = next(iter(goal.setup.space.domains.items()))
    domain.suggest(trial, name)
    study.storage.set_trial_system_attr(study.trial_id(trial.number), OWNER_ATTRIBUTE, {**Owner.here().as_dict(), "pid": 2**30})
    FaultTolerantStudy.of(study, goal, lambda _: None).recover()
    assert [(trial.state, trial.user_attrs["outcome"]) for trial in study.trials] == [(TrialState.FAIL, "interrupted")]


def _interrupted_and_killed(url: str, moment: str) -> None:
    """Ctrl-C in a trial, and SIGKILL while its configuration is queued again, or between that and the trial's end."""

    def kill(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    storage = open_storage(url, retry=RetryPolicy(say=print))
    study = StoredStudy("small", storage, optuna.samplers.RandomSampler(seed=0))
    goal = simulated.objective(
        simulated.SimulatedRunner(instead=lambda *_: Interrupted(stage="train")), space=small_study().search_space()
    )
    trial = study.ask()
    if moment == "while it is queued":
        RetryingStorage.create_new_trial = kill  # type: ignore[method-assign]
    else:
        study.tell = kill  # type: ignore[method-assign]
    run_trial(study, trial, goal)


@pytest.mark.parametrize(
    ("kind", "moment"),
    [("postgresql", "while it is queued"), ("sqlite", "before it is told"), ("proxy", "before it is told")],
)
def test_what_a_worker_was_killed_over_while_it_queued_it_again_is_queued_once(
    kind: str, moment: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue("postgres_url") if kind == "postgresql" else f"sqlite:///{tmp_path}/a.db"
    simulated.new_study(optuna.samplers.RandomSampler(), storage=open_storage(url), name="small")
    with Proxy(url) if kind == "proxy" else nullcontext() as proxy:
        if proxy is not None:
            proxy.wait()
            url = proxy.url
        killed = multiprocessing.get_context("forkserver").Process(target=_interrupted_and_killed, args=(url, moment))
        killed.start()
        killed.join(120)
        assert killed.exitcode == -signal.SIGKILL
        study = StoredStudy("small", open_storage(url))
        before = [trial.state for trial in study.trials]
        goal = simulated.objective(simulated.SimulatedRunner(), space=small_study().search_space())
        FaultTolerantStudy.of(study, goal, lambda _: None).recover()
        ended, *queued = study.trials
    queued_before = [] if moment == "while it is queued" else [TrialState.WAITING]
    assert before == [TrialState.RUNNING, *queued_before]
    assert (ended.state, ended.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert [(trial.state, trial.user_attrs["retry_of"]) for trial in queued] == [(TrialState.WAITING, 0)]
    assert [trial.system_attrs["fixed_params"] for trial in queued] == [ended.params]


def test_a_folder_that_can_not_keep_outcomes_is_said_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "pending-outcomes").touch()
    url = f"sqlite:///{tmp_path}/a.db"
    display = go_on(url, small_study(trials=1), tmp_path, monkeypatch)
    assert [line for line in display.messages if line.startswith("the outcome of trial 0 can't be kept in ")]
    assert outcomes(url) == {"completed": 1}


def test_a_damaged_outcome_and_one_of_another_study_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "artifacts" / "pending-outcomes"
    folder.mkdir(parents=True)
    (folder / "cut.json").write_text('{"study": "sm')
    (folder / "other.json").write_text('{"study": "other"}')
    url = f"sqlite:///{tmp_path}/a.db"
    display = go_on(url, small_study(trials=1), tmp_path, monkeypatch)
    assert len([line for line in display.messages if "cut.json can't be read (JSONDecodeError) and is skipped" in line]) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["cut.json", "other.json"]
    assert outcomes(url) == {"completed": 1}
