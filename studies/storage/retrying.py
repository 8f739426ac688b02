"""Optuna's storage of a database that may be away for a while: what is asked of it waits, and takes effect once.

A connection can break after the database has done what it was asked and before it could say so. So an operation is repeated
only if that finds what the first attempt did: a new trial carries the mark of the call that created it, and to end a trial as
it has already ended is a success. Everything else that Optuna writes overwrites itself.
"""

import contextlib
import copy
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.studies.storage.databases import Database
from tradeoff.studies.storage.owner import HEARTBEAT_ATTRIBUTE, MARK_ATTRIBUTE, OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import RetryPolicy, StorageAwayError, StorageError, StudyGoneError
from tradeoff.studies.storage.urls import masked

# Whoever takes a waiting trial signs it at once: one that runs unsigned for this long was taken by an unanswered attempt.
_SIGNED_WITHIN_S = 1.0
# What Optuna raises where it reads something that it has not written.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError, RecursionError)

T = TypeVar("T")


def _forwarded(name: str) -> Callable[..., Any]:
    """A method of Optuna's storages that reads, or that overwrites what it wrote: it can be repeated as it is."""

    def method(self: "RetryingStorage", *arguments: Any, **named: Any) -> Any:
        call = self.read if name.startswith("get_") else self.call
        return call(lambda _: getattr(self.inner, name)(*arguments, **named))

    method.__doc__ = f"Do as `optuna.storages.BaseStorage.{name}` does."
    return method


