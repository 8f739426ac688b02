"""A function that a program sends to the processes of its own trials: one of a notebook or a script, or a closure.

No other process could import it. So it is pickled by value, with what it refers to, and goes over the channel of a process that
the program itself has started. It is never read from a storage, a file or a request.
"""

import functools
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SentFunction:
    """A function on its way.

    Attributes:
        pickled: The function, as cloudpickle writes it.
        path: Where the program finds modules, which the function may import.
        arguments: The program's own, `sys.argv`, which the function may read.
        fingerprint: The fingerprint of its source.
    """

    pickled: bytes
    path: tuple[str, ...]
    arguments: tuple[str, ...]
    fingerprint: str

    def packed(self) -> bytes:
        """Return all of it as one message."""
        return pickle.dumps((self.pickled, self.path, self.arguments, self.fingerprint))


_received: list[SentFunction] = []


def receive(packed: bytes) -> None:
    """Keep the function that this process was sent, and look for modules where its program does, after the usual places."""
    pickled, path, arguments, fingerprint = pickle.loads(packed)
    sys.path.extend(place for place in path if place not in sys.path)
    sys.argv[:] = arguments
    _received[:] = [SentFunction(pickled=pickled, path=path, arguments=arguments, fingerprint=fingerprint)]


def received() -> SentFunction | None:
    """Return the function that this process was sent, or None."""
    return _received[0] if _received else None


def load(function: SentFunction) -> Callable[..., Any]:
    """Return the function, with a copy of its own of everything that it refers to.

    Raises:
        Exception: Whatever is raised where a module that it refers to is imported.
    """
    return pickle.loads(function.pickled)  # type: ignore[no-any-return]


def code_of(arguments: tuple[Any, ...], file: str) -> CodeType:
    """Return code by the arguments of its class, with the file that a traceback is to name."""
    return CodeType(*arguments).replace(co_filename=file)


def cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    """Return a function with an empty cache of its results: `functools.cache` can't be pickled by value itself."""
    found: Callable[..., Any] = functools.lru_cache(**parameters)(function)
    return found
