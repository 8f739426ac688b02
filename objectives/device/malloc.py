"""Controls how glibc's malloc treats freed blocks: gives them back to the system for a true peak, or keeps them for speed."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_PAGE_THRESHOLD = 64 * 1024
# glibc's dynamic thresholds grow to this by themselves in a process that frees large blocks (mallopt(3)). They can't be made
# dynamic again once they have been set.
_FAST_MMAP_THRESHOLD = 32 * 1024 * 1024
_FAST_TRIM_THRESHOLD = 2 * _FAST_MMAP_THRESHOLD


@contextmanager
def page_allocation() -> Iterator[None]:
    """Give each block of 64 KiB or more pages of its own, which go back to the system when it is freed.

    Resident memory then follows live tensors, as a GPU's allocator would show them; otherwise glibc keeps freed blocks, and
    the peak hides what gradient checkpointing saves. Steps take 1.4 to 2 times as long, so time nothing inside. Earlier
    blocks stay where they are. With a C library other than glibc it changes nothing.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.malloc_trim(0)
    _set(libc, _PAGE_THRESHOLD, _PAGE_THRESHOLD)
    try:
        yield
    finally:
        _set(libc, _FAST_MMAP_THRESHOLD, _FAST_TRIM_THRESHOLD)
        libc.malloc_trim(0)


def give_back_free_blocks() -> None:
    """Give what was freed so far back to the system, so that a later trim does not lower a level that was read before it."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, mmap_threshold: int, trim_threshold: int) -> None:
    for parameter, value in ((_M_MMAP_THRESHOLD, mmap_threshold), (_M_TRIM_THRESHOLD, trim_threshold)):
        if libc.mallopt(parameter, value) != 1:
            raise RuntimeError(f"mallopt refused parameter {parameter} = {value}")


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