class RetryingStorage(BaseStorage):
    """A storage that waits for its database, and signs the trials of its worker.

    Args:
        database: The database.
        create: Whether what is missing of it is created.
        retry: How an absent database is waited for, as a worker does; its trials are signed with its process. Without one, an
            absent database is an error at once, as a user wants who has mistyped it.

    Attributes:
        inner: Optuna's storage.
        answers_since_s: The moment of `time.monotonic` since which no operation has failed.
    """

    def __init__(self, database: Database, *, create: bool = True, retry: RetryPolicy | None = None) -> None:
        self.database, self.retry = database, retry
        self.answers_since_s = time.monotonic()
        self.inner: BaseStorage = (
            database.connect(create=create) if retry is None else retry.call(lambda _: database.connect(create=create))
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"database": type(self.database), "url": self.database.url, "retry": self.retry}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["database"](state["url"]), retry=state["retry"])  # type: ignore[misc]

    @property
    def place(self) -> str:
        """The database's URL without a password."""
        return masked(self.database.url)

    def call(self, operation: Callable[[int], T]) -> T:
        """Return what an operation on the database returns.

        Args:
            operation: Called with the number of times that it was attempted before.

        Raises:
            StorageAwayError: The database does not answer, and there is no retry policy.
            StorageError: The database can't be written.
            KeyboardInterrupt: The user ended the wait.
        """

        if self.retry is None:
            return self._attempt(lambda: operation(0))
        return self.retry.call(lambda number: self._attempt(lambda: self._again(operation, number)))

    def read(self, operation: Callable[[int], T]) -> T:
        """Return what an operation that only reads returns; raises as `call` does.

        Raises:
            StorageError: What is stored can't be read.
        """
        try:
            return self.call(operation)
        except StorageError:
            raise
        except _UNREADABLE as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise StorageError(
                f"the storage {self.place} can't be read: {reason}; it is damaged, or another program has written to it:"
                " restore a copy of it, or use --storage to name another database"
            ) from error

    def _again(self, operation: Callable[[int], T], number: int) -> T:
        if number:
            self.inner = self.database.reconnected(self.inner)
        return operation(number)

    def _attempt(self, operation: Callable[[], T]) -> T:
        try:
            self.database.check_in_place()
            result = operation()
            self.database.check_in_place()  # what was written may be nowhere
            return result
        except StorageAwayError:
            self.answers_since_s = time.monotonic()
            raise
        except KeyError as error:
            raise StudyGoneError(self.place) from error
        except self.database.errors as error:
            if (sentence := self.database.as_storage_error(error)) is None:
                raise
            self.answers_since_s = time.monotonic()
            raise sentence from error

    @contextlib.contextmanager
    def lock(self, study_name: str) -> Iterator[None]:
        """Hold the lock under which one worker of a study at a time decides; it must not be taken twice."""
        with contextlib.ExitStack() as stack:
            self.call(lambda _: stack.enter_context(self.database.lock(self.inner, study_name)))
            yield

    def check_writable(self) -> None:
        """Check that this user may write to it, as far as that is known without writing.

        Raises:
            StorageError: It can only be read.
        """
        self.call(lambda _: self.database.check_writable())

    delete_study = _forwarded("delete_study")
    set_study_user_attr = _forwarded("set_study_user_attr")
    set_study_system_attr = _forwarded("set_study_system_attr")
    get_study_id_from_name = _forwarded("get_study_id_from_name")
    get_study_name_from_id = _forwarded("get_study_name_from_id")
    get_study_directions = _forwarded("get_study_directions")
    get_study_user_attrs = _forwarded("get_study_user_attrs")
    get_study_system_attrs = _forwarded("get_study_system_attrs")
    get_all_studies = _forwarded("get_all_studies")
    get_trial = _forwarded("get_trial")
    get_trial_id_from_study_id_trial_number = _forwarded("get_trial_id_from_study_id_trial_number")
    # A second row of a parameter's name breaks a rule of the table, which Optuna ignores.
    set_trial_param = _forwarded("set_trial_param")
    set_trial_intermediate_value = _forwarded("set_trial_intermediate_value")
    set_trial_user_attr = _forwarded("set_trial_user_attr")
    set_trial_system_attr = _forwarded("set_trial_system_attr")

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Read a study's trials; those that have ended are read from the database once."""

        def read(_: int) -> list[FrozenTrial]:
            try:
                return self.inner.get_all_trials(study_id, deepcopy, states)
            except KeyError as error:
                self.inner.get_study_user_attrs(study_id)  # a KeyError if the study is gone
                raise ValueError(f"a trial lacks {error}") from error

        return self.read(read)

    def remove_session(self) -> None:
        """Close what this thread has open."""
        self.inner.remove_session()

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Create a study, once."""
        name = study_name if study_name is not None else f"no-name-{uuid.uuid4()}"

        def create(attempt: int) -> int:
            try:
                return int(self.inner.create_new_study(directions, name))
            except DuplicatedStudyError:
                if attempt == 0:
                    raise
                return int(self.inner.get_study_id_from_name(name))

        return self.call(create)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial, once; one that runs is signed with this process."""
        if self.retry is None:
            return int(self.call(lambda _: self.inner.create_new_trial(study_id, template_trial)))
        template = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.copy(template_trial)
        mark = uuid.uuid4().hex
        template.system_attrs = {**template.system_attrs, MARK_ATTRIBUTE: mark}
        if template.state == TrialState.RUNNING:
            template.system_attrs[OWNER_ATTRIBUTE] = Owner.here().as_dict()

        def create(attempt: int) -> int:
            if attempt and (created := self._marked(study_id, mark)) is not None:
                return created
            return int(self.inner.create_new_trial(study_id, template))

        return self.call(create)

    def _marked(self, study_id: int, mark: str) -> int | None:
        for trial in self.inner.get_all_trials(study_id, deepcopy=False):
            if trial.system_attrs.get(MARK_ATTRIBUTE) == mark:
                return int(self.inner.get_trial_id_from_study_id_trial_number(study_id, trial.number))
        return None

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End a trial, or take one that waits; of several workers that try the same, one succeeds."""

        def change(attempt: int) -> bool:
            with self.database.state_lock():
                try:
                    if self.inner.set_trial_state_values(trial_id, state, values):
                        return True
                except UpdateFinishedTrialError:
                    told = self.inner.get_trial(trial_id)
                    if attempt == 0 or told.state != state or (values is not None and told.values != list(values)):
                        raise
                    return True  # the answer was lost, and not what was asked
            return attempt > 0 and self._runs_unsigned(trial_id)

        is_changed = self.call(change)
        if is_changed and state == TrialState.RUNNING and self.retry is not None:
            self.set_trial_system_attr(trial_id, OWNER_ATTRIBUTE, Owner.here().as_dict())
        return is_changed

    def _runs_unsigned(self, trial_id: int) -> bool:
        time.sleep(_SIGNED_WITHIN_S)
        trial = self.inner.get_trial(trial_id)
        return trial.state == TrialState.RUNNING and OWNER_ATTRIBUTE not in trial.system_attrs

    def record_heartbeat(self, trial_id: int) -> bool:
        """Say that a trial's worker is alive.

        Returns:
            Whether the database was reached; what it does not hear is left out.

        Raises:
            UpdateFinishedTrialError: The trial has ended.
        """
        try:
            # No two are the same, whatever the clocks of the machines say.
            beat = f"{time.time():.3f} {uuid.uuid4().hex[:8]}"
            self._attempt(lambda: self.inner.set_trial_system_attr(trial_id, HEARTBEAT_ATTRIBUTE, beat))
        except StorageError:
            return False
        return True
