"""Where studies are kept: a SQLite file by default, PostgreSQL or MySQL by URL, or behind Optuna's gRPC proxy.

SQLite is opened in write-ahead mode with a long busy timeout, so that several workers can write and a reader never blocks them
(https://www.sqlite.org/wal.html). A command that only reads never creates a file.
"""

import os
import random
import re
import sqlite3
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tradeoff.studies.errors import TradeoffError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL

    from tradeoff.studies.storage.retry_policy import Patience

DEFAULT_STORAGE = "sqlite:///tradeoff.db"
HEARTBEAT_INTERVAL_S = 60
# Intervals of silence after which a trial's worker is taken for dead.
GRACE_INTERVALS = 3
SQLITE_BUSY_TIMEOUT_S = 60

_SECRET_QUERY_KEY = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
# What our extras install, by the database.
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
# What each database says of the first of Optuna's tables that is looked for.
_NO_TABLES = re.compile(r"no such table: version_info|version_info.{0,3} (does not|doesn't) exist")
# What to install for a database whose driver is missing, by SQLAlchemy's name of it.
_DRIVER_PACKAGES = {
    "psycopg2": "psycopg2-binary",
    "psycopg": "tradeoff[postgres]",
    "MySQLdb": "tradeoff[mysql]",
    "pymysql": "tradeoff[mysql]",
    "asyncpg": "asyncpg",
}
# Attempts at creating the tables while another process creates the same ones.
_NUM_ATTEMPTS = 12


def storage_url(text: str) -> str:
    """The storage's URL; a bare path means a SQLite file, and `@FILE` the URL that a file holds.

    Raises:
        TradeoffError: The text is not a URL of a database.
    """
    if text.startswith("@"):
        text = _read_url(Path(text[1:]))
    if not text.strip():
        raise TradeoffError(
            f"a storage must be a URL or the path of a SQLite file, got {text!r}; the default is {DEFAULT_STORAGE}"
        )
    if "://" not in text:
        return f"sqlite:///{text}"
    if text.startswith("grpc:"):
        return _proxy_url(text)
    if text.startswith("postgres://"):
        text = text.replace("postgres://", "postgresql://", 1)  # as libpq and many providers write it
    url = _parse(text)
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise TradeoffError(
            f"a storage must be SQLite, PostgreSQL, MySQL or grpc://HOST:PORT, got {masked(text)};"
            " write sqlite:///FILE.db for a file"
        )
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise TradeoffError(f"a SQLite storage must be a file, got {text}; write sqlite:///FILE.db")
    return text


def _proxy_url(text: str) -> str:
    """The address of a gRPC proxy, checked."""
    try:
        parts = urlsplit(text)
        is_address = bool(parts.hostname and parts.port) and parts.username is None
    except ValueError:  # a port that is no number, or a bracket too few
        is_address = False
    if not is_address or text.rstrip("/") != f"grpc://{parts.netloc}":
        raise TradeoffError(f"a gRPC proxy must be named as grpc://HOST:PORT and nothing more, got {masked(text)}")
    return text.rstrip("/")


def _read_url(path: Path) -> str:
    """A URL kept in a file, where its password is in no list of processes, no history and no environment."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TradeoffError(f"the file {path} that --storage names can't be read: {reason}") from None
    if not text or "\n" in text or text.startswith("@"):
        raise TradeoffError(f"the file {path} that --storage names must hold one line with the storage's URL")
    return text


def masked(url: str) -> str:
    """The URL as it may be shown or written: no password, neither the account's nor one among the options."""
    if "://" not in url:
        return url
    scheme, rest = url.split("://", 1)
    # An unquoted password may hold any character, an @ too: everything up to the last @ is taken for the account.
    account, at, address = rest.rpartition("@")
    if ":" in account:
        account = f"{account.split(':', 1)[0]}:***"
    address, question, query = address.partition("?")
    options = [
        f"{name}=***" if equals and _SECRET_QUERY_KEY.search(name) else name + equals + value
        for name, equals, value in (option.partition("=") for option in query.split("&"))
    ]
    return f"{scheme}://{account}{at}{address}{question}{'&'.join(options)}"


