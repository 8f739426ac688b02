"""Starts each trial in a process of its own, and turns the end of that process into an outcome.

A trial that crashes in native code, is killed, hangs, or exhausts the memory takes only itself down. What it measured before is
kept, because the process sends it as it goes.
"""

import contextlib
import os
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
from tradeoff.objectives.isolation.endings import (
    ProcessResult,
    crashed_at_the_limit,
    how_it_ended,
    kill,
    measurements_of,
    outcome_of,
)
from tradeoff.objectives.isolation.following import Followed, OnProgress, first_to_go, follow, of_ranks
from tradeoff.objectives.isolation.warm_server import FROM_SERVER, Exited, Ready, Started, server_environment
from tradeoff.objectives.measurements.outcome import Interrupted, Outcome
from tradeoff.objectives.trial.messages import FROM_TRIAL, Answer, Channel, Refusal
from tradeoff.objectives.trial.ranks import LOOPBACK

_SERVER_START_LIMIT_S = 300
# A server that is killed, even while it imports, is started again; one that is killed this often in a row is not.
_MAX_SERVER_STARTS = 3


class WorkerError(RuntimeError):
    """A process ended without a reply to a request that is not a trial."""


class ProcessKilledError(WorkerError):
    """It was killed, or the server was with it: nothing is wrong with the request, and another try may succeed."""


class JobError(ValueError):
    """The job can't be run as the user wrote it: a sentence with the rule, the value and the remedy."""


