"""optuna-dashboard on the storage of a study.

It has no accounts: whoever reaches the port can read, rename and delete studies. So it listens on this machine alone unless the
user explicitly allows more. A page of another site that is open in the same browser can reach the port too, under a name of its
own that it has resolve to this machine (DNS rebinding), or by sending a form: so each request must name the dashboard itself.

While it serves, a thread keeps the studies' notes and plots up to date, so that a search spends nothing on it.
"""

import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from optuna.exceptions import StorageInternalError

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.reporting.annotate import artifact_folder, keep_annotated
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
        server.set_app(_guarded(app, host))
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


def _guarded(app: Callable[..., Iterable[bytes]], host: str) -> Callable[..., Iterable[bytes]]:
    """Return the application with a guard that answers 403 to what pages of other sites make a browser send.

    Args:
        app: The WSGI application.
        host: The address that it listens on, as the user gave it.
    """

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if (reason := _refusal(environ, host)) is not None:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{reason}\n".encode()]
        # No page may show the dashboard within itself and have the user click on what they don't see.
        added = [("X-Frame-Options", "DENY"), ("X-Content-Type-Options", "nosniff")]
        if environ["PATH_INFO"].startswith("/artifacts/"):
            # A file that came with a database is no page of the dashboard's, whatever type it claims.
            added.append(("Content-Security-Policy", "sandbox"))
        return app(environ, lambda status, headers, *rest: start_response(status, headers + added, *rest))

    return guard


def _refusal(environ: Mapping[str, Any], host: str) -> str | None:
    """Return why a request does not come from the dashboard's own pages or a program of the user's, or None if it may.

    A header that was sent twice arrives as one with a comma, which no name has.
    """
    named = environ.get("HTTP_HOST", "")
    name = _host_name(f"//{named}")
    if name is None or not _is_own_name(name, host):
        return f"the dashboard must be asked for as {host} or localhost, got Host: {named!r}; --host gives it another name"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin.lower() not in (f"http://{named}".lower(), f"https://{named}".lower()):
        return f"a request from a page must come from the dashboard's own, got Origin: {origin!r}"
    return None


def _host_name(url: str) -> str | None:
    """Return the name in a URL that consists of a host and perhaps a port, or None if it has another form."""
    try:
        parts = urlsplit(url)
        number = parts.port
    except ValueError:
        return None
    name = parts.hostname or ""
    shown = f"[{name}]" if ":" in name else name
    return name if url.lower() in (f"//{shown}", f"//{shown}:{number}") else None


def _is_own_name(name: str, host: str) -> bool:
    if is_loopback(name) or name == host.lower():
        return True
    try:
        address, listening = ipaddress.ip_address(name), ipaddress.ip_address(host)
    except ValueError:
        # Other machines know this one by its name where it listens on all addresses.
        return host in ("0.0.0.0", "::") and name in (socket.gethostname().lower(), socket.getfqdn().lower())
    # An address, unlike a name, can't be made to lead elsewhere.
    return address == listening or listening.is_unspecified


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
