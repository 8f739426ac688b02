"""SQLite files.

One is opened in write-ahead mode with a long busy timeout, so that several workers can write and a reader never blocks them
(https://www.sqlite.org/wal.html). A command that only reads never creates a file. A process goes on writing to a file that
somebody has deleted or moved, without an error, so each operation looks whether it is still in its place.
"""

import contextlib
import sqlite3
import stat
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from optuna.storages import BaseStorage

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.databases import SqlDatabase
from tradeoff.studies.storage.retry_policy import StorageError

BUSY_TIMEOUT_S = 60
# Workers on one machine decide in milliseconds.
_FILE_LOCK_POLL_S = 0.005
# A file that can only be read: with the files beside it that SQLite keeps, and without a place for them.
_READ_ONLY = ("?mode=ro", "?immutable=1")


class SqliteDatabase(SqlDatabase):
    """A SQLite file.

    SQLite has no locks on rows: two workers could both take a waiting trial. So a trial's state changes under a lock on a file
    beside it. Not on the file itself: on some file systems this kind of lock and SQLite's own are the same.
    """

    is_local_file = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.max_text_length = None
        self._path = Path(str(self._parsed.database))
        # A thread that holds it can take it again.
        self._file_lock = FileLock(self._path.with_name(f"{self._path.name}.lock"))
        # The file that was opened, and a connection to it, whatever becomes of its name.
        self._opened: tuple[int, int] | None = None
        self._kept: sqlite3.Connection | None = None

    def connect(self, *, create: bool) -> BaseStorage:  # noqa: D102
        self._opened = None
        self._kept, uri = _connected(self._path, create=create)
        self._engine_kwargs = {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
        if uri.endswith(_READ_ONLY):
            self._engine_kwargs = {"creator": partial(_connect, uri)}
        storage = super().connect(create=create)
        # A read opens the files beside it too, in which the newest of what it holds is.
        self._kept.execute("PRAGMA schema_version").fetchall()
        self._opened = _identity(self._path)
        return storage

    def check_in_place(self) -> None:  # noqa: D102
        if self._opened is None or (found := _identity(self._path)) == self._opened:
            return
        became = "deleted or moved" if found is None else "replaced by another file"
        raise StorageError(f"the storage {self._path} was {became} while it was in use; {self._rescue(self._opened[1])}")

    def _rescue(self, inode: int) -> str:
        """Copy what the file held, and say where it is."""
        copy = self._path.with_name(f"{self._path.name}.rescued-{inode}")
        try:
            with self._acquire():  # of all workers one writes the copy
                if not copy.exists():
                    assert self._kept is not None
                    unfinished = copy.with_name(f"{copy.name}.unfinished")
                    with closing(sqlite3.connect(unfinished)) as connection:
                        self._kept.backup(connection)
                        connection.execute("SELECT 1 FROM studies").fetchall()
                    unfinished.rename(copy)
        except (sqlite3.Error, OSError) as error:
            return f"put it back, and rerun the same command to resume (no copy could be made: {error})"
        return f"everything recorded until then is in {copy}: rename that to {self._path}, and rerun the same command to resume"

    def lock(self, storage: BaseStorage, study_name: str) -> AbstractContextManager[Any]:  # noqa: D102
        return self.state_lock()

    def state_lock(self) -> AbstractContextManager[Any]:  # noqa: D102
        try:
            return self._acquire()
        except OSError as error:
            raise StorageError(
                f"{self._file_lock.lock_file} must be a file that can be written ({error.strerror}); mend or remove it"
            ) from error

    def _acquire(self) -> AbstractContextManager[Any]:
        return self._file_lock.acquire(poll_interval=_FILE_LOCK_POLL_S)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from every other; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)


def _connected(path: Path, *, create: bool) -> tuple[sqlite3.Connection, str]:
    """Check the file, set write-ahead mode, which stays with the file, and return a connection and how it was made.

    Raises:
        TradeoffError: It can't be a database.
    """
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        kind = None
    except OSError as error:
        raise TradeoffError(f"the storage {path} can't be opened: {error.strerror}; name another file") from error
    if kind is not None and stat.S_ISDIR(kind):
        raise TradeoffError(f"the storage {path} is a directory: name a file in it")
    if kind is not None and not stat.S_ISREG(kind):  # a pipe would be waited for
        raise TradeoffError(f"the storage {path} must be a file, and is a pipe, a socket or a device: name another")
    if kind is None:
        if not create:
            raise TradeoffError(f"no storage {path}: `tradeoff run` creates one; use --storage to name another database")
        if not path.parent.is_dir():
            raise TradeoffError(f"the storage {path} can't be created: there is no directory {path.parent}")
    # Only SQLite itself may look into the file. To open and close it in any other way drops the locks that this process has on
    # it, and other processes then take away what is read here (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    uri = f"file:{quote(str(path.absolute()))}"
    try:
        return _tried(uri, "PRAGMA journal_mode=WAL" if create else "PRAGMA schema_version"), uri
    except sqlite3.Error as error:
        if "not a database" in str(error):
            raise TradeoffError(f"{path} is not a SQLite database, or it is damaged: name another file as storage") from error
        newest = path.with_name(f"{path.name}-wal")
        for way in () if create else _READ_ONLY:
            if way == _READ_ONLY[-1] and newest.exists() and newest.stat().st_size:
                raise TradeoffError(
                    f"the storage {path} can only be read, and what was written last is in {newest}: copy both to a directory"
                    " that can be written"
                ) from error
            with contextlib.suppress(sqlite3.Error):
                return _tried(uri + way, "PRAGMA schema_version"), uri + way
        raise TradeoffError(f"the storage {path} can't be opened: {error}; is the directory writable?") from error


def _tried(uri: str, statement: str) -> sqlite3.Connection:
    connection = _connect(uri)
    try:
        connection.execute(statement).fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection
