"""The end of a trial's process, and the trial's outcome if the process was killed, hung or crashed."""

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.device.kernel_kills import KernelKillWatch
from tradeoff.objectives.device.out_of_memory import out_of_memory_last_words
from tradeoff.objectives.measurements.outcome import Failed, Measurements, Outcome, OutOfMemory, Stage, TimedOut
from tradeoff.objectives.trial.messages import Finished, Reply

# Where the kernel counts no kills: a process that was killed, and had held this share of the memory, was killed for that.
NEAR_THE_LIMIT = 0.9


@dataclass(kw_only=True)
class ProcessResult:
    """The messages of a process, and how it ended.

    Attributes:
        reply: Its reply; None if it ended without one.
        stage: The last stage that it reported.
        measurements: The last measurements that it reported.
        status: Its exit status as in `subprocess`: -9 is SIGKILL; None if it ended with its server.
        max_rss_mib: Its peak resident memory, as the kernel counts it.
        closed: Whether it closed its channel by itself.
        timed_out: Whether it was ended because its time was up.
        elapsed_s: How long it ran.
        log_tail: The end of what it printed.
    """

    reply: Reply | None = None
    stage: Stage = "start"
    measurements: Measurements | None = None
    status: int | None = None
    max_rss_mib: float | None = None
    closed: bool = False
    timed_out: bool = False
    elapsed_s: float = 0.0
    log_tail: str = ""

    @property
    def outcome(self) -> Outcome | None:
        """The trial's own outcome, or None."""
        return self.reply.outcome if isinstance(self.reply, Finished) else None


def crashed_at_the_limit(request: Mapping[str, Any], result: ProcessResult) -> bool:
    """Return True if native code crashed in a stage in which the operating system limits the memory."""
    crashed = result.status in {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}
    return crashed and request["memory_limit_mib"] is not None and result.stage in {"data", "probe"}


def measurements_of(result: ProcessResult) -> Measurements:
    """Return what a trial had measured when it ended."""
    return result.measurements or Measurements(trial_time_s=result.elapsed_s)


def outcome_of(result: ProcessResult, watch: KernelKillWatch, time_limit_s: float | None) -> Outcome:
    """Return the trial's own outcome, or the one that its end amounts to."""
    if result.outcome is not None:
        return result.outcome
    measurements = measurements_of(result)
    if result.timed_out:
        assert time_limit_s is not None
        reason = f"took longer than limits.trial_time_s = {time_limit_s:g} s, in stage {result.stage!r}"
        return TimedOut(stage=result.stage, reason=reason, limit_s=time_limit_s, measurements=measurements)
    if (kill := _killed_for_memory(result, watch)) is not None:
        # The kernel does not say how much was missing; any positive number says that it did not fit.
        return OutOfMemory(stage=result.stage, reason=kill, shortfall_mib=1.0, measurements=measurements)
    if (details := out_of_memory_last_words(result.log_tail)) is not None:
        return OutOfMemory(
            stage=result.stage,
            reason=details.message,
            shortfall_mib=details.requested_mib or 1.0,
            requested_mib=details.requested_mib,
            measurements=measurements,
        )
    reason = f"the trial's process {how_it_ended(result)}, in stage {result.stage!r}"
    return Failed(stage=result.stage, reason=reason, traceback=result.log_tail, measurements=measurements)


def _killed_for_memory(result: ProcessResult, watch: KernelKillWatch) -> str | None:
    """Describe how the kernel killed a process for lack of memory; None if it did not, or that can't be known."""
    if result.status != -signal.SIGKILL:
        return None
    kills, held_mib = watch.kills_since(), result.max_rss_mib or 0.0
    if kills:
        held = f" at {held_mib:,.0f} MiB resident" if held_mib else ""
        return f"killed by the kernel for lack of memory{held}, in stage {result.stage!r}"
    if kills is None and held_mib >= NEAR_THE_LIMIT * (limit_mib := watch.limit_mib()):
        return (
            f"killed by SIGKILL while it held {held_mib:,.0f} of the {limit_mib:,.0f} MiB that there are, in stage"
            f" {result.stage!r}: taken for a kill by the kernel for lack of memory, which is not counted here"
        )
    return None


def how_it_ended(result: ProcessResult) -> str:
    """Describe the end of a process."""
    if result.status is None:
        return "ended together with the server that started it"
    if result.status < 0:
        return f"was killed by {signal.Signals(-result.status).name}"
    return f"ended with exit code {result.status} and no answer"


def kill(pid: int) -> None:
    """Kill a process forked by the server, with the group that it leads, if it still runs."""
    # Before it has called setsid there is no such group yet.
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            end(pid, signal.SIGKILL)
