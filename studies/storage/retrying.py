"""A database that may be gone for a while: what is asked of it waits, is asked again, and takes effect once.

A connection can break after the database has done what it was asked and before it could say so. So an operation is repeated
only in a form that finds its own trace: a new trial carries a mark of the call that made it, and ending a trial as it has
ended already is taken for done. Everything else that Optuna writes overwrites itself.

Optuna's own storage leaves two gaps that show when workers die. A trial has no heartbeat until its worker writes the first one:
here it is made with one. And on SQLite, which knows no locks on rows, two workers can take the same waiting trial: here each
change of a trial's state takes the write lock before it looks.
"""

import copy
import functools
import itertools
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from tradeoff.studies.storage import trial_rows
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.retry_policy import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    Patience,
    StorageAwayError,
    StorageError,
    may_pass,
    reason_of,
    remedy_for,
)
from tradeoff.studies.storage.row_storage import RowStorage

# Beyond a heartbeat's interval: what a worker that has just reached the database again may need to say that it is there.
_RECONNECT_S = 2 * LONGEST_WAIT_S
# A heartbeat so soon after the one that a trial is made with says nothing new.
_JUST_S = 0.5

T = TypeVar("T")


def be_patient(storage: BaseStorage, *, say: Callable[[str], None], stop: Callable[[], bool] = lambda: False) -> None:
    """Makes a storage of `open_storage` wait from now on; without this it gives up at the first failure.

    Args:
        storage: The storage.
        say: Shows a line to the user.
        stop: Whether the user has asked to end; a wait then ends with KeyboardInterrupt.
    """
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, PatientStorage):
        backend.patience = Patience(say=say, stop=stop)


