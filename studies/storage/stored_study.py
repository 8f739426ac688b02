"""A study together with the storage that holds it."""

from contextlib import AbstractContextManager
from functools import cached_property

import optuna

from tradeoff.studies.storage.retrying import RetryingStorage


class StoredStudy(optuna.Study):
    """An Optuna study that says where it is stored.

    Args:
        name: The study's name.
        storage: The storage, in which the study exists.
        sampler: Optuna's default if None.
    """

    def __init__(self, name: str, storage: RetryingStorage, sampler: optuna.samplers.BaseSampler | None = None) -> None:
        super().__init__(name, storage, sampler)
        self.storage = storage

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
