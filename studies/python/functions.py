"""A user's function as a job names it, and packed for the trials' processes if none of them could import it."""

import functools
import hashlib
import inspect
import io
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import cloudpickle

from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.job.sent_function import SentFunction, cached, code_of
from tradeoff.studies.errors import TradeoffError

_CACHED = type(functools.cache(len))
# Of an error that an object of the user's own raises.
_MOST_LETTERS = 300


def job_of(build: Callable[..., Any], *, source: Callable[..., Any] | None = None) -> tuple[dict[str, str], bytes | None]:
    """Return the keys of a job that name a function, and the function if it must be sent.

    A function of a module is named, and imported by each trial as it then is. One of a notebook or of the script that runs, a
    closure, or an object that can be called is sent by value, with what it refers to.

    Args:
        build: The function.
        source: The function of the user's own whose code it runs; by default itself.

    Raises:
        TradeoffError: It is no function, or refers to something that can't be sent.
    """
    if not callable(build):
        raise TradeoffError(
            f"build must be a function that takes TrainingArguments and returns a Trainer, got {type(build).__name__}"
        )
    if (folder := _folder_of_module(build)) is not None:
        return {"build": f"{build.__module__}:{build.__name__}", "python_path": str(folder)}, None
    name = getattr(source or build, "__name__", type(build).__name__)
    name = name if name.isidentifier() and name.isascii() else "build"
    function = SentFunction(
        pickled=_pickled(build),
        path=tuple(str(Path(place).absolute()) for place in sys.path),
        arguments=tuple(sys.argv),
        fingerprint=_fingerprint(source or build),
    )
    return {"build": f"{CustomJob.PROGRAM}:{name}", "python_path": str(_file_of(source or build).parent)}, function.packed()


def _folder_of_module(build: Callable[..., Any]) -> Path | None:
    """Return the directory in which a new process finds a function's module by its name; None if it would not."""
    name, module = getattr(build, "__name__", None), getattr(build, "__module__", None) or CustomJob.PROGRAM
    found, parts = sys.modules.get(module), module.split(".")
    if module == CustomJob.PROGRAM or not name or getattr(found, name, None) is not build:
        return None
    path = Path(os.path.abspath(getattr(found, "__file__", None) or ""))
    own = path.parent if path.name == "__init__.py" else path.with_suffix("")
    return own.parents[len(parts) - 1] if path.suffix == ".py" and own.parts[-len(parts) :] == tuple(parts) else None


def _file_of(build: Callable[..., Any]) -> Path:
    """Return the file by which a traceback names a function's lines, whether there is one or not."""
    try:
        return Path(inspect.getfile(inspect.unwrap(build))).absolute()
    except TypeError:  # an object that can be called
        return Path("build.py").absolute()


def _fingerprint(build: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(inspect.unwrap(build))
    except (OSError, TypeError):  # typed in, or no function
        source = repr(getattr(getattr(build, "__code__", None), "co_code", type(build)))
    return f"{len(source)} letters, sha256 {hashlib.sha256(source.encode()).hexdigest()}"


class _ByValue(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler by value that keeps the files of code, and takes cached functions too, without what they have cached."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _CACHED):
            function = obj.__wrapped__
            if function.__module__ == CustomJob.PROGRAM or "<locals>" in function.__qualname__:
                return cached, (function, obj.cache_parameters())
        if isinstance(obj, CodeType):
            _, arguments = self.dispatch_table[CodeType](obj)
            return code_of, (
                arguments,
                obj.co_filename if obj.co_filename.startswith("<") else os.path.abspath(obj.co_filename),
            )
        return super().reducer_override(obj)


def _pickled(build: Any) -> bytes:
    """Return a function by value.

    Raises:
        TradeoffError: It refers to something that can't be sent; the sentence names it.
    """
    try:
        return _dumped(build)
    except Exception as error:  # whatever the user's own objects raise
        what = _named(build)
        why = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_LETTERS]
        raise TradeoffError(
            f"build must be a function that can be sent to a trial's process, and {what} can't be ({why}): make it inside the"
            " function, or keep the function in a module"
        ) from error


def _dumped(value: Any) -> bytes:
    buffer = io.BytesIO()
    _ByValue(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _named(build: Any) -> str:
    """Return the name of the first thing that a function refers to and that can't be sent."""
    try:
        variables = inspect.getclosurevars(inspect.unwrap(build))
    except (TypeError, ValueError):
        return "it"
    for name, value in {**variables.nonlocals, **variables.globals}.items():
        try:
            _dumped(value)
        except Exception:  # noqa: BLE001  it has been raised already, by the whole
            return f"{name}, to which it refers,"
    return "something to which it refers"
