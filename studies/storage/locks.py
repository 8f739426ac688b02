"""Locks by which one worker of a study at a time decides what it does next, on whichever machines the workers are.

A decision reads what all others do, and writes what this worker does. If two were made at once, both could take the last trial
of the budget, or train the same learning class. Each kind of database has a lock of its own that ends with its holder:
PostgreSQL's and MySQL's advisory locks, a lock on a file beside a SQLite file, and for a database that only Optuna's storage
methods reach, a study of the lock's name.
"""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from tradeoff.studies.storage.retry_policy import StorageError

# A decision takes milliseconds: a holder that is silent for this long hangs, or its machine is gone.
MAX_HELD_S = 60
_POLL_S = 0.02


@contextlib.contextmanager
def advisory_lock(engine: Engine, study_name: str) -> Iterator[None]:
    """Hold a lock on a connection of its own, while Optuna works on others of the same engine."""
    digest = hashlib.sha256(f"tradeoff:{study_name}".encode()).digest()
    with engine.connect() as connection:
        try:
            if engine.name == "postgresql":
                unlock = _lock_postgresql(connection, int.from_bytes(digest[:8], signed=True))
            else:
                unlock = _lock_mysql(connection, f"tradeoff-{digest.hex()[:32]}")
            yield
            # A server that has closed the connection has released the lock with it.
            with contextlib.suppress(SQLAlchemyError, StorageError):
                unlock()
        except BaseException:
            connection.invalidate()
            raise


def _lock_postgresql(connection: Connection, key: int) -> Callable[[], None]:
    # Both end with the transaction. The setting throws out a holder that hangs, even one whose machine is gone.
    setting = "set_config('idle_in_transaction_session_timeout', :limit, true)"
    connection.execute(text(f"SELECT {setting}, pg_advisory_xact_lock(:key)"), {"limit": f"{MAX_HELD_S}s", "key": key})
    return connection.rollback


def _lock_mysql(connection: Connection, name: str) -> Callable[[], None]:
    connection.execute(text(f"SET SESSION wait_timeout = {MAX_HELD_S}"))
    # 0 means that the time is up. A negative time would make MySQL wait for ever, and MariaDB not at all.
    query, named = text("SELECT GET_LOCK(:name, :limit)"), {"name": name, "limit": MAX_HELD_S}
    while (answer := connection.execute(query, named).scalar()) != 1:
        if answer is None:
            raise StorageError("the database gives no lock: GET_LOCK returned NULL; the server's log says why")

    def unlock() -> None:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})
        connection.execute(text("SET SESSION wait_timeout = DEFAULT"))

    return unlock


@contextlib.contextmanager
def study_as_lock(storage: BaseStorage, study_name: str) -> Iterator[None]:
    """Hold a lock made of Optuna's storage methods alone: of all who create a study of one name at once, one does.

    A holder that dies leaves its study behind. Who has waited for the same holder for `MAX_HELD_S` deletes it.
    """
    lock_name = f"tradeoff-lock:{study_name}"
    holder, since_s = "", time.monotonic()
    while True:
        try:
            lock_id = storage.create_new_study([StudyDirection.MINIMIZE], lock_name)
            break
        except DuplicatedStudyError:
            time.sleep(_POLL_S)
        with contextlib.suppress(KeyError):  # released meanwhile
            held_id = storage.get_study_id_from_name(lock_name)
            if (found := str(storage.get_study_user_attrs(held_id).get("holder", held_id))) != holder:
                holder, since_s = found, time.monotonic()
            elif time.monotonic() - since_s >= MAX_HELD_S:
                storage.delete_study(held_id)
    storage.set_study_user_attr(lock_id, "holder", uuid.uuid4().hex)
    try:
        yield
    finally:
        with contextlib.suppress(KeyError):  # taken away
            storage.delete_study(lock_id)
