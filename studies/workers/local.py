"""A worker pool of processes on this machine. Ctrl-C reaches the pool's process alone, which passes it on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import IO

from tradeoff.objectives.trial.messages import Channel
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.workers.messages import FROM_WORKER, FromWorker, Line, Opened, TrialEnded, TrialProgress, TrialStarted
from tradeoff.studies.workers.places import Place
from tradeoff.studies.workers.pool import WorkerPool, WorkersDied
from tradeoff.studies.workers.worker import WorkerEnd

MAX_RESTARTS = 3
_END_LIMIT_S = 30


@dataclass(kw_only=True)
class _Worker:
    """One of the processes.

    Attributes:
        index: Its number, from 0.
        process: The process.
        channel: The channel to it.
        log: What it prints, which would disturb the view.
        end: What it said at its end, if it did.
    """

    index: int
    process: subprocess.Popen[bytes]
    channel: Channel[FromWorker]
    log: IO[bytes]
    end: WorkerEnd | None = None

    @classmethod
    def start(cls, index: int, place: Place) -> "_Worker":
        """Start the process, which imports torch, and then waits for its assignment."""
        ours, theirs = socket.socketpair()
        log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        arguments = [str(theirs.fileno()), "--index", str(index)]
        if place.processors:
            arguments += ["--processors", *map(str, place.processors)]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tradeoff.studies.workers.worker_process", *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **place.environment},
                start_new_session=True,  # Ctrl-C reaches the parent alone
            )
        return cls(index=index, process=process, channel=Channel(ours, FROM_WORKER), log=log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> str:
        """Wait for the end of a process that has closed its channel, and describe how it ended."""
        self.channel.close()
        try:
            status = self.process.wait(timeout=_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - 4000))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        self.log.close()
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with exit code {status}" + (f": {lines[-1]}" if status and lines else "")


@dataclass(kw_only=True)
class LocalWorkerPool(WorkerPool):
    """Runs a study with a worker process at each place.

    Attributes:
        places: Where the workers run.
    """

    places: Sequence[Place]
    _workers: dict[int, _Worker] = field(default_factory=dict, init=False)
    _restarts: Counter[int] = field(default_factory=Counter, init=False)
    _said: set[str] = field(default_factory=set, init=False)
    _is_stopping: bool = field(default=False, init=False)

    @property
    def num_working(self) -> int:
        """Processes that have not ended."""
        return len(self._workers)

    def start_first(self) -> None:
        """Start all processes, so that they import torch together, and give the first one its assignment."""
        self.run.interrupts.at_once = self._kill
        for index, place in enumerate(self.places):
            self._workers[index] = _Worker.start(index, place)
        self._assign(self._workers[0])

    def start_others(self) -> None:
        """Give the others their assignments."""
        for index, worker in self._workers.items():
            if index > 0:
                self._assign(worker)

    def listen(self) -> None:
        """Wait for a message or an end, and handle it."""
        interrupts = self.run.interrupts
        if interrupts.requested and not self._is_stopping:
            self.stop()
        try:
            by_descriptor = {worker.channel.fileno(): worker for worker in self._workers.values()}
            # Once the workers have been told to stop, theirs is the last word.
            with contextlib.nullcontext() if self._is_stopping else interrupts.waiting():
                ready = wait(list(by_descriptor))
            for descriptor in ready:
                worker = by_descriptor[descriptor]  # type: ignore[index]
                try:
                    message = worker.channel.receive()
                except EOFError:
                    self._gone(worker)
                else:
                    self._hear(worker, message)
        except KeyboardInterrupt:
            # Pressed while the database was waited for: the next turn tells the workers to stop.
            if self._is_stopping:
                raise

    def stop(self) -> None:
        """Ask the workers to stop in order."""
        self._is_stopping = True
        for worker in self._workers.values():
            # Never the second signal that would end one immediately: Slurm and systemd send theirs to every process.
            worker.signal(signal.SIGHUP)

    def end(self) -> None:
        """Kill what is left of them."""
        self._kill()
        self.run.interrupts.at_once = None

    def worker_lost(self, index: int, how: str) -> None:
        """Start a worker again up to three times, and do without it after that, if there are others."""
        if self._is_stopping:
            return
        say = self.run.display.message
        if self._restarts[index] < MAX_RESTARTS:
            self._restarts[index] += 1
            say(f"worker {index} {how}; it is started again ({self._restarts[index]} of {MAX_RESTARTS} times)")
            self._workers[index] = _Worker.start(index, self.places[index])
            if self._study is not None or index == 0:
                self._assign(self._workers[index])
            return
        say(f"worker {index} {how}, for the {MAX_RESTARTS + 1}th time, and is left out")
        if not self._workers or self._study is None:
            self.fail(WorkersDied(f"worker {index} {how}, and was started again {MAX_RESTARTS} times before"))

    def _assign(self, worker: _Worker) -> None:
        with contextlib.suppress(ConnectionError):  # one that is gone is noticed by the next read
            worker.channel.send(self.assignment(worker.index))
            if self.run.function is not None:
                worker.channel.send_function(self.run.function)

    def _hear(self, worker: _Worker, message: FromWorker) -> None:
        display = self.run.display
        match message:
            case Line(text=text):
                # Workers that say the same say it once.
                if text not in self._said:
                    self._said.add(text)
                    display.message(text)
            case Opened():
                self.opened(message.device)
            case TrialStarted():
                parameters = TrialParameters(**message.parameters)
                display.trial_started(message.number, parameters, worker=worker.index)
                if self._annotator is not None:
                    self._annotator.refresh()  # the worker has written the note of its last trial
            case TrialProgress():
                display.progress(message.event, worker=worker.index)
            case TrialEnded():
                records = self.records()
                display.trial_ended(records[message.number], worker=worker.index)
                self.show_trials(records)
            case WorkerEnd():
                worker.end = message

    def _gone(self, worker: _Worker) -> None:
        how = worker.close()
        del self._workers[worker.index]
        self.run.display.worker_ended(worker.index)
        if worker.end is None:
            self.worker_lost(worker.index, how)
        else:
            self.worker_ended(worker.index, worker.end)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)
