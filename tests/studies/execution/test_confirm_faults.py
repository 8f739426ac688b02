"""`tradeoff confirm` while the database goes away: what it has trained for is not lost."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from optuna.trial import TrialState
from postgres import PostgresServer

from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.objectives.objective import Objective
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.execution.confirm import CONFIRMS, confirm
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.retry_policy import RetryPolicy
from tradeoff.studies.storage.stored_study import StoredStudy

CLAIMED = TrialParameters(per_device_train_batch_size=8)


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres
    postgres.start()


@pytest.fixture
def url(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study whose trial 0 is to be confirmed."""
    monkeypatch.setenv("TRADEOFF_ARTIFACTS", str(tmp_path / "artifacts"))
    study = simulated.new_study(optuna.samplers.RandomSampler(seed=0), storage=open_storage(postgres_url))
    study.enqueue_trial(simulated.SPACE.stored(CLAIMED))
    simulated.tell(study, study.ask(), simulated.objective(simulated.SimulatedRunner()))
    return postgres_url


def opened(url: str, say: Any) -> StoredStudy:
    return StoredStudy("simulated", open_storage(url, retry=RetryPolicy(say=say)), optuna.samplers.RandomSampler())


def claim(study: StoredStudy) -> TrialRecord:
    return read_record(study.trials[0], simulated.OBJECTIVES)


def goal_with(instead: Any = None) -> Objective:
    return simulated.objective(simulated.SimulatedRunner(instead=instead))


def untold(folder: Path) -> list[Path]:
    return list((folder / "artifacts" / "pending-outcomes").iterdir())


def test_a_confirmation_waits_for_a_database_that_stops_and_keeps_its_outcome_until_it_is_told(
    url: str, server: PostgresServer, tmp_path: Path
) -> None:
    said: list[str] = []
    kept: list[list[Path]] = []

    def say(line: str) -> None:
        said.append(line)
        if "waiting for it" in line:
            kept.append(untold(tmp_path))
            server.start()

    study = opened(url, say)
    (done,) = confirm(study, goal_with(lambda *_: server.stop(at_once=True)), [claim(study)], say=say)
    assert done.confirmed
    assert [line.partition(" after ")[0] for line in said[1:]] == ["the storage answers again"]
    assert [len(files) for files in kept] == [1]
    assert untold(tmp_path) == []
    (told,) = [trial for trial in opened(url, print).trials if CONFIRMS in trial.user_attrs]
    assert (told.state, told.user_attrs[CONFIRMS]) == (TrialState.COMPLETE, 0)


def _confirm_until_killed(url: str, artifacts: str, begun: Any, stopped: Any) -> None:
    os.environ["TRADEOFF_ARTIFACTS"] = artifacts  # the server that it is forked from may be older than the test

    def hold(*_: Any) -> None:
        begun.set()
        stopped.wait(120)

    def kill_when_waiting(line: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    study = opened(url, kill_when_waiting)
    confirm(study, goal_with(hold), [claim(study)])


def test_what_a_killed_confirmation_had_measured_is_told_by_the_next_one_and_not_trained_again(
    url: str, server: PostgresServer, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_confirm_faults"])
    begun, stopped = context.Event(), context.Event()
    killed = context.Process(target=_confirm_until_killed, args=(url, str(tmp_path / "artifacts"), begun, stopped))
    killed.start()
    assert begun.wait(120)
    server.stop(at_once=True)
    stopped.set()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    assert len(untold(tmp_path)) == 1
    server.start()
    said: list[str] = []
    goal = goal_with()
    study = opened(url, said.append)
    (done,) = confirm(study, goal, [claim(study)], say=said.append)
    assert done.confirmed
    assert done.measured.attributes[CONFIRMS] == 0
    assert goal.runner.requests == []  # type: ignore[attr-defined]
    assert [line for line in said if line.startswith(f"trial {done.measured.number}: recorded what process")]
    assert untold(tmp_path) == []