class TrialServer:
    """Runs requests in fresh processes forked from a warm server.

    The server is started on first use and again if it dies. One server runs one request at a time, and beside it the tasks of
    `start_task`.

    Example:
        >>> with TrialServer() as server:  # doctest: +SKIP
        ...     server.describe_device()

    Args:
        environment: Variables for the server and its trials, over this process's own. `CUDA_VISIBLE_DEVICES` here chooses
            the GPU.
        modules: Further modules to import before forking, such as the one that defines the model.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None, modules: tuple[str, ...] = ()) -> None:
        self._environment = dict(environment or {})
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None
        # Numbers go to the server with file descriptors, over the socket itself; its messages arrive framed.
        self._socket: socket.socket | None = None
        self._channel: Channel[Ready | Started | Exited] | None = None
        self._ready = False
        self._next_identifier = 0
        self._exits: dict[int, Exited] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the server without waiting for it: the imports run while the caller does something else."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: the working directory must not shadow the libraries (a user's evaluate.py, a directory named datasets).
                [sys.executable, "-P", "-m", "tradeoff.objectives.isolation.warm_server", str(theirs.fileno()), *self._modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=server_environment({**os.environ, **self._environment}),
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the trial in order
            )
        self._socket, self._channel, self._ready = ours, Channel(ours.dup(), FROM_SERVER), False

    def close(self) -> None:
        """End the server and whatever it runs."""
        if self._socket is not None and self._channel is not None:
            self._socket.close()
            self._channel.close()
            self._socket = self._channel = None
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
        """Return the device that trials will run on, as `tradeoff.objectives.device.base.DeviceInfo.as_dict` does."""
        return self._request({"task": "describe"})

    def prepare(
        self,
        job: Mapping[str, Any],
        cache_folder: Path,
        on_progress: OnProgress | None = None,
        *,
        searched: Mapping[str, Sequence[Any]] | None = None,
    ) -> dict[str, Any]:
        """Load and tokenise a job's data once, and try the job out.

        Args:
            job: The job.
            cache_folder: The directory for prepared data.
            on_progress: Called with each stage.
            searched: The values of each knob, to be tried out; None to try nothing out.

        Returns:
            The directory and the facts, as `tradeoff.objectives.trainers.preparation.prepare_workload` returns them.

        Raises:
            JobError: The data or the model can't be used as the job says.
        """
        request = {"task": "prepare", "job": dict(job), "cache_folder": str(cache_folder)}
        if searched is not None:
            request["searched"] = {name: list(values) for name, values in searched.items()}
        return self._request(request, on_progress)

    def start_task(self, request: Mapping[str, Any]) -> BackgroundTask:
        """Start a task that is not a trial beside whatever runs next; it ends with the server at the latest.

        Raises:
            ConnectionError: The server died, and so did those that were started in its place.
            WorkerError: No server can be started.
        """
        with tempfile.TemporaryFile() as log:
            process = self._fork_on_a_living_server(ProcessResult(), log.fileno(), None)
        process.channel.send(dict(request))
        return BackgroundTask(process.channel, process.pid)

    def run_trial(
        self,
        request: Mapping[str, Any],
        *,
        time_limit_s: float | None = None,
        on_progress: OnProgress | None = None,
        log_path: Path | None = None,
    ) -> Outcome:
        """Run one trial to its outcome; nothing that a trial can do raises.

        Args:
            request: The job, the parameters and the stages, as the worker reads them, and `num_ranks`, the number of processes
                that run them together, 1 by default.
            time_limit_s: After this long the trial is ended as `TimedOut`.
            on_progress: Called with each stage and step as they are reported.
            log_path: Where the trial's own output goes; a temporary file if None.
        """
        watch = KernelKillWatch()
        ranks = [ProcessResult() for _ in range(request.get("num_ranks", 1))]
        speaker = 0
        try:
            # Made and removed on this side, so that a trial that is killed leaves nothing behind.
            with tempfile.TemporaryDirectory(prefix="tradeoff-") as folder:
                whole = {"task": "trial", "folder": folder, **request}
                speaker = self._run(whole, ranks, time_limit_s, on_progress, log_path)
                if crashed_at_the_limit(whole, ranks[speaker]):
                    # Native code, oneDNN's for one, crashes where a mapping fails. Without the limit the meter can judge.
                    ranks = [ProcessResult() for _ in ranks]
                    speaker = self._run({**whole, "enforced": False}, ranks, time_limit_s, on_progress, log_path)
        except KeyboardInterrupt:
            # A trial that had finished when the user pressed Ctrl-C has its outcome, and that is kept.
            if any(result.outcome is None for result in ranks):
                return Interrupted(stage=ranks[0].stage, measurements=measurements_of(ranks[0]))
        outcome = outcome_of(ranks[speaker], watch, time_limit_s)
        return outcome if len(ranks) == 1 else of_ranks(outcome, speaker, ranks)

    def _request(self, request: dict[str, Any], on_progress: OnProgress | None = None) -> dict[str, Any]:
        result = ProcessResult()
        self._run(request, [result], None, on_progress, None)
        match result.reply:
            case Answer():
                return result.reply.answer
            case Refusal():
                raise JobError(result.reply.error)
        kind = ProcessKilledError if result.status is None or result.status < 0 else WorkerError
        raise kind(f"the process of the task {request['task']!r} {how_it_ended(result)}\n{result.log_tail}".strip())

    def _run(
        self,
        request: Mapping[str, Any],
        ranks: Sequence[ProcessResult],
        time_limit_s: float | None,
        on_progress: OnProgress | None,
        log_path: Path | None,
    ) -> int:
        """Run a request in a process for each of `ranks`, and return the one whose end is the trial's."""
        self._exits.clear()
        begin_s, speaker = time.perf_counter(), 0
        processes: list[Followed] = []
        with log_path.open("w+b") if log_path else tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
            try:
                for part, listener in _parts(request, len(ranks), stack):
                    # A server that dies once a rank runs has taken that with it.
                    fork = self._fork if processes else self._fork_on_a_living_server
                    process = fork(ranks[len(processes)], log.fileno(), listener)
                    stack.callback(process.channel.close)
                    processes.append(process)
                    # The clock of a trial starts when its process does, not while the server still imports.
                    begin_s = time.perf_counter()
                    process.channel.send(part)
                follow(processes, None if time_limit_s is None else begin_s + time_limit_s, on_progress)
                speaker = first_to_go(ranks)
            except ConnectionError:
                # A process, or the server with all of them, is gone: how it ended says the rest.
                speaker = max(0, len(processes) - 1)
            finally:
                # One that has ended by itself is reaped; whatever else runs is no longer needed.
                for process in processes:
                    if not process.result.closed:
                        kill(process.pid)
                for process in processes:
                    self._wait(process)
                    process.drain()
                log.seek(0)
                log_tail = log.read()[-4000:].decode(errors="replace").strip()
                for result in ranks:
                    result.elapsed_s, result.log_tail = time.perf_counter() - begin_s, log_tail
        return speaker

    def _fork_on_a_living_server(self, result: ProcessResult, log: int, listener: socket.socket | None) -> Followed:
        for _ in range(_MAX_SERVER_STARTS - 1):
            self.start()
            try:
                return self._fork(result, log, listener)
            except ConnectionError:
                # It died since the last request. The system may call a killed process running until its last thread is gone.
                self.close()
        self.start()
        return self._fork(result, log, listener)

    def _fork(self, result: ProcessResult, log: int, listener: socket.socket | None) -> Followed:
        while not self._ready:
            message = self._receive(_SERVER_START_LIMIT_S)
            if message is None:
                raise self._why_not_ready()
            self._ready = isinstance(message, Ready)
        assert self._socket is not None
        self._next_identifier += 1
        ours, theirs = socket.socketpair()
        channel = Channel(ours, FROM_TRIAL)
        with theirs:
            descriptors = [theirs.fileno(), log, *([] if listener is None else [listener.fileno()])]
            socket.send_fds(self._socket, [str(self._next_identifier).encode()], descriptors)
        while (message := self._receive(_SERVER_START_LIMIT_S)) is not None:
            if isinstance(message, Started) and message.identifier == self._next_identifier:
                return Followed(channel=channel, result=result, identifier=message.identifier, pid=message.pid)
        raise ConnectionResetError("the server ended before the process started")

    def _why_not_ready(self) -> Exception:
        """Return the error of a server that ended, or was silent for minutes, before it had imported everything."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(timeout=5) < 0:
                return ConnectionResetError("the server was killed while it was importing")
        return WorkerError("the process that imports torch and transformers ended or hung; its error is above")

    def _wait(self, process: Followed) -> None:
        """Wait until the server has reaped a process."""
        while process.identifier not in self._exits:
            if self._channel is None or self._receive(30) is None:
                # The server itself is gone, and its trials with it; the next request starts another.
                self.close()
                return
        exited = self._exits[process.identifier]
        process.result.status, process.result.max_rss_mib = exited.status, exited.max_rss_mib

    def _receive(self, timeout_s: float) -> Ready | Started | Exited | None:
        """Return the server's next message, or None if it is gone, or silent for this long."""
        assert self._channel is not None
        if not self._channel.poll(timeout_s):
            return None
        try:
            message = self._channel.receive()
        except EOFError:
            return None
        if isinstance(message, Exited):  # of a rank, perhaps while another one is being started
            self._exits[message.identifier] = message
        return message


def _parts(
    request: Mapping[str, Any], num_ranks: int, stack: contextlib.ExitStack
) -> Iterator[tuple[dict[str, Any], socket.socket | None]]:
    """Yield each rank's request, and for the first one the socket on which the others find it."""
    if num_ranks == 1:
        yield dict(request), None
        return
    # Bound here and passed on: between choosing a free port and listening on it, nobody else can take it.
    listener = stack.enter_context(socket.socket())
    listener.bind((LOOPBACK, 0))
    for rank in range(num_ranks):
        yield {**request, "rank": rank, "port": listener.getsockname()[1]}, listener if rank == 0 else None
