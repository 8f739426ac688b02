"""How a trial's process ended, and what that means: the outcome of a trial that was killed, hung or crashed."""

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from objectives.oom import KernelKillWatch, out_of_memory_last_words
from objectives.outcome import Failed, Measurements, OutOfMemory, Stage, TimedOut, from_json


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
    if ended.status == -signal.SIGKILL and watch.kills_since():
        held = f" at {ended.max_rss_mib:,.0f} MiB resident" if ended.max_rss_mib else ""
        reason = f"killed by the kernel for lack of memory{held}, in stage {ended.stage!r}"
        # The kernel does not say how much was missing; any positive number says that it did not fit.
        return OutOfMemory(stage=ended.stage, reason=reason, shortfall_mib=1.0, measurements=measurements)
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


def how_it_ended(ended: Ended) -> str:
    """The end of a process in words."""
    if ended.status is None:
        return "ended together with the server that started it"
    if ended.status < 0:
        return f"was killed by {signal.Signals(-ended.status).name}"
    return f"ended with exit code {ended.status} and no answer"
