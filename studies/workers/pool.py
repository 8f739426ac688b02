"""A pool of workers, whether they are processes of this machine or tasks of a Ray cluster.

The pool's own process runs no trials. It starts the workers, starts those again that are lost, shows the study, writes its note
and plots, and stops the workers with the study. The study itself, and everything that its workers share, is in its storage.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.studies.errors import StudyFailed, TradeoffError
from tradeoff.studies.reporting.annotate import Annotator
from tradeoff.studies.results.results import BASELINES
from tradeoff.studies.storage.stored_study import StoredStudy
from tradeoff.studies.workers.study_run import StudyRun
from tradeoff.studies.workers.worker import Assignment, WorkerEnd


class WorkersDied(StudyFailed):
    """Workers died again and again; the message holds how the last one did."""


@dataclass(kw_only=True)
class WorkerPool(ABC):
    """Runs a study with several workers.

    Attributes:
        run: The study.
    """

    run: StudyRun
    _study: StoredStudy | None = field(default=None, init=False)
    _annotator: Annotator | None = field(default=None, init=False)
    _error: Exception | None = field(default=None, init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False)
    _baselines: Mapping[str, float] = field(default_factory=dict, init=False)
    # Of trials that have ended, by number: those don't change.
    _records: dict[int, TrialRecord] = field(default_factory=dict, init=False)

    @property
    @abstractmethod
    def num_working(self) -> int:
        """Workers that have not ended."""

    @abstractmethod
    def start_first(self) -> None:
        """Start the workers, of which the first one creates the study if it does not exist."""

    @abstractmethod
    def start_others(self) -> None:
        """Let the workers begin that have waited for the study to exist."""

    @abstractmethod
    def listen(self) -> None:
        """Wait a moment for what the workers say, and handle it."""

    @abstractmethod
    def stop(self) -> None:
        """Tell all workers to stop."""

    @abstractmethod
    def end(self) -> None:
        """End all workers that are left, at the end of the pool."""

    @abstractmethod
    def worker_lost(self, index: int, how: str) -> None:
        """Start a worker again that is lost, or give up."""

    def is_over(self) -> bool:
        """Return True once no worker has anything to do any more, though some have not ended."""
        return False

    def work(self) -> StoredStudy:
        """Run the workers until the study is complete.

        Returns:
            The study.

        Raises:
            TradeoffError: The study can't run as it is written.
            StudyFailed: Five trials in a row failed.
            WorkersDied: Workers died again and again.
            KeyboardInterrupt: The user stopped it.
        """
        with self._stack:
            try:
                if self.run.measured_on is not None:
                    self._open(self.run.measured_on)
                self.start_first()
                if self._study is not None:
                    self.start_others()
                while self.num_working and not self.is_over():
                    self.listen()
            finally:
                self.end()
        if self._error is not None:
            raise self._error
        if self.run.interrupts.requested:
            raise KeyboardInterrupt
        assert self._study is not None
        return self._study

    def opened(self, device: Mapping[str, Any]) -> None:
        """Show the study that the first worker has created, and let the others begin."""
        if self._study is None:
            try:
                self._open(device)
            except TradeoffError as error:
                self.fail(error)
            else:
                self.start_others()

    def assignment(self, index: int) -> Assignment:
        """Return what the worker with this number is to do."""
        deadline_s = self.run.deadline_s
        return Assignment(
            config=self.run.config.plain(),
            storage=self.run.url,
            creates=self._study is None,
            estimates_memory=index == 0,
            deadline_unix_s=None if deadline_s is None else time.time() + deadline_s - time.monotonic(),
            cache=None if self.run.cache is None else str(self.run.cache),
            sends_function=self.run.function is not None,
        )

    def worker_ended(self, index: int, end: WorkerEnd) -> None:
        """Handle the end of a worker that says how it ended."""
        match end.how:
            case "lost":
                self.worker_lost(index, f"ended early, {end.reason}")
            case "other_device" if self._study is not None and self.num_working:
                self.run.display.message(f"worker {index}{end.where} is left out: {end.reason}")
            case "other_device" | "refused":
                self.fail(TradeoffError(end.reason))
            case "failed":
                self.fail(StudyFailed(end.reason))

    def fail(self, error: Exception) -> None:
        """Stop the workers, and raise the error once they have stopped; the first error counts."""
        self._error = self._error or error
        self.stop()

    def records(self) -> list[TrialRecord]:
        """Return the study's trials."""
        assert self._study is not None
        records = []
        for trial in self._study.get_trials(deepcopy=False):
            if (record := self._records.get(trial.number)) is None:
                record = read_record(trial, self.run.config.objectives, num_devices=self.run.config.devices_per_trial)
            if trial.state.is_finished():
                self._records[trial.number] = record
            records.append(record)
        return records

    def show_trials(self, records: Sequence[TrialRecord]) -> None:
        """Show the study's trials, beside a constant answer as soon as a worker has prepared the data."""
        if not self._baselines and self._study is not None:
            self._baselines = self._study.user_attrs.get(BASELINES, {})
            self.run.display.baselines(self._baselines)
        self.run.display.trials(records)

    def _open(self, device: Mapping[str, Any]) -> None:
        self._study, self._annotator = self.run.open(device)
        self._stack.callback(self._annotator.finish)
        self._stack.enter_context(self.run.display.running(self._study.study_name, device, self.run.config))
        self.show_trials(self.records())
