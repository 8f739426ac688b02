"""The warm server: a process that has imported torch and transformers once, and forks a fresh process for each trial.

Importing the libraries takes seconds, a fork takes milliseconds, and every trial still starts from the same untouched state.
The server itself computes nothing and never initialises CUDA, because a CUDA context does not survive a fork.

`TrialServer` starts it as `python -m tradeoff.objectives.isolation.warm_server FD`. Over that socket it receives the number of
a process to start, with file descriptors: the process's channel and its log. It sends a message when it is ready, and when a
process has started or ended. The request and the outcome go over the process's own channel. When the parent is gone, the socket
closes, and the server kills its trials: no orphan is left, whatever killed the parent. What a trial has started becomes the
server's child once its own parent ends (Linux: prctl(2), PR_SET_CHILD_SUBREAPER), in whichever session it is, and is killed
when no trial runs any more.

A trial on several devices is several such processes, a rank each, with a channel each. The first one gets a third descriptor,
the socket on which the others find it. They are forked here and not launched by torchrun because a rank then starts in
milliseconds instead of the seconds of its imports, and because the parent can follow each rank. That is sound: this process has
initialised neither CUDA nor a process group, has no other thread, and a rank reads its number and its device from its request,
as torchrun's ranks do from their environment.

`multiprocessing`'s forkserver is not used because its children import the parent's main module again, which costs a trial
the import of the command and demands a `__main__` guard of every user's script.
"""

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Annotated, Literal

import psutil
from pydantic import Discriminator, TypeAdapter

from tradeoff.objectives.isolation.endings import kill
from tradeoff.objectives.trial.messages import REQUEST, Channel

# Imported before the first fork: what a trial needs up to its first optimizer step. torch would import `_dynamo` at that step.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.trainer",
    "datasets",
    "evaluate",
    "tradeoff.objectives.trial.worker",
)
# How long what an ended trial has left behind is killed, if it starts processes faster than they end.
_ORPHANS_LIMIT_S = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Everything is imported."""

    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The process with the parent's number `identifier` has started."""

    identifier: int
    pid: int
    kind: Literal["started"] = "started"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exited:
    """The process with the parent's number `identifier` has ended, with a status as in `subprocess`: -9 is SIGKILL."""

    identifier: int
    status: int
    max_rss_mib: float
    kind: Literal["exited"] = "exited"


FromServer = Annotated[Ready | Started | Exited, Discriminator("kind")]
FROM_SERVER: TypeAdapter[Ready | Started | Exited] = TypeAdapter(FromServer)


def server_environment(base: dict[str, str]) -> dict[str, str]:
    """Return the environment in which the server may import torch and fork.

    torch counts the GPUs through NVML, because counting them through CUDA would initialise it. Tokenizers and
    numerical libraries are kept from starting threads, which a fork would lose.
    """
    return base | {
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": base.get("TRANSFORMERS_VERBOSITY", "warning"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
        # OpenMP threads spin for milliseconds while they wait, which slows a step down fifty times as soon as anything else
        # runs on the cores; not spinning at all triples a small step. A spin of microseconds costs a tenth and a factor of two.
        "GOMP_SPINCOUNT": base.get("GOMP_SPINCOUNT", "2000"),
        # cuBLAS repeats its results only with such a workspace, set before CUDA starts: 32 MiB, Hopper's default, and 24 MiB
        # more than the default of earlier GPUs (docs.nvidia.com/cuda/cublas, "Results reproducibility").
        "CUBLAS_WORKSPACE_CONFIG": base.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
    }


