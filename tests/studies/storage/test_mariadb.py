"""Studies on a real MariaDB server, which speaks as MySQL does; skipped where it is not installed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from mariadb_server import MariaDbServer, why_not
from optuna.trial import TrialState
from parallel_workers import run_workers
from running import poll
from simulated_runner import OBJECTIVES
from simulated_worker import Worker, small_study

from tradeoff.objectives.measurements.records import read_record
from tradeoff.studies.storage.opening import open_storage


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDbServer]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    server = MariaDbServer()
    yield server
    server.close()


def test_one_worker_at_a_time_holds_the_lock_of_a_study(server: MariaDbServer) -> None:
    url = server.new_database()
    storages = [open_storage(url) for _ in range(2)]
    held: list[str] = []

    def wait() -> None:
        with storages[1].lock("small"):
            held.append("second")

    with ThreadPoolExecutor(1) as pool:
        with storages[0].lock("small"):
            waiting = pool.submit(wait)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            held.append("first")
        waiting.result(timeout=60)
    assert held == ["first", "second"]


def test_two_workers_run_exactly_the_trials_that_were_asked_for(server: MariaDbServer, tmp_path: Path) -> None:
    ran = run_workers(server.new_database(), tmp_path, num_workers=2, sampler="random", trials=8)
    assert sum(read_record(trial, OBJECTIVES).counts for trial in ran.study.trials) == 8
    trained = [run.parameters.learning_class() for run in ran.runs if "train" in run.stages and not run.is_out_of_memory]
    assert len(set(trained)) == len(trained)


def test_a_server_that_crashes_in_a_trial_is_waited_for(server: MariaDbServer, tmp_path: Path) -> None:
    url = server.new_database()
    worker = Worker(url, small_study(trials=2), tmp_path, hold=True)
    poll(lambda: worker.has_begun, "the trial's begin")
    server.stop()
    worker.release()
    poll(lambda: "waiting for it, nothing measured is lost" in worker.output(), "the line that says so")
    server.start()
    output = worker.end()
    assert "(Can't connect to MySQL server" in output or "(Lost connection" in output, output
    assert server.password not in output
    trials = optuna.load_study(study_name="small", storage=open_storage(url)).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
