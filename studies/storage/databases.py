"""The kinds of database that hold studies, as far as they differ: how each is opened, what its errors mean, how it locks."""

import random
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import tenacity
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import IntegrityError, NoSuchModuleError, OperationalError, ProgrammingError, SQLAlchemyError

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.storage.locks import advisory_lock
from tradeoff.studies.storage.retry_policy import StorageAwayError, StorageError
from tradeoff.studies.storage.sql_errors import as_storage_error, damaged, may_pass, reason_of
from tradeoff.studies.storage.urls import masked, masked_reply, parse, with_driver

# Attempts at creating the tables while another process creates the same ones.
_NUM_ATTEMPTS = 12
# What each database says if Optuna's first table is missing.
_NO_TABLES = re.compile(r"no such table: version_info|version_info.{0,3} (does not|doesn't) exist")
# Those of Optuna's tables that hold what a study has measured.
_NEEDED_TABLES = (
    *("studies", "study_directions", "study_user_attributes"),
    *("trials", "trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes"),
)
# What to install for a database whose driver is missing, by SQLAlchemy's name of it.
_DRIVER_PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "tradeoff[postgres]",
    "MySQLdb": "tradeoff[mysql]",
    "pymysql": "tradeoff[mysql]",
    "asyncpg": "asyncpg",
}


class Database(Protocol):
    """A kind of database.

    Attributes:
        url: Where it is, with its password.
        is_local_file: Whether it is a file, which only processes of this machine use.
        max_text_length: Characters that an attribute can hold; None where there is no limit.
        errors: The errors of its client that `as_storage_error` knows.
    """

    url: str
    is_local_file: bool
    max_text_length: int | None
    errors: tuple[type[Exception], ...]

    def connect(self, *, create: bool) -> BaseStorage:
        """Open Optuna's storage for it.

        Args:
            create: Whether a missing SQLite file, and missing tables, are created.

        Raises:
            StorageAwayError: It does not answer.
            TradeoffError: It can't be opened.
        """

    def reconnected(self, storage: BaseStorage) -> BaseStorage:
        """Return the storage to use after one that did not answer; raises as `connect` does."""

    def as_storage_error(self, error: Exception) -> StorageError | None:
        """Return the sentence for an error of `errors`, or None if it is a bug of ours."""

    def check_in_place(self) -> None:
        """Check that the database that was opened is still the one of that name.

        Raises:
            StorageError: It is not; the sentence says where what it held is.
        """

    def check_writable(self) -> None:
        """Check that this user may write to it, as far as that is known without writing.

        Raises:
            StorageError: It can only be read.
        """

    def lock(self, storage: BaseStorage, study_name: str) -> AbstractContextManager[Any]:
        """Return the lock under which a worker of the study decides; it must not be taken twice."""

    def state_lock(self) -> AbstractContextManager[Any]:
        """Return what is held while a trial's state changes; nothing where the database itself compares and sets."""


