"""Follows the processes of a trial: one, or a rank for each device.

Ranks wait for each other in collectives, so one that is gone would leave the others waiting for as long as the process group's
time limit (optuna/optuna#5190). Here each has a channel of its own to the parent. As soon as one has failed, run out of memory
or vanished, the trial is over: the parent ends the rest, and the one that went first speaks for all.
"""

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tradeoff.objectives.isolation.endings import Ended, measurements_of
from tradeoff.objectives.measurements.outcome import Completed, TimedOut

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(kw_only=True)
class Followed:
    """A process of a trial, and what it has said so far.

    Attributes:
        channel: Where it is heard.
        ended: What it said, and how it ended.
        identifier: The server's number of it.
        pid: Its process id.
    """

    channel: socket.socket
    ended: Ended = field(default_factory=Ended)
    identifier: int
    pid: int
    _unread: bytes = b""

    def receive(self, on_progress: Progress | None) -> bool:
        """Reads what there is; False when the process has closed its channel."""
        try:
            data = self.channel.recv(1 << 16)
        except ConnectionError:
            return False
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line), on_progress)
        return bool(data)

    def drain(self) -> None:
        """Takes what a process that has ended had still said of its measurements; its answer came too late."""
        answers = list(self.ended.messages)
        self.channel.setblocking(False)  # a process that it started may hold the other end
        with contextlib.suppress(BlockingIOError):
            while self.receive(None):
                pass
        self.ended.messages[:] = answers

    def _take(self, message: dict[str, Any], on_progress: Progress | None) -> None:
        if "progress" in message:
            self.ended.stage = message["progress"]["stage"]
            if on_progress is not None:
                on_progress(message["progress"])
        elif "measurements" in message:
            self.ended.measurements = message["measurements"]
        else:
            self.ended.messages.append(message)


def follow(processes: Sequence[Followed], deadline: float | None, on_progress: Progress | None) -> None:
    """Reads what the processes say until all have closed their channels, one is lost, or time is up.

    Args:
        processes: The ranks, in order; the first one reports progress.
        deadline: A time of `time.perf_counter`, or None.
        on_progress: Called with each stage and step.
    """
    unheard = list(processes)
    while unheard:
        timeout = None if deadline is None else max(0.0, deadline - time.perf_counter())
        ready = select.select([process.channel for process in unheard], [], [], timeout)[0]
        if not ready:
            for process in unheard:
                process.ended.timed_out = True
            return
        for process in [process for process in unheard if process.channel in ready]:
            if not process.receive(on_progress if process is processes[0] else None):
                process.ended.closed = True
                unheard.remove(process)
        if len(processes) > 1 and any(_is_lost(process.ended) for process in processes):
            return


def first_to_go(ranks: Sequence[Ended]) -> int:
    """The rank whose end is the trial's: the one at fault, or 0 where none is.

    A rank that loses another one fails within milliseconds, and both may be heard at once. Out-of-memory is nobody's
    consequence, and neither is a process that vanished before the parent ended any; of errors, the earliest counts.
    """
    lost = [rank for rank, ended in enumerate(ranks) if _is_lost(ended)]
    return min(lost, key=lambda rank: _precedence(ranks[rank]), default=0)


def of_ranks(outcome: Any, rank: int, ranks: Sequence[Ended]) -> Any:
    """The outcome of a trial on several devices, which `rank` speaks for: with the rank's name, and what rank 0 measured."""
    if isinstance(outcome, Completed):
        return outcome
    # A time limit is everybody's.
    reason = outcome.reason if isinstance(outcome, TimedOut) else f"on rank {rank}: {outcome.reason}"
    measurements = outcome.measurements if rank == 0 else measurements_of(ranks[0])
    return replace(outcome, reason=reason, measurements=measurements)


def _is_lost(ended: Ended) -> bool:
    outcome = ended.answer("outcome")
    return ended.closed if outcome is None else outcome["kind"] != "completed"


def _precedence(ended: Ended) -> tuple[int, float]:
    outcome = ended.answer("outcome")
    if outcome is None:
        return 1, 0.0
    return (0 if outcome["kind"] == "out_of_memory" else 2), float(ended.answer("at_s") or 0.0)
