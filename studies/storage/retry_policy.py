"""How a database that is gone is waited for, and what its errors mean: one that passes, or a sentence for the user."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tradeoff.studies.errors import TradeoffError

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 5.0
# How soon a wait notices that the user wants to end.
_LOOK_S = 0.1

_FULL = re.compile(r"disk.{0,20}\bfull|no space left|could not extend file", re.IGNORECASE)
_BUSY = re.compile(r"database (?:table )?is locked|database is busy", re.IGNORECASE)

_UNWRITABLE = re.compile(r"readonly database|unable to open database file|disk I/O error", re.IGNORECASE)
# Connection exceptions, rollbacks for others' sake, a lack of connections, an operator's intervention
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_PASSING_SQL_STATES = frozenset({"08", "40", "53", "57"})
# Too many connections, shutdown, lock wait, deadlock, and the client's own: no connection, or one that was lost.
_PASSING_MYSQL_ERRORS = frozenset({1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013})


class StorageError(TradeoffError):
    """The storage can't be used now: a sentence with its own words, and what to do."""


class StorageAwayError(StorageError):
    """The storage does not answer; it may later."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How a process waits for its database.

    Attributes:
        say: Shows a line to the user.
        stop: Whether the user has asked to end.
    """

    say: Callable[[str], None]
    stop: Callable[[], bool]

    def pause(self, seconds: float) -> None:
        """Waits.

        Raises:
            KeyboardInterrupt: The user has asked to end.
        """
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            if self.stop():
                raise KeyboardInterrupt
            time.sleep(min(_LOOK_S, left_s))


def _cause(error: BaseException) -> BaseException:
    """The error of SQLAlchemy below Optuna's."""
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ is not None else error


def reason_of(error: BaseException) -> str:
    """What the database or its driver said, in a line."""
    cause = _cause(error)
    words: Any = getattr(cause, "orig", None) or cause
    numbered: Sequence[Any] = getattr(words, "args", ())
    if len(numbered) > 1 and isinstance(numbered[0], int):
        words = numbered[1]  # MySQL's drivers set a number before
    lines = str(words).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def may_pass(error: BaseException, is_sqlite: bool) -> bool:
    """Whether the same may succeed later: the server is away, or a file is held by somebody else."""
    cause = _cause(error)
    if isinstance(cause, PoolTimeoutError | PendingRollbackError):
        # Optuna asks a second time in the transaction that the first failure, a lost connection, has ended.
        return True
    if not isinstance(cause, DBAPIError) or _FULL.search(str(cause.orig)):
        return False
    if is_sqlite:
        return _BUSY.search(str(cause.orig)) is not None
    if cause.connection_invalidated:
        return True
    if not isinstance(cause, OperationalError | InterfaceError):
        return False
    # MySQL's drivers give a number, and PyMySQL a state beside it that says less.
    if isinstance(number := next(iter(getattr(cause.orig, "args", ())), None), int):
        return number in _PASSING_MYSQL_ERRORS
    state = getattr(cause.orig, "sqlstate", None) or getattr(cause.orig, "pgcode", None)
    return state is None or str(state)[:2] in _PASSING_SQL_STATES


def remedy_for(error: BaseException) -> str | None:
    """What a user can do about a database that can't be written, or None if the error is not one of those."""
    cause = _cause(error)
    if not isinstance(cause, DBAPIError):
        return None
    if _FULL.search(str(cause.orig)):
        return "what was told is kept: free some space, or copy the database elsewhere, and the same command goes on"
    if _UNWRITABLE.search(str(cause.orig)):
        return "what was told is kept: once it can be written again, the same command goes on"
    return None
