"""Starts each trial in a process of its own, and turns whatever becomes of that process into an outcome.

A trial that crashes in native code, is killed, hangs, or eats all memory takes only itself down. What it measured before is
kept: the process sends it as it goes.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tradeoff.objectives.device.kernel_kills import KernelKillWatch
from tradeoff.objectives.isolation.background import BackgroundTask
from tradeoff.objectives.isolation.endings import Ended, crashed_at_the_limit, how_it_ended, measurements_of, outcome_of
from tradeoff.objectives.isolation.following import Followed, Progress, first_to_go, follow, of_ranks
from tradeoff.objectives.isolation.warm_server import server_environment
from tradeoff.objectives.measurements.outcome import Interrupted
from tradeoff.objectives.trial.ranks import LOOPBACK

_SERVER_START_LIMIT_S = 300
# A server that is killed, even while it imports, is started again; one that is killed this often in a row is not.
_MAX_SERVER_STARTS = 3


class WorkerError(RuntimeError):
    """A process of ours ended without an answer to a request that is not a trial."""


class ProcessKilledError(WorkerError):
    """It was killed, or the server was with it: nothing is wrong with what was asked, and another try may succeed."""


class JobError(ValueError):
    """The job can't be run as the user wrote it: a sentence with the rule, the value and the remedy."""


