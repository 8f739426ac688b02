"""Calls a function in a fork of this process, so that what it leaves behind is not left here.

A process that has tokenised data or taken a step keeps freed blocks, which a later peak would fill without growing. The same
holds as for the warm server: this process has imported torch, and neither started a device nor another thread.
"""

import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def forked(function: Callable[..., Any], *arguments: Any, refusal: type[Exception]) -> Any:
    """Return what a function returns in a process of its own; whatever ends this call ends that too.

    Args:
        function: The function. What it returns are JSON types.
        arguments: Its arguments.
        refusal: The exceptions that reach the caller, made anew of their sentences.

    Raises:
        refusal: The function raised it.
        RuntimeError: The process ended in another way; it has printed why, unless it was killed.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, ours, function, arguments, refusal))
    process.start()
    theirs.close()
    try:
        answer, error = json.loads(ours.recv_bytes())
    except EOFError:
        process.join()
        raise RuntimeError(f"the process that was to return {function.__name__}() ended with {process.exitcode}") from None
    finally:
        ours.close()
        process.kill()
        process.join()
    if error is not None:
        raise refusal(error)
    return answer


def _call(
    theirs: Connection, ours: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], refusal: type[Exception]
) -> None:
    ours.close()  # the other end is closed once the parent is gone, and not before
    try:
        told: tuple[Any, str | None] = (function(*arguments), None)
    except refusal as error:
        told = (None, str(error))
    theirs.send_bytes(json.dumps(told).encode())
