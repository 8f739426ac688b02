"""A study together with the storage that holds it."""

from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.opening import SCHEMA, SCHEMA_ATTRIBUTE
from tradeoff.studies.storage.retrying import RetryingStorage
from tradeoff.studies.storage.stored_shapes import check_study, check_trial


class StoredStudy(optuna.Study):
    """An Optuna study that says where it is stored."""

    def __init__(self, name: str, storage: RetryingStorage, sampler: optuna.samplers.BaseSampler | None = None) -> None:
        super().__init__(name, storage, sampler)
        self.storage = storage
        # What was checked: the attributes, and the numbers of the trials that have ended.
        self._checked_attributes: dict[str, Any] = {}
        self._config: StudyConfig | None = None
        self._checked_trials: set[int] = set()

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The study's attributes, checked if it is one of ours.

        Raises:
            TradeoffError: One is not what it should be.
        """
        attributes: dict[str, Any] = super().user_attrs
        is_ours = "config" in attributes and attributes.get(SCHEMA_ATTRIBUTE) == SCHEMA
        if is_ours and attributes != self._checked_attributes:
            directions = self.directions
            with self._refusing(""):
                self._config = check_study(attributes, directions)
            self._checked_attributes = attributes.copy()
        return attributes

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the study's trials, checked if it is one of ours.

        Raises:
            TradeoffError: Something in one is not what it should be.
        """
        trials: list[FrozenTrial] = super().get_trials(deepcopy, states)
        if self._config is None and not (self.user_attrs and self._config):  # reading the attributes checks them
            return trials
        if states is None and [trial.number for trial in trials] != list(range(len(trials))):
            with self._refusing(""):
                raise ValueError(f"its trials must be numbered from 0, and of {len(trials)} one is missing or there twice")
        for trial in trials:
            if trial.number not in self._checked_trials:
                with self._refusing(f"trial {trial.number}: "):
                    check_trial(trial, self._config)
                if trial.state.is_finished():
                    self._checked_trials.add(trial.number)
        return trials

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise TradeoffError(
                f"the study {self.study_name!r} in {self.storage.place} is damaged, or another program has changed it:"
                f" {what}{error}; restore a copy of the database, or choose another name"
            ) from error

    @cached_property
    def study_id(self) -> int:
        """The storage's number of the study."""
        return int(self.storage.get_study_id_from_name(self.study_name))

    def trial_id(self, number: int) -> int:
        """Return the storage's number of a trial."""
        return int(self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number))

    def lock(self) -> AbstractContextManager[None]:
        """Return the lock under which one worker of the study at a time decides; it must not be taken twice."""
        return self.storage.lock(self.study_name)
