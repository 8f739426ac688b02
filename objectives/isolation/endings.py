"""How a trial's process ended, and what that means: the outcome of a trial that was killed, hung or crashed."""

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tradeoff.objectives.device.kernel_kills import KernelKillWatch
from tradeoff.objectives.device.out_of_memory import out_of_memory_last_words
from tradeoff.objectives.measurements.outcome import Failed, Measurements, OutOfMemory, Stage, TimedOut, from_json

# Where the kernel counts no kills: a process that was killed, and had held this share of the memory, was killed for that.
NEAR_THE_LIMIT = 0.9


@dataclass(kw_only=True)
class Ended:
    """How a process ended, and what it said before."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    status: int | None = None
    max_rss_mib: float | None = None
    stage: Stage = "start"
    measurements: dict[str, Any] | None = None
    closed: bool = False
    timed_out: bool = False
    elapsed_s: float = 0.0
    log_tail: str = ""

    def answer(self, key: str) -> Any:
        """What the process said under `key`, or None."""
        return next((message[key] for message in self.messages if key in message), None)


def crashed_at_the_limit(request: Mapping[str, Any], ended: Ended) -> bool:
    """Whether native code crashed in a stage in which the operating system limits the memory."""
    crashed = ended.status in {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}
    return crashed and request["memory_limit_mib"] is not None and ended.stage in {"data", "probe"}


def measurements_of(ended: Ended) -> Measurements:
    """What a trial had measured when it ended."""
    if ended.measurements is None:
        return Measurements(trial_time_s=ended.elapsed_s)
    partial = from_json(json.dumps({"kind": "completed", "measurements": ended.measurements})).measurements
    assert isinstance(partial, Measurements)
    return partial


def outcome_of(ended: Ended, watch: KernelKillWatch, time_limit_s: float | None) -> Any:
    """The trial's own outcome, or what its end amounts to."""
    if (answered := ended.answer("outcome")) is not None:
        return from_json(json.dumps(answered))
    measurements = measurements_of(ended)
    if ended.timed_out:
        assert time_limit_s is not None
        reason = f"took longer than limits.trial_time_s = {time_limit_s:g} s, in stage {ended.stage!r}"
        return TimedOut(stage=ended.stage, reason=reason, limit_s=time_limit_s, measurements=measurements)
    if (kill := _killed_for_memory(ended, watch)) is not None:
        # The kernel does not say how much was missing; any positive number says that it did not fit.
        return OutOfMemory(stage=ended.stage, reason=kill, shortfall_mib=1.0, measurements=measurements)
    if (details := out_of_memory_last_words(ended.log_tail)) is not None:
        shortfall = details.requested_mib or 1.0
        return OutOfMemory(
            stage=ended.stage,
            reason=details.message,
            shortfall_mib=shortfall,
            requested_mib=details.requested_mib,
            measurements=measurements,
        )
    reason = f"the trial's process {how_it_ended(ended)}, in stage {ended.stage!r}"
    return Failed(stage=ended.stage, reason=reason, traceback=ended.log_tail, measurements=measurements)


def _killed_for_memory(ended: Ended, watch: KernelKillWatch) -> str | None:
    """How the kernel has killed a process for lack of memory, in words; None where it has not, or that can't be told."""
    if ended.status != -signal.SIGKILL:
        return None
    kills, held_mib = watch.kills_since(), ended.max_rss_mib or 0.0
    if kills:
        held = f" at {held_mib:,.0f} MiB resident" if held_mib else ""
        return f"killed by the kernel for lack of memory{held}, in stage {ended.stage!r}"
    if kills is None and held_mib >= NEAR_THE_LIMIT * (limit_mib := watch.limit_mib()):
        return (
            f"killed by SIGKILL after it held {held_mib:,.0f} of the {limit_mib:,.0f} MiB that there are, in stage"
            f" {ended.stage!r}: taken for the kernel's kill for lack of memory, which is not counted here"
        )
    return None


def how_it_ended(ended: Ended) -> str:
    """The end of a process in words."""
    if ended.status is None:
        return "ended together with the server that started it"
    if ended.status < 0:
        return f"was killed by {signal.Signals(-ended.status).name}"
    return f"ended with exit code {ended.status} and no answer"