class TrialServer:
    """Runs requests in fresh processes forked from a warm server.

    The server is started on first use and again if it dies. One server runs one request at a time, and beside it what
    `start_task` has started.

    Example:
        >>> with TrialServer() as server:  # doctest: +SKIP
        ...     server.describe_device()

    Args:
        environment: Variables for the server and its trials, over this process's own. `CUDA_VISIBLE_DEVICES` here chooses
            the card.
        modules: Further modules to import before forking, such as the one that defines the model.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None, modules: tuple[str, ...] = ()) -> None:
        self._environment = dict(environment or {})
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ready = False
        self._unread = b""
        self._next_identifier = 0
        self._ends: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Starts the server without waiting for it: the imports run while the caller does something else."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: the working folder must not shadow the libraries (a user's evaluate.py, a folder called datasets).
                [sys.executable, "-P", "-m", "tradeoff.objectives.isolation.warm_server", str(theirs.fileno()), *self._modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=server_environment({**os.environ, **self._environment}),
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the trial in order
            )
        self._socket, self._ready, self._unread = ours, False, b""

    def close(self) -> None:
        """Ends the server and whatever it runs."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            if not self._ready:
                self._process.kill()  # it still imports, and would not see the closed socket for seconds
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def describe_device(self) -> dict[str, Any]:
        """The device that trials will run on, as `tradeoff.objectives.device.devices.DeviceInfo.as_dict` gives it."""
        return dict(self._request({"task": "describe"}))

    def prepare(self, job: Mapping[str, Any], cache_folder: Path, on_progress: Progress | None = None) -> dict[str, Any]:
        """Loads and tokenises a job's data once.

        Returns:
            The folder and the facts that `tradeoff.objectives.trainers.prepared_data.PreparedData` holds, as plain data.

        Raises:
            JobError: The data or the model can't be used as the job says.
        """
        return dict(self._request({"task": "prepare", "job": dict(job), "cache_folder": str(cache_folder)}, on_progress))

    def start_task(self, request: Mapping[str, Any]) -> BackgroundTask:
        """Starts a task that is no trial beside whatever runs next; it ends with the server at the latest.

        Raises:
            ConnectionError: The server died, and so did those that were started in its place.
            WorkerError: No server can be started.
        """
        with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
            process = self._fork_on_a_living_server(Ended(), stack, log.fileno(), None)
            process.channel.sendall(json.dumps(request).encode() + b"\n")
            # The stack closes the socket, whatever happens; the task has its own end of it.
            return BackgroundTask(process.channel.dup(), process.pid)

    def run_trial(
        self,
        request: Mapping[str, Any],
        *,
        time_limit_s: float | None = None,
        on_progress: Progress | None = None,
        log_path: Path | None = None,
    ) -> Any:
        """Runs one trial to an `Outcome`; it raises for nothing that a trial can do.

        Args:
            request: The job, the parameters and the stages, as the worker reads them, and `num_ranks`, the number of processes
                that run them together, 1 by default.
            time_limit_s: After this long the trial is ended as `TimedOut`.
            on_progress: Called with each stage and step as they are reported.
            log_path: Where the trial's own output goes; a temporary file if None.
        """
        watch = KernelKillWatch()
        ranks = [Ended() for _ in range(request.get("num_ranks", 1))]
        speaker = 0
        try:
            # Made and removed on this side, so that a trial that is killed leaves nothing behind.
            with tempfile.TemporaryDirectory(prefix="tradeoff-") as folder:
                whole = {"task": "trial", "folder": folder, **request}
                speaker = self._run(whole, ranks, time_limit_s, on_progress, log_path)
                if crashed_at_the_limit(whole, ranks[speaker]):
                    # Native code, oneDNN's for one, crashes where a mapping fails. Without the limit the meter can judge.
                    ranks = [Ended() for _ in ranks]
                    speaker = self._run({**whole, "enforced": False}, ranks, time_limit_s, on_progress, log_path)
        except KeyboardInterrupt:
            # A trial that was through when the user pressed Ctrl-C has its outcome, and that is kept.
            if any(ended.answer("outcome") is None for ended in ranks):
                return Interrupted(stage=ranks[0].stage, measurements=measurements_of(ranks[0]))
        outcome = outcome_of(ranks[speaker], watch, time_limit_s)
        return outcome if len(ranks) == 1 else of_ranks(outcome, speaker, ranks)

    def _request(self, request: dict[str, Any], on_progress: Progress | None = None) -> Any:
        ended = Ended()
        self._run(request, [ended], None, on_progress, None)
        if (error := ended.answer("error")) is not None:
            raise JobError(error)
        if (answer := ended.answer("answer")) is None:
            kind = ProcessKilledError if ended.status is None or ended.status < 0 else WorkerError
            raise kind(f"the process of the task {request['task']!r} {how_it_ended(ended)}\n{ended.log_tail}".strip())
        return answer

    def _run(
        self,
        request: Mapping[str, Any],
        ranks: Sequence[Ended],
        time_limit_s: float | None,
        on_progress: Progress | None,
        log_path: Path | None,
    ) -> int:
        """Runs a request in a process for each of `ranks`, and returns the one that speaks for them."""
        self._ends.clear()
        begin, speaker = time.perf_counter(), 0
        processes: list[Followed] = []
        with log_path.open("w+b") if log_path else tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
            try:
                for part, listener in _parts(request, len(ranks), stack):
                    # A server that dies once a rank runs has taken that with it.
                    fork = self._fork if processes else self._fork_on_a_living_server
                    processes.append(fork(ranks[len(processes)], stack, log.fileno(), listener))
                    # The clock of a trial starts when its process does, not while the server still imports.
                    begin = time.perf_counter()
                    processes[-1].channel.sendall(json.dumps(part).encode() + b"\n")
                follow(processes, None if time_limit_s is None else begin + time_limit_s, on_progress)
                speaker = first_to_go(ranks)
            except ConnectionError:
                # A process, or the server with all of them, is gone: how it ended says the rest.
                speaker = max(0, len(processes) - 1)
            finally:
                # One that has ended by itself is reaped; whatever else runs has lost its sense.
                for process in processes:
                    if not process.ended.closed:
                        _kill(process.pid)
                for process in processes:
                    self._wait(process)
                    process.drain()
                log.seek(0)
                log_tail = log.read()[-4000:].decode(errors="replace").strip()
                for ended in ranks:
                    ended.elapsed_s, ended.log_tail = time.perf_counter() - begin, log_tail
        return speaker

    def _fork_on_a_living_server(
        self, ended: Ended, stack: contextlib.ExitStack, log: int, listener: socket.socket | None
    ) -> Followed:
        for _ in range(_MAX_SERVER_STARTS - 1):
            self.start()
            try:
                return self._fork(ended, stack, log, listener)
            except ConnectionError:
                # It died since the last request. The system may call a killed process running until its last thread is gone.
                self.close()
        self.start()
        return self._fork(ended, stack, log, listener)

    def _fork(self, ended: Ended, stack: contextlib.ExitStack, log: int, listener: socket.socket | None) -> Followed:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            identifier, pid = self._start_process(theirs, log, listener)
        return Followed(channel=ours, ended=ended, identifier=identifier, pid=pid)

    def _start_process(self, channel: socket.socket, log: int, listener: socket.socket | None = None) -> tuple[int, int]:
        """Starts a process, and returns the server's number of it and its process id."""
        while not self._ready:
            message = self._read(time.perf_counter() + _SERVER_START_LIMIT_S)
            if message is None:
                raise self._why_not_ready()
            self._ready = "ready" in message
        assert self._socket is not None
        self._next_identifier += 1
        descriptors = [channel.fileno(), log, *([] if listener is None else [listener.fileno()])]
        socket.send_fds(self._socket, [json.dumps({"start": self._next_identifier}).encode()], descriptors)
        while (message := self._read(time.perf_counter() + _SERVER_START_LIMIT_S)) is not None:
            if message.get("started") == self._next_identifier:
                return self._next_identifier, int(message["pid"])
        raise ConnectionResetError("the server ended before the process started")

    def _why_not_ready(self) -> Exception:
        """The error of a server that went, or said nothing for minutes, before it had imported everything."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(timeout=5) < 0:
                return ConnectionResetError("the server was killed while it was importing")
        return WorkerError("the process that imports torch and transformers ended or hung; its error is above")

    def _wait(self, process: Followed) -> None:
        """Waits until the server has reaped a process."""
        while process.identifier not in self._ends:
            if self._socket is None or self._read(time.perf_counter() + 30) is None:
                # The server itself is gone, and its trials with it; the next request starts another.
                self.close()
                return
        message = self._ends[process.identifier]
        process.ended.status, process.ended.max_rss_mib = message["status"], message["max_rss_mib"]

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """The server's next message, or None if it closed or said nothing until the deadline."""
        assert self._socket is not None
        while b"\n" not in self._unread:
            if not select.select([self._socket], [], [], max(0.0, deadline - time.perf_counter()))[0]:
                return None
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "ended" in message:  # of a rank, perhaps while another one is being started
            self._ends[message["ended"]] = message
        return message


def _parts(
    request: Mapping[str, Any], num_ranks: int, stack: contextlib.ExitStack
) -> Iterator[tuple[Mapping[str, Any], socket.socket | None]]:
    """What each rank is asked, and for the first one the socket on which the others find it."""
    if num_ranks == 1:
        yield request, None
        return
    # Bound here and passed on: between choosing a free port and listening on it, nobody else can take it.
    listener = stack.enter_context(socket.socket())
    listener.bind((LOOPBACK, 0))
    for rank in range(num_ranks):
        yield {**request, "rank": rank, "port": listener.getsockname()[1]}, listener if rank == 0 else None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    # Before the trial has called setsid there is no such group yet.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
