"""Reaches the Hugging Face hub, or falls back to its cache without delay.

The hub's libraries retry for half a minute before they give up. So one short connection tells here whether the hub answers at
all; if it does not, they are switched to their cache. An error means "no network" by its type: everything that the libraries
raise for it (`LocalEntryNotFoundError`, `OfflineModeIsEnabled`, `HfHubHTTPError`, transformers' own) is an OSError.
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
    "model": "a local directory, or `embedded`",
    "dataset": "a local CSV, TSV, JSON Lines or Parquet file, or `embedded`",
}


def is_reachable() -> bool:
    """Return True if the hub is not disabled (`HF_HUB_OFFLINE`) and accepts a connection."""
    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        return False
    endpoint = urlsplit(constants.ENDPOINT)
    if endpoint.hostname is None or endpoint.scheme in urllib.request.getproxies():
        return True  # through a proxy, only the libraries themselves can tell
    port = endpoint.port or {"http": 80}.get(endpoint.scheme, 443)
    try:
        socket.create_connection((endpoint.hostname, port), timeout=_CONNECT_LIMIT_S).close()
    except OSError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, or its type if it says nothing, as the reason in a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def hub_access(kind: Literal["model", "dataset"], name: str) -> Iterator[None]:
    """Provide a context for calls that may need the hub: without a network they use only the cache.

    Raises:
        ValueError: It is neither on the hub nor in the cache, in a sentence that names the local options.
    """
    reachable = is_reachable()
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not reachable:
        # Both libraries read the environment only when they are imported; the calls in here read these.
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    except OSError as error:
        if reachable:
            raise ValueError(
                f"{kind} {name!r} can't be loaded from the hub ({first_line(error)}); check its name, or set {kind} to"
                f" {_LOCAL_OPTIONS[kind]}"
            ) from error
        raise ValueError(
            f"{kind} {name!r} is not in the local cache and the hub can't be reached: "
            f"connect once, or set {kind} to {_LOCAL_OPTIONS[kind]}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
