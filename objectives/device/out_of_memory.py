"""Tells an out-of-memory from a real error, by an exception's type and the exact words of whoever raised it.

Out-of-memory is knowledge that a search builds on, so a real error must never pass for one. Hence the texts below are whole
phrases of torch, CUDA's libraries, NumPy and the C++ runtime, looked for only in errors of the types that these raise. Two that
are often read as out-of-memory are not: CUDNN_STATUS_NOT_SUPPORTED, which a shape or a layout raises as well, and
CUBLAS_STATUS_NOT_INITIALIZED, which a failed assertion on the device raises as well.

Nothing here imports torch: the process that starts the trials uses it too.
"""

import errno
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass

from tradeoff.objectives.device.procfs import own_memory_mib

_PHRASES = re.compile(
    "|".join(
        (
            r"(?:CUDA|HIP|XPU|MPS backend) out of memory\b",
            r"(?:CUDA|HIP|CUDA driver|HIP driver) error: out of memory\b",
            r"Triton Error \[(?:CUDA|HIP)\]: out of memory\b",
            r"\bCuda failure (?:\d+ )?'out of memory'",  # NCCL
            r"\bNVRTC_ERROR_OUT_OF_MEMORY\b",
            r"\b(?:CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_ALLOC_FAILED\b",
            r"\bCUDNN_STATUS_INTERNAL_ERROR_(?:HOST|DEVICE)_ALLOCATION_FAILED\b",
            r"\bCUFFT_ALLOC_FAILED\b",
            r"\bDefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
            r"\bstd::bad_alloc\b",
            r"\bunable to mmap \d+ bytes from file .*: Cannot allocate memory",
        )
    ),
    re.DOTALL,
)
# A process that ends itself says no more than this, on its standard error.
_LAST_WORDS = re.compile(
    r"terminate called after throwing an instance of 'std::bad_alloc'"
    r"|^memory allocation of (?P<bytes>\d+) bytes failed"  # Rust
    r"|^libgomp: (?:Out of memory allocating (?P<gomp_bytes>\d+) bytes|Thread creation failed: .*)",
    re.MULTILINE,
)
_SIZE = r"([\d.]+) (bytes|KiB|MiB|GiB)"
_MIB = {"bytes": 2.0**-20, "KiB": 2.0**-10, "MiB": 1.0, "GiB": 2.0**10}
# These have other causes too. They are out-of-memory where a limit leaves next to nothing: a stack takes 8 MiB, and oneDNN,
# torch's library for a CPU, asks for its generated code and scratch space in small pieces.
_AMBIGUOUS = ("can't start new thread", "could not create a primitive")
_NEXT_TO_NOTHING_MIB = 16.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryDetails:
    """What an out-of-memory error says of itself.

    Attributes:
        message: Its first line, under the name of its type.
        requested_mib: The allocation that failed, where the error says it.
        free_mib: What was free for it, where the error says it: on the card, or within the process's share of the card if that
            is less.
    """

    message: str
    requested_mib: float | None = None
    free_mib: float | None = None


def out_of_memory_details(error: BaseException) -> MemoryDetails | None:
    """Reads an error, and those it came from, as an out-of-memory.

    Call it before a resource limit is lifted: some errors are out-of-memory only where the limit leaves nothing.

    Args:
        error: What was raised.

    Returns:
        What the error says, or None if it is another error.
    """
    for link in _chain(error):
        if _is_out_of_memory(link):
            return _details(link)
    return None


def out_of_memory_last_words(log: str) -> MemoryDetails | None:
    """Reads the output of a process that ended itself as an out-of-memory in native code, where no exception exists.

    Args:
        log: What it wrote to its standard error.
    """
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
        return _is_limit_used_up()
    return _PHRASES.search(str(error)) is not None


def _is_limit_used_up() -> bool:
    """Whether a resource limit leaves this process next to no memory."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    data_mib = own_memory_mib().get("VmData")
    return soft != resource.RLIM_INFINITY and data_mib is not None and soft / 2**20 - data_mib < _NEXT_TO_NOTHING_MIB


def _details(error: BaseException) -> MemoryDetails:
    text = str(error).strip()
    # A data loader's error brings its worker's traceback; the phrase itself says more than "Caught ...".
    found = _PHRASES.search(text)
    line = (text[found.start() :] if found else text).splitlines()[0] if text else "no message"
    requested_mib = _first_size(rf"[Tt]ried to allocate {_SIZE}", text)
    if requested_mib is None:
        requested_mib = _first_size(rf"Unable to allocate {_SIZE}", text)  # NumPy
    return MemoryDetails(message=f"{type(error).__name__}: {line}", requested_mib=requested_mib, free_mib=_free_mib(text))


def _free_mib(text: str) -> float | None:
    """What was free by torch's own account; a share of a card (a memory fraction) can be used up long before the card is."""
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
