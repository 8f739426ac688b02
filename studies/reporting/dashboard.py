"""optuna-dashboard on the storage of a study.

It has no accounts: whoever reaches the port can read, rename and delete studies. So it listens on this machine alone unless the
user explicitly allows more, and answers nobody else there (`tradeoff.studies.reporting.dashboard_guard`).

While it serves, a thread keeps the studies' notes and plots up to date, so that a search spends nothing on it.
"""

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from optuna.exceptions import StorageInternalError

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.annotate import artifact_folder, keep_annotated
from tradeoff.studies.reporting.dashboard_guard import ENDS, guarded
from tradeoff.studies.storage.retry_policy import StorageAwayError, StorageError
from tradeoff.studies.storage.urls import is_loopback

if TYPE_CHECKING:
    from tradeoff.studies.storage.retrying import RetryingStorage

# The time between attempts to reach a database that does not answer.
_RETRY_S = 5.0


def _shorten(record: logging.LogRecord) -> bool:
    """Cut the stack trace that the dashboard adds when a request finds the database unreachable."""
    if (message := record.getMessage()).startswith("Exception: the storage "):
        record.msg, record.args = message.removeprefix("Exception: ").splitlines()[0], ()
    return True


class _Server(ThreadingMixIn, WSGIServer):
    """A server with a thread for each request: a browser keeps several open, and one slow plot must not block the rest."""

    daemon_threads = True

    def server_bind(self) -> None:
        # WSGIServer asks the name service for its own name here, which can hang for seconds with no network.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Leave successful requests out of the log."""

    def address_string(self) -> str:
        """Return the client's address; looking its name up could take seconds."""
        return str(self.client_address[0])

    def get_environ(self) -> dict[str, Any]:
        """Return the request's variables, with both ends of its connection, which the guard needs."""
        return {**super().get_environ(), ENDS: (self.client_address[:2], self.connection.getsockname()[:2])}


def serve(
    storage: "RetryingStorage",
    *,
    host: str,
    port: int,
    allow_remote: bool,
    announce: Callable[[str], None],
    warn: Callable[[str], None] = print,
) -> None:
    """Serve the dashboard until the process is interrupted.

    Args:
        storage: The studies' storage.
        host: The address to listen on.
        port: The port; 0 for any free one.
        allow_remote: Allow a host that other machines can reach.
        announce: Called with the dashboard's URL once connections are accepted.
        warn: Called with a sentence when notes and plots can't be updated.

    Raises:
        TradeoffError: The port is taken or not allowed, the host is not one of this machine, or it is reachable from others
            and `allow_remote` is not set.
    """
    with _listen(host, port, allow_remote=allow_remote) as server:
        # Imported once the port is ours: it takes seconds, and an error about the port should not.
        import optuna_dashboard
        from optuna.artifacts import FileSystemArtifactStore

        logging.getLogger("optuna_dashboard._bottle_util").addFilter(_shorten)
        artifacts = artifact_folder(storage)
        app = optuna_dashboard.wsgi(storage, artifact_store=FileSystemArtifactStore(artifacts))
        server.set_app(guarded(app, host, allow_others=allow_remote))
        announce(_url(server))
        with _annotated(storage, artifacts, warn):
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return


@contextmanager
def _annotated(storage: "RetryingStorage", artifacts: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Keep the studies' notes and plots up to date within the context."""
    stop = threading.Event()

    def keep() -> None:
        while True:
            try:
                return keep_annotated(storage, stop, artifacts=artifacts, warn=warn)
            except StorageAwayError:
                if stop.wait(_RETRY_S):
                    return None
            except (StorageInternalError, StorageError, OSError) as error:
                # A storage that can only be read is shown nevertheless.
                return warn(f"notes and plots are not kept up to date because they can't be written: {error}")

    thread = threading.Thread(target=keep, name="annotate", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def _listen(host: str, port: int, *, allow_remote: bool) -> _Server:
    if not 0 <= port <= 65535:
        raise TradeoffError(f"--port must be 0 to 65535, got {port}; 0 takes any free one")
    if not (is_loopback(host) or allow_remote):
        raise TradeoffError(
            f"--host {host} lets other machines in, and the dashboard has no passwords: anyone who reaches it can read, change"
            " and delete studies; add --allow-remote to allow that"
        )
    kind = _ServerV6 if ":" in host else _Server
    try:
        return kind((host, port), _QuietHandler)
    except socket.gaierror as error:
        raise TradeoffError(f"--host {host} is not a known address: {error.strerror}; name one of this machine") from error
    except OSError as error:
        raise TradeoffError(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another --port, or 0 for any free one"
    if error.errno == errno.EACCES:
        return f"port {port} is not allowed for this user; choose a --port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine; name one that is"
    return f"can't listen on {host} port {port}: {error.strerror}; choose another --host or --port"


def _url(server: Any) -> str:
    host, port = server.server_address[:2]
    return f"http://[{host}]:{port}/dashboard" if ":" in host else f"http://{host}:{port}/dashboard"
