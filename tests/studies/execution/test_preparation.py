"""Preparing a study while its processes are killed."""

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from running import Children, Recorder, poll, shared_server, tiny_job, tiny_study

from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import ProcessLostError, prepare
from tradeoff.studies.workers.channel import Channel, Inbox
from tradeoff.studies.workers.worker_process import _work

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


def test_a_worker_whose_process_was_killed_ends_so_that_its_parent_starts_another(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    parent, worker = Channel(ours), Channel(theirs)
    parent.send({"open": {"config": tiny_study(job=LONG).plain(), "cache": str(tmp_path), "measured_on": None, "data": None}})
    heard: list[dict[str, Any]] = []

    def listen() -> None:
        while (messages := parent.receive()) is not None:
            heard.extend(messages)
            if {"message": "preparing the data"} in messages:
                kill_preparation()

    listener = threading.Thread(target=listen)
    listener.start()
    inbox = Inbox(worker, on_gone=lambda: None)
    with pytest.raises(SystemExit, match=WAS_KILLED):
        _work(inbox, worker, shared_server(), Interrupts())
    theirs.shutdown(socket.SHUT_RDWR)
    listener.join()
    # No last word: that is how a parent knows a death.
    assert not any("end" in message for message in heard)
