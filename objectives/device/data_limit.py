"""Enforces a memory budget, so that a configuration above it runs out of memory for real, in the probe.

On a card it is torch's per-process memory fraction, with the CUDA context counted against the budget. On a CPU it is the
operating system's limit on a process's data (RLIMIT_DATA), which counts private writable memory as it is mapped.

What RLIMIT_DATA counts is more than tensors, so the limit is set above the level at that moment, after a warm-up has brought
what would come later anyway, such as the OpenMP pool with stacks of 8 MiB each. While `page_allocation` is on, what is mapped
and the resident peak that a meter shows agree to within a few MiB. While it is off, they do not: glibc keeps freed blocks, a
training that fits runs out of memory, and the limit should be lifted first.
"""

import resource
import sys

from tradeoff.objectives.device.base import DeviceInfo, warm_up
from tradeoff.objectives.device.procfs import own_memory_mib

# On a CPU the meter has the last word (`check_budget`), so that every configuration is judged by the same figure; the limit is
# there to stop what is beyond it for real. Libraries map a few MiB more than they touch (oneDNN in bf16 most of all), and some
# crash where such a mapping fails, so the limit leaves them this much room.
_CPU_SLACK_MIB = 6.0


class MemoryBudgetExceeded(MemoryError):
    """A measured peak is above the budget, though no allocation failed.

    Attributes:
        shortfall_mib: By how much.
    """

    def __init__(self, peak_memory_mib: float, limit_mib: float) -> None:
        super().__init__(f"peak memory {peak_memory_mib:,.1f} MiB is above the budget of {limit_mib:,.1f} MiB")
        self.shortfall_mib = peak_memory_mib - limit_mib


def enforce_memory_budget(device: DeviceInfo, limit_mib: float) -> None:
    """Makes allocations beyond a budget fail from now on.

    Args:
        device: The device, as `describe_device` found it in this process.
        limit_mib: On a card, what the process may hold, context included; on a CPU, what it may map above what it has now.

    Raises:
        ValueError: The budget is below the CUDA context, or this system has no such limit.
    """
    warm_up(device.kind)
    if device.kind == "cuda":
        _limit_card(device, limit_mib)
    else:
        _limit_data(limit_mib)


def check_budget(peak_memory_mib: float, limit_mib: float) -> None:
    """Compares a measured peak with the budget.

    Raises:
        MemoryBudgetExceeded: The peak is above the budget.
    """
    if peak_memory_mib > limit_mib:
        raise MemoryBudgetExceeded(peak_memory_mib, limit_mib)


def lift_memory_budget() -> None:
    """Takes the operating system's limit away again; a card's stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def current_data_mib() -> float:
    """The private writable memory that this process has mapped, which is what RLIMIT_DATA limits.

    Raises:
        ValueError: This system does not say.
    """
    figures = own_memory_mib()
    if "VmData" not in figures:
        raise ValueError(f"a memory limit without a GPU needs Linux, got {sys.platform}: remove limits.peak_memory_mib")
    return figures["VmData"]


def _limit_card(device: DeviceInfo, limit_mib: float) -> None:
    import torch

    context_mib = device.context_mib or 0.0
    if limit_mib <= context_mib:
        raise ValueError(
            f"limits.peak_memory_mib must be above the CUDA context, {context_mib:,.0f} MiB on {device.name}, "
            f"got {limit_mib:,.0f}"
        )
    fraction = (limit_mib - context_mib) / device.total_memory_mib
    torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))


def _limit_data(limit_mib: float) -> None:
    if not limit_mib > 0:
        raise ValueError(f"limits.peak_memory_mib must be above 0, got {limit_mib:g}")
    limit = int((current_data_mib() + limit_mib + _CPU_SLACK_MIB) * 2**20)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # The soft limit alone: it can be lifted again when the answer is to be sent.
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