class PatientStorage(RowStorage):
    """Optuna's database storage, made to outlive the database's absence and the workers' death.

    Args:
        url: A SQLAlchemy URL.
        place: The URL as it may be shown.
        arguments: What `RDBStorage` takes besides.
    """

    patience: Patience | None = None
    # `give_up` ends a trial and queues another one in one step.
    replaces_at_once = True

    def __init__(self, url: str, *, place: str, **arguments: Any) -> None:
        super().__init__(url, **arguments)
        self.place = place
        self._first_seen_stale: dict[int, float] = {}
        self._just_begun: tuple[int, float] | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether the storage is a file of this machine."""
        return bool(self.engine.name == "sqlite")

    def create_new_study(self, directions: Any, study_name: str | None = None) -> int:
        """Creates a study, once."""

        def create(attempt: int) -> int:
            try:
                return super(PatientStorage, self).create_new_study(directions, study_name)
            except optuna.exceptions.DuplicatedStudyError:
                if attempt == 0 or study_name is None:
                    raise
                return self.get_study_id_from_name(study_name)

        return self.patiently(create)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        template = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.copy(template_trial)
        mark = uuid.uuid4().hex
        template.system_attrs = {**template.system_attrs, OWNER_ATTRIBUTE: {**Owner.here().as_dict(), "mark": mark}}
        # Optuna itself tries several times: from the second time on, the first may have succeeded unheard.
        self._thread.mark, self._thread.attempts = mark, 0
        made: FrozenTrial = self.patiently(lambda _: super(PatientStorage, self)._create_new_trial(study_id, template))
        self._just_begun = made._trial_id, time.monotonic()
        return made

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: "sqlalchemy.orm.Session"
    ) -> models.TrialModel:
        """Called with the study locked."""
        mark = (template_trial.system_attrs if template_trial else {}).get(OWNER_ATTRIBUTE, {}).get("mark")
        if mark is not None and mark == getattr(self._thread, "mark", None):
            self._thread.attempts += 1
            if self._thread.attempts > 1 and (made := self._marked(study_id, mark, session)) is not None:
                return made
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if trial.state == TrialState.RUNNING:
            session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))
        return trial

    @staticmethod
    def _marked(study_id: int, mark: str, session: "sqlalchemy.orm.Session") -> models.TrialModel | None:
        attributes = (
            session.query(models.TrialSystemAttributeModel)
            .join(models.TrialModel)
            .filter(models.TrialModel.study_id == study_id)
            .filter(models.TrialSystemAttributeModel.key == OWNER_ATTRIBUTE)
            .filter(models.TrialSystemAttributeModel.value_json.contains(mark))
        )
        found = attributes.one_or_none()
        return None if found is None else models.TrialModel.find_or_raise_by_id(int(found.trial_id), session)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Ends a trial, or takes one that waits: of several workers that want the same, one does."""
        if state == TrialState.RUNNING:
            owner = {**Owner.here().as_dict(), "mark": uuid.uuid4().hex}
            is_ours: bool = self.patiently(lambda _: self._take(trial_id, owner))
            self._just_begun = (trial_id, time.monotonic()) if is_ours else None
            return is_ours

        held = self._held(trial_id)

        def end(attempt: int) -> bool:
            try:
                with _create_scoped_session(self.scoped_session) as session:
                    self._lock(session, trial_id)
                    connection = session.connection()
                    self.check_trial_is_updatable(trial_id, trial_rows.state_of(connection, trial_id, locks=True))
                    if held is not None:
                        held.write(connection)
                    trial_rows.write_end(connection, trial_id, state, values)
                return True
            except UpdateFinishedTrialError:
                told = self._read_trial(trial_id)
                if attempt and told.state == state and (values is None or told.values == list(values)):
                    return True  # the answer was lost, and not what was asked
                raise

        try:
            return self.patiently(end)
        finally:
            self._thread.held = None

    def _take(self, trial_id: int, owner: Mapping[str, Any]) -> bool:
        """Lets a waiting trial run, unless somebody else has it."""
        with _create_scoped_session(self.scoped_session) as session:
            self._lock(session, trial_id)
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            self.check_trial_is_updatable(trial_id, trial.state)  # type: ignore[arg-type]
            attributes = models.TrialSystemAttributeModel
            if trial.state != TrialState.WAITING:
                held = attributes.find_by_trial_and_key(trial, OWNER_ATTRIBUTE, session)
                return held is not None and str(owner["mark"]) in held.value_json
            trial.state = TrialState.RUNNING
            trial.datetime_start = datetime.now()
            self._set_trial_attr_without_commit(session, attributes, trial_id, OWNER_ATTRIBUTE, dict(owner))
            session.add(models.TrialHeartbeatModel(trial_id=trial_id))
        return True

    # What becomes of trials whose worker is gone.

    def record_heartbeat(self, trial_id: int) -> None:
        """Says that a trial's worker is there; a beat that the database does not hear is left out."""
        begun, self._just_begun = self._just_begun, None
        if begun is not None and begun[0] == trial_id and time.monotonic() - begun[1] < _JUST_S:
            return  # it was made, or taken, with a heartbeat
        try:
            with self.engine.begin() as connection:
                is_told = trial_rows.write_heartbeat(connection, trial_id)
            if not is_told:
                super().record_heartbeat(trial_id)
        except (StorageInternalError, SQLAlchemyError) as error:
            if not may_pass(error, self.is_sqlite):
                raise

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Running trials whose worker is gone: known to be, or silent for too long.

        After the database was away every heartbeat is old. So a silent trial is taken for stale only when it was so before,
        long enough ago for a worker that lives to have been heard.
        """
        assert self.heartbeat_interval is not None
        running = self.patiently(lambda _: self._running(study_id))
        grace = timedelta(seconds=self.grace_period or 2 * self.heartbeat_interval)
        now_s, first_seen = time.monotonic(), self._first_seen_stale
        silent = {trial.trial_id for trial in running if trial.silence is not None and trial.silence > grace}
        self._first_seen_stale = {trial_id: first_seen.get(trial_id, now_s) for trial_id in silent}
        stale = []
        for trial in running:
            owner = None if trial.owner is None else Owner.read(json.loads(trial.owner))
            gone = None if owner is None else owner.is_gone(one_machine=self.is_sqlite)
            if gone is None:
                silent_s = now_s - self._first_seen_stale.get(trial.trial_id, now_s)
                gone = silent_s >= self.heartbeat_interval + _RECONNECT_S
            if gone:
                stale.append(trial.trial_id)
        return stale

    def _running(self, study_id: int) -> list[trial_rows.RunningTrial]:
        return self._read(lambda connection: trial_rows.read_running(connection, study_id, owner_key=OWNER_ATTRIBUTE))

    def give_up(self, trial_id: int, attributes: Mapping[str, Any], successor: FrozenTrial | None) -> bool:
        """Ends a trial as failed, and queues the one that takes its place: both or neither.

        Args:
            trial_id: The trial.
            attributes: User attributes that say what happened.
            successor: What is to be tried instead, or None.

        Returns:
            Whether it was done here; False if the trial had ended meanwhile.
        """
        held = self._held(trial_id)

        def end(_: int) -> bool:
            with _create_scoped_session(self.scoped_session) as session:
                self._lock(session, trial_id)
                # As when a trial is made, the study is locked first. What is read before its lock is not read again.
                (study_id,) = session.query(models.TrialModel.study_id).filter_by(trial_id=trial_id).one()
                models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
                trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
                if trial.state != TrialState.RUNNING:
                    return False
                if held is not None:
                    held.write(session.connection())
                trial_rows.write_attributes(session.connection(), "user", trial_id, attributes)
                trial.state = TrialState.FAIL
                trial.datetime_complete = datetime.now()
                if successor is not None:
                    self._get_prepared_new_trial(study_id, successor, session)
            return True

        try:
            return self.patiently(end)
        finally:
            self._thread.held = None

    def _lock(self, session: "sqlalchemy.orm.Session", trial_id: int) -> None:
        """Takes SQLite's write lock, so that nobody else changes what is read next."""
        if not self.is_sqlite:
            return
        try:
            session.execute(sqlalchemy.text("UPDATE trials SET state = state WHERE trial_id = :id"), {"id": trial_id})
        except SQLAlchemyError:
            session.rollback()
            session.close()
            raise

    def patiently(self, operation: Callable[[int], T]) -> T:
        """Does something, again and again while the database is away.

        Args:
            operation: Given the number of times that it was begun before.

        Raises:
            StorageError: The database is away and nobody is to wait for it, or it can't be written.
            KeyboardInterrupt: The user ended the wait.
        """
        begin_s, wait_s = time.monotonic(), FIRST_WAIT_S
        for attempt in itertools.count():
            try:
                result = operation(attempt)
            except (StorageInternalError, SQLAlchemyError) as error:
                reason = reason_of(error)
                if not may_pass(error, self.is_sqlite):
                    if (remedy := remedy_for(error)) is None:
                        raise
                    raise StorageError(f"the storage {self.place} can't be written: {reason}; {remedy}") from error
                if self.patience is None:
                    raise StorageAwayError(f"the storage {self.place} does not answer: {reason}") from error
                if attempt == 0:
                    self.patience.say(
                        f"the storage {self.place} does not answer ({reason}): waiting for it, nothing measured is lost"
                    )
                self.patience.pause(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                if attempt and self.patience is not None:
                    self.patience.say(f"the storage answers again after {time.monotonic() - begin_s:.0f} s")
                return result
        raise AssertionError("the count has no end")


def _patient(name: str) -> Callable[..., Any]:
    """A method of Optuna's that only reads, or overwrites itself: it can be asked again as it is."""
    plain = getattr(RDBStorage, name)

    @functools.wraps(plain)
    def method(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self.patiently(lambda _: plain(self, *arguments, **named))

    return method


for _name in (
    "get_all_studies",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_trial_id_from_study_id_trial_number",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_intermediate_value",
    "get_current_version",  # the dashboard asks for it when it starts
):
    setattr(PatientStorage, _name, _patient(_name))
