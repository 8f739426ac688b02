"""What a Ray worker is told and how it ends, and what the crew makes of that: without a Ray."""

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
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import OtherDeviceError
from tradeoff.studies.execution.worker_number import COUNT_ATTRIBUTE
from tradeoff.studies.workers import ray_worker
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.ray_cluster import MAX_LOSSES_IN_A_ROW, _Crew, _reason
from tradeoff.studies.workers.ray_worker import Assignment, work

STUDY = small_study(name="rays", sampler="random", trials=3)


@pytest.fixture(autouse=True)
def _simulated_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "TrialServer", lambda: simulated.SimulatedServer(simulated.SimulatedRunner()))
    monkeypatch.setattr(ray_worker, "_num_threads", lambda resource, amount: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def assignment(storage: str, **settings: Any) -> Assignment:
    usual = {
        "config": STUDY.plain(), "storage": storage, "creates": True, "deadline_unix_s": None,
        "folder": os.getcwd(), "cache": os.getcwd(), "resource": ("GPU", 1.0),
    }  # fmt: skip
    return Assignment(**(usual | settings))


def created(storage: str) -> str:
    """The storage, with the study and no trial."""
    runner.run_study(STUDY, storage=storage, timeout_s=0, cache=Path())
    return storage


def drawn(storage: str) -> list[dict[str, Any]]:
    study = optuna.load_study(study_name="rays", storage=storage)
    return [trial.params for trial in study.get_trials()]


class Crew(_Crew):
    """Remembers which workers it would start."""

    started: list[int]

    def _start(self, index: int) -> None:
        self.started.append(index)


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    crew = Crew(
        config=STUDY, url=f"sqlite:///{tmp_path}/a.db", resource=("GPU", 1.0), cache=None, display=Recorder(),
        interrupts=Interrupts(), deadline_unix_s=None,
    )  # fmt: skip
    crew.started = []
    crew._study = optuna.create_study()
    crew._working = {"another": 1}
    return crew


def test_a_task_that_waited_beyond_the_timeout_begins_no_trial() -> None:
    assert "done" in work(assignment("sqlite:///a.db", deadline_unix_s=time.time() - 1))
    assert drawn("sqlite:///a.db") == []


def test_a_task_that_waited_has_what_is_left_of_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(runner, "join_study", lambda *_, timeout_s, **__: given.append(timeout_s))
    work(assignment("sqlite:///a.db", creates=False, deadline_unix_s=time.time() + 1000))
    assert 0 < given[0] <= 1000


def test_a_worker_has_a_number_after_those_that_began_before_it() -> None:
    assert "done" in work(assignment(created("sqlite:///a.db"), creates=False))
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

    monkeypatch.setattr(runner, "TrialServer", lambda: simulated.SimulatedServer(Told()))
    assert list(work(assignment("sqlite:///a.db"))) == ["interrupted"]


def test_a_worker_on_another_device_says_so_with_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    created("sqlite:///a.db")
    monkeypatch.setattr(simulated, "DEVICE", simulated.DEVICE | {"name": "Other card"})
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-2")
    end = work(assignment("sqlite:///a.db", creates=False))
    assert end["node"] == "gpu-2"
    assert end["other_device"] == "the study 'rays' was measured on Simulated card, and this machine has Other card"


def test_a_share_of_other_processors_is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "DEVICE", simulated.DEVICE | {"kind": "cpu"})
    created("sqlite:///a.db")
    monkeypatch.setattr(simulated, "DEVICE", simulated.DEVICE | {"num_cpus": 2})
    with pytest.raises(OtherDeviceError, match="was measured with 8 processors for a trial, and here a trial has 2"):
        runner.join_study("rays", storage="sqlite:///a.db", cache=Path())


def test_a_worker_that_was_told_to_end_is_started_again(crew: Crew) -> None:
    crew._hear(0, {"interrupted": "it was told to end"})
    assert crew.started == [0]
    assert crew.display.messages == ["worker 0 was lost and is started again: it was told to end"]
    assert not crew._is_over()


def test_workers_that_are_told_to_end_again_and_again_end_the_study(crew: Crew) -> None:
    for _ in range(MAX_LOSSES_IN_A_ROW):
        crew._hear(0, {"interrupted": "it was told to end"})
    assert len(crew.started) == MAX_LOSSES_IN_A_ROW - 1
    assert crew._is_over()
    assert "it was told to end" in str(crew._error)


def test_a_worker_on_another_device_is_left_out_with_a_line(crew: Crew) -> None:
    crew._hear(0, {"other_device": "another card", "node": "gpu-2"})
    assert crew.display.messages == ["worker 0 on gpu-2 is left out: another card"]
    assert crew.started == []
    assert crew._error is None
    assert not crew._is_over()


def test_the_last_worker_on_another_device_ends_the_study_with_its_sentence(crew: Crew) -> None:
    crew._working = {}
    crew._hear(0, {"other_device": "another card", "node": "gpu-2"})
    assert isinstance(crew._error, TradeoffError)
    assert str(crew._error) == "another card"


def test_a_worker_on_another_device_changes_nothing_once_the_study_is_over(crew: Crew) -> None:
    crew._working = {}
    crew._hear(1, {"done": "nothing is left to do"})
    crew._hear(0, {"other_device": "another card", "node": "gpu-2"})
    assert crew._error is None


def test_an_assignment_has_the_deadline(crew: Crew) -> None:
    crew.deadline_unix_s = 1000.0
    assert crew._assignment().deadline_unix_s == 1000.0


def test_workers_that_wait_for_a_place_beyond_the_timeout_are_not_waited_for(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew.deadline_unix_s = time.time() - 1
    monkeypatch.setattr("tradeoff.studies.workers.ray_cluster.LAST_WORDS_S", 0.0)
    assert crew._is_over()
    crew._study.ask()
    monkeypatch.setattr("tradeoff.studies.workers.ray_cluster.LAST_WORDS_S", 15.0)
    assert not crew._is_over()  # what has begun may end


def test_the_reason_of_a_loss_is_what_was_raised_and_not_where() -> None:
    from ray.exceptions import RayTaskError, WorkerCrashedError

    traceback = 'Traceback (most recent call last):\n  File "a.py", line 1, in work\n    fail()\nOSError: the disk is gone\n'
    assert _reason(RayTaskError("work", traceback, OSError(), "ray::work", 1, "127.0.0.1")) == "OSError: the disk is gone"
    assert _reason(WorkerCrashedError()).startswith("The worker died unexpectedly")


def test_a_worker_that_is_started_while_the_database_is_away_waits_for_it(postgres: PostgresServer, postgres_url: str) -> None:
    created(postgres_url)
    postgres.stop()
    try:
        with ThreadPoolExecutor() as pool:
            ending = pool.submit(work, assignment(postgres_url, creates=False))
            with pytest.raises(TimeoutError):
                ending.result(timeout=1)
            postgres.start()
            assert "done" in ending.result(timeout=100)
    finally:
        postgres.start()
    assert len(drawn(postgres_url)) == STUDY.trials


def test_the_crew_waits_for_a_database_that_is_away_until_the_user_ends_it(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def look(storage: Any, stack: Any) -> bool:
        seen.append(storage.patience)
        raise TradeoffError("enough")

    crew._working, crew._study = {}, None
    monkeypatch.setattr(crew, "_opened", look)
    with pytest.raises(TradeoffError, match="enough"):
        crew.run(1)
    assert not seen[0].stop()
    crew.interrupts.requested = True
    assert seen[0].stop()
    seen[0].say("waiting")
    assert crew.display.messages == ["waiting"]
