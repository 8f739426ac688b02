"""The URLs of databases: what a user may write, what is handed to Optuna, and what may be shown of them."""

import ipaddress
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from tradeoff.studies.errors import TradeoffError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DEFAULT_STORAGE = "sqlite:///tradeoff.db"
# The drivers that our extras install, by database.
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
# Those of Python's sqlite3 that leave the file as it is.
_SQLITE_OPTIONS = ("timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements")
# Options whose values may be shown; any other may be a password, under a name that is misspelt too.
_SHOWN_OPTIONS = {*_SQLITE_OPTIONS, "user", "host", "port", "dbname", "sslmode", "connect_timeout", "charset"}
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://", re.ASCII)
# Both signs of an account, as they are or percent-encoded.
_COLON, _AT = re.compile(":|%3a", re.IGNORECASE), re.compile("@|%40", re.IGNORECASE)
# The end of an account as SQLAlchemy reads it, whose passwords end at the first @.
_ACCOUNT = re.compile("^[^:/]*(:[^@]*)?@")
# An option, and what follows without a sign of its own: an unquoted password may hold an &.
_OPTION = re.compile("([^&=]{1,80})=([^&]*(?:&[^&=]+(?=&|$))*)")
# As libpq's own form and a driver's messages have it.
_PASSWORD_WORD = re.compile(r"((?:pass|pwd)\w{0,20}\s*=\s*)('[^']*'|[^\s&]+)", re.IGNORECASE)
# Characters of a file with a URL that are read.
_LONGEST_URL = 10_000


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
        if masked(text) != text:
            raise TradeoffError(
                f"a storage with a password must be a URL such as postgresql://USER:PASSWORD@HOST/DATABASE, got {masked(text)};"
                " write sqlite:///FILE for a file of that name"
            )
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
            f"a storage must be SQLite, PostgreSQL, MySQL or grpc://HOST:13000, got {masked(text)};"
            " write sqlite:///FILE.db for a file"
        )
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise TradeoffError(f"a SQLite storage must be a file, got {text}; write sqlite:///FILE.db")
    if backend == "sqlite":
        _check_names_one_file(text, url)
    elif "@" in _ACCOUNT.sub("", text.partition("://")[2]) or "%" in (url.host or ""):
        raise TradeoffError(
            f"a storage's URL must hold one @, before the host, got {masked(text)}; percent-encode any other as %40, and the"
            " signs of a password: / as %2F, : as %3A"
        )
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
        raise TradeoffError(f"a gRPC proxy must be named as grpc://HOST:13000 and nothing more, got {masked(text)}")
    return text.rstrip("/")


def _read_url(path: Path) -> str:
    """Read a URL from a file: there its password is in no list of processes, no history and no environment."""
    try:
        if path.exists() and not path.is_file():
            raise TradeoffError(f"the file {masked(str(path))} that --storage names must be a file with text")
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_URL).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TradeoffError(f"the file {masked(str(path))} that --storage names can't be read: {reason}") from None
    if not text or "\n" in text or text.startswith("@"):
        raise TradeoffError(f"the file {masked(str(path))} that --storage names must hold one line with the storage's URL")
    return text


def masked(url: str) -> str:
    """Return the URL as it may be shown, malformed or not: without the account's password, or one among the options."""
    scheme = found[0] if (found := _SCHEME.match(url)) else ""
    rest = url[len(scheme) :]
    # An unquoted password may hold any character, even an @: everything up to the last @ is the account.
    address = _AT.split(rest)[-1]
    account = rest[: len(rest) - len(address)]
    if colon := _COLON.search(account):
        account = f"{account[: colon.start()]}:***@"
    elif scheme and not account:
        # A port that is none is a password whose host was left out.
        address = re.sub(r"^([^/?:\[]*):(?!\d+(?:\W|$))[^?]+", r"\1:***", address)
    address, question, query = address.partition("?")
    options = _OPTION.sub(lambda option: option[0] if unquote(option[1]) in _SHOWN_OPTIONS else f"{option[1]}=***", query)
    return _PASSWORD_WORD.sub(r"\1***", f"{scheme}{account}{address}{question}{options}")


def masked_words(text: str) -> str:
    """Return a text as it may be shown: each word that looks like a URL with a password as `masked` shows it."""

    def shown(word: re.Match[str]) -> str:
        colon = _COLON.search(word[0])
        has_account = colon is not None and _AT.search(word[0], colon.end()) is not None
        return masked(word[0]) if has_account or "://" in word[0] else word[0]

    return re.sub(r"\S+", shown, _PASSWORD_WORD.sub(r"\1***", text))


def masked_reply(text: str, url: str) -> str:
    """Return what a database or its driver said as it may be shown: without any secret of the database's URL."""
    parsed = parse(url)
    options = [value for name in parsed.query.keys() - _SHOWN_OPTIONS for value in parsed.normalized_query[name]]
    for secret in filter(None, (parsed.password, *options)):
        text = text.replace(str(secret), "***").replace(quote(str(secret), safe=""), "***")
    return masked_words(text)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may resolve to anything


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
