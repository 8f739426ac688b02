"""The process of one of several workers on a machine: `python -m tradeoff.studies.workers.worker_process FD`.

It receives its assignment over that socket, and sends what it does and how it ends (`tradeoff.studies.workers.messages`).
SIGHUP stops it in order, as do SIGINT and SIGTERM, of which a second one stops it immediately. When the parent is gone it
stops in order too.
"""

import argparse
import contextlib
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.trial.messages import Channel
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.workers.messages import ASSIGNMENT, FromWorker, Line, Opened, TrialEnded, TrialProgress, TrialStarted
from tradeoff.studies.workers.worker import Assignment, WorkerEnd, work

# Steps are reported no more often than a person can read.
PROGRESS_INTERVAL_S = 0.1


@dataclass
class ChannelDisplay(Display):
    """A display that tells the parent, which shows the study."""

    channel: Channel[Assignment]
    _quiet_until_s: float = field(default=0.0, init=False)

    def send(self, message: FromWorker) -> None:
        """Send a message; a parent that is gone is noticed by the inbox."""
        with contextlib.suppress(ConnectionError):
            self.channel.send(message)

    def message(self, line: str) -> None:
        """Pass the line on."""
        self.send(Line(text=line))

    @contextmanager
    def running(self, name: str, device: Mapping[str, Any], config: Any) -> Iterator[None]:
        """Tell the parent that the study exists."""
        self.send(Opened(device=dict(device)))
        yield

    def trial_started(self, number: int, parameters: Any, *, worker: int = 0) -> None:
        """Pass it on."""
        self.send(TrialStarted(number=number, parameters=parameters.as_dict()))

    def progress(self, event: Mapping[str, Any], *, worker: int = 0) -> None:
        """Pass on each stage, and now and then a step."""
        now_s = time.monotonic()
        if "step" not in event or now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + PROGRESS_INTERVAL_S
            self.send(TrialProgress(event=dict(event)))

    def trial_ended(self, record: Any, *, worker: int = 0) -> None:
        """Pass on the number: the parent reads the trial from the storage."""
        self.send(TrialEnded(number=record.number))


class Inbox:
    """Receives in a thread of its own, so that a worker that is busy notices that its parent is gone."""

    def __init__(self, channel: Channel[Assignment]) -> None:
        self._channel = channel
        self._assignments: queue.SimpleQueue[tuple[Assignment, bytes | None]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def assignment(self) -> tuple[Assignment, bytes | None]:
        """Wait for the assignment, and the function that is sent with it."""
        return self._assignments.get()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                assignment = self._channel.receive()
                function = self._channel.receive_function() if assignment.sends_function else None
                self._assignments.put((assignment, function))
        os.kill(os.getpid(), signal.SIGHUP)


def main(descriptor: int, *, processors: Sequence[int]) -> None:
    """Run the worker's part of a study over the socket `descriptor`."""
    if processors:
        os.sched_setaffinity(0, processors)
    # Trials inherit nothing of this conversation.
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor), ASSIGNMENT)
    display, interrupts = ChannelDisplay(channel), Interrupts()
    # It has a session of its own, in which nothing but its parent sends it; `nohup` would have it ignored here too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with interrupts.handled(), TrialServer() as server:
        server.start()  # it imports torch while the assignment is waited for
        inbox = Inbox(channel)
        try:
            with interrupts.waiting():
                assignment, function = inbox.assignment()
        except KeyboardInterrupt:
            end = WorkerEnd(how="interrupted", reason="it was told to stop")
        else:
            end = work(assignment, server, display=display, interrupts=interrupts, function=function)
    display.send(end)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("descriptor", type=int)
    parser.add_argument("--index", type=int, default=0)  # for a person who looks at the list of processes
    parser.add_argument("--processors", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    main(arguments.descriptor, processors=arguments.processors)
