"""A worker pool of Ray tasks.

Ray shows a task's function, and in its logs and on command lines whatever is in a runtime environment, but not a task's
arguments. So the storage's URL, which may hold a password, is an argument.
"""

import os
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.storage.study import stored_device
from tradeoff.studies.workers.pool import WorkerPool, WorkersDied
from tradeoff.studies.workers.worker import Assignment, WorkerEnd, work

# Losses of workers in a row, with no trial ended in between, after which the cluster is not the cause.
MAX_LOSSES_IN_A_ROW = 5
LOOK_S = 0.5
# How long workers may take to find out by themselves that the study is complete.
LAST_WORDS_S = 15.0


@dataclass(kw_only=True)
class RayWorkerPool(WorkerPool):
    """Runs a study with workers that Ray places.

    Attributes:
        resource: The resource that stands for devices, and how much of it each worker has.
        num_workers: How many workers there are at most.
    """

    resource: tuple[str, float]
    num_workers: int
    _tasks: dict[Any, int] = field(default_factory=dict, init=False)
    _shown: set[int] = field(default_factory=set, init=False)
    _losses: int = field(default=0, init=False)
    _over_since_s: float | None = field(default=None, init=False)

    @property
    def num_working(self) -> int:
        """Tasks that have not ended, or wait for a place."""
        return len(self._tasks)

    def start_first(self) -> None:
        """Start one worker to create the study, unless it exists."""
        if self._study is None:
            self._start(0)

    def start_others(self) -> None:
        """Start the others, unless there is nothing left to do."""
        self._shown = {record.number for record in self.records() if record.outcome is not None}
        for index in range(self.num_workers):
            if self._error is None and self._over_since_s is None and index not in self._tasks.values():
                self._start(index)

    def listen(self) -> None:
        """Wait a moment, handle workers that have ended, and show what is new in the study."""
        import ray

        # Not interrupted on the way: `ray.wait` can't pass an exception of a signal's handler on.
        ended, _ = ray.wait(list(self._tasks), num_returns=1, timeout=LOOK_S)
        if self.run.interrupts.requested:
            raise KeyboardInterrupt
        self._show_ended()
        for task in ended:
            index = self._tasks.pop(task)
            try:
                end = ray.get(task)
            except ray.exceptions.RayError as error:
                self.worker_lost(index, _reason(error))
            else:
                self.worker_ended(index, end)
        if self._study is None and (device := stored_device(self.run.config, self.run.storage)) is not None:
            self.opened(device)

    def worker_ended(self, index: int, end: WorkerEnd) -> None:
        """Handle the end of a worker: what one finds, the others will find too."""
        match end.how:
            case "interrupted":
                self.worker_lost(index, end.reason)
                return
            case "other_device" if self._over_since_s is not None:
                return
            case "done" | "refused" | "failed":
                self._over_since_s = self._over_since_s or time.monotonic()
        super().worker_ended(index, end)

    def worker_lost(self, index: int, how: str) -> None:
        """Start a worker again, unless workers are lost again and again with no trial ended in between."""
        self._losses += 1
        if self._over_since_s is not None:
            return
        if self._losses >= MAX_LOSSES_IN_A_ROW:
            self.fail(WorkersDied(f"{self._losses} workers in a row were lost before a trial ended; the last one: {how}"))
            return
        self.run.display.message(f"worker {index} was lost and is started again: {how}")
        self._start(index)

    def is_over(self) -> bool:
        """Return True if one worker has ended or time is up, no trial runs, and all could notice; or after an error."""
        if self._error is not None:
            return True
        if self.run.deadline_s is not None and time.monotonic() >= self.run.deadline_s:
            # Those that still wait for a place would begin nothing.
            self._over_since_s = self._over_since_s or time.monotonic()
        if self._over_since_s is None or self._study is None:
            return False
        if self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._over_since_s = time.monotonic()
        return time.monotonic() - self._over_since_s >= LAST_WORDS_S

    def stop(self) -> None:
        """Leave it to `end`, which follows an error at once."""

    def end(self) -> None:
        """Cancel all workers, in order as far as they can; those that wait for a place never begin."""
        import ray

        for force in (False, True):
            for task in self._tasks:
                ray.cancel(task, force=force)
            _, left = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=60) if self._tasks else ([], [])
            self._tasks = {task: self._tasks[task] for task in left}
        self._show_ended()

    def _start(self, index: int) -> None:
        import ray

        name, each = self.resource
        kinds = {"GPU": "num_gpus", "CPU": "num_cpus"}
        needs: dict[str, Any] = {kinds[name]: each} if name in kinds else {"resources": {name: each}}
        # Ray would try a lost task again by itself, also when that is no longer needed.
        task = ray.remote(**({"num_cpus": 0} | needs), max_retries=0)(run_task)
        self._tasks[task.remote(self.assignment(index), os.getcwd(), self.resource)] = index

    def _show_ended(self) -> None:
        """Show the trials that have ended since the last time."""
        if self._study is None:
            return
        records = self.records()
        for record in records:
            if record.outcome is not None and record.number not in self._shown:
                self._shown.add(record.number)
                self._losses = 0
                self.run.display.trial_ended(record)
        self.show_trials(records)


def run_task(assignment: Assignment, directory: str, resource: tuple[str, float]) -> WorkerEnd:
    """Do a worker's part of a study as a Ray task.

    It runs in the main thread of Ray's process. Cancelling the task raises what Ctrl-C does, and stops it in order.

    Args:
        assignment: What to do.
        directory: Where relative paths of the study file start, if it exists on the node.
        resource: The resource that stands for devices, and how much of it the worker has.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if Path(directory).is_dir():
        os.chdir(directory)
    # Ray sets 1, or as many as the CPUs that a task asks for: times would depend on that and not on the node.
    os.environ["OMP_NUM_THREADS"] = str(_num_threads(*resource))
    interrupts = Interrupts()
    with interrupts.handled(), TrialServer() as server:
        end = work(assignment, server, display=Display(), interrupts=interrupts)
    return replace(end, where=f" on {socket.gethostname()}")


def _num_threads(resource: str, amount: float) -> int:
    """Return a worker's share of its node's processors, so that workers of equal nodes measure equal times."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    node = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    num_workers = max(1, int(node.get(resource, amount) // amount))
    return max(1, int(node.get("CPU", 1)) // num_workers)


def _reason(error: Exception) -> str:
    """Return why a worker was lost, in a line: the last one if it is a traceback."""
    import ray

    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0].strip()
