"""Pending outcomes: what was measured is on disk until it is recorded, and so outlives an absent database and a killed worker.

An outcome is a file of JSON beside the artifacts, from the moment a trial's process has answered until the study's storage
holds it. If its worker is gone, the next one that starts on the same machine records it.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from tradeoff.objectives.measurements.outcome import Interrupted, Outcome, from_json, to_json
from tradeoff.objectives.measurements.records import measurement_attributes
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.storage.owner import Owner
from tradeoff.studies.storage.stored_shapes import check_measurements


@dataclass(frozen=True, kw_only=True)
class PendingOutcome:
    """An outcome that was measured, and may not have been recorded.

    Attributes:
        path: Its file.
        trial: The number of its trial.
        started: When the trial began: another study of the same name may have a trial of this number.
        parameters: The configuration.
        outcome: The outcome.
        owner: The process that measured it.
    """

    path: Path
    trial: int
    started: datetime
    parameters: TrialParameters
    outcome: Outcome
    owner: Owner

    def is_of(self, trial: "optuna.Trial | FrozenTrial") -> bool:
        """Return True if it was measured for this trial."""
        return self.trial == trial.number and self.started == trial.datetime_start


@dataclass(frozen=True, kw_only=True)
class PendingOutcomes:
    """The directory of one study's pending outcomes.

    Attributes:
        directory: Where the files are.
        study: The study's name.
        say: Shows a line to the user.
    """

    directory: Path
    study: str
    say: Callable[[str], None]
    _skipped: set[Path] = field(default_factory=set, init=False)

    def keep(self, trial: optuna.Trial, parameters: TrialParameters, outcome: Outcome) -> None:
        """Write an outcome to disk; if that is not possible the study goes on without."""
        if isinstance(outcome, Interrupted):
            return
        text = json.dumps(
            {
                "study": self.study,
                "trial": trial.number,
                "started": str(trial.datetime_start),
                "parameters": parameters.as_dict(),
                "outcome": json.loads(to_json(outcome)),
                "owner": Owner.here().as_dict(),
            }
        )
        path = self._path(trial)
        unfinished = path.with_suffix(".unfinished")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self.say(
                f"the outcome of trial {trial.number} can't be kept in {self.directory} until it is stored: {error.strerror}"
            )

    def recorded(self, trial: optuna.Trial) -> None:
        """Remove an outcome that the storage holds."""
        with contextlib.suppress(OSError):
            self._path(trial).unlink(missing_ok=True)

    def all(self) -> list[PendingOutcome]:
        """Return the study's pending outcomes, in the order of their trials."""
        found = []
        for path in self.directory.glob("*.json"):
            try:
                if path.exists() and not path.is_file():
                    raise ValueError  # a pipe would be waited for
                plain = json.loads(path.read_text(encoding="utf-8"))
                if plain["study"] != self.study:
                    continue
                pending = PendingOutcome(
                    path=path,
                    trial=int(plain["trial"]),
                    started=datetime.fromisoformat(plain["started"]),
                    parameters=TrialParameters(**plain["parameters"]),
                    outcome=from_json(json.dumps(plain["outcome"])),
                    owner=Owner.read(plain["owner"]),
                )
                # Recorded as it is, it would make the study one that can't be read.
                check_measurements(measurement_attributes(pending.outcome.measurements))
            except FileNotFoundError:
                continue  # recorded meanwhile
            except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                if path not in self._skipped:
                    self.say(f"the pending outcome {path} can't be read ({type(error).__name__}) and is skipped; remove it")
                self._skipped.add(path)
                continue
            found.append(pending)
        return sorted(found, key=lambda pending: pending.trial)

    def _path(self, trial: optuna.Trial) -> Path:
        name = uuid.uuid5(uuid.NAMESPACE_URL, f"tradeoff:{self.study}:{trial.number}:{trial.datetime_start}")
        return self.directory / f"{name}.json"
