"""Reaching the Hugging Face hub, or doing without it quickly.

The hub's libraries try again for half a minute before they give up. Whether the hub answers at all is asked here once, with
one short connection; where it does not, they are switched to what is in their cache. Which error means "no network" is told
by its type: all that the libraries raise for it (`LocalEntryNotFoundError`, `OfflineModeIsEnabled`, `HfHubHTTPError`,
transformers' own) are OSErrors.
"""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

import datasets
from huggingface_hub import constants

_CONNECT_LIMIT_S = 5.0

_LOCAL_OPTIONS = {
    "model": "a local folder, or `embedded`",
    "dataset": "a local CSV, JSON Lines or Parquet file, or `embedded`",
}


def is_reachable() -> bool:
    """Whether the hub may be asked: it is not switched off (`HF_HUB_OFFLINE`), and it takes a connection."""
    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        return False
    endpoint = urlsplit(constants.ENDPOINT)
    if endpoint.hostname is None or endpoint.scheme in urllib.request.getproxies():
        return True  # a proxy connects in our place: only the libraries themselves can tell
    port = endpoint.port or {"http": 80}.get(endpoint.scheme, 443)
    try:
        socket.create_connection((endpoint.hostname, port), timeout=_CONNECT_LIMIT_S).close()
    except OSError:
        return False
    return True


@contextmanager
def hub_access(kind: Literal["model", "dataset"], name: str) -> Iterator[None]:
    """A place for calls that may need the hub: with no network they use the cache alone.

    Args:
        kind: What is loaded.
        name: Its name on the hub.

    Raises:
        ValueError: It is neither on the hub nor in the cache, in a sentence that names the local options.
    """
    reachable = is_reachable()
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not reachable:
        # Both libraries read the environment once, when imported; the calls in here look at these.
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    except OSError as error:
        if reachable:
            first_line = str(error).strip().splitlines()[0]
            raise ValueError(f"{kind} {name!r} can't be loaded from the hub: {first_line}") from error
        raise ValueError(
            f"{kind} {name!r} is not in the local cache and the hub can't be reached: "
            f"connect once, or set {kind} to {_LOCAL_OPTIONS[kind]}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
