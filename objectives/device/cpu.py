"""The CPU: training on the machine's own processors and memory.

Its `peak_memory_mib` is what the process holds in anonymous memory (tensors and the heap) at its peak, above its level when
the meter was made. Mapped files, which are libraries and the data set, are left out: they depend on which of their pages were
ever touched, the kernel can drop them at any time, and a memory limit does not count them either.
"""

import gc
import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Self

import psutil

from tradeoff.objectives.device.base import Device, DeviceInfo, MemoryLimitExceededError, MemoryMeter, num_cpus
from tradeoff.objectives.device.data_limit import left_in_data_limit_mib, lift_data_limit, set_data_limit
from tradeoff.objectives.device.extras import has_compiler
from tradeoff.objectives.device.malloc import give_back_free_blocks, page_allocation
from tradeoff.objectives.device.procfs import status_mib
from tradeoff.objectives.measurements.outcome import Memory
from tradeoff.searchspace import Precision

# 2: what a trial imports is not its memory. In 1, TRL and the code of a model were, some 8 MiB of a language model.
MEMORY_MEASURE = 2
# glibc keeps up to 40 MiB of stacks for reuse: four of 8 MiB.
_NUM_CACHED_STACKS = 4


class CpuDevice(Device):
    """The machine's processors.

    Memory is enforced and measured only while freed blocks go back to the system (`malloc.page_allocation`), which slows steps
    down; so the limit is lifted, and the peak no longer measured, before anything is timed.
    """

    kind = "cpu"
    uses_host_processors = True
    uses_host_memory = True
    peak_includes_context = False
    peak_scope = "above the loaded libraries"
    training_shows_peak = False
    traced_allocator = "cpu"
    process_group_backend = "gloo"
    out_of_memory_phrases = (
        r"\bDefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
        r"\bunable to mmap \d+ bytes from file .*: Cannot allocate memory",
    )

    @classmethod
    def visible(cls, environment: Mapping[str, str] = os.environ) -> list[str]:
        """Return no names: workers get processors, not devices."""
        return []

    @classmethod
    def name_without_starting(cls) -> str:
        """Return the processor's model."""
        return processor_name()

    @classmethod
    def can_compile(cls) -> bool:
        """Return True if there is a C++ compiler: torch.compile writes C++ for a CPU (torch._inductor.cpp_builder)."""
        return has_compiler("CXX", ("clang++",) if sys.platform == "darwin" else ("g++",))

    @classmethod
    def is_available(cls) -> bool:  # noqa: D102
        return True

    @classmethod
    def start(cls, *, index: int = 0, connect: Callable[[type[Device]], None] | None = None) -> Self:  # noqa: D102
        if connect is not None:
            connect(cls)
        return cls(
            DeviceInfo(
                kind=cls.kind,
                name=processor_name(),
                total_memory_mib=psutil.virtual_memory().total / 2**20,
                precisions=(Precision.FP32.value, Precision.BF16.value),
                num_cpus=num_cpus(),
                extras=cls.extras(),
                memory_measure=MEMORY_MEASURE,
            )
        )

    @classmethod
    def warm_up(cls) -> None:
        """Run one small step, and settle what counts as memory on a CPU besides tensors: threads and free blocks.

        A few threads leave their stacks in glibc's cache for the next ones (models are loaded by a pool of them), and free
        blocks go back to the system.
        """
        super().warm_up()
        together = threading.Barrier(_NUM_CACHED_STACKS)
        threads = [threading.Thread(target=together.wait) for _ in range(_NUM_CACHED_STACKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()  # what importing has left, and would be freed in the middle of a measurement
        give_back_free_blocks()

    @classmethod
    def prepare_rank(cls, num_ranks: int) -> None:
        """Share the processors: as many threads as processors in each rank would slow all of them down."""
        import torch

        num_threads = max(1, torch.get_num_threads() // num_ranks)
        os.environ["OMP_NUM_THREADS"] = str(num_threads)  # Accelerate reads it
        torch.set_num_threads(num_threads)

    def memory_meter(self) -> MemoryMeter:  # noqa: D102
        return CpuMemoryMeter()

    def held_mib(self) -> float:
        """Return the resident memory of the whole process."""
        return float(psutil.Process().memory_info().rss) / 2**20

    def enforce_memory_limit(self, memory_limit_mib: float) -> None:
        """Limit what the process may map above what it has now, until `lift_memory_limit`."""
        self.warm_up()
        set_data_limit(memory_limit_mib)

    def lift_memory_limit(self) -> None:
        """Remove the limit: when steps are timed the allocator keeps freed blocks, and those are not the model's."""
        lift_data_limit()

    def left_in_limit_mib(self) -> float | None:  # noqa: D102
        return left_in_data_limit_mib()

    def check_peak(self, peak_memory_mib: float, memory_limit_mib: float) -> None:
        """Compare the peak with the limit, which has a little slack (see `data_limit`) and may not be enforced at all."""
        if peak_memory_mib > memory_limit_mib:
            raise MemoryLimitExceededError(peak_memory_mib, memory_limit_mib)

    def measuring_memory(self) -> AbstractContextManager[None]:
        """Let freed blocks go back to the system, or the peak would count them."""
        return page_allocation()


class CpuMemoryMeter(MemoryMeter):
    """The kernel's own peak of resident memory, less the mapped files, above the baseline.

    The kernel keeps only the peak of the sum (VmHWM), so the files mapped at the time of reading are subtracted from it:
    libraries and data that are first touched between the peak and the reading make the peak look smaller by that much. Read
    soon, and after a warm-up.

    Where the peak can't be reset (no /proc/self/clear_refs, as on macOS), it is the peak of the process's whole life
    (`ru_maxrss`), files included, above what that peak was before: a trial looks smaller by what starting its process took for
    a moment, and a second reading of the same process may repeat the first.
    """

    _CLEAR_REFS = Path("/proc/self/clear_refs")

    def __init__(self) -> None:
        CpuDevice.warm_up()
        self._process = psutil.Process()
        self._has_kernel_peak = self._CLEAR_REFS.exists()
        self._context_mib = self._level_mib()
        self.reset_peak()

    def reset_peak(self) -> None:  # noqa: D102
        if self._has_kernel_peak:
            # "To reset the peak resident set size ... write 5", proc_pid_clear_refs(5)
            self._CLEAR_REFS.write_text("5", encoding="ascii")

    def read(self) -> Memory:  # noqa: D102
        process_mib = status_mib("VmHWM") if self._has_kernel_peak else None
        if process_mib is None:
            process_mib = peak_mib = _life_peak_mib()
        else:
            peak_mib = process_mib - self._process.memory_info().shared / 2**20
        return Memory(
            peak_memory_mib=max(0.0, peak_mib - self._context_mib),
            peak_process_mib=process_mib,
            context_mib=self._context_mib,
        )

    def held_mib(self) -> float:  # noqa: D102
        return max(0.0, self._level_mib() - self._context_mib)

    def _level_mib(self) -> float:
        if not self._has_kernel_peak:
            return _life_peak_mib()
        memory = self._process.memory_info()
        return float(memory.rss - memory.shared) / 2**20  # "shared" is what mapped files take


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name, or as much of it as this system reports."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _life_peak_mib() -> float:
    peak = getrusage(RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, others KiB
