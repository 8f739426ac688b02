"""Who may use the dashboard: the user who started it, from its own pages and programs.

It has no accounts, and two others can reach its port on the loopback address. A page of another site that is open in the same
browser can, under a name of its own that it has resolve to this machine (DNS rebinding), or by sending a form: so each request
must name the dashboard itself. And another user of the machine can: so the kernel is asked whose connection it is.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tradeoff.studies.storage.urls import is_loopback

# Among a request's variables: address and port of the client, and of the server.
ENDS = "tradeoff.ends"
# The kernel's table of connections, one for each version of IP (proc_pid_net(5)).
_CONNECTIONS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def guarded(app: Callable[..., Iterable[bytes]], host: str, *, allow_others: bool = False) -> Callable[..., Iterable[bytes]]:
    """Return the application with a guard that answers 403 to other users and to pages of other sites.

    Args:
        app: The WSGI application.
        host: The address that it listens on, as the user gave it.
        allow_others: Let other users in.
    """

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reason = _refusal(environ, host)
        if reason is None and not (allow_others or is_own_connection(*environ[ENDS])):
            reason = "the dashboard is for the user who started it; --allow-remote lets everybody in"
        if reason is not None:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{reason}\n".encode()]

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # No page may show the dashboard within itself and have the user click on what they don't see.
            headers = [*headers, ("X-Frame-Options", "DENY"), ("X-Content-Type-Options", "nosniff")]
            if all(name.lower() != "content-security-policy" for name, _ in headers):
                # The dashboard's page has a policy; a file that came with a database is no page, whatever type it claims.
                headers.append(("Content-Security-Policy", "sandbox"))
            return start_response(status, headers, *rest)

        return app(environ, start)

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


def is_own_connection(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Return whether a connection within this machine comes from this user or root; True where the kernel does not tell.

    It must be open: of one that was closed after a request was sent, the kernel no longer knows the user.

    Args:
        client: The client's address and port.
        server: The server's, as this connection has them.
    """
    tables = [path for path in _CONNECTIONS if path.exists()]
    ends = [(_plain(ipaddress.ip_address(address)), port) for address, port in (client, server)]
    for path in tables:
        for line in path.read_text(encoding="ascii").splitlines()[1:]:
            _, local, remote, state, _, _, _, user, *_ = line.split()
            # All of both ends: another user may have the same port of another address.
            if [_end(local), _end(remote)] == ends:
                return state == _ESTABLISHED and int(user) in (os.getuid(), 0)
    return not tables


def _end(text: str) -> tuple[_Address, int]:
    """Read address and port as the kernel writes them: numbers of 32 bits in this machine's order, in hexadecimal."""
    address, port = text.split(":")
    packed = b"".join(struct.pack("=I", int(address[start : start + 8], 16)) for start in range(0, len(address), 8))
    return _plain(ipaddress.ip_address(packed)), int(port, 16)


def _plain(address: _Address) -> _Address:
    return getattr(address, "ipv4_mapped", None) or address
