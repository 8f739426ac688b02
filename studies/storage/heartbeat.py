"""Heartbeats: a worker says again and again that it is alive, and one that is silent for too long has lost its trial.

A beat is an attribute of the trial, so that it passes through every kind of storage. Others compare it with what they read
before, and take the time by their own clock: the clocks of the machines need not agree, and a time in which the storage did not
answer counts for nobody. (Optuna's own heartbeat compares with the database's clock; after an outage every trial looks lost.)
"""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.owner import HEARTBEAT_ATTRIBUTE, OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import LONGEST_WAIT_S
from tradeoff.studies.storage.stored_study import StoredStudy

HEARTBEAT_INTERVAL_S = 60
MAX_INTERVAL_S = 86_400
# Intervals of silence after which a trial's worker is taken for dead, and after which it must expect that.
GRACE_INTERVALS = 3
_SILENT_INTERVALS = 2
# What a worker that has just reached its storage again may need beyond an interval to say so.
_RECONNECT_S = 2 * LONGEST_WAIT_S
_END_LIMIT_S = 1.0


def heartbeat_interval_s() -> int:
    """Return how often a worker says that it is alive: `TRADEOFF_HEARTBEAT_S`, or a minute.

    Raises:
        TradeoffError: The variable is not a whole number of seconds from 1 to a day.
    """
    text = os.environ.get("TRADEOFF_HEARTBEAT_S", str(HEARTBEAT_INTERVAL_S))
    # A text of thousands of digits is no number to Python either.
    if not text.strip().isdecimal() or len(text.strip()) > 5 or not 1 <= int(text) <= MAX_INTERVAL_S:
        raise TradeoffError(
            "TRADEOFF_HEARTBEAT_S must be a whole number of seconds, at least 1"
            f" and at most {MAX_INTERVAL_S:,}, got {text[:40]!r}"
        )
    return int(text)


class Heartbeat:
    """Beats while it is entered."""

    def __init__(self, study: StoredStudy, trial_id: int) -> None:
        self._study, self._trial_id = study, trial_id
        self._interval_s = heartbeat_interval_s()
        self._ended = threading.Event()
        self._held = ExitStack()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._heard_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._held.close()
        self._thread.join(_END_LIMIT_S)

    def _beat(self) -> None:
        try:
            while not self._ended.wait(self._interval_s):
                if self._study.storage.record_heartbeat(self._trial_id):
                    self._heard_s = time.monotonic()
        except (UpdateFinishedTrialError, KeyError):
            pass  # whoever tells the trial finds out
        finally:
            self._study.storage.remove_session()

    def claim(self) -> None:
        """Make sure that nobody gives the trial up while its outcome is stored.

        Nobody does who has heard of it lately. After a silence the study's lock is held until the heartbeat ends.

        Raises:
            UpdateFinishedTrialError: It was given up.
        """
        if time.monotonic() - self._heard_s < _SILENT_INTERVALS * self._interval_s:
            return
        self._held.enter_context(self._study.lock())
        if self._study.storage.get_trial(self._trial_id).state.is_finished():
            raise UpdateFinishedTrialError


@dataclass
class SilenceWatch:
    """Tells which running trials have lost their worker: it is known to be gone, or was silent for too long.

    Attributes:
        study: The study.
    """

    study: StoredStudy
    # For each running trial what was last read of its worker, and since when that is so.
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict, init=False)

    def lost(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of a study's running trials that have lost their worker.

        Args:
            running: All of them, as they were read just now.
        """
        now_s, before = time.monotonic(), self._seen
        self._seen = {}
        for trial in running:
            said = trial.system_attrs.get(OWNER_ATTRIBUTE), trial.system_attrs.get(HEARTBEAT_ATTRIBUTE)
            last = before.get(trial.number)
            self._seen[trial.number] = last if last is not None and last[0] == said else (said, now_s)
        return [trial for trial in running if self._is_lost(trial, now_s)]

    def _is_lost(self, trial: FrozenTrial, now_s: float) -> bool:
        owner, storage = owner_of(trial), self.study.storage
        if owner is not None and (gone := owner.is_gone(one_machine=storage.database.is_local_file)) is not None:
            return gone
        if owner is None and "fixed_params" not in trial.system_attrs:
            return False  # run by a program that says nothing; one that was taken from the queue has lost its worker just then
        grace_s = GRACE_INTERVALS * heartbeat_interval_s() + _RECONNECT_S
        return now_s - max(self._seen[trial.number][1], storage.answers_since_s) >= grace_s


def owner_of(trial: FrozenTrial) -> Owner | None:
    """Return the process that runs a trial; None if it left no name."""
    plain = trial.system_attrs.get(OWNER_ATTRIBUTE)
    return None if plain is None else Owner.read(plain)
