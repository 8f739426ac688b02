"""The meaning of a database's errors: transient, fixable by the user, or a bug."""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from tradeoff.studies.storage.retry_policy import StorageAwayError, StorageError
from tradeoff.studies.storage.urls import masked, masked_reply

_FULL = re.compile(r"disk.{0,20}\bfull|no space left|could not extend file", re.IGNORECASE)
_BUSY = re.compile(r"database (?:table )?is locked|database is busy", re.IGNORECASE)
_UNWRITABLE = re.compile(
    r"readonly database|unable to open database file|disk I/O error|permission denied|command denied|read-only", re.IGNORECASE
)
_DAMAGED = re.compile(
    r"malformed|not a database|no such (?:table|column)|has no column|doesn't exist|does not exist|unknown column"
    r"|datatype mismatch|could not decode",
    re.IGNORECASE,
)
# Connection exceptions, rollbacks for others' sake, a lack of connections, an operator's intervention
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_PASSING_SQL_STATES = frozenset({"08", "40", "53", "57"})
# Too many connections, shutdown, lock wait, deadlock, and the client's own: no connection, or one that was lost.
_PASSING_MYSQL_ERRORS = frozenset({1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013})


def reason_of(error: BaseException) -> str:
    """Return what the database or its driver said, in a line."""
    words: Any = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    numbered: Sequence[Any] = words.args
    if len(numbered) > 1 and isinstance(numbered[0], int):
        words = numbered[1]  # MySQL's drivers put a number first
    lines = str(words).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def may_pass(error: BaseException) -> bool:
    """Return True if the same may succeed later: the server is away, or a file is locked by another process."""
    if not isinstance(error, DBAPIError) or _FULL.search(str(error.orig)):
        return False
    if type(error.orig).__module__ == "sqlite3":
        return _BUSY.search(str(error.orig)) is not None
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    # MySQL's drivers give a number, and PyMySQL a state beside it that says less.
    arguments = error.orig.args if error.orig is not None else ()
    if arguments and isinstance(arguments[0], int):
        return arguments[0] in _PASSING_MYSQL_ERRORS
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)  # psycopg 3 and 2
    return state is None or str(state)[:2] in _PASSING_SQL_STATES


def as_storage_error(error: BaseException, url: str) -> StorageError | None:
    """Return a sentence for an error that passes or that the user can mend, or None for any other.

    Args:
        error: An error of SQLAlchemy.
        url: The database's URL, which is shown without its password.
    """
    place, reason = masked(url), masked_reply(reason_of(error), url)
    if may_pass(error):
        return StorageAwayError(f"the storage {place} does not answer: {reason}")
    kept = f"the storage {place} can't be written: {reason}; results already saved are kept"
    if isinstance(error, DBAPIError) and _FULL.search(str(error.orig)):
        return StorageError(f"{kept}: free some space, or copy the database elsewhere, and rerun the same command to resume")
    if isinstance(error, DBAPIError) and _UNWRITABLE.search(str(error.orig)):
        return StorageError(f"{kept}: make it writable, and rerun the same command to resume")
    if isinstance(error, DBAPIError) and _DAMAGED.search(str(error.orig)):
        return damaged(place, reason)
    return None


def damaged(place: str, reason: str) -> StorageError:
    """Return the sentence for a database that does not hold what it should."""
    return StorageError(
        f"the storage {place} is damaged, or not as tradeoff makes it: {reason}; restore a copy of it, or use --storage to name"
        " another database"
    )
