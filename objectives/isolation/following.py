"""Follows the processes of a trial: one, or a rank for each device.

Ranks wait for each other in collectives, so one that is gone would leave the others waiting for as long as the process group's
time limit (optuna/optuna#5190). Here each has a channel of its own to the parent. As soon as one has failed, run out of memory
or vanished, the trial is over: the parent ends the rest, and the outcome of the one that went first is the trial's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any, Protocol

from tradeoff.objectives.isolation.endings import ProcessResult, measurements_of
from tradeoff.objectives.measurements.outcome import Completed, Outcome, OutOfMemory, TimedOut
from tradeoff.objectives.trial.messages import Channel, Finished, Measured, Progress, Reply

OnProgress = Callable[[Mapping[str, Any]], None]
Deadline = Callable[[], float | None]

# How long to wait, once a rank reports an error, for another one whose end may have caused it.
_CAUSE_WAIT_S = 0.5


@dataclass(kw_only=True)
class Followed:
    """A process of a trial.

    Attributes:
        channel: Where its messages arrive.
        result: What it has sent, and how it ended.
        identifier: The server's number of it.
        pid: Its process id.
    """

    channel: Channel[Progress | Measured | Reply]
    result: ProcessResult
    identifier: int
    pid: int

    def receive(self, on_progress: OnProgress | None) -> bool:
        """Receive every message that has arrived; return False once the process has closed its channel."""
        try:
            while self.channel.poll():
                self._take(self.channel.receive(), on_progress)
        except EOFError:
            return False
        return True

    def drain(self) -> None:
        """Receive the measurements that a process which has ended had still sent; its reply came too late."""
        reply = self.result.reply
        self.receive(None)
        self.result.reply = reply

    def _take(self, message: Progress | Measured | Reply, on_progress: OnProgress | None) -> None:
        match message:
            case Progress():
                self.result.stage = message.stage
                if on_progress is not None:
                    on_progress(message.event())
            case Measured():
                self.result.measurements = message.measurements
            case _:
                self.result.reply = message


class Reaper(Protocol):
    """The parent of the processes."""

    def fileno(self) -> int:
        """Return the descriptor on which it reports the end of processes."""

    def has_reaped(self, process: Followed) -> bool:
        """Receive the reports that have arrived, and return True if a process has ended."""


def follow(processes: Sequence[Followed], deadline: Deadline, on_progress: OnProgress | None, reaper: Reaper) -> None:
    """Receive what the processes send until all have replied or ended, one is lost, or time is up.

    The end of a channel is not enough: a process that the trial forked may hold it open for ever.

    Args:
        processes: The ranks, in order; the first one reports progress.
        deadline: Returns a time of `time.perf_counter`, or None; what has been reported may have moved it.
        on_progress: Called with each stage and step.
        reaper: The parent of the processes, which reports their ends.
    """
    unheard = list(processes)
    while unheard:
        deadline_s = deadline()
        timeout_s = None if deadline_s is None else max(0.0, deadline_s - time.perf_counter())
        ready = wait([reaper.fileno(), *(process.channel.fileno() for process in unheard)], timeout_s)
        if not ready:
            for process in unheard:
                process.result.timed_out = True
            return
        for process in list(unheard):
            # In this order: what it had sent before its end has arrived by then.
            process.result.closed = reaper.fileno() in ready and reaper.has_reaped(process)
            if not process.receive(on_progress if process is processes[0] else None):
                process.result.closed = True
            if process.result.closed or process.result.reply is not None:
                unheard.remove(process)
        lost = [process.result for process in processes if _is_lost(process.result)]
        if lost and len(processes) > 1:
            if all(_may_be_caused(result) for result in lost):
                _await_cause(unheard)
            return


def _await_cause(unheard: Sequence[Followed]) -> None:
    """Wait a moment for a process that vanished: the error of a rank that lost it may be noticed before its own end."""
    end_s = time.perf_counter() + _CAUSE_WAIT_S
    waiting = list(unheard)
    while waiting and (left_s := end_s - time.perf_counter()) > 0:
        ready = wait([process.channel.fileno() for process in waiting], left_s)
        for process in [process for process in waiting if process.channel.fileno() in ready]:
            if not process.receive(None):
                process.result.closed = True
                waiting.remove(process)
        if any(_is_lost(process.result) and not _may_be_caused(process.result) for process in unheard):
            return


def first_to_go(ranks: Sequence[ProcessResult]) -> int:
    """Return the rank whose end is the trial's: the one at fault, or 0 if none is.

    A rank that loses another one fails within milliseconds, and both may be noticed at once. Running out of memory is nobody's
    consequence, and neither is a process that vanished before the parent ended any; of errors, the earliest counts.
    """
    lost = [rank for rank, result in enumerate(ranks) if _is_lost(result)]
    return min(lost, key=lambda rank: _precedence(ranks[rank]), default=0)


def of_ranks(outcome: Outcome, rank: int, ranks: Sequence[ProcessResult]) -> Outcome:
    """Return the outcome of a trial on several devices: that of `rank` with its name, and with rank 0's measurements."""
    if isinstance(outcome, Completed):
        return outcome
    # A time limit is everybody's.
    reason = outcome.reason if isinstance(outcome, TimedOut) else f"on rank {rank}: {outcome.reason}"
    measurements = outcome.measurements if rank == 0 else measurements_of(ranks[0])
    return replace(outcome, reason=reason, measurements=measurements)


def _is_lost(result: ProcessResult) -> bool:
    return result.closed if result.outcome is None else not isinstance(result.outcome, Completed)


def _may_be_caused(result: ProcessResult) -> bool:
    """Return True for an error, which another rank's end may have caused."""
    return _precedence(result)[0] == 2


def _precedence(result: ProcessResult) -> tuple[int, float]:
    if not isinstance(result.reply, Finished):
        return 1, 0.0
    return (0 if isinstance(result.reply.outcome, OutOfMemory) else 2), result.reply.at_s
