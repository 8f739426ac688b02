"""The messages between the process of a worker pool and its workers' processes, as JSON over a socket pair.

The assignment goes this way too: the storage's URL, with its password, is in no list of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, TypeAdapter

from tradeoff.studies.workers.worker import Assignment, WorkerEnd


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line for the user."""

    text: str
    kind: Literal["line"] = "line"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The study exists, measured on this device."""

    device: Mapping[str, Any]
    kind: Literal["opened"] = "opened"


@dataclass(frozen=True, kw_only=True)
class TrialStarted:
    """A trial begins, with these parameters."""

    number: int
    parameters: Mapping[str, Any]
    kind: Literal["trial_started"] = "trial_started"


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """The trial has reached a stage, or a step of it."""

    event: Mapping[str, Any]
    kind: Literal["trial_progress"] = "trial_progress"


@dataclass(frozen=True, kw_only=True)
class TrialEnded:
    """A trial has ended, and is stored."""

    number: int
    kind: Literal["trial_ended"] = "trial_ended"


FromWorker = Line | Opened | TrialStarted | TrialProgress | TrialEnded | WorkerEnd
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(Annotated[FromWorker, Discriminator("kind")])
ASSIGNMENT: TypeAdapter[Assignment] = TypeAdapter(Assignment)
