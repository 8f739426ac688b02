"""Meters of one trial: peak memory, memory and load over time, and a clock that waits for the device.

The objective is what the process holds on the card at its peak, the CUDA context included: it decides whether the next run
fits. Without a GPU it is what the process holds in anonymous memory (tensors and the heap) at its peak, above its level when
the meter was made. Mapped files, which are libraries and the data set, are left out: they depend on which of their pages were
ever touched, the kernel can drop them at any time, and a memory budget does not count them either.
"""

import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch

from tradeoff.objectives.device.base import DeviceInfo, warm_up
from tradeoff.objectives.device.malloc import page_allocation
from tradeoff.objectives.device.nvml import NvmlReader
from tradeoff.objectives.device.procfs import own_memory_mib
from tradeoff.objectives.device.sampler import DeviceSampler
from tradeoff.objectives.measurements.outcome import Memory

__all__ = [
    "CpuMemoryMeter",
    "CudaMemoryMeter",
    "DeviceSampler",
    "MemoryMeter",
    "memory_meter",
    "page_allocation",
    "synchronized_clock",
]


class MemoryMeter(ABC):
    """Measures the memory of this process from a baseline, which is its level when the meter is made."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Starts a new peak from what is held now; the baseline stays."""

    @abstractmethod
    def read(self) -> Memory:
        """The peaks since the last reset."""

    @abstractmethod
    def held_mib(self) -> float:
        """What is held now, by the measure of `peak_memory_mib`."""


class CudaMemoryMeter(MemoryMeter):
    """A card: the context as measured when CUDA started, plus what torch's caching allocator reserved.

    NVML's figures are those at the time of reading. The caching allocator gives nothing back by itself, so for this process
    they are its peak as long as nobody emptied the cache; `DeviceSampler` follows them over time.

    Args:
        device: The card, as `describe_device` found it in this process.
    """

    def __init__(self, device: DeviceInfo) -> None:
        self._context_mib = device.context_mib or 0.0
        self._uuid = device.uuid
        self.reset_peak()

    def reset_peak(self) -> None:  # noqa: D102
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> Memory:  # noqa: D102
        torch.cuda.synchronize()
        reserved_mib = torch.cuda.max_memory_reserved() / 2**20
        with NvmlReader.open(self._uuid) as nvml:
            return Memory(
                peak_memory_mib=self._context_mib + reserved_mib,
                peak_allocated_mib=torch.cuda.max_memory_allocated() / 2**20,
                peak_reserved_mib=reserved_mib,
                peak_process_mib=nvml.process_memory_mib(),
                peak_device_mib=nvml.device_memory_mib(),
                context_mib=self._context_mib,
            )

    def held_mib(self) -> float:  # noqa: D102
        return self._context_mib + torch.cuda.memory_reserved() / 2**20


class CpuMemoryMeter(MemoryMeter):
    """A CPU: the kernel's own peak of resident memory, less the mapped files, above the baseline.

    The kernel keeps the peak of the sum (VmHWM) alone, so the files mapped at the time of reading are taken from it: between
    peak and reading, libraries and data touched for the first time make the peak look smaller by that much. Read soon, and
    after a warm-up.

    Where the peak can't be reset (no /proc/self/clear_refs, as on macOS), it is the peak of the process's whole life
    (`ru_maxrss`), files included, above what that peak was before: a trial looks smaller by what starting its process took in
    passing, and a second figure of the same process may repeat the first.
    """

    _CLEAR_REFS = Path("/proc/self/clear_refs")

    def __init__(self) -> None:
        warm_up("cpu")
        self._has_kernel_peak = self._CLEAR_REFS.exists()
        self._context_mib = self._level_mib()
        self.reset_peak()

    def reset_peak(self) -> None:  # noqa: D102
        if self._has_kernel_peak:
            # "To reset the peak resident set size ... write 5", proc_pid_clear_refs(5)
            self._CLEAR_REFS.write_text("5", encoding="ascii")

    def read(self) -> Memory:  # noqa: D102
        if self._has_kernel_peak:
            figures = own_memory_mib()
            process_mib = figures["VmHWM"]
            peak_mib = process_mib - figures["RssFile"] - figures["RssShmem"]
        else:
            process_mib = peak_mib = _life_peak_mib()
        return Memory(
            peak_memory_mib=max(0.0, peak_mib - self._context_mib),
            peak_process_mib=process_mib,
            context_mib=self._context_mib,
        )

    def held_mib(self) -> float:  # noqa: D102
        return max(0.0, self._level_mib() - self._context_mib)

    def _level_mib(self) -> float:
        return own_memory_mib()["RssAnon"] if self._has_kernel_peak else _life_peak_mib()


def memory_meter(device: DeviceInfo) -> MemoryMeter:
    """A meter for a device, with its baseline taken now: after the device is initialised, before a model is built."""
    return CudaMemoryMeter(device) if device.kind == "cuda" else CpuMemoryMeter()


def synchronized_clock(device: DeviceInfo) -> float:
    """Seconds on a clock that only a difference of is of use, with all work on the device finished."""
    if device.kind == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _life_peak_mib() -> float:
    peak = getrusage(RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, others KiB