class SqlDatabase:
    """A PostgreSQL or MySQL server."""

    is_local_file = False
    # Others are translated before Optuna sees them; it expects some of these.
    errors: tuple[type[Exception], ...] = (IntegrityError,)
    # A trial can take hours, after which the server may have closed the connection.
    _engine_kwargs: dict[str, Any] = {"pool_pre_ping": True}  # noqa: RUF012

    def __init__(self, url: str) -> None:
        self.url, self._parsed = url, parse(url)
        # MySQL's text columns hold 64 KiB, less what escaping adds.
        self.max_text_length = None if self._parsed.get_backend_name() == "postgresql" else 30_000

    def connect(self, *, create: bool) -> BaseStorage:  # noqa: D102
        # Two processes that start at once both find no tables, and one of them comes second in creating them.
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_lost_race),
            stop=tenacity.stop_after_attempt(_NUM_ATTEMPTS),
            # Each at another moment, or the same processes meet again.
            wait=lambda state: random.uniform(0.05, 0.1) * state.attempt_number,
            reraise=True,
        )
        try:
            storage: RDBStorage = attempts(self._open, create=create)
        except ImportError as error:
            driver = getattr(error.__cause__, "name", None) or error.name or self._parsed.get_backend_name()
            package = _DRIVER_PACKAGES.get(driver, driver)
            raise TradeoffError(
                f"{masked(self.url)} needs the Python package {package}, which is not installed: pip install '{package}'"
            ) from error
        except NoSuchModuleError as error:
            raise TradeoffError(
                f"there is no database driver for {masked(self.url)}: {masked_reply(str(error), self.url)}"
            ) from error
        except StorageInternalError as error:
            raise self._cannot_open(error.__cause__ or error) from error
        except SQLAlchemyError as error:
            raise self._cannot_open(error) from error
        except RuntimeError as error:  # the tables are of another version of Optuna
            raise TradeoffError(f"the storage {masked(self.url)} can't be used: {error}") from error
        self.engine = storage.engine
        event.listen(self.engine, "handle_error", self._translate)
        # Optuna's cache: trials that have ended are read once.
        return get_storage(storage)

    def _open(self, *, create: bool) -> RDBStorage:
        # Optuna fills in a URL's braces like a format string; a password may hold some.
        url = with_driver(self.url)
        if create:
            self._check_whole(create_engine(url, **self._engine_kwargs))
        return RDBStorage(
            url.replace("{", "{{").replace("}", "}}"),
            engine_kwargs=dict(self._engine_kwargs),
            # A command that reads must not add tables to a database of something else. It need not compare versions either,
            # which takes longer than the reading: studies of ours are in tables of Optuna 5 or later.
            skip_table_creation=not create,
            skip_compatibility_check=not create,
        )

    def _check_whole(self, engine: Engine) -> None:
        """Refuse a database that holds studies but lacks a table, before an empty one is made in its place.

        Raises:
            TradeoffError: It does.
        """
        with engine.connect() as connection:
            missing = set(_NEEDED_TABLES) - set(inspect(connection).get_table_names())
            if missing and "studies" not in missing and connection.execute(text("SELECT count(*) FROM studies")).scalar():
                raise TradeoffError(
                    f"the storage {masked(self.url)} is damaged: it lacks the table {min(missing)}; restore a copy of it,"
                    " or use --storage to name another database"
                )
        engine.dispose()

    def _cannot_open(self, error: BaseException) -> TradeoffError:
        reason = reason_of(error)
        if _NO_TABLES.search(reason):
            return TradeoffError(no_study_in(masked(self.url)))
        kind = StorageAwayError if may_pass(error) else TradeoffError
        return kind(f"the storage {masked(self.url)} can't be opened: {masked_reply(reason, self.url)}")

    def _translate(self, context: ExceptionContext) -> None:
        """Raise a storage error where SQLAlchemy is about to raise its own.

        Optuna never sees it: it would create a trial again whose creation may have succeeded.
        """
        if context.is_pre_ping or context.sqlalchemy_exception is None:
            return
        if (error := as_storage_error(context.sqlalchemy_exception, self.url)) is not None:
            raise error

    def reconnected(self, storage: BaseStorage) -> BaseStorage:  # noqa: D102
        return storage  # the engine makes new connections by itself

    def as_storage_error(self, error: Exception) -> StorageError | None:  # noqa: D102
        return damaged(masked(self.url), reason_of(error))

    def check_in_place(self) -> None:  # noqa: D102
        pass  # a name leads to a server

    def check_writable(self) -> None:  # noqa: D102
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE studies SET study_name = study_name WHERE study_id < 0"))

    def lock(self, storage: BaseStorage, study_name: str) -> AbstractContextManager[Any]:  # noqa: D102
        return advisory_lock(self.engine, study_name)

    def state_lock(self) -> AbstractContextManager[Any]:  # noqa: D102
        return nullcontext()  # rows are locked


def _lost_race(error: BaseException) -> bool:
    is_ours = isinstance(error, IntegrityError | OperationalError | ProgrammingError)
    return is_ours and (isinstance(error, IntegrityError) or "already exists" in str(error))


def no_study_in(place: str) -> str:
    """Return the sentence for a storage in which nothing was run."""
    return f"no study in {place}; use --storage to name another database"
