"""Starts each trial in a process of its own, and turns the end of that process into an outcome.

A trial that crashes in native code, is killed, hangs, or exhausts the memory takes only itself down. What it measured before is
kept, because the process sends it as it goes.
"""

import contextlib
import os
import socket
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
from tradeoff.objectives.isolation.following import Deadline, Followed, OnProgress, first_to_go, follow, of_ranks
from tradeoff.objectives.isolation.output import Output
from tradeoff.objectives.isolation.server_process import ServerProcess, WorkerError
from tradeoff.objectives.measurements.outcome import Interrupted, Outcome
from tradeoff.objectives.trial.messages import Answer, Refusal
from tradeoff.objectives.trial.ranks import LOOPBACK


class ProcessKilledError(WorkerError):
    """It was killed, or the server was with it: nothing is wrong with the request, and another try may succeed."""


class PreparationTimeoutError(WorkerError):
    """A job was not prepared in time."""


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

    Attributes:
        function: The function that a job of this program's own names, packed (`tradeoff.objectives.job.sent_function`); None
            for any other job. The server never sees it: it goes to each process that runs the job.
        log: The output of the last request's processes, without its middle if it is long.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None, modules: tuple[str, ...] = ()) -> None:
        self._server = ServerProcess(environment or {}, modules)
        self.function: bytes | None = None
        self.log = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start the server without waiting for it: the imports run while the caller does something else."""
        self._server.start()

    def close(self) -> None:
        """End the server and whatever it runs, and remove its temporary files."""
        self._server.close()

    def describe_device(self) -> dict[str, Any]:
        """Return the device that trials will run on, as `tradeoff.objectives.device.base.DeviceInfo.as_dict` does."""
        return self._request({"task": "describe"})

    def check_power_limits(self, limits_w: Sequence[float]) -> None:
        """Refuse power limits that the device can't be given.

        Raises:
            JobError: It can't be given one.
        """
        self._request({"task": "check_power_limits", "limits_w": list(limits_w)})

    def prepare(
        self,
        job: Mapping[str, Any],
        cache_folder: Path,
        on_progress: OnProgress | None = None,
        *,
        searched: Mapping[str, Sequence[Any]] | None = None,
        conditions: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
        measures_baselines: bool = False,
        time_limit_s: float | None = None,
        attempt_limit_s: float | None = None,
    ) -> dict[str, Any]:
        """Load and tokenise a job's data once, and try the job out.

        Args:
            job: The job.
            cache_folder: The directory for prepared data.
            on_progress: Called with each stage.
            searched: The values of each knob, to be tried out; None to try nothing out.
            conditions: The values that others must have for a knob to be set.
            measures_baselines: Evaluate a language model before training.
            time_limit_s: After this long it is ended; None for no limit.
            attempt_limit_s: How long it may take to load the job and try one configuration out; None for no limit.

        Returns:
            The directory and the facts, as `tradeoff.objectives.trainers.preparation.prepare_workload` returns them.

        Raises:
            JobError: The data or the model can't be used as the job says, or trying the job out took too long.
            PreparationTimeoutError: It took longer than `time_limit_s`.
        """
        request: dict[str, Any] = {"task": "prepare", "job": dict(job), "cache_folder": str(cache_folder)}
        request["measures_baselines"] = measures_baselines
        if searched is not None:
            request["searched"] = {name: list(values) for name, values in searched.items()}
            request["conditions"] = {name: dict(needed) for name, needed in (conditions or {}).items()}
        ends_s = {} if time_limit_s is None else {"all": time.perf_counter() + time_limit_s}

        def hear(event: Mapping[str, Any]) -> None:
            if event["stage"] == "probe" and attempt_limit_s is not None:
                ends_s["attempt"] = time.perf_counter() + attempt_limit_s
            if on_progress is not None:
                on_progress(event)

        try:
            return self._request(request, hear, lambda: min(ends_s.values(), default=None))
        except PreparationTimeoutError as error:
            if min(ends_s, key=ends_s.__getitem__) == "all":
                raise
            raise JobError(
                f"loading the job and trying one configuration out took longer than a trial may, limits.trial_time_s ="
                f" {attempt_limit_s:g} s; see what its code waits for, or raise that limit"
            ) from error

    def start_task(self, request: Mapping[str, Any]) -> BackgroundTask:
        """Start a task that is not a trial beside whatever runs next; it ends with the server at the latest.

        Raises:
            ConnectionError: The server died, and so did those that were started in its place.
            WorkerError: No server can be started.
        """
        with Path(os.devnull).open("wb") as log:
            process = self._server.fork(ProcessResult(), log.fileno(), is_background=True)
        process.channel.send(dict(request))
        return BackgroundTask(process.channel, process.pid)

    def run_trial(
        self,
        request: Mapping[str, Any],
        *,
        time_limit_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Outcome:
        """Run one trial to its outcome; nothing that a trial can do raises.

        Args:
            request: The job, the parameters and the stages, as the worker reads them, and `num_ranks`, the number of processes
                that run them together, 1 by default.
            time_limit_s: After this long the trial is ended as `TimedOut`.
            on_progress: Called with each stage and step as they are reported.
        """
        watch = KernelKillWatch()
        ranks = [ProcessResult() for _ in range(request.get("num_ranks", 1))]
        speaker = 0
        try:
            whole = {"task": "trial", **request}
            speaker = self._run(whole, ranks, on_progress, time_limit_s=time_limit_s)
            if crashed_at_the_limit(whole, ranks[speaker]):
                # Native code, oneDNN's for one, crashes where a mapping fails. Without the limit the meter can judge.
                ranks = [ProcessResult() for _ in ranks]
                speaker = self._run({**whole, "enforced": False}, ranks, on_progress, time_limit_s=time_limit_s)
        except KeyboardInterrupt:
            # A trial that had finished when the user pressed Ctrl-C has its outcome, and that is kept.
            if any(result.outcome is None for result in ranks):
                return Interrupted(stage=ranks[0].stage, measurements=measurements_of(ranks[0]))
        outcome = outcome_of(ranks[speaker], watch, time_limit_s)
        return outcome if len(ranks) == 1 else of_ranks(outcome, speaker, ranks)

    def _send(self, request: Mapping[str, Any], process: Followed) -> None:
        function = None if request["task"] == "describe" else self.function
        process.channel.send({**request, "sends_function": function is not None})
        if function is not None:
            process.channel.send_function(function)

    def _request(
        self, request: dict[str, Any], on_progress: OnProgress | None = None, deadline: Deadline = lambda: None
    ) -> dict[str, Any]:
        result = ProcessResult()
        self._run(request, [result], on_progress, deadline)
        match result.reply:
            case Answer():
                return result.reply.answer
            case Refusal():
                raise JobError(result.reply.error)
        if result.timed_out:
            raise PreparationTimeoutError(f"the process of the task {request['task']!r} took too long")
        kind = ProcessKilledError if result.status is None or result.status < 0 else WorkerError
        raise kind(f"the process of the task {request['task']!r} {how_it_ended(result)}\n{result.log_tail}".strip())

    def _run(
        self,
        request: Mapping[str, Any],
        ranks: Sequence[ProcessResult],
        on_progress: OnProgress | None,
        deadline: Deadline = lambda: None,
        *,
        time_limit_s: float | None = None,
    ) -> int:
        """Run a request in a process for each of `ranks`, and return the one whose end is the trial's."""
        self.start()
        begin_s, speaker = time.perf_counter(), 0
        processes: list[Followed] = []
        with Output() as output, contextlib.ExitStack() as stack:
            # Made and removed on this side, so that a trial that is killed leaves nothing behind.
            folder = stack.enter_context(self._server.temporary_folder())
            try:
                for part, listener in _parts({"folder": folder, **request}, len(ranks), stack):
                    # A server that dies once a rank runs has taken that with it.
                    process = self._server.fork(ranks[len(processes)], output.writing, listener, is_first=not processes)
                    stack.callback(process.channel.close)
                    processes.append(process)
                    # The clock of a trial starts when its process does, not while the server still imports.
                    begin_s = time.perf_counter()
                    self._send(part, process)
                if time_limit_s is not None:
                    end_s = begin_s + time_limit_s
                    deadline = lambda: end_s  # noqa: E731
                follow(processes, deadline, on_progress, self._server)
                speaker = first_to_go(ranks)
            except ConnectionError:
                # A process, or the server with all of them, is gone: how it ended says the rest.
                speaker = max(0, len(processes) - 1)
            finally:
                # One that ends by itself may do so; whatever else runs is no longer needed.
                for process in processes:
                    if not process.result.closed and process.result.reply is None:
                        kill(process.pid)
                for process in processes:
                    self._server.wait(process)
                    process.drain()
                self.log = output.end()
                for result in ranks:
                    result.elapsed_s, result.log_tail = time.perf_counter() - begin_s, self.log[-4000:].strip()
        return speaker


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
