"""The operating system's limit on a process's data (RLIMIT_DATA), with which a CPU enforces a memory limit.

It counts private writable memory as it is mapped, which is more than tensors. So it is set above the level at that moment,
after a warm-up has brought what would come later anyway, such as the OpenMP pool with stacks of 8 MiB each. While
`malloc.page_allocation` is on, what is mapped and the resident peak that a meter shows agree to within a few MiB. While it is
off they do not: glibc keeps freed blocks, a training that fits runs out of memory, and the limit should be lifted first.
"""

import resource
import sys

from tradeoff.objectives.device.procfs import status_mib

# The meter has the last word (`Device.check_peak`), so that every configuration is judged by the same number; the limit is
# there to stop what is beyond it for real. Libraries map a few MiB more than they touch (oneDNN in bf16 most of all), and some
# crash where such a mapping fails, so the limit leaves them this much room.
_SLACK_MIB = 6.0


def set_data_limit(limit_mib: float) -> None:
    """Make allocations fail that take this process more than `limit_mib` above what it has mapped now.

    Raises:
        ValueError: The limit is not above 0, or this system has no such limit.
    """
    if not limit_mib > 0:
        raise ValueError(f"limits.peak_memory_mib must be above 0, got {limit_mib:g}")
    limit = int((current_data_mib() + limit_mib + _SLACK_MIB) * 2**20)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # Only the soft limit, which can be lifted again when the answer is to be sent.
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def lift_data_limit() -> None:
    """Remove the limit again."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def left_in_data_limit_mib() -> float | None:
    """Return what the limit still allows this process to map; None if there is no limit or the system does not report it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    data_mib = status_mib("VmData")
    return None if soft == resource.RLIM_INFINITY or data_mib is None else max(0.0, soft / 2**20 - data_mib)


def current_data_mib() -> float:
    """Return the private writable memory that this process has mapped, which is what RLIMIT_DATA limits.

    Raises:
        ValueError: This system does not report it.
    """
    if (data_mib := status_mib("VmData")) is None:
        raise ValueError(f"a memory limit without a GPU needs Linux, got {sys.platform}: remove limits.peak_memory_mib")
    return data_mib
