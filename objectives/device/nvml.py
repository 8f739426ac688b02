"""Reads a GPU through NVML (NVIDIA's management library), found by UUID.

NVML knows what torch does not: what a process holds beyond torch's allocator, what the whole GPU holds, how busy it is, what
energy it used. A search needs none of it: where NVML is missing, refuses, or does not list this process (in a container it may
show the host's process ids), a figure is None and the reason is kept. Nothing here starts CUDA.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import pynvml

from tradeoff.objectives.device.base import DeviceMonitor

T = TypeVar("T")


class NvmlReader(DeviceMonitor):
    """One GPU, or one MIG instance, as NVML shows it.

    NVML does not measure utilisation and energy of a MIG instance, so these are None there.

    Attributes:
        unavailable_reason: Why figures are missing, in NVML's own words; None if none is.

    Example:
        >>> with NvmlReader.open("GPU-00000000-0000-0000-0000-000000000000") as nvml:  # doctest: +SKIP
        ...     nvml.device_memory_mib()
    """

    def __init__(self, handle: Any, unavailable_reason: str | None = None) -> None:
        self._handle = handle
        self.unavailable_reason = unavailable_reason

    @classmethod
    def open(cls, uuid: str | None) -> Self:
        """Find a GPU. Never fails, but all of its figures may be None.

        Args:
            uuid: UUID of the GPU or MIG instance, with NVML's prefix or without one; None for no GPU.
        """
        if uuid is None:
            return cls(None, "no GPU")
        names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            return cls(None, f"NVML: {error}")
        reason = ""
        for name in names:
            try:
                return cls(pynvml.nvmlDeviceGetHandleByUUID(name))
            except pynvml.NVMLError as error:
                reason = f"NVML: {error}: {name}"
        _shut_down()
        return cls(None, reason)

    def close(self) -> None:
        """Release NVML; every figure is None afterwards."""
        if self._handle is not None:
            self._handle = None
            self.unavailable_reason = "closed"
            _shut_down()

    def process_memory_mib(self) -> float | None:
        """Return what this process holds on the GPU, the CUDA context included; None if NVML does not list it."""
        processes = self._ask(pynvml.nvmlDeviceGetComputeRunningProcesses)
        used = [process.usedGpuMemory for process in processes or () if process.pid == os.getpid()]
        # On a system that does not account by process, the figure is missing though the process is listed.
        known = [amount for amount in used if amount is not None]
        return sum(known) / 2**20 if known else None

    def num_other_processes(self) -> int | None:
        """Return the number of processes that run on the GPU besides this one, which must have started to use it."""
        processes = self._ask(pynvml.nvmlDeviceGetComputeRunningProcesses)
        if processes is None:
            return None
        # In a container NVML may show the host's process ids: one of them is this process, under another number.
        return max(0, len({process.pid for process in processes}) - 1)

    def device_memory_mib(self) -> float | None:
        """Return what all processes hold on the GPU, without the driver's own reserve if NVML tells them apart."""
        memory = self._memory()
        return None if memory is None else memory.used / 2**20

    def total_memory_mib(self) -> float | None:
        """Return the GPU's memory."""
        memory = self._memory()
        return None if memory is None else memory.total / 2**20

    def utilization_percent(self) -> float | None:
        """Return the share of the last sampling period (between 1/6 s and 1 s) in which a kernel ran, 0 to 100."""
        rates = self._ask(pynvml.nvmlDeviceGetUtilizationRates)
        return None if rates is None else float(rates.gpu)

    def total_energy_j(self) -> float | None:
        """Return the energy used since the driver was loaded; only a difference of two readings has a meaning."""
        energy_mj = self._ask(pynvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if energy_mj is None else energy_mj / 1000

    def _memory(self) -> Any:
        return self._ask(_memory_info)

    def _ask(self, question: Callable[[Any], T]) -> T | None:
        if self._handle is None:
            return None
        try:
            return question(self._handle)
        except pynvml.NVMLError as error:
            self.unavailable_reason = f"NVML: {error}"
            return None


def used_memory_by_uuid_mib() -> dict[str, float]:
    """Return the memory in use on each GPU and each MIG instance of the machine; empty if NVML does not report it."""
    used: dict[str, float] = {}
    with contextlib.suppress(pynvml.NVMLError), started():
        for gpu, instances in _gpus():
            for handle in (gpu, *instances):
                # A GPU that refuses leaves the others readable.
                with contextlib.suppress(pynvml.NVMLError):
                    used[_uuid(handle)] = _memory_info(handle).used / 2**20
    return used


def gpu_uuids() -> dict[str, list[str]]:
    """Return the UUIDs of the machine's GPUs in NVML's order, each with those of its MIG instances; empty without NVML."""
    with contextlib.suppress(pynvml.NVMLError), started():
        return {_uuid(gpu): [_uuid(instance) for instance in instances] for gpu, instances in _gpus()}
    return {}


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, or None if NVML does not report it."""
    with contextlib.suppress(pynvml.NVMLError), started():
        return str(pynvml.nvmlSystemGetDriverVersion())
    return None


@contextmanager
def started() -> Iterator[None]:
    """Have NVML started for the time of a block.

    Raises:
        pynvml.NVMLError: There is none, or it refuses.
    """
    pynvml.nvmlInit()
    try:
        yield
    finally:
        _shut_down()


def _gpus() -> Iterator[tuple[Any, list[Any]]]:
    """Yield each GPU's handle with those of its MIG instances."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        instances = []
        with contextlib.suppress(pynvml.NVMLError):  # a GPU without MIG
            for instance in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                with contextlib.suppress(pynvml.NVMLError):  # a place for an instance that was not created
                    instances.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, instance))
        yield gpu, instances


def _uuid(handle: Any) -> str:
    return str(pynvml.nvmlDeviceGetUUID(handle))


def _memory_info(handle: Any) -> Any:
    # The first version counts the driver's own reserve as used; older drivers have only that.
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _shut_down() -> None:
    # NVML counts initialisations; one shutdown too many does no harm.
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()
