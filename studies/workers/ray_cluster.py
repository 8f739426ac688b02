"""`tradeoff run --ray`: a study's workers on the nodes of a Ray cluster, one for each `devices_per_trial` GPUs.

Ray places the workers and notices when one is lost. A worker that finds no place waits in Ray's queue, until a node joins or
the study ends.
"""

import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from tenacity import Retrying, stop_after_attempt

from tradeoff.objectives.device.registry import visible_devices
from tradeoff.objectives.device.temporary_folder import temporary_folder
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.storage.urls import is_loopback, masked, storage_url
from tradeoff.studies.workers.ray_pool import RayWorkerPool
from tradeoff.studies.workers.study_run import StudyRun, deadline_after

LOCAL = "local"
START_S = 120  # how long a Ray of this machine's own may take until its first process answers
CONNECT_S = 10.0
# The path of a Unix socket has 107 bytes at most, of which Ray needs some 73 and a directory's own name 13.
_MAX_PARENT = 20


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
    """Create the study of `config`, or resume it, on a Ray cluster.

    Args:
        config: The study.
        address: A cluster's address as `ray.init` takes it, or "local" for a Ray of this machine's own.
        storage: A database URL that every node reaches, or on one machine the path of a SQLite file.
        resource: The resource that stands for devices; default: GPU, or on a machine of its own without GPUs its CPUs.
        workers: The largest number of trials that run at a time; None for as many as the cluster has places for.
        timeout_s: No trial is started after this many seconds.
        display: Where progress is shown; nowhere by default.
        cache: Where prepared data is kept on every node; None for each node's default.

    Returns:
        The study.

    Raises:
        TradeoffError: Ray is not installed or not there, the cluster lacks the resource, or the study can't run as it is
            written.
        StudyFailed: Five trials in a row failed, or workers are lost again and again, and no trial ends in between.
        KeyboardInterrupt: The user stopped it.
    """
    if workers is not None and workers < 1:
        raise TradeoffError(f"workers must be at least 1, got {workers}")
    display, interrupts, deadline_s = display or Display(), Interrupts(), deadline_after(timeout_s)
    url = _absolute(storage_url(storage))
    host = address.rpartition("://")[2].rpartition(":")[0].strip("[]")
    _say_if_open(display, [host] if host else [])
    # Ray takes SIGTERM over when it connects.
    with interrupts.handled(), _own_directory(address), _connected(address), interrupts.handled():
        nodes = _nodes()
        if not host or is_loopback(host):
            _say_if_open(display, [node["NodeManagerAddress"] for node in nodes])
        name, each = _share(config, nodes, resource, workers, is_local=address == LOCAL)
        _check_reachable(url, nodes)
        num_places = sum(int(node["Resources"].get(name, 0) // each) for node in nodes)
        if num_places == 0:
            raise TradeoffError(_no_place(name, each, nodes, is_named=resource is not None))
        display.message(
            f"Ray: {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'} with places for {num_places}"
            f" {'worker' if num_places == 1 else 'workers'} ({each:g} {name} each)"
        )
        run = StudyRun.of(config, url, display=display, interrupts=interrupts, cache=cache, deadline_s=deadline_s)
        return RayWorkerPool(run=run, resource=(name, each), num_workers=num_places if workers is None else workers).work()


@contextlib.contextmanager
def _own_directory(address: str) -> Iterator[None]:
    """Give a Ray of this machine's own its own directory for the block: its default, /tmp/ray, is shared by all users."""
    if address != LOCAL or "RAY_TMPDIR" in os.environ:
        yield
        return
    shared = Path(tempfile.gettempdir())
    with temporary_folder("ray-", shared if len(str(shared)) <= _MAX_PARENT else Path("/tmp")) as folder:
        os.environ["RAY_TMPDIR"] = str(folder)
        try:
            yield
        finally:
            del os.environ["RAY_TMPDIR"]


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to a cluster, or to one of this machine's own, which ends with the block."""
    # Read when Ray is imported: it would report usage statistics.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(START_S))
        # Despite its name, it decides whether Ray listens for other machines, or on the loopback address alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray's workers give way to everything else by default: times would be those of what is left over.
        os.environ.setdefault("RAY_worker_niceness", "0")
        if "ray" not in sys.modules:
            # Every user of the machine reaches its ports, and may be able to read the file of the token that Ray would make.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
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
            # On a busy machine some part of a new Ray may not be up within the half minute that Ray gives it.
            attempts = stop_after_attempt(2 if address == LOCAL else 1)
            with _hangups_ignored():
                Retrying(stop=attempts, before_sleep=lambda _: ray.shutdown(), reraise=True)(
                    ray.init, address=address, **settings
                )
    except Exception as error:  # a node that is not up in time is an `Exception` and nothing more
        why = str(error).strip().splitlines()[0]
        raise TradeoffError(f"the Ray cluster at {address} can't be reached: {why}") from error
    try:
        yield
    finally:
        if not was_there:
            ray.shutdown()


@contextlib.contextmanager
def _hangups_ignored() -> Iterator[None]:
    """Let processes that start in the block outlive the terminal: workers need their Ray to be stopped in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise TradeoffError(
            f"the Ray cluster at {address} can't be reached: {error}; name its address as `ray status` or its head node does"
        ) from error


def _say_if_open(display: Display, hosts: Sequence[str]) -> None:
    """Warn of a cluster with hosts that other machines reach."""
    if elsewhere := sorted({host for host in hosts if not is_loopback(host)}):
        display.message(
            f"tradeoff: the Ray cluster at {', '.join(elsewhere)} is not on the loopback address: whoever reaches its ports can"
            " run any code as its user, unless it asks for a token; keep it within a private network, with RAY_AUTH_MODE=token"
        )


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _share(
    config: StudyConfig, nodes: Sequence[dict[str, Any]], resource: str | None, workers: int | None, *, is_local: bool
) -> tuple[str, float]:
    """Return the resource that workers are placed by, and how much of it each has."""
    if resource is not None:
        return resource, config.devices_per_trial
    has_gpus = any(node["Resources"].get("GPU", 0) > 0 for node in nodes)
    if has_gpus or not is_local:
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
    """Refuse a SQLite file if workers may be on other machines."""
    if not url.startswith("sqlite"):
        return
    elsewhere = sorted({node["NodeManagerHostname"] for node in nodes} - {socket.gethostname()})
    if elsewhere:
        raise TradeoffError(
            f"{masked(url)} is a file of this machine, and the Ray cluster has nodes on {', '.join(elsewhere)}: keep the study"
            " on PostgreSQL or MySQL, with --storage URL"
        )


def _absolute(url: str) -> str:
    """Return a SQLite file's URL with its whole path: a worker's working directory is another one."""
    prefix, separator, path = url.partition(":///")
    return f"{prefix}{separator}{Path(path).absolute()}" if prefix.startswith("sqlite") else url
