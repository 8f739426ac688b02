"""A database that is away for half a minute, with everything in the middle of something: real processes on a real server.

Meanwhile two workers of a real `tradeoff run` train, and one of them is killed and started again; and of three whose trials are
simulated, one runs a trial that ends now, one is telling what it measured, and one waits for the others.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psycopg
import pytest
from command_process import COMMAND, ENDLESS, Command, worker_processes, write_study
from optuna.trial import FrozenTrial, TrialState
from postgres import PostgresServer
from running import is_alive, poll, tiny_study
from simulated_worker import Worker, small_study

from tradeoff.studies.execution.interrupts import EXIT_STATUS
from tradeoff.studies.storage.opening import open_storage

OUTAGE_S = 30
WAITS = "waiting for it, nothing measured is lost"


@dataclass
class Outage:
    """What was seen.

    Attributes:
        password: Of the database.
        listed: Command lines and environments of the real command's processes, taken while they ran.
        killed: The worker that was killed.
        typed: What a user saw who joined just then.
        told: What the simulated workers printed, in the order of the module's first lines.
        kept: Outcomes that were on disk during the outage, for each of them.
        small: The trials of their study at the end.
        status, output: How the real command ended, and what it printed.
        left: The trials of its study.
        survivors: Processes of its family that are still there.
    """

    password: str
    listed: bytes = b""
    killed: int = 0
    typed: subprocess.CompletedProcess[str] | None = None
    told: list[str] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    small: list[FrozenTrial] = field(default_factory=list)
    status: int | None = None
    output: str = ""
    left: list[FrozenTrial] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)


def trials_of(url: str, name: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(url)).trials


def listed(pids: set[int]) -> bytes:
    """Everything that the system's list of processes shows of them to their user."""
    shown = b""
    for pid in pids:
        for name in ("cmdline", "environ"):
            try:
                shown += (Path("/proc") / str(pid) / name).read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
    return shown


def tell_while_the_table_is_held(url: str, worker: Worker) -> psycopg.Connection[tuple[object, ...]]:
    """Lets a worker's trial end, and stops it in the middle of telling; the lock ends with the connection."""
    connection = psycopg.connect(url.replace("+psycopg", ""))
    connection.execute("LOCK TABLE trial_values IN EXCLUSIVE MODE")
    worker.release()
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'trial_values'::regclass"
    poll(lambda: connection.execute(waits).fetchone(), "the wait for the lock")
    return connection


@pytest.fixture(scope="module")
def outage(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    postgres.start()
    url = postgres.new_database()
    folders = [tmp_path_factory.mktemp(name) for name in ("real", "trains", "tells", "waits")]
    real, *simulated = folders
    (real / "url").write_text(f"{url}\n")
    named = ["--storage", f"@{real / 'url'}"]
    seen = Outage(password=postgres.password)
    file = write_study(real, tiny_study(job=ENDLESS, trials=4))
    command = Command(real, url, "run", file, "--workers", "2", *named, in_environment=False)
    workers: list[Worker] = []

    def start(folder: Path, ready: Callable[[Worker], object], *, hold: bool = True) -> Worker:
        workers.append(Worker(named[1], small_study(trials=2), folder, hold=hold))
        poll(lambda: ready(workers[-1]), "the worker's begin")
        return workers[-1]

    try:
        trains, tells = (start(folder, lambda worker: worker.has_begun) for folder in simulated[:2])
        start(simulated[2], lambda worker: "small" in worker.output(), hold=False)
        command.wait_for_running("tiny", 2)
        seen.listed = listed({command.process.pid, *command.look()})
        connection = tell_while_the_table_is_held(url, tells)
        postgres.stop(at_once=True)
        connection.close()
        trains.release()
        seen.killed = worker_processes(command.process.pid)[-1]
        os.kill(seen.killed, signal.SIGKILL)
        for worker in workers:
            poll(lambda worker=worker: WAITS in worker.output(), "the line of a worker that waits")
        begin_s = time.monotonic()
        seen.typed = subprocess.run([*COMMAND, "worker", "tiny", *named], cwd=real, capture_output=True, text=True, timeout=120)
        poll(lambda: "can't be opened" in command.output(), "the line of the worker that was started again", limit_s=200)
        seen.listed += listed({command.process.pid, *command.look()})
        time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - begin_s)))
        seen.kept = [len(worker.untold) for worker in workers]
        postgres.start()
        seen.told = [worker.end() for worker in workers]
        command.wait_for_running("tiny", 2)
        command.process.send_signal(signal.SIGINT)
        seen.status, seen.output = command.end()
        seen.small, seen.left = trials_of(url, "small"), trials_of(url, "tiny")
        poll(lambda: not any(is_alive(pid) for pid in command.seen), "the end of the command's family")
        yield seen
    finally:
        postgres.start()
        command.kill()
        for worker in workers:
            worker.kill()


def test_workers_wait_for_half_a_minute_and_go_on_whatever_they_were_doing(outage: Outage) -> None:
    for output in outage.told:
        assert WAITS in output
        (answers,) = [line for line in output.splitlines() if "the storage answers again after" in line]
        assert int(answers.split(" after ")[1].split()[0]) >= OUTAGE_S


def test_a_trial_that_ended_and_one_that_was_being_told_have_their_outcomes_once(outage: Outage) -> None:
    assert outage.kept == [1, 1, 0]
    assert [trial.state for trial in outage.small] == [TrialState.COMPLETE] * 2
    assert all(len(trial.values) == 3 for trial in outage.small)


def test_a_worker_that_is_killed_then_is_started_again_and_waits_for_the_database(outage: Outage) -> None:
    assert "was killed by SIGKILL; it is started again (1 of 3 times)" in outage.output
    (waits,) = [line for line in outage.output.splitlines() if "can't be opened" in line]
    assert waits.endswith(WAITS)
    (lost,) = [trial for trial in outage.left if "lost_worker" in trial.user_attrs]
    assert f"process {outage.killed} on " in lost.user_attrs["lost_worker"]
    again = [trial for trial in outage.left if trial.user_attrs.get("retry_of") == lost.number]
    assert len(again) == 1


def test_who_joins_just_then_by_hand_is_told_at_once(outage: Outage) -> None:
    assert outage.typed is not None
    assert outage.typed.returncode == 2
    (sentence,) = outage.typed.stderr.splitlines()
    assert sentence.startswith("tradeoff: the storage postgresql+psycopg://tradeoff:***@127.0.0.1:")


def test_ctrl_c_after_all_that_ends_all_workers_in_order_and_what_they_were_doing_is_queued(outage: Outage) -> None:
    assert (outage.status, "Traceback" in outage.output) == (EXIT_STATUS, False), outage.output
    assert "stopped; rerun the same command to resume" in outage.output
    assert Counter(trial.state for trial in outage.left) == {TrialState.FAIL: 3, TrialState.WAITING: 2}
    assert {trial.user_attrs["outcome"] for trial in outage.left if trial.state == TrialState.FAIL} == {"interrupted"}


def test_a_password_in_a_file_is_in_no_list_of_processes_and_in_nothing_that_is_printed(outage: Outage) -> None:
    assert b"tradeoff.studies.workers.worker_process" in outage.listed
    assert b"tradeoff.objectives.isolation.warm_server" in outage.listed
    assert outage.password.encode() not in outage.listed
    assert outage.typed is not None
    said = [outage.output, outage.typed.stdout, outage.typed.stderr, *outage.told]
    assert not [text for text in said if outage.password in text]
