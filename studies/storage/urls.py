"""The URLs of databases: what a user may write, what is handed to Optuna, and what may be shown of them."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tradeoff.studies.errors import TradeoffError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DEFAULT_STORAGE = "sqlite:///tradeoff.db"
# The drivers that our extras install, by database.
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
# Those of Python's sqlite3 that leave the file as it is.
_SQLITE_OPTIONS = ("timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements")
_SECRET_QUERY_KEY = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)


def storage_url(text: str) -> str:
    """Return a storage's URL; a bare path means a SQLite file, and `@FILE` the URL that a file holds.

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
        if "?" in text:
            raise TradeoffError(f"the path of a SQLite file can't hold a '?', which begins options, got {text}; rename it")
        text = f"sqlite:///{text}"
    if text.startswith("grpc:"):
        return _proxy_url(text)
    if text.startswith("postgres://"):
        text = text.replace("postgres://", "postgresql://", 1)  # as libpq and many providers write it
    url = parse(text)
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise TradeoffError(
            f"a storage must be SQLite, PostgreSQL, MySQL or grpc://HOST:PORT, got {masked(text)};"
            " write sqlite:///FILE.db for a file"
        )
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise TradeoffError(f"a SQLite storage must be a file, got {text}; write sqlite:///FILE.db")
    if backend == "sqlite":
        _check_names_one_file(text, url)
    return text


def _check_names_one_file(text: str, url: "URL") -> None:
    """Refuse a URL that SQLAlchemy takes for another file than it says."""
    path, _, query = text.partition(":///")[2].partition("?")
    options = [option.partition("=") for option in query.split("&")] if "?" in text else []
    for name, equals, _ in options:
        if not equals or name not in _SQLITE_OPTIONS:
            raise TradeoffError(
                f"the options of a SQLite storage, after a '?', may be {', '.join(_SQLITE_OPTIONS)}, each with =VALUE, got"
                f" {masked(text)}; a file whose name holds a '?' must be renamed"
            )
    if url.database != path:
        raise TradeoffError(
            f"the name of a SQLite file must stand for itself, and {path!r} is read as {url.database!r}; rename it without '%'"
        )


def _proxy_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_address = bool(parts.hostname and parts.port) and parts.username is None
    except ValueError:  # the port is not a number, or a bracket is missing
        is_address = False
    if not is_address or text.rstrip("/") != f"grpc://{parts.netloc}":
        raise TradeoffError(f"a gRPC proxy must be named as grpc://HOST:PORT and nothing more, got {masked(text)}")
    return text.rstrip("/")


def _read_url(path: Path) -> str:
    """Read a URL from a file: there its password is in no list of processes, no history and no environment."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TradeoffError(f"the file {path} that --storage names can't be read: {reason}") from None
    if not text or "\n" in text or text.startswith("@"):
        raise TradeoffError(f"the file {path} that --storage names must hold one line with the storage's URL")
    return text


def masked(url: str) -> str:
    """Return the URL as it may be shown: without the account's password, or one among the options."""
    if "://" not in url:
        return url
    scheme, rest = url.split("://", 1)
    # An unquoted password may hold any character, even an @: everything up to the last @ is the account.
    account, at, address = rest.rpartition("@")
    if ":" in account:
        account = f"{account.split(':', 1)[0]}:***"
    address, question, query = address.partition("?")
    options = [
        f"{name}=***" if equals and _SECRET_QUERY_KEY.search(name) else name + equals + value
        for name, equals, value in (option.partition("=") for option in query.split("&"))
    ]
    return f"{scheme}://{account}{at}{address}{question}{'&'.join(options)}"


def parse(url: str) -> "URL":
    """Parse a database URL.

    Raises:
        TradeoffError: It is not one.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:  # a port that is not a number is a ValueError
        raise TradeoffError(f"a storage must be a database URL such as {DEFAULT_STORAGE}, got {masked(url)}") from error


def with_driver(url: str) -> str:
    """Return the URL with the driver of our extras if it names none: SQLAlchemy's own default is another one."""
    backend, separator, rest = url.partition("://")
    driver = _DRIVERS.get(backend)
    return f"{backend}+{driver}{separator}{rest}" if driver is not None and find_spec(driver) is not None else url
