"""A real MariaDB server for tests: Debian's, on loopback, in a temporary folder. CI does not install it."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

_START_LIMIT_S = 60


def why_not() -> str | None:
    """Why there is no server here, in a sentence, or None."""
    if shutil.which("mariadbd") is None:
        return "MariaDB is not installed: apt-get install mariadb-server"
    if os.geteuid() != 0:
        return "the test starts MariaDB as its own system user, for which it has to be root"
    try:
        import pymysql  # noqa: F401
    except ImportError:
        return "MySQL's driver is not installed: pip install 'tradeoff[mysql]'"
    return None


class MariaDbServer:
    """A server of its own.

    Attributes:
        password: Of the account `tradeoff`.
    """

    def __init__(self) -> None:
        self.password = secrets.token_urlsafe(12)
        # Not below a folder that only this user may enter.
        self._folder = Path(f"/tmp/tradeoff-mariadb-{secrets.token_hex(6)}")
        self._folder.mkdir()
        user = pwd.getpwnam("mysql")
        os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=KILL"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        root = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        command = ["mariadb-install-db", "--user=mysql", f"--datadir={self._folder / 'data'}", *root]
        subprocess.run(command, check=True, capture_output=True)
        self.start()
        self._run(f"CREATE USER 'tradeoff'@'127.0.0.1' IDENTIFIED BY '{self.password}'")

    def new_database(self) -> str:
        """Makes an empty database and returns its URL."""
        self._count += 1
        name = f"test_{self._count}"
        self._run(f"CREATE DATABASE {name}; GRANT ALL ON {name}.* TO 'tradeoff'@'127.0.0.1'")
        return f"mysql://tradeoff:{self.password}@127.0.0.1:{self._port}/{name}"

    def start(self) -> None:
        """Starts the server and waits until it answers; does nothing where it runs."""
        if self._process is not None:
            return
        options = [f"--datadir={self._folder / 'data'}", "--bind-address=127.0.0.1", f"--port={self._port}"]
        options += [f"--socket={self._folder / 'socket'}", f"--pid-file={self._folder / 'pid'}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, "mariadbd", "--no-defaults", *options], stdout=log, stderr=log, start_new_session=True
            )
        end_s = time.monotonic() + _START_LIMIT_S
        while self._ask("SELECT 1").returncode:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end_s, "the server does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends the server as in a crash; the next start recovers what was committed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=60)
            self._process = None

    def close(self) -> None:
        """Ends the server and removes its files."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, statements: str) -> None:
        done = self._ask(statements)
        assert done.returncode == 0, done.stderr

    def _ask(self, statements: str) -> subprocess.CompletedProcess[str]:
        command = ["mariadb", "--no-defaults", "-uroot", f"--socket={self._folder / 'socket'}", "-e", statements]
        return subprocess.run(command, capture_output=True, text=True)
