"""One of several workers of a study, wherever it runs: its assignment, its work, and the report of its end."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.studies.config.stored import AllowedCode
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import OtherDeviceError, StudyFailed, TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import ProcessLostError
from tradeoff.studies.workers.study_run import StudyRun, deadline_after


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The work of a worker.

    Attributes:
        config: The study file, as `StudyConfig.plain` returns it.
        storage: The storage's URL, which may hold a password.
        creates: Whether this worker creates the study, because only a process with the device can describe it.
        estimates_memory: Whether it estimates memory, for all workers.
        deadline_unix_s: No trial is started after this moment, in seconds since 1970.
        cache: Where prepared data is kept; None for the machine's default.
        sends_function: Whether the function that the job names follows, as only the pool's own program has it.
    """

    config: Mapping[str, Any]
    storage: str = field(repr=False)
    creates: bool
    estimates_memory: bool
    deadline_unix_s: float | None
    cache: str | None
    sends_function: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """The report of a worker's end.

    Attributes:
        how: "done" if nothing is left to do; "interrupted" if this worker alone was told to stop; "lost" if a process of it was
            killed, so that another try may succeed; "other_device" if the study was measured on another device; "refused" or
            "failed" if the study can't go on.
        reason: A sentence.
        where: The node, as ` on NAME`; empty for this machine.
    """

    how: Literal["done", "interrupted", "lost", "other_device", "refused", "failed"]
    reason: str
    where: str = ""
    kind: Literal["end"] = "end"


def work(
    assignment: Assignment,
    server: TrialServer,
    *,
    display: Display,
    interrupts: Interrupts,
    function: bytes | None = None,
) -> WorkerEnd:
    """Work on the study until it is complete, and return how that ended.

    Args:
        assignment: What to do.
        server: Where trials run.
        display: Where progress is shown.
        interrupts: What the user, or whoever placed the worker, has asked for.
        function: The function that the job names, if it was sent with the assignment.
    """
    config, deadline_unix_s = StudyConfig.model_validate(assignment.config), assignment.deadline_unix_s
    settings: dict[str, Any] = {
        "display": display,
        "interrupts": interrupts,
        "cache": None if assignment.cache is None else Path(assignment.cache),
        "deadline_s": deadline_after(None if deadline_unix_s is None else deadline_unix_s - time.time()),
        "estimates_memory": assignment.estimates_memory,
        "function": function,
        # Whoever placed this worker has the storage open: one that does not answer is away for a while, and not mistyped.
        "waits": True,
        # What the storage names by now is not necessarily what the user had when the pool was started.
        "allowed": AllowedCode(job=config.job, space=config.search_space()),
    }
    study = config if assignment.creates else config.name
    try:
        StudyRun.of(study, assignment.storage, only_trials=True, **settings).search(server)
    except OtherDeviceError as error:
        return WorkerEnd(how="other_device", reason=str(error))
    except ProcessLostError as error:
        return WorkerEnd(how="lost", reason=str(error))
    except TradeoffError as error:
        return WorkerEnd(how="refused", reason=str(error))
    except StudyFailed as error:
        return WorkerEnd(how="failed", reason=str(error))
    except KeyboardInterrupt:
        return WorkerEnd(how="interrupted", reason="it was told to stop, as on a node that is drained")
    return WorkerEnd(how="done", reason="nothing is left to do")