def open_storage(url: str = DEFAULT_STORAGE, *, create: bool = True, patience: "Patience | None" = None) -> "BaseStorage":
    """Opens a study storage.

    Args:
        url: A SQLAlchemy URL, the path of a SQLite file, or the `grpc://HOST:PORT` of Optuna's gRPC proxy.
        create: Whether a SQLite file that is missing is made; commands that read say no.
        patience: Waits for a storage that does not answer, now and whenever it is away later: for a process that joins others
            in the middle of a study. Without it that is an error at once, as a user wants who has mistyped it.

    Returns:
        Optuna's storage, with a heartbeat for trials of `study.optimize`; a gRPC proxy passes none on.

    Raises:
        TradeoffError: It can't be opened: the file is missing or no database, the folder can't be written, the driver is not
            installed, the server does not answer.
        KeyboardInterrupt: The user ended the wait.
    """
    from tradeoff.studies.storage.retry_policy import FIRST_WAIT_S, LONGEST_WAIT_S, StorageAwayError
    from tradeoff.studies.storage.retrying import be_patient

    if patience is None:
        return _open(url, create=create)
    begin_s, wait_s, is_away = time.monotonic(), FIRST_WAIT_S, False
    while True:
        try:
            storage = _open(url, create=create)
        except StorageAwayError as error:
            if not is_away:
                patience.say(f"{error}: waiting for it")
            is_away = True
            patience.pause(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        else:
            break
    if is_away:
        patience.say(f"the storage answers after {time.monotonic() - begin_s:.0f} s")
    be_patient(storage, say=patience.say, stop=patience.stop)
    return storage


def _open(url: str, *, create: bool) -> "BaseStorage":
    from optuna.exceptions import ExperimentalWarning, StorageInternalError
    from sqlalchemy.exc import (
        IntegrityError,
        NoSuchModuleError,
        OperationalError,
        ProgrammingError,
        SQLAlchemyError,
    )

    from tradeoff.studies.storage.retrying import PatientStorage

    url = storage_url(url)
    if url.startswith("grpc:"):
        return _open_proxy(url)
    parsed = _parse(url)
    interval_s = heartbeat_interval_s()
    engine_kwargs: dict[str, Any] = {}
    if parsed.get_backend_name() == "sqlite":
        _prepare_sqlite(Path(str(parsed.database)), create=create)
        engine_kwargs["connect_args"] = {"timeout": SQLITE_BUSY_TIMEOUT_S}
    else:
        # A trial can take hours, after which the server may have closed the connection.
        engine_kwargs["pool_pre_ping"] = True
    for attempt in range(1, _NUM_ATTEMPTS + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return PatientStorage(
                    # Optuna fills in a URL's braces like a format string; a password may hold some.
                    _with_driver(url).replace("{", "{{").replace("}", "}}"),
                    place=masked(url),
                    engine_kwargs=engine_kwargs,
                    heartbeat_interval=interval_s,
                    grace_period=GRACE_INTERVALS * interval_s,
                    # A command that reads must not add tables to a database of something else. It need not compare
                    # versions either, which takes longer than the reading: studies of ours are in tables of Optuna 5 or later.
                    skip_table_creation=not create,
                    skip_compatibility_check=not create,
                )
        except ImportError as error:
            driver = getattr(error.__cause__, "name", None) or parsed.get_backend_name()
            package = _DRIVER_PACKAGES.get(driver, driver)
            raise TradeoffError(
                f"{masked(url)} needs the Python package {package}, which is not installed: pip install '{package}'"
            ) from error
        except NoSuchModuleError as error:
            raise TradeoffError(f"there is no database driver for {masked(url)}: {error}") from error
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # Two processes that start at once both find no tables, and one of them comes second in making them.
            lost_race = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not lost_race or attempt == _NUM_ATTEMPTS:
                raise _cannot_open(url, parsed, error) from error
            # Each at another moment, or the same processes meet again.
            time.sleep(random.uniform(0.05, 0.1) * attempt)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise _cannot_open(url, parsed, error) from error
        except RuntimeError as error:  # the tables are of another version of Optuna
            raise TradeoffError(f"the storage {masked(url)} can't be used: {error}") from error
    raise AssertionError("the last attempt returns or raises")


def _open_proxy(url: str) -> "BaseStorage":
    try:
        from tradeoff.studies.storage.proxy import ProxyStorage
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("grpc", "google"):
            raise
        raise TradeoffError(
            f"{url} needs the Python packages grpcio and protobuf, which are not installed: pip install 'tradeoff[grpc]'"
        ) from error
    return ProxyStorage(url)


def heartbeat_interval_s() -> int:
    """How often a worker says that it is there: `TRADEOFF_HEARTBEAT_S`, or a minute.

    Raises:
        TradeoffError: The variable holds no whole number of seconds from 1.
    """
    text = os.environ.get("TRADEOFF_HEARTBEAT_S", str(HEARTBEAT_INTERVAL_S))
    if not text.strip().isdecimal() or int(text) < 1:
        raise TradeoffError(f"TRADEOFF_HEARTBEAT_S must be a whole number of seconds, at least 1, got {text!r}")
    return int(text)


def load_study(name: str | None, storage: "BaseStorage") -> "optuna.Study":
    """Loads a study that `tradeoff` made.

    Args:
        name: The study's name; None for the one created last.
        storage: What `open_storage` returned, or any other storage of Optuna's.

    Raises:
        TradeoffError: There is no such study, or it was not made by `tradeoff`.
    """
    import optuna

    studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    ours = [study.study_name for study in studies if "config" in study.user_attrs]
    place = describe(storage)
    if not ours:
        raise TradeoffError(no_study_in(place))
    if name is None:
        name = ours[-1]
    elif name not in ours:
        if name in {study.study_name for study in studies}:
            raise TradeoffError(f"the study {name!r} in {place} was not made by tradeoff; there are {', '.join(ours)}")
        raise TradeoffError(f"there is no study {name!r} in {place}; there are {', '.join(ours)}")
    return optuna.load_study(study_name=name, storage=storage)


def no_study_in(place: str) -> str:
    """What is said of a storage that nothing was run in."""
    return f"there is no study in {place} yet; `tradeoff run` makes one, --storage names another place"


def describe(storage: "BaseStorage") -> str:
    """The storage's URL without a password; for one that has no URL, its kind."""
    # Optuna wraps a database in a cache once a study is loaded from it.
    backend = getattr(storage, "_backend", storage)
    url = getattr(backend, "url", None)
    return masked(str(url)) if url is not None else type(backend).__name__


def _parse(url: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:  # a port that is no number is a ValueError
        raise TradeoffError(f"a storage must be a database URL such as {DEFAULT_STORAGE}, got {masked(url)}") from error


def _with_driver(url: str) -> str:
    """The URL with the driver of our extras where it names none: SQLAlchemy's own choice is another one."""
    backend, separator, rest = url.partition("://")
    driver = _DRIVERS.get(backend)
    return f"{backend}+{driver}{separator}{rest}" if driver is not None and find_spec(driver) is not None else url


def _prepare_sqlite(path: Path, *, create: bool) -> None:
    """Checks the file in words that a person understands, and sets write-ahead mode, which stays with the file."""
    if path.is_dir():
        raise TradeoffError(f"the storage {path} is a folder: name a file in it")
    if not path.exists():
        if not create:
            raise TradeoffError(f"there is no storage {path}: `tradeoff run` makes one, --storage names another place")
        if not path.parent.is_dir():
            raise TradeoffError(f"the storage {path} can't be made: there is no folder {path.parent}")
    # Only SQLite itself may look into the file. To open and close it in any other way drops the locks that this process has on
    # it, and other processes then take away what is read here (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    try:
        connection = sqlite3.connect(path, timeout=SQLITE_BUSY_TIMEOUT_S)
        try:
            connection.execute("PRAGMA journal_mode=WAL" if create else "PRAGMA schema_version")
        finally:
            connection.close()
    except sqlite3.Error as error:
        if "not a database" in str(error):
            raise TradeoffError(f"{path} is not a SQLite database, or a damaged one: name another file as storage") from error
        raise TradeoffError(f"the storage {path} can't be opened: {error}; is the folder writable?") from error


def _cannot_open(url: str, parsed: "URL", error: Exception) -> TradeoffError:
    from tradeoff.studies.storage.retry_policy import StorageAwayError, may_pass, reason_of

    reason = reason_of(error)
    if _NO_TABLES.search(reason):
        return TradeoffError(no_study_in(masked(url)))
    if parsed.password:
        reason = reason.replace(str(parsed.password), "***")
    kind = StorageAwayError if may_pass(error, parsed.get_backend_name() == "sqlite") else TradeoffError
    return kind(f"the storage {masked(url)} can't be opened: {reason}")