@dataclass
class _Server:
    parent: socket.socket
    identifiers: dict[int, int] = field(default_factory=dict)  # by process id

    def __post_init__(self) -> None:
        self.channel = Channel(self.parent.dup(), REQUEST)

    def serve(self) -> None:
        """Start and reap trials until the parent is gone."""
        # A SIGCHLD wakes the loop through this pipe; reaping in the handler itself would race with a fork.
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self.parent, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            self._send(Ready())
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.parent:
                        if not self._receive((wake_read, wake_write)):
                            return
                    else:
                        os.read(wake_read, 4096)
                        self._reap()

    def _receive(self, descriptors: tuple[int, ...]) -> bool:
        try:
            data, passed, _, _ = socket.recv_fds(self.parent, 4096, 8)
        except ConnectionError:
            return False
        if not data:
            return False
        channel, log, *listener = passed
        pid = os.fork()
        if pid == 0:
            for descriptor in descriptors:
                os.close(descriptor)
            self._become_trial(channel, log, listener)
        for descriptor in passed:
            os.close(descriptor)
        self.identifiers[pid] = int(data)
        self._send(Started(identifier=int(data), pid=pid))
        return True

    def _become_trial(self, channel: int, log: int, listener: list[int]) -> None:
        """Run the trial in the forked process, and exit without the server's clean-up."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.parent.close()
            self.channel.close()
            os.setsid()  # one group for the trial and its data loaders, so that all can be ended at once
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with the server even if that is killed
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            from tradeoff.objectives.trial.worker import answer

            connection = Channel(socket.socket(fileno=channel), REQUEST)
            status = answer(connection, socket.socket(fileno=listener[0]) if listener else None)
        except BaseException:  # noqa: BLE001  nothing above would print it, and the log is all that the parent gets
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Skips interpreter shutdown: it would run the server's exit handlers and take a tenth of a second.
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, raw, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (identifier := self.identifiers.pop(pid, None)) is None:
                continue  # somebody's orphan
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # data loaders of a trial that was killed
            if all(other < 0 for other in self.identifiers.values()):
                self._end_orphans()
            status = os.waitstatus_to_exitcode(raw)
            # Linux counts ru_maxrss in KiB.
            self._send(Exited(identifier=identifier, status=status, max_rss_mib=usage.ru_maxrss / 1024))

    def _send(self, message: Ready | Started | Exited) -> None:
        # A parent that is gone is noticed by the next read.
        with contextlib.suppress(ConnectionError):
            self.channel.send(message)

    def end_trials(self) -> None:
        """Kill the trials that still run, and what they have started."""
        for pid in self.identifiers:
            kill(pid)
        self.identifiers.clear()
        self._end_orphans()

    def _end_orphans(self) -> None:
        """Kill the children that this process has not started, and theirs, until there are none."""
        end_s = time.monotonic() + _ORPHANS_LIMIT_S
        while time.monotonic() < end_s:
            children = psutil.Process().children()
            orphans = [child for child in children if child.pid not in self.identifiers]
            if not orphans:
                return
            for orphan in orphans:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for process in (orphan, *orphan.children(recursive=True)):
                        _kill_with_group(process.pid)
                os.waitpid(orphan.pid, os.WNOHANG)
            time.sleep(0.001)


def _kill_with_group(pid: int) -> None:
    """Kill a process that is not ours to wait for, and its group, which can't start another one meanwhile."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if (group := os.getpgid(pid)) != os.getpgrp():
            os.killpg(group, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)


_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def _prctl(option: int, value: int) -> None:
    """Ask the kernel for something that concerns this process; it exists on Linux alone."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value)


def main(descriptor: int, modules: tuple[str, ...]) -> None:
    """Import `modules`, then serve on the socket `descriptor` until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Trials inherit this socket only until they have started; an exec'd data loader must not hold it open.
    os.set_inheritable(descriptor, False)
    for module in modules:
        importlib.import_module(module)
    # Everything imported so far is permanent: left out of garbage collection, a trial's first collection takes
    # milliseconds instead of most of a second, and the pages stay shared.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=descriptor) as parent:
        server = _Server(parent)
        try:
            server.serve()
        finally:
            server.end_trials()


if __name__ == "__main__":
    main(int(sys.argv[1]), (*PRELOADED, *sys.argv[2:]))
