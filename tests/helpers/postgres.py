"""A real PostgreSQL server for tests: Debian's, on loopback, in a temporary folder, and as quick to stop as to start.

Use the fixtures of conftest.py: `postgres`, the server, and `postgres_url`, the URL of a new and empty database on it.
"""

import contextlib
import functools
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# Not the account's name at the database: PostgreSQL refuses to run as root, so a system user stands in.
_SYSTEM_USERS = ("postgres", "nobody")
_START_LIMIT_S = 60


def binaries() -> Path | None:
    """The folder of the server's programs: the newest version that is installed, or None."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if (on_path := shutil.which("initdb")) is not None:
        found.append(Path(on_path).resolve().parent)
    return max(found, key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))], default=None)


class PostgresServer:
    """A server of its own, which ends with the process that made it.

    Attributes:
        port: Where it listens, on 127.0.0.1 alone; the same after a restart.
        password: Of the account `tradeoff`.
    """

    def __init__(self, folder: Path, programs: Path, *, durable: bool = False) -> None:
        """Makes the database files and starts the server.

        Args:
            folder: Where its files go; it must not exist.
            programs: Where `initdb` and `postgres` are.
            durable: Whether a commit waits for the disk, as it does outside of tests.
        """
        self.folder, self.password = folder, secrets.token_urlsafe(12)
        self._programs, self._durable = programs, durable
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self._as_user = _as_unprivileged_user(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with tempfile.NamedTemporaryFile("w", prefix="tradeoff-postgres-") as file:
            file.write(self.password)
            file.flush()
            os.chmod(file.name, 0o644)  # read by another user, for a moment
            self._run("initdb", "--pgdata", str(folder / "data"), "--username", "tradeoff", "--pwfile", file.name,
                      "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")  # fmt: skip
        self.start()

    def url(self, database: str = "postgres") -> str:
        """The database's URL, password included."""
        return f"postgresql+psycopg://tradeoff:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Makes an empty database and returns its URL."""
        import psycopg

        self._count += 1
        name = f"test_{self._count}"
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def start(self) -> None:
        """Starts the server and waits until it answers; does nothing where it runs."""
        if self.is_running():
            return
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 500,
            "fsync": "on" if self._durable else "off",
        }
        arguments = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        command = [*self._as_user, str(self._programs / "postgres"), "-D", str(self.folder / "data"), *arguments]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        end_s = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            assert self._process.poll() is None, f"the server ended: {self._log.read_text()}"
            assert time.monotonic() < end_s, "the server does not answer"
            time.sleep(0.02)

    def stop(self, *, at_once: bool = False) -> None:
        """Ends the server and every connection to it.

        Args:
            at_once: Without a checkpoint, as in a crash; the next start recovers what was committed.
        """
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None

    def restart(self, *, at_once: bool = False) -> None:
        """Stops and starts."""
        self.stop(at_once=at_once)
        self.start()

    def close(self) -> None:
        """Ends the server and removes its files."""
        self.stop(at_once=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url().replace("+psycopg", ""), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def _as_unprivileged_user(folder: Path) -> list[str]:
    """Makes the folder, and returns what a command must begin with to run as a user that PostgreSQL accepts."""
    folder.mkdir(parents=True)
    if os.geteuid() != 0:
        return []
    user = next(user for name in _SYSTEM_USERS if (user := _user(name)) is not None)
    os.chown(folder, user.pw_uid, user.pw_gid)
    # The kernel ends the server with the tests, even when these are killed.
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=QUIT", "--"]


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


@functools.cache
def why_not() -> str | None:
    """Why there is no server here, in a sentence, or None."""
    if binaries() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and setpriv is missing"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "PostgreSQL's driver is not installed: pip install 'psycopg[binary]'"
    return None


def new_server(*, durable: bool = False) -> PostgresServer:
    """A server in a new temporary folder; see `why_not`."""
    programs = binaries()
    assert programs is not None
    # Not below a folder that only this user may enter.
    return PostgresServer(Path(f"/tmp/tradeoff-postgres-{secrets.token_hex(6)}"), programs, durable=durable)
