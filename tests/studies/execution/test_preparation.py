"""Preparing a study while its processes are killed."""

import os
import signal
import threading
from pathlib import Path

import pytest
from running import Children, Recorder, poll, shared_server, tiny_job, tiny_study

from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import ProcessLostError, prepare
from tradeoff.studies.workers.worker import Assignment, work

# Data that takes far longer to prepare than a kill does.
LONG = tiny_job(train_samples=50_000).model_dump()
WAS_KILLED = "the process of the task 'prepare' was killed by SIGKILL"


def kill_preparation() -> None:
    (pid,) = poll(Children().trials, "the process that prepares the data")
    os.kill(pid, signal.SIGKILL)


class KillsPreparation(Recorder):
    """A display that kills the process that prepares the data as soon as it is there."""

    thread: threading.Thread

    def message(self, line: str) -> None:
        super().message(line)
        if line == "preparing the data":
            self.thread = threading.Thread(target=kill_preparation)
            self.thread.start()


def test_a_process_that_is_killed_while_it_prepares_the_data_is_one_sentence(tmp_path: Path) -> None:
    display = KillsPreparation()
    with pytest.raises(ProcessLostError, match=WAS_KILLED):
        prepare(tiny_study(job=LONG), shared_server(), Interrupts(), display=display, cache=tmp_path)
    display.thread.join()


def test_a_worker_whose_process_was_killed_ends_so_that_another_is_started(tmp_path: Path) -> None:
    assignment = Assignment(
        config=tiny_study(job=LONG).plain(), storage=f"sqlite:///{tmp_path}/a.db", creates=True, estimates_memory=False,
        deadline_unix_s=None, cache=str(tmp_path),
    )  # fmt: skip
    display = KillsPreparation()
    end = work(assignment, shared_server(), display=display, interrupts=Interrupts())
    display.thread.join()
    assert end.how == "lost"
    assert WAS_KILLED in end.reason
