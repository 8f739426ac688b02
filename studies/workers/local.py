"""Several workers of a study on one machine, each a process of its own, and the one that starts and watches them.

The parent runs no trials. It has the first worker prepare the data, opens the study, shows what all of them do, and writes
the notes and plots. A worker that dies is started again, a few times. Ctrl-C reaches the parent alone, which passes it on.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import optuna

from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import StudyFailed, TradeoffError
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.reporting.annotate import Annotator
from tradeoff.studies.workers.channel import Channel
from tradeoff.studies.workers.places import Place

MAX_RESTARTS = 3
_END_LIMIT_S = 30


class WorkersDied(StudyFailed):
    """Every worker died, again and again; the message holds how the last one did."""


@dataclass(kw_only=True)
class _Worker:
    """One of the processes.

    Attributes:
        index: Its number, from 0.
        place: Where it runs.
        process: The process.
        channel: How it is spoken to.
        log: What it prints, which would disturb the view.
        ended: What it said at its end, if it did.
    """

    index: int
    place: Place
    process: subprocess.Popen[bytes]
    channel: Channel
    log: IO[bytes]
    ended: dict[str, Any] | None = None
    num_restarts: int = 0

    @classmethod
    def start(cls, index: int, place: Place, *, num_restarts: int = 0) -> "_Worker":
        """Starts the process, which begins by importing torch."""
        ours, theirs = socket.socketpair()
        log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        command = [
            sys.executable,
            "-P",
            "-m",
            "tradeoff.studies.workers.worker_process",
            str(theirs.fileno()),
            "--index",
            str(index),
        ]
        if place.processors:
            command += ["--processors", *map(str, place.processors)]
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **place.environment},
                start_new_session=True,  # Ctrl-C reaches the parent alone
            )
        return cls(
            index=index, place=place, process=process, channel=Channel(ours), log=log, num_restarts=num_restarts
        )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if the process is there."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> str:
        """Waits for the end of a process that has closed its channel; returns how it ended, in words."""
        self.channel.close()
        try:
            status = self.process.wait(timeout=_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.log.seek(0)
        lines = self.log.read()[-4000:].decode(errors="replace").strip().splitlines()
        self.log.close()
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with exit code {status}" + (f": {lines[-1]}" if status and lines else "")


@dataclass(kw_only=True)
class Fleet:
    """Runs a study with a worker at each place.

    Attributes:
        config: The study.
        places: Where the workers run.
        storage: The storage as the user named it.
        open_study: Opens the study on a device, and returns it with what writes its notes.
        display: Where progress is shown.
        interrupts: What the user has asked for.
        cache: Where prepared data is kept; see `tradeoff.studies.execution.preparation.cache_folder`.
        measured_on: The device that the study was measured on, if it exists.
        deadline_s: The moment of `time.monotonic` after which no trial is started.
    """

    config: StudyConfig
    places: Sequence[Place]
    storage: str
    open_study: Callable[[Mapping[str, Any]], tuple[optuna.Study, Annotator]]
    display: Display
    interrupts: Interrupts
    cache: Path | None = None
    measured_on: str | None = None
    deadline_s: float | None = None
    _workers: dict[int, _Worker] = field(default_factory=dict, init=False)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector, init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False)
    _study: optuna.Study | None = field(default=None, init=False)
    _annotator: Annotator | None = field(default=None, init=False)
    _data: Mapping[str, Any] | None = field(default=None, init=False)
    _said: set[str] = field(default_factory=set, init=False)
    _records: dict[int, TrialRecord] = field(default_factory=dict, init=False)
    _error: Exception | None = field(default=None, init=False)
    _is_ending: bool = field(default=False, init=False)

    def run(self) -> optuna.Study:
        """Runs the workers until all have ended.

        Returns:
            The study.

        Raises:
            TradeoffError: The study can't run as it is written.
            StudyFailed: Five trials in a row failed.
            WorkersDied: No worker is left.
            KeyboardInterrupt: The user ended it.
        """
        self.interrupts.at_once = self._kill
        try:
            with self._stack:
                for index, place in enumerate(self.places):
                    self._add(_Worker.start(index, place))
                self._ask_to_open(self._workers[0])
                while self._workers:
                    self._listen()
                if self._error is None and self.interrupts.requested:
                    raise KeyboardInterrupt
                if self._error is not None:
                    raise self._error
        finally:
            self._kill()
            self.interrupts.at_once = None
        assert self._study is not None
        return self._study

    def _add(self, worker: _Worker) -> None:
        self._workers[worker.index] = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _listen(self) -> None:
        if self.interrupts.requested and not self._is_ending:
            self._end_all()
        try:
            # Once the workers have been told to end, theirs is the last word.
            with contextlib.nullcontext() if self._is_ending else self.interrupts.waiting():
                ready = self._selector.select()
            for key, _ in ready:
                worker: _Worker = key.data
                if (messages := worker.channel.receive()) is None:
                    self._selector.unregister(worker.channel)
                    self._gone(worker)
                    continue
                for message in messages:
                    self._hear(worker, message)
        except KeyboardInterrupt:
            # Pressed while the database was waited for: the next turn tells the workers to end.
            if self._is_ending:
                raise

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        if "message" in message:
            self._say(message["message"])
        elif "ready" in message:
            self._is_ready(worker, message["ready"])
        elif "started" in message:
            parameters = TrialParameters(**message["parameters"])
            self.display.trial_started(message["started"], parameters, worker=worker.index)
        elif "progress" in message:
            self.display.progress(message["progress"], worker=worker.index)
        elif "ended" in message:
            self._trial_ended(worker, message["ended"], message["log"])
        elif "end" in message:
            worker.ended = message["end"]

    def _ask_to_open(self, worker: _Worker) -> None:
        cache = None if self.cache is None else str(self.cache)
        opened = {"config": self.config.plain(), "cache": cache, "measured_on": self.measured_on, "data": self._data}
        worker.channel.send({"open": opened})

    def _is_ready(self, worker: _Worker, ready: Mapping[str, Any]) -> None:
        if self._study is None:
            try:
                self._study, self._annotator = self.open_study(ready["device"])
            except TradeoffError as error:
                self._error = error
                self._end_all()
                return
            self._stack.callback(self._annotator.finish)
            self._data, self.measured_on = ready["data"], ready["device"]["name"]
            self._stack.enter_context(self.display.running(self._study.study_name, ready["device"], self.config))
            self.display.trials(self._read())
            for other in self._workers.values():
                if other is not worker:
                    self._ask_to_open(other)
        left_s = None if self.deadline_s is None else self.deadline_s - time.monotonic()
        worker.channel.send({"search": {"storage": self.storage, "timeout_s": left_s}})

    def _trial_ended(self, worker: _Worker, number: int, log: str) -> None:
        assert self._annotator is not None
        records = self._read()
        self.display.trial_ended(self._records[number], worker=worker.index)
        self._annotator.trial_ended(self._records[number], log=log)
        self.display.trials(records)

    def _gone(self, worker: _Worker) -> None:
        """Takes leave of a worker that has ended, or starts it again if it died."""
        how = worker.close()
        del self._workers[worker.index]
        self.display.worker_ended(worker.index)
        if worker.ended is None:
            self._died(worker, how)
            return
        if "other_device" in worker.ended and self._study is not None:
            self._say(f"worker {worker.index} is left out: {worker.ended['other_device']}")
            return
        for kind, error in (("refused", TradeoffError), ("other_device", TradeoffError), ("failed", StudyFailed)):
            if kind in worker.ended and self._error is None:
                self._error = error(worker.ended[kind])
                self._end_all()

    def _died(self, worker: _Worker, how: str) -> None:
        if self._is_ending:
            return
        if worker.num_restarts < MAX_RESTARTS:
            number = worker.num_restarts + 1
            self.display.message(f"worker {worker.index} {how}; it is started again ({number} of {MAX_RESTARTS} times)")
            again = _Worker.start(worker.index, worker.place, num_restarts=number)
            self._add(again)
            if self._study is not None or worker.index == 0:
                self._ask_to_open(again)
            return
        self.display.message(f"worker {worker.index} {how}, for the {MAX_RESTARTS + 1}th time, and is left out")
        if not self._workers or self._study is None:
            self._error = WorkersDied(f"worker {worker.index} {how}, and was started again {MAX_RESTARTS} times before")
            self._end_all()

    def _say(self, line: str) -> None:
        """Shows what the workers say, once if they say the same."""
        if line not in self._said:
            self._said.add(line)
            self.display.message(line)

    def _end_all(self) -> None:
        """Asks the workers to end in order."""
        self._is_ending = True
        for worker in self._workers.values():
            worker.signal(signal.SIGINT)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)

    def _read(self) -> list[TrialRecord]:
        assert self._study is not None
        records = []
        for trial in self._study.get_trials(deepcopy=False):
            if (record := self._records.get(trial.number)) is None:
                record = read_record(trial, self.config.objectives, num_devices=self.config.devices_per_trial)
            if trial.state.is_finished():
                self._records[trial.number] = record
            records.append(record)
        return records
