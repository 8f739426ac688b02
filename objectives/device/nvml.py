"""Reads a card through NVML (NVIDIA's management library), found by UUID.

NVML knows what torch does not: what a process holds beyond torch's allocator, what the whole card holds, how busy it is, what
energy it used. None of it is needed to search: where NVML is missing, refuses, or does not list this process (in a container
it may show the host's process ids), a figure is None and the reason is kept.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import pynvml

T = TypeVar("T")


class NvmlReader:
    """One card, or one MIG instance, as NVML shows it.

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
        """Finds a card; never fails, but its figures may all be None.

        Args:
            uuid: The card's or the MIG instance's, with NVML's prefix or without one; None for no card.
        """
        if uuid is None:
            return cls(None, "no card")
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Gives NVML back; figures are None afterwards."""
        if self._handle is not None:
            self._handle = None
            self.unavailable_reason = "closed"
            _shut_down()

    def process_memory_mib(self) -> float | None:
        """What this process holds on the card, the CUDA context included; None if NVML does not list it."""
        processes = self._ask(pynvml.nvmlDeviceGetComputeRunningProcesses)
        used = [process.usedGpuMemory for process in processes or () if process.pid == os.getpid()]
        # On a system that does not account by process, the figure is missing though the process is listed.
        known = [amount for amount in used if amount is not None]
        return sum(known) / 2**20 if known else None

    def device_memory_mib(self) -> float | None:
        """What all processes hold on the card, without what the driver keeps for itself where NVML tells them apart."""
        memory = self._memory()
        return None if memory is None else memory.used / 2**20

    def total_memory_mib(self) -> float | None:
        """The card's memory."""
        memory = self._memory()
        return None if memory is None else memory.total / 2**20

    def utilization_percent(self) -> float | None:
        """The share of the last sampling period (between 1/6 s and 1 s) in which a kernel ran."""
        rates = self._ask(pynvml.nvmlDeviceGetUtilizationRates)
        return None if rates is None else float(rates.gpu)

    def total_energy_j(self) -> float | None:
        """What the card used since the driver was loaded; a difference of two readings is what is of use."""
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
    """What is held on each card and each MIG instance of the machine; empty if NVML does not say. Does not start CUDA."""
    used: dict[str, float] = {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return used
    with contextlib.suppress(pynvml.NVMLError):
        for handle in _handles():
            # A card that refuses leaves the others readable.
            with contextlib.suppress(pynvml.NVMLError):
                used[str(pynvml.nvmlDeviceGetUUID(handle))] = _memory_info(handle).used / 2**20
    _shut_down()
    return used


def driver_version() -> str | None:
    """The version of NVIDIA's driver, or None if NVML does not say."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None
    finally:
        _shut_down()


def _handles() -> Iterator[Any]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        card = pynvml.nvmlDeviceGetHandleByIndex(index)
        yield card
        try:
            num_instances = pynvml.nvmlDeviceGetMaxMigDeviceCount(card)
        except pynvml.NVMLError:
            continue  # a card without MIG
        for instance in range(num_instances):
            # Places for instances that were not made are not found.
            with contextlib.suppress(pynvml.NVMLError):
                yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, instance)


def _memory_info(handle: Any) -> Any:
    # The first version counts the driver's own reserve as used; older drivers have only that.
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _shut_down() -> None:
    # NVML counts initialisations; ending one more than there were is no harm to anyone.
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()
