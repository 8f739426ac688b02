"""`tradeoff run --ray`: a study's workers on the nodes of a Ray cluster, one for each `devices_per_trial` cards.

Ray places the workers and notices when one is lost; the study itself, and all that its workers share, is in its storage as
ever. This process starts them, starts those again that a lost node took, shows what the storage says, and ends them with the
study. A worker that finds no place waits in Ray's queue, until a node joins or the study ends.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from tradeoff.objectives.device.registry import visible_devices
from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import StudyFailed, TradeoffError
from tradeoff.studies.execution.display import Display, quiet_display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.reporting.annotate import Annotator, artifact_folder
from tradeoff.studies.storage.opening import masked, open_storage, storage_url
from tradeoff.studies.storage.retrying import be_patient
from tradeoff.studies.storage.study import open_study
from tradeoff.studies.workers.local import WorkersDied
from tradeoff.studies.workers.ray_worker import Assignment, work

LOCAL = "local"
# Losses of workers in a row, with no trial ended in between, after which something else than the cluster is wrong.
MAX_LOSSES_IN_A_ROW = 5
LOOK_S = 0.5
CONNECT_S = 10.0
# How long workers may take to find out by themselves that the study is complete.
LAST_WORDS_S = 15.0


def run_on_ray(
    config: StudyConfig,
    *,
    address: str,
    storage: str,
    resource: str | None = None,
    workers: int | None = None,
    timeout_s: float | None = None,
    display: Display | None = None,
    cache: Path | None = None,
) -> optuna.Study:
    """Creates the study of `config`, or goes on with it, on a Ray cluster.

    Args:
        config: The study.
        address: A cluster's address as `ray.init` takes it, or "local" for a Ray of this machine's own.
        storage: A database URL that every node reaches, or on one machine the path of a SQLite file.
        resource: The resource that stands for devices; GPU by default, or on a machine of its own without cards its CPUs.
        workers: How many trials run at a time at most; None for as many as the cluster has places for.
        timeout_s: No trial is started after this many seconds.
        display: Where progress is shown; nowhere by default.
        cache: Where prepared data is kept on every node; None for each node's own place.

    Returns:
        The study.

    Raises:
        TradeoffError: Ray is not installed or not there, the cluster lacks the resource, or the study can't run as it is
            written.
        StudyFailed: Five trials in a row failed.
        tradeoff.studies.workers.local.WorkersDied: Workers are lost again and again, and no trial ends in between.
        KeyboardInterrupt: The user ended it.
    """
    if workers is not None and workers < 1:
        raise TradeoffError(f"workers must be at least 1, got {workers}")
    display, interrupts = display or quiet_display(), Interrupts()
    url = _absolute(storage_url(storage))
    deadline_unix_s = None if timeout_s is None else time.time() + timeout_s
    with interrupts.handled(), _connected(address):
        nodes = _nodes()
        name, each = _share(config, nodes, resource, workers, is_local=address == LOCAL)
        _check_reachable(url, nodes)
        num_places = sum(int(node["Resources"].get(name, 0) // each) for node in nodes)
        if num_places == 0:
            raise TradeoffError(_no_place(name, each, nodes, is_named=resource is not None))
        num_workers = num_places if workers is None else workers
        display.message(
            f"Ray: {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'} with places for {num_places}"
            f" {'worker' if num_places == 1 else 'workers'} ({each:g} {name} each)"
        )
        crew = _Crew(
            config=config,
            url=url,
            resource=(name, each),
            cache=cache,
            display=display,
            interrupts=interrupts,
            deadline_unix_s=deadline_unix_s,
        )
        return crew.run(num_workers)


@dataclass(kw_only=True)
class _Crew:
    """The workers of a study, from this side."""

    config: StudyConfig
    url: str
    resource: tuple[str, float]
    cache: Path | None
    display: Display
    interrupts: Interrupts
    deadline_unix_s: float | None
    _working: dict[Any, int] = field(default_factory=dict, init=False)
    _study: optuna.Study | None = field(default=None, init=False)
    _ended: set[int] = field(default_factory=set, init=False)
    _losses: int = field(default=0, init=False)
    _error: Exception | None = field(default=None, init=False)
    _over_since_s: float | None = field(default=None, init=False)

    def run(self, num_workers: int) -> optuna.Study:
        storage = open_storage(self.url)
        be_patient(storage, say=self.display.message, stop=lambda: self.interrupts.requested)
        with contextlib.ExitStack() as stack:
            try:
                # Of a study that does not exist, the first worker finds out what it is measured on.
                if not self._opened(storage, stack):
                    self._start(0)
                while self._study is None and self._error is None:
                    self._look()
                    self._opened(storage, stack)
                for index in range(num_workers):
                    if not self._is_over() and self._over_since_s is None and index not in self._working.values():
                        self._start(index)
                while self._working and not self._is_over():
                    self._look()
            finally:
                self._end()
                self._tell()
        if self._error is not None:
            raise self._error
        assert self._study is not None
        return self._study

    def _opened(self, storage: BaseStorage, stack: contextlib.ExitStack) -> bool:
        """Whether the study exists; opens it as soon as it does."""
        if self.config.name not in optuna.get_all_study_names(storage):
            return False
        attributes = optuna.load_study(study_name=self.config.name, storage=storage).user_attrs
        if "config" not in attributes:
            return False  # it is just being made; what somebody else made, the first worker refuses
        self._study = open_study(self.config, storage, attributes["device"])
        self._ended = {trial.number for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()}
        stack.callback(Annotator(study=self._study, artifacts=artifact_folder(self._study._storage)).finish)
        stack.enter_context(self.display.running(self.config.name, attributes["device"], self.config))
        return True

    def _start(self, index: int) -> None:
        import ray

        name, each = self.resource
        kinds = {"GPU": "num_gpus", "CPU": "num_cpus"}
        needs: dict[str, Any] = {kinds[name]: each} if name in kinds else {"resources": {name: each}}
        # Ray would try a lost task again by itself, and would not know when that has no sense any more.
        task = ray.remote(**({"num_cpus": 0} | needs), max_retries=0)(work)
        self._working[task.remote(self._assignment())] = index

    def _assignment(self) -> Assignment:
        return Assignment(
            config=self.config.plain(),
            storage=self.url,
            creates=self._study is None,
            deadline_unix_s=self.deadline_unix_s,
            folder=os.getcwd(),
            cache=None if self.cache is None else str(self.cache),
            resource=self.resource,
        )

    def _look(self) -> None:
        """Waits a moment, hears workers that have ended, and shows what is new in the study."""
        import ray

        # Not interrupted on the way: `ray.wait` can't pass an exception of a signal's handler on.
        ended, _ = ray.wait(list(self._working), num_returns=1, timeout=LOOK_S)
        if self.interrupts.requested:
            raise KeyboardInterrupt
        self._tell()
        for task in ended:
            index = self._working.pop(task)
            try:
                end = ray.get(task)
            except ray.exceptions.RayError as error:
                self._lost(index, _reason(error))
            else:
                self._hear(index, end)

    def _hear(self, index: int, end: dict[str, str]) -> None:
        if "interrupted" in end:
            self._lost(index, end["interrupted"])
            return
        if "other_device" in end:
            self._left_out(index, end)
            return
        # What one worker finds, the others will find too.
        self._over_since_s = self._over_since_s or time.monotonic()
        if "refused" in end:
            self._error = self._error or TradeoffError(end["refused"])
        elif "failed" in end:
            self._error = self._error or StudyFailed(end["failed"])

    def _left_out(self, index: int, end: dict[str, str]) -> None:
        """Goes on without a worker on a node with another device, as long as there are others."""
        if self._over_since_s is not None:
            return
        if self._study is None or not self._working:
            self._error = TradeoffError(end["other_device"])
            return
        self.display.message(f"worker {index} on {end['node']} is left out: {end['other_device']}")

    def _lost(self, index: int, why: str) -> None:
        self._losses += 1
        if self._over_since_s is not None:
            return
        if self._losses >= MAX_LOSSES_IN_A_ROW:
            self._error = WorkersDied(f"{self._losses} workers in a row were lost before a trial ended; the last one: {why}")
            self._over_since_s = time.monotonic()
            return
        self.display.message(f"worker {index} was lost and is started again: {why}")
        self._start(index)

    def _tell(self) -> None:
        """Shows the trials that have ended since the last time."""
        if self._study is None:
            return
        records = self._records()
        for record in records:
            if record.outcome is not None and record.number not in self._ended:
                self._ended.add(record.number)
                self._losses = 0
                self.display.trial_ended(record)
        self.display.trials(records)

    def _records(self) -> list[TrialRecord]:
        assert self._study is not None
        return [
            read_record(trial, self.config.objectives, num_devices=self.config.devices_per_trial)
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def _is_over(self) -> bool:
        """Whether no worker has anything to do any more: one has ended or time is up, no trial runs, and all could see it."""
        if self._error is not None:
            return True
        if self.deadline_unix_s is not None and time.time() >= self.deadline_unix_s:
            # Those that still wait for a place would begin nothing.
            self._over_since_s = self._over_since_s or time.monotonic()
        if self._over_since_s is None or self._study is None:
            return False
        if self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._over_since_s = time.monotonic()
        return time.monotonic() - self._over_since_s >= LAST_WORDS_S

    def _end(self) -> None:
        """Ends all workers, in order as far as they can; those that wait for a place never begin."""
        import ray

        for force in (False, True):
            for task in self._working:
                ray.cancel(task, force=force)
            _, left = ray.wait(list(self._working), num_returns=len(self._working), timeout=60) if self._working else ([], [])
            self._working = {task: self._working[task] for task in left}


def _reason(error: Exception) -> str:
    """Why a worker was lost, in a line: the last one where it is a traceback."""
    import ray

    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0].strip()


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to a cluster; to one of this machine's own, which ends with it."""
    # Read when Ray is imported: it would send its makers how it is used.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        # Despite its name: whether Ray listens for other machines, or on the loopback address alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray's workers give way to everything else by default: times would be those of what is left over.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError:
        raise TradeoffError("--ray needs the Python package ray, which is not installed: pip install 'tradeoff[ray]'") from None
    _check_answers(address)
    was_there = ray.is_initialized()
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        settings |= {"include_dashboard": False, "num_gpus": len(visible_devices().names)}
    try:
        if not was_there:
            ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise TradeoffError(f"the Ray cluster at {address} can't be reached: {why}") from error
    try:
        yield
    finally:
        if not was_there:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuses an address where nothing listens: Ray itself would try for minutes."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise TradeoffError(
            f"the Ray cluster at {address} can't be reached: {error}; name its address as `ray status` or its head node does"
        ) from error


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _share(
    config: StudyConfig, nodes: Sequence[dict[str, Any]], resource: str | None, workers: int | None, *, is_local: bool
) -> tuple[str, float]:
    """The resource that workers are placed by, and how much of it each has."""
    if resource is not None:
        return resource, config.devices_per_trial
    has_cards = any(node["Resources"].get("GPU", 0) > 0 for node in nodes)
    if has_cards or not is_local:
        return "GPU", config.devices_per_trial
    return "CPU", max(1, int(nodes[0]["Resources"].get("CPU", 1)) // (workers or 1))


def _no_place(name: str, each: float, nodes: Sequence[dict[str, Any]], *, is_named: bool) -> str:
    most = max((node["Resources"].get(name, 0) for node in nodes), default=0)
    if most:
        return f"devices_per_trial must not exceed the {name} of one node of the Ray cluster, {most:g}, got {each:g}"
    remedy = (
        "start its nodes with that resource" if is_named else "name the resource that stands for devices: --ray-resource NAME"
    )
    return f"no node of the Ray cluster has the resource {name}; {remedy}"


def _check_reachable(url: str, nodes: Sequence[dict[str, Any]]) -> None:
    """Refuses a SQLite file where workers may be on other machines."""
    if not url.startswith("sqlite"):
        return
    elsewhere = sorted({node["NodeManagerHostname"] for node in nodes} - {socket.gethostname()})
    if elsewhere:
        raise TradeoffError(
            f"{masked(url)} is a file of this machine, and the Ray cluster has nodes on {', '.join(elsewhere)}: keep the study"
            " on PostgreSQL or MySQL, with --storage URL"
        )


def _absolute(url: str) -> str:
    """A SQLite file's URL with its whole path: a worker's folder is another one."""
    prefix, separator, path = url.partition(":///")
    return f"{prefix}{separator}{Path(path).absolute()}" if prefix.startswith("sqlite") else url
