"""What a Ray worker is told and how it ends, and what its pool makes of that: without a Ray."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import simulated_runner as simulated
from postgres import PostgresServer
from running import Recorder
from simulated_worker import small_study

from tradeoff.objectives.measurements.outcome import Interrupted
from tradeoff.studies.errors import OtherDeviceError, TradeoffError
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.worker_number import COUNT_ATTRIBUTE
from tradeoff.studies.workers import ray_pool
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.ray_pool import MAX_LOSSES_IN_A_ROW, RayWorkerPool, _reason, run_task
from tradeoff.studies.workers.study_run import StudyRun
from tradeoff.studies.workers.worker import Assignment, WorkerEnd

STUDY = small_study(name="rays", sampler="random", trials=3)


@pytest.fixture(autouse=True)
def _simulated_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (runner, ray_pool):
        monkeypatch.setattr(module, "TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner()))
    monkeypatch.setattr(ray_pool, "_num_threads", lambda resource, amount: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def assignment(storage: str, **settings: Any) -> Assignment:
    usual = {
        "config": STUDY.plain(), "storage": storage, "creates": True, "deadline_unix_s": None,
        "estimates_memory": True, "cache": os.getcwd(),
    }  # fmt: skip
    return Assignment(**(usual | settings))


def run(assigned: Assignment) -> WorkerEnd:
    return run_task(assigned, os.getcwd(), ("GPU", 1.0))


def created(storage: str) -> str:
    """The storage, with the study and no trial."""
    runner.run_study(STUDY, storage=storage, timeout_s=0, cache=Path())
    return storage


def drawn(storage: str) -> list[dict[str, Any]]:
    study = optuna.load_study(study_name="rays", storage=storage)
    return [trial.params for trial in study.get_trials()]


class Pool(RayWorkerPool):
    """Remembers which workers it would start."""

    started: list[int]

    def _start(self, index: int) -> None:
        self.started.append(index)


def study_run(url: str, **settings: Any) -> StudyRun:
    return StudyRun.of(STUDY, url, display=Recorder(), interrupts=Interrupts(), **settings)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    pool = Pool(run=study_run(f"sqlite:///{tmp_path}/a.db"), resource=("GPU", 1.0), num_workers=2)
    pool.started = []
    pool._study = optuna.create_study()
    pool._tasks = {"another": 1}
    return pool


def test_a_task_that_waited_beyond_the_timeout_begins_no_trial() -> None:
    assert run(assignment("sqlite:///a.db", deadline_unix_s=time.time() - 1)).how == "done"
    assert drawn("sqlite:///a.db") == []


def test_a_task_that_waited_has_what_is_left_of_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    storage = created("sqlite:///a.db")
    monkeypatch.setattr(StudyRun, "search", lambda run, server: given.append(run.deadline_s - time.monotonic()))
    run(assignment(storage, creates=False, deadline_unix_s=time.time() + 1000))
    assert 0 < given[0] <= 1000


def test_a_worker_has_a_number_after_those_that_began_before_it() -> None:
    assert run(assignment(created("sqlite:///a.db"), creates=False)).how == "done"
    study = optuna.load_study(study_name="rays", storage="sqlite:///a.db")
    assert study._storage.get_study_system_attrs(study._study_id)[COUNT_ATTRIBUTE] == 2


def test_a_worker_that_is_told_to_end_does_not_say_that_the_study_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(simulated.SimulatedRunner):
        def run_trial(self, *_: Any, **__: Any) -> Any:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            except KeyboardInterrupt:
                return Interrupted(stage="train")
            raise AssertionError("the signal was not heard")

    monkeypatch.setattr(ray_pool, "TrialServer", lambda: simulated.SimulatedServer(Told()))
    assert run(assignment("sqlite:///a.db")).how == "interrupted"


def test_a_worker_on_another_device_says_so_with_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    created("sqlite:///a.db")
    monkeypatch.setattr(simulated, "DEVICE", simulated.DEVICE | {"name": "Other card"})
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-2")
    end = run(assignment("sqlite:///a.db", creates=False))
    assert (end.how, end.where) == ("other_device", " on gpu-2")
    assert end.reason.startswith("the study 'rays' was measured on Simulated GPU, and this machine has Other card")


def test_a_share_of_other_processors_is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "DEVICE", simulated.DEVICE | {"kind": "cpu"})
    created("sqlite:///a.db")
    monkeypatch.setattr(simulated, "DEVICE", simulated.DEVICE | {"num_cpus": 2})
    with pytest.raises(OtherDeviceError, match="was measured with 8 processors per trial, and here a trial has 2"):
        runner.join_study("rays", storage="sqlite:///a.db", cache=Path())


INTERRUPTED = WorkerEnd(how="interrupted", reason="it was told to stop")
OTHER_DEVICE = WorkerEnd(how="other_device", reason="another card", where=" on gpu-2")


def test_a_worker_that_was_told_to_end_is_started_again(pool: Pool) -> None:
    pool.worker_ended(0, INTERRUPTED)
    assert pool.started == [0]
    assert pool.run.display.messages == ["worker 0 was lost and is started again: it was told to stop"]
    assert not pool.is_over()


def test_a_worker_that_lost_a_process_is_started_again(pool: Pool) -> None:
    pool.worker_ended(0, WorkerEnd(how="lost", reason="the process of the task 'prepare' was killed"))
    assert pool.started == [0]
    assert not pool.is_over()


def test_workers_that_are_told_to_end_again_and_again_end_the_study(pool: Pool) -> None:
    for _ in range(MAX_LOSSES_IN_A_ROW):
        pool.worker_ended(0, INTERRUPTED)
    assert len(pool.started) == MAX_LOSSES_IN_A_ROW - 1
    assert pool.is_over()
    assert "it was told to stop" in str(pool._error)


def test_a_worker_on_another_device_is_left_out_with_a_line(pool: Pool) -> None:
    pool.worker_ended(0, OTHER_DEVICE)
    assert pool.run.display.messages == ["worker 0 on gpu-2 is left out: another card"]
    assert pool.started == []
    assert pool._error is None
    assert not pool.is_over()


def test_the_last_worker_on_another_device_ends_the_study_with_its_sentence(pool: Pool) -> None:
    pool._tasks = {}
    pool.worker_ended(0, OTHER_DEVICE)
    assert isinstance(pool._error, TradeoffError)
    assert str(pool._error) == "another card"


def test_a_worker_on_another_device_changes_nothing_once_the_study_is_over(pool: Pool) -> None:
    pool._tasks = {}
    pool.worker_ended(1, WorkerEnd(how="done", reason="nothing is left to do"))
    pool.worker_ended(0, OTHER_DEVICE)
    assert pool._error is None


def test_an_assignment_has_the_deadline(tmp_path: Path) -> None:
    run = study_run(f"sqlite:///{tmp_path}/a.db", deadline_s=time.monotonic() + 1000)
    pool = Pool(run=run, resource=("GPU", 1.0), num_workers=2)
    assert pool.assignment(0).deadline_unix_s == pytest.approx(time.time() + 1000, abs=10)


def test_workers_that_wait_for_a_place_beyond_the_timeout_are_not_waited_for(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool.run = study_run(f"sqlite:///{tmp_path}/a.db", deadline_s=time.monotonic() - 1)
    monkeypatch.setattr(ray_pool, "LAST_WORDS_S", 0.0)
    assert pool.is_over()
    pool._study.ask()
    monkeypatch.setattr(ray_pool, "LAST_WORDS_S", 15.0)
    assert not pool.is_over()  # what has begun may end


def test_the_reason_of_a_loss_is_what_was_raised_and_not_where() -> None:
    from ray.exceptions import RayTaskError, WorkerCrashedError

    traceback = 'Traceback (most recent call last):\n  File "a.py", line 1, in work\n    fail()\nOSError: the disk is gone\n'
    assert _reason(RayTaskError("work", traceback, OSError(), "ray::work", 1, "127.0.0.1")) == "OSError: the disk is gone"
    assert _reason(WorkerCrashedError()).startswith("The worker died unexpectedly")


def test_a_worker_that_is_started_while_the_database_is_away_waits_for_it(postgres: PostgresServer, postgres_url: str) -> None:
    created(postgres_url)
    postgres.stop()
    try:
        with ThreadPoolExecutor() as executor:
            ending = executor.submit(run, assignment(postgres_url, creates=False))
            with pytest.raises(TimeoutError):
                ending.result(timeout=1)
            postgres.start()
            assert ending.result(timeout=100).how == "done"
    finally:
        postgres.start()
    assert len(drawn(postgres_url)) == STUDY.trials


def test_a_run_waits_for_a_database_that_is_away_until_the_user_stops_it(tmp_path: Path) -> None:
    run = study_run(f"sqlite:///{tmp_path}/a.db")
    retry = run.storage.retry
    assert retry is not None
    assert not retry.stop()
    run.interrupts.requested = True
    assert retry.stop()
    retry.say("waiting")
    assert run.display.messages == ["waiting"]
