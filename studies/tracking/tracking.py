"""Writes the trials of a study to the trackers that it names, each trial once, whichever worker ran it.

A worker writes each trial that it has ended. At its end it also writes those that nobody has: what was published, what another
worker had measured before it died, and all trials of a study that names a tracker only now. The storage says which ones are
written, or are being written and by whom. No tracker can harm a study: one that fails is left out until the next run.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from textwrap import shorten
from typing import Any

from optuna.trial import FrozenTrial

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.owner import Owner
from tradeoff.studies.storage.stored_study import StoredStudy
from tradeoff.studies.tracking.tracked_trial import TrackedTrial
from tradeoff.studies.tracking.trackers import MODULES, TRACKERS, Tracker

# A study's system attribute for each trial: by tracker, the `Owner` that is writing it, or True once it is written.
_MARK = "tradeoff:tracked:"
# Trials that are claimed under one lock: a holder is thrown out after a minute.
_BATCH = 50


def check_trackers(names: Iterable[str]) -> None:
    """Check that the packages of trackers are there.

    Raises:
        TradeoffError: One is missing.
    """
    for name in names:
        if find_spec(package := MODULES.get(name, name)) is None:
            raise TradeoffError(
                f"track: {name} needs the package {package}, which is not installed (pip install 'tradeoff[{name}]'); or leave"
                f" {name} out"
            )


@dataclass(kw_only=True)
class Tracking:
    """Writes a study's trials to its trackers.

    Attributes:
        study: The study.
        config: Its configuration, which names the trackers.
        device: The name of the device that it was measured on.
        say: Shows a line to the user.
    """

    study: StoredStudy
    config: StudyConfig
    device: str
    say: Callable[[str], None]
    _trackers: dict[str, Tracker | None] = field(default_factory=dict, init=False)

    def trial_ended(self, record: TrialRecord, *, log: str | None = None) -> None:
        """Write a trial that has ended here."""
        if self.config.track:
            self._write([self.study.storage.get_trial(self.study.trial_id(record.number))])

    def finish(self) -> None:
        """Write every trial that has ended and is not written."""
        if self.config.track:
            trials = self.study.get_trials(deepcopy=False)
            for start in range(0, len(trials), _BATCH):
                self._write(trials[start : start + _BATCH])

    def _write(self, trials: Sequence[FrozenTrial]) -> None:
        place = self.study.storage.place
        found = [TrackedTrial.of(trial, self.config, storage=place, device=self.device) for trial in trials]
        for run, names, mark in self._claimed([run for run in found if run is not None]):
            written = [name for name in names if self._is_written(name, run)]
            self._mark(run, {**mark, **dict.fromkeys(written, True)})

    def _claimed(self, runs: Sequence[TrackedTrial]) -> list[tuple[TrackedTrial, list[str], dict[str, Any]]]:
        """Return the trials that are to be written here, each with the trackers, and with those that have it by now."""
        names: list[str] = [name for name in self.config.track if self._tracker(name) is not None]
        claimed = []
        with self.study.lock():
            marks = self.study.storage.get_study_system_attrs(self.study.study_id)
            for run in runs:
                mark = dict(marks.get(f"{_MARK}{run.number}") or {})
                if free := [name for name in names if self._is_free(mark.get(name))]:
                    self._mark(run, {**mark, **dict.fromkeys(free, Owner.here().as_dict())})
                    claimed.append((run, free, {name: value for name, value in mark.items() if name not in free}))
        return claimed

    def _mark(self, run: TrackedTrial, mark: dict[str, Any]) -> None:
        self.study.storage.set_study_system_attr(self.study.study_id, f"{_MARK}{run.number}", mark)

    def _is_free(self, mark: Any) -> bool:
        """Return True if nobody has written a trial and nobody who is alive is writing it."""
        try:
            owner = Owner.read(mark)
        except (KeyError, TypeError):  # True, nothing, or what another program has written there
            return mark is None
        return owner == Owner.here() or owner.is_gone(one_machine=self.study.storage.database.is_local_file) is True

    def _is_written(self, name: str, run: TrackedTrial) -> bool:
        tracker = self._tracker(name)
        return tracker is not None and self._succeeds(name, lambda: tracker.write(run))

    def _tracker(self, name: str) -> Tracker | None:
        """Return a tracker, which is made when it is first needed; None for one that has failed."""
        if name not in self._trackers:
            self._succeeds(name, lambda: self._trackers.update({name: TRACKERS[name]()}))
        return self._trackers[name]

    def _succeeds(self, name: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001  any library's, of a network, a disk or a server
            self._trackers[name] = None
            reason = f"{type(error).__name__}: {shorten(str(error), 300)}"
            self.say(
                f"track: {name} can't be written ({reason}); the study continues without it, and the next run of the study"
                " writes what is missing"
            )
            return False
        return True
