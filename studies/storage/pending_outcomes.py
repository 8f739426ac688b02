"""Outcomes on disk until they are told: what was measured outlives a database that is away and a worker that is killed then.

An outcome is a file of JSON beside the artifacts, from the moment a trial's process has answered until the study's storage
holds it. A file whose worker is gone is told by the next one that starts on the same machine.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from tradeoff.objectives.measurements.outcome import Interrupted, from_json, to_json
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An outcome that was measured, and may not have been told.

    Attributes:
        path: Its file.
        trial: The number of its trial.
        mark: What the trial carries, so that it is not taken for another one's of that number.
        parameters: The configuration.
        outcome: The outcome.
        owner: Who measured it.
    """

    path: Path
    trial: int
    mark: str
    parameters: TrialParameters
    outcome: Any
    owner: Owner


@dataclass(frozen=True, kw_only=True)
class Spool:
    """The folder of untold outcomes of one study.

    Attributes:
        folder: Where the files are.
        study: The study's name.
        say: Shows a line to the user.
    """

    folder: Path
    study: str
    say: Callable[[str], None]

    def keep(self, trial: optuna.Trial, parameters: TrialParameters, outcome: Any) -> None:
        """Writes an outcome down; where that is not possible the study goes on without."""
        mark = mark_of(trial)
        if mark is None or isinstance(outcome, Interrupted):
            return
        text = json.dumps(
            {
                "study": self.study,
                "trial": trial.number,
                "mark": mark,
                "parameters": parameters.as_dict(),
                "outcome": json.loads(to_json(outcome)),
                "owner": Owner.here().as_dict(),
            }
        )
        path = self._path(mark)
        unfinished = path.with_suffix(".unfinished")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self.say(f"the outcome of trial {trial.number} can't be kept in {self.folder} until it is stored: {error.strerror}")

    def told(self, trial: optuna.Trial) -> None:
        """Forgets an outcome that the storage holds."""
        if (mark := mark_of(trial)) is not None:
            with contextlib.suppress(OSError):
                self._path(mark).unlink(missing_ok=True)

    def kept(self) -> list[Kept]:
        """The outcomes of this study that are there, in the order of their trials."""
        found = []
        for path in self.folder.glob("*.json"):
            try:
                plain = json.loads(path.read_text(encoding="utf-8"))
                if plain["study"] != self.study:
                    continue
                kept = Kept(
                    path=path,
                    trial=int(plain["trial"]),
                    mark=str(plain["mark"]),
                    parameters=TrialParameters(**plain["parameters"]),
                    outcome=from_json(json.dumps(plain["outcome"])),
                    owner=Owner.read(plain["owner"]),
                )
            except FileNotFoundError:
                continue  # told meanwhile
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.say(f"the outcome in {path} can't be read and is left out: {error}")
                continue
            found.append(kept)
        return sorted(found, key=lambda kept: kept.trial)

    def _path(self, mark: str) -> Path:
        return self.folder / f"{mark}.json"


def mark_of(trial: optuna.Trial) -> str | None:
    """The mark of a trial, without asking the storage; other storages than ours give none."""
    owner = trial._cached_frozen_trial.system_attrs.get(OWNER_ATTRIBUTE)
    mark = "" if owner is None else str(owner.get("mark"))
    # It names a file, and whoever may write into the database could have written it.
    return mark if re.fullmatch(r"[0-9a-f]{32}", mark) else None
