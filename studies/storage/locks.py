"""Lets one worker of a study at a time decide what it does next, on whichever machines they are.

A decision reads what all others do, and writes what this one does. Were two made at once, both could take the last trial of
the budget, or train the same learning class. The lock is the database's own, so it ends with whoever holds it: PostgreSQL's and
MySQL's advisory locks, and a lock on a file beside a SQLite file. A holder that hangs is thrown out by the server in a minute.
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeoff.studies.storage.retry_policy import StorageError
from tradeoff.studies.storage.retrying import PatientStorage

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from sqlalchemy import Connection, Engine

StudyLock = Callable[[], AbstractContextManager[None]]

# A decision takes milliseconds: a holder that says nothing for this long hangs, or its machine is gone.
MAX_HELD_S = 60


def study_lock(storage: "BaseStorage", study_name: str) -> StudyLock | None:
    """The lock of a study, to be held while deciding; None for a storage that has none (Optuna's gRPC proxy)."""
    # Optuna wraps a database in a cache once a study is loaded from it.
    backend = getattr(storage, "_backend", storage)
    engine: Engine | None = getattr(backend, "engine", None)
    if engine is None:
        return None
    patiently = backend.patiently if isinstance(backend, PatientStorage) else _once
    digest = hashlib.sha256(f"tradeoff:{study_name}".encode()).digest()
    if engine.name == "sqlite":
        database = Path(str(engine.url.database))
        return partial(_held_file, database.with_name(f"{database.name}.lock"))
    if engine.name == "postgresql":
        return partial(_held, engine, patiently, partial(_lock_postgresql, key=int.from_bytes(digest[:8], signed=True)))
    return partial(_held, engine, patiently, partial(_lock_mysql, name=f"tradeoff-{digest.hex()[:32]}"))


@contextlib.contextmanager
def _held_file(path: Path) -> Iterator[None]:
    # Not the database itself: on some file systems this kind of lock and SQLite's are the same.
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _held(
    engine: "Engine", patiently: Callable[..., Any], lock: Callable[["Connection"], Callable[[], None]]
) -> Iterator[None]:
    """Holds a lock of a connection while Optuna works on others of the same engine."""
    from sqlalchemy.exc import SQLAlchemyError

    def take() -> tuple["Connection", Callable[[], None]]:
        connection = engine.connect()
        try:
            return connection, lock(connection)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise

    connection, unlock = patiently(lambda _: take())
    try:
        yield
        # A server that has thrown the connection out has released the lock with it.
        with contextlib.suppress(SQLAlchemyError):
            unlock()
    except BaseException:
        connection.invalidate()
        raise
    finally:
        connection.close()


def _once(operation: Callable[[int], Any]) -> Any:
    return operation(0)


def _lock_postgresql(connection: "Connection", key: int) -> Callable[[], None]:
    from sqlalchemy import text

    # Both end with the transaction. The setting throws out a holder that hangs, even one whose machine is gone.
    setting = "set_config('idle_in_transaction_session_timeout', :limit, true)"
    connection.execute(text(f"SELECT {setting}, pg_advisory_xact_lock(:key)"), {"limit": f"{MAX_HELD_S}s", "key": key})
    return connection.rollback


def _lock_mysql(connection: "Connection", name: str) -> Callable[[], None]:
    from sqlalchemy import text

    connection.execute(text(f"SET SESSION wait_timeout = {MAX_HELD_S}"))
    # 0 says that the time was up. MySQL would wait for ever if told so by a negative time, and MariaDB not at all.
    ask, named = text("SELECT GET_LOCK(:name, :limit)"), {"name": name, "limit": MAX_HELD_S}
    while (answer := connection.execute(ask, named).scalar()) != 1:
        if answer is None:
            raise StorageError("the database gives no lock: GET_LOCK has answered NULL; its log says why")

    def unlock() -> None:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})
        connection.execute(text("SET SESSION wait_timeout = DEFAULT"))

    return unlock
