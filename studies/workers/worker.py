"""A worker of a study as a Ray task: what `tradeoff worker` does, on whatever node Ray has placed it.

Ray shows a task's function, and in its logs and on command lines whatever is in a runtime environment, but not a task's
arguments. So the storage's URL, which may hold a password, is an argument.
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker is to do.

    Attributes:
        config: The study file, as `StudyConfig.plain` gives it.
        storage: The storage's URL.
        creates: Whether the study is made here, because only a node with a device can say what it is.
        deadline_unix_s: No trial is started after this moment, in seconds since 1970: a task may wait long for its place.
        folder: Where relative paths of the study file start.
        cache: Where prepared data is kept; None for the node's own place.
        resource: The resource that stands for devices, and how many of it the worker has.
    """

    config: Mapping[str, Any]
    storage: str = field(repr=False)
    creates: bool
    deadline_unix_s: float | None
    folder: str
    cache: str | None
    resource: tuple[str, float]


def work(assignment: Assignment) -> dict[str, str]:
    """Works on the study until it is complete, and returns how that ended, in a sentence.

    The key is `done`, `failed`, `refused`, `other_device` (with the `node`'s name beside it), or `interrupted` where only this
    worker was told to end, as on a node that is drained.

    It runs in the main thread of Ray's process. Cancelling the task raises what Ctrl-C does, and ends it in order.
    """
    import optuna

    from tradeoff.studies.config.study import StudyConfig
    from tradeoff.studies.errors import StudyFailed, TradeoffError
    from tradeoff.studies.execution.preparation import OtherDeviceError
    from tradeoff.studies.workers.run import join_study, run_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if Path(assignment.folder).is_dir():
        os.chdir(assignment.folder)
    # Ray sets 1, or as many as the CPUs that a task asks for: times would depend on that and not on the node.
    os.environ["OMP_NUM_THREADS"] = str(_num_threads(*assignment.resource))
    config = StudyConfig.model_validate(assignment.config)
    cache = None if assignment.cache is None else Path(assignment.cache)
    deadline_unix_s = assignment.deadline_unix_s
    timeout_s = None if deadline_unix_s is None else max(0.0, deadline_unix_s - time.time())
    # Whoever placed this worker has the storage open: one that does not answer is away for a while, and not mistyped.
    storage: dict[str, Any] = {"storage": assignment.storage, "waits_for_storage": True}
    try:
        if assignment.creates:
            run_study(config, timeout_s=timeout_s, cache=cache, **storage)
        else:
            join_study(config.name, timeout_s=timeout_s, cache=cache, **storage)
    except OtherDeviceError as error:
        return {"other_device": str(error), "node": socket.gethostname()}
    except TradeoffError as error:
        return {"refused": str(error)}
    except StudyFailed as error:
        return {"failed": str(error)}
    except KeyboardInterrupt:
        return {"interrupted": "it was told to end, as on a node that is drained"}
    return {"done": "nothing is left to do"}


def _num_threads(resource: str, amount: float) -> int:
    """A worker's share of its node's processors, so that workers of equal nodes measure equal times."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    node = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    num_workers = max(1, int(node.get(resource, amount) // amount))
    return max(1, int(node.get("CPU", 1)) // num_workers)
