"""Optuna's database storage in as few statements and transactions as possible (see `tradeoff.studies.storage.trial_rows`)."""

import threading
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar

import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from tradeoff.studies.storage import trial_rows
from tradeoff.studies.storage.held_writes import HeldWrites

T = TypeVar("T")


class RowStorage(RDBStorage):
    """Reads and writes trials as rows, and holds back what a worker writes of its trial until it is worth a transaction.

    Args:
        url: A SQLAlchemy URL.
        arguments: What `RDBStorage` takes besides.
    """

    def __init__(self, url: str, **arguments: Any) -> None:
        super().__init__(url, **arguments)
        # What belongs to a call under way in a thread: what is held back, and what a subclass keeps there.
        self._thread = threading.local()

    def patiently(self, operation: Callable[[int], T]) -> T:
        """Does something, given the number of times that it was begun before: here, once."""
        return operation(0)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Reads a trial, with what this thread holds back of it."""
        trial: FrozenTrial = self.patiently(lambda _: self._read_trial(trial_id))
        if (held := self._held(trial_id)) is not None:
            held.show_in(trial)
        return trial

    def _read_trial(self, trial_id: int) -> FrozenTrial:
        if not (found := self._read_trials(trial_rows.one_trial(trial_id))):
            raise KeyError(f"there is no trial with id {trial_id}")
        return found[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        besides = sorted(trial_id for trial_id in included_trial_ids if trial_id <= trial_id_greater_than)
        chosen = () if states is None else [state for state in TrialState if state in states]
        condition = trial_rows.of_study(study_id, after=trial_id_greater_than, besides=besides, states=chosen)
        return self.patiently(lambda _: self._read_trials(condition))

    def _read_trials(self, condition: Any) -> list[FrozenTrial]:
        return self._read(lambda connection: trial_rows.read_trials(connection, condition))

    def _read(self, read: Callable[[sqlalchemy.Connection], T]) -> T:
        # Each statement sees what was written before it; a transaction around two would be two more round trips.
        try:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                return read(connection)
        except SQLAlchemyError as error:
            raise StorageInternalError("trials can't be read") from error  # as all of Optuna's do

    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Sets all of a trial's attributes in one transaction: each alone would wait for the disk once more."""
        self._set_attributes("user", trial_id, attributes)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets a user attribute."""
        self._set_attributes("user", trial_id, {key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets a system attribute."""
        self._set_attributes("system", trial_id, {key: value})

    def _set_attributes(self, kind: str, trial_id: int, attributes: Mapping[str, Any]) -> None:
        if (held := self._held(trial_id)) is not None:
            held.add(kind, attributes)
            return

        def write(connection: sqlalchemy.Connection) -> None:
            trial_rows.write_attributes(connection, kind, trial_id, attributes)

        self._change(trial_id, write)

    def _change(self, trial_id: int, write: Callable[[sqlalchemy.Connection], None]) -> None:
        """Writes something that overwrites itself of a trial that has not ended."""

        def change(_: int) -> None:
            with _create_scoped_session(self.scoped_session, True) as session:
                connection = session.connection()
                self.check_trial_is_updatable(trial_id, trial_rows.state_of(connection, trial_id))
                write(connection)

        self.patiently(change)

    def hold(self, trial_id: int) -> None:
        """Holds back what this thread writes of a trial, until `write_held`, or until it ends it: both in one transaction."""
        if self._held(trial_id) is None:
            self._thread.held = HeldWrites(trial_id=trial_id)

    def write_held(self, trial_id: int) -> None:
        """Writes what is held back of a trial."""
        if held := self._held(trial_id):
            self._change(trial_id, held.write)
            self._thread.held = HeldWrites(trial_id=trial_id)

    def _held(self, trial_id: int) -> HeldWrites | None:
        held: HeldWrites | None = getattr(self._thread, "held", None)
        return held if held is not None and held.trial_id == trial_id else None

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if (held := self._held(trial_id)) is None:
            arguments = (trial_id, param_name, param_value_internal, distribution, previous_distribution)
            # A second row of the same name breaks a rule of the table, which Optuna ignores.
            self.patiently(lambda _: super(RowStorage, self)._set_trial_param(*arguments))
            return
        if previous_distribution is None:  # this process knows none of this name yet
            previous_distribution = self.patiently(
                lambda _: self._read(lambda connection: trial_rows.first_distribution(connection, trial_id, param_name))
            )
        if previous_distribution is not None:
            check_distribution_compatibility(previous_distribution, distribution)
        held.params.append((param_name, param_value_internal, distribution))
