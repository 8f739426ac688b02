"""Tells running out of memory from any other error, by an exception's type and the exact words of whoever raised it.

Out of memory is knowledge that a search builds on, so another error must never pass for it. Hence the texts are complete
phrases of torch, CUDA's libraries, NumPy and the C++ runtime, looked for only in errors of the types that these raise. Two that
are often taken for it are not: CUDNN_STATUS_NOT_SUPPORTED, which a shape or a layout raises as well, and
CUBLAS_STATUS_NOT_INITIALIZED, which a failed assertion on the device raises as well.

Nothing here imports torch: the process that starts the trials uses it too.
"""

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tradeoff.objectives.device.data_limit import left_in_data_limit_mib
from tradeoff.objectives.device.registry import KINDS

_PHRASES = re.compile(
    "|".join((r"\bstd::bad_alloc\b", *(phrase for device in KINDS.values() for phrase in device.out_of_memory_phrases))),
    re.DOTALL,
)
# All that a process says on its standard error when native code ends it.
_LAST_WORDS = re.compile(
    r"terminate called after throwing an instance of 'std::bad_alloc'"
    r"|^memory allocation of (?P<bytes>\d+) bytes failed"  # Rust
    r"|^libgomp: (?:Out of memory allocating (?P<gomp_bytes>\d+) bytes|Thread creation failed: .*)",
    re.MULTILINE,
)
_SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB)"
_MIB = {"bytes": 2.0**-20, "KiB": 2.0**-10, "MiB": 1.0, "GiB": 2.0**10}
# These have other causes too. They mean out of memory only if a limit leaves next to nothing: a stack takes 8 MiB, and oneDNN,
# torch's library for a CPU, allocates its generated code and scratch space in small pieces.
_AMBIGUOUS = ("can't start new thread", "could not create a primitive")
_NEXT_TO_NOTHING_MIB = 16.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryDetails:
    """The details that an out-of-memory error reports.

    Attributes:
        message: Its first line, after the name of its type.
        requested_mib: The allocation that failed, if the error says it.
        free_mib: The memory that was free for it, if the error says it: on the GPU, or within the process's share of the GPU
            if that is less.
    """

    message: str
    requested_mib: float | None = None
    free_mib: float | None = None


def out_of_memory_details(error: BaseException) -> MemoryDetails | None:
    """Read an error, or one that it came from, as running out of memory.

    Call it before a resource limit is lifted: some errors mean out of memory only if the limit leaves nothing.

    Returns:
        What the error reports, or None if it is any other error.
    """
    for link in _chain(error):
        if _is_out_of_memory(link):
            return _details(link)
    return None


def out_of_memory_last_words(log: str) -> MemoryDetails | None:
    """Read the output of a process that native code ended for lack of memory, where there is no exception."""
    found = _LAST_WORDS.search(log)
    if found is None:
        return None
    size = found["bytes"] or found["gomp_bytes"]
    line = log[found.start() :].splitlines()[0].strip()
    return MemoryDetails(message=line, requested_mib=None if size is None else int(size) / 2**20)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending = [error]
    while pending:
        link = pending.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            pending.extend(link.exceptions)
        if link.__cause__ is not None:
            pending.append(link.__cause__)
        if link.__context__ is not None and not link.__suppress_context__:
            pending.append(link.__context__)


def _is_out_of_memory(error: BaseException) -> bool:
    # NumPy's and Arrow's are subclasses; torch's is a RuntimeError, and is known by its name to spare the import.
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if not isinstance(error, RuntimeError | OSError):
        return False
    if str(error) in _AMBIGUOUS:
        left_mib = left_in_data_limit_mib()
        return left_mib is not None and left_mib < _NEXT_TO_NOTHING_MIB
    return _PHRASES.search(str(error)) is not None


def _details(error: BaseException) -> MemoryDetails:
    text = str(error).strip()
    # A data loader's error includes its worker's traceback; the phrase itself says more than "Caught ...".
    found = _PHRASES.search(text)
    line = (text[found.start() :] if found else text).splitlines()[0] if text else "no message"
    requested_mib = _first_size(rf"[Tt]ried to allocate {_SIZE}", text)
    if requested_mib is None:
        requested_mib = _first_size(rf"Unable to allocate {_SIZE}", text)  # NumPy
    return MemoryDetails(message=f"{type(error).__name__}: {line}", requested_mib=requested_mib, free_mib=_free_mib(text))


def _free_mib(text: str) -> float | None:
    """Return what was free according to torch; a share of a GPU (a memory fraction) can be used up long before the GPU is."""
    free_mib = _first_size(rf"of which {_SIZE} is free", text)
    if free_mib is None:
        free_mib = _first_size(rf"; {_SIZE} free", text)  # torch before 2.1
    allowed_mib = _first_size(rf"{_SIZE} allowed;", text)
    allocated_mib = _first_size(rf"{_SIZE} is allocated by PyTorch", text)
    if free_mib is None or allowed_mib is None or allocated_mib is None:
        return free_mib
    cached_mib = _first_size(rf"{_SIZE} is reserved by PyTorch but unallocated", text) or 0.0
    return min(free_mib, max(0.0, allowed_mib - allocated_mib - cached_mib))


def _first_size(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return None if found is None else float(found[1]) * _MIB[found[2]]
