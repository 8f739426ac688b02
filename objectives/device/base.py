"""The base class of a kind of device: all that the rest of the product asks of it, and so all that a new kind must provide.

A kind is one module beside this one with a subclass of `Device`, registered in `registry.KINDS`. Nobody else compares kinds:
they ask the class (what holds for every device of the kind, and can be asked of a stored study anywhere) or the device itself
(in a trial's process, where it is started). Class attributes and the methods under "Before a process uses a device" must
neither import torch nor start the device: a process that has initialised CUDA holds memory on the GPU and can't fork.
"""

# ruff: noqa: B027  the empty methods are optional: a kind without anything to do leaves them out

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from tradeoff.objectives.device.extras import installation_needs, is_installed
from tradeoff.objectives.measurements.outcome import Memory


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceInfo:
    """A device as plain values, so that it crosses a process boundary and is stored with a study.

    Attributes:
        kind: torch's name for this type of device; the key of its class in `registry.KINDS`.
        name: The model of the GPU or of the processor.
        uuid: The UUID of the GPU or MIG instance, as NVML writes it; None on a CPU.
        total_memory_mib: The memory of the GPU, or of the machine.
        precisions: The values of `searchspace.Precision` that it supports.
        driver: Version of NVIDIA's driver; None on a CPU or if NVML does not report it.
        num_cpus: Processors that this process may use.
        context_mib: Memory that starting the device took on it, including the libraries of the first operations and, if
            several devices train together, their connections; None on a CPU.
        measures_energy: True if the device's energy can be read; NVML does not count it for a MIG instance.
        num_cards: GPUs that this process may use; None on a CPU. (The name is the one that is stored.)
        extras: What some values of a space need and is available: see `tradeoff.objectives.device.extras`.
        memory_measure: The number of the way in which its memory is measured: peaks measured in different ways differ.
    """

    kind: str
    name: str
    uuid: str | None = None
    total_memory_mib: float
    precisions: tuple[str, ...]
    driver: str | None = None
    num_cpus: int
    context_mib: float | None = None
    measures_energy: bool = False
    num_cards: int | None = None
    extras: tuple[str, ...] = ()
    memory_measure: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; `from_dict` reads them."""
        return asdict(self) | {"precisions": list(self.precisions), "extras": list(self.extras)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DeviceInfo":
        """Return the description that `as_dict` wrote."""
        return cls(**{**values, "precisions": tuple(values["precisions"]), "extras": tuple(values.get("extras", ()))})


class MemoryLimitExceededError(MemoryError):
    """A measured peak is above the memory limit, although no allocation failed.

    Attributes:
        shortfall_mib: By how much.
    """

    def __init__(self, peak_memory_mib: float, memory_limit_mib: float) -> None:
        super().__init__(f"peak memory {peak_memory_mib:,.1f} MiB is above the limit of {memory_limit_mib:,.1f} MiB")
        self.shortfall_mib = peak_memory_mib - memory_limit_mib


class MemoryMeter(ABC):
    """Measures the memory of this process from a baseline, which is its level when the meter is made."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Start a new peak from what is held now; the baseline stays."""

    @abstractmethod
    def read(self) -> Memory:
        """Return the peaks since the last reset."""

    @abstractmethod
    def held_mib(self) -> float:
        """Return what is held now, by the measure of `peak_memory_mib`."""


class DeviceMonitor:
    """The figures that a device's driver reports besides torch: None for each that it does not report, as in this class."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the driver's library; every figure is None afterwards."""

    def process_memory_mib(self) -> float | None:
        """Return what this process holds on the device, its context included."""
        return None

    def device_memory_mib(self) -> float | None:
        """Return what all processes hold on the device."""
        return None

    def num_other_processes(self) -> int | None:
        """Return the number of other processes on the device."""
        return None

    def utilization_percent(self) -> float | None:
        """Return the share of the last sampling period in which the device was busy, 0 to 100."""
        return None

    def total_energy_j(self) -> float | None:
        """Return the energy used since an arbitrary moment; only a difference of two readings has a meaning."""
        return None


class Device(ABC):
    """A device that trials train on; each subclass is one kind.

    Attributes:
        kind: torch's name for the type of device, as in `torch.ones(1, device=kind)`; stored with every study.
        uses_host_processors: True if training runs on the machine's own processors. Trials then share them with everything
            else, their number is part of what a time means, and the Trainer needs `use_cpu`.
        uses_host_memory: True if the device has no memory of its own, so that a trial without a limit could take the
            machine's.
        peak_includes_context: True if `peak_memory_mib` counts what starting the device took; otherwise it lies above that.
        peak_scope: The same in words, for a report.
        training_shows_peak: True if the peak of a whole training is comparable with the probe's. If it is not, only the probe
            measures `peak_memory_mib`.
        traced_allocator: The allocator that the memory estimator replays for this kind: `cuda` is torch's caching allocator,
            `cpu` gives each freed block back.
        process_group_backend: The backend of `torch.distributed` for data parallel training.
        out_of_memory_phrases: Regular expressions of the complete phrases by which this kind's allocator and libraries
            report that memory ran out, in a RuntimeError or an OSError. A phrase that other errors share must not be here.

    Args:
        info: The description of the device, as it was found in this process.
    """

    kind: ClassVar[str]
    uses_host_processors: ClassVar[bool] = False
    uses_host_memory: ClassVar[bool] = False
    peak_includes_context: ClassVar[bool] = True
    peak_scope: ClassVar[str]
    training_shows_peak: ClassVar[bool] = True
    traced_allocator: ClassVar[Literal["cuda", "cpu"]]
    process_group_backend: ClassVar[str]
    out_of_memory_phrases: ClassVar[tuple[str, ...]] = ()

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info

    # Before a process uses a device

    @classmethod
    @abstractmethod
    def visible(cls, environment: Mapping[str, str] = os.environ) -> list[str]:
        """Return a name for each device of this kind that a process with this environment may use.

        The names are those that `visibility` takes. A kind that is not divided among workers returns none.
        """

    @classmethod
    def visibility(cls, names: Sequence[str]) -> dict[str, str]:
        """Return the environment variables that leave a process these devices alone."""
        return {}

    @classmethod
    def see_one(cls) -> None:
        """Leave this process the first of the devices that it sees; it must not have started any.

        With more, the Trainer would split a batch that many times as large between them (DataParallel), which is not the
        effective batch size that was asked for.
        """

    @classmethod
    def name_without_starting(cls) -> str | None:
        """Return the name that `start` would find on this machine, or None if only starting the device tells."""
        return None

    @classmethod
    @abstractmethod
    def can_compile(cls) -> bool:
        """Return True if what `torch.compile` needs for this kind is installed."""

    @classmethod
    def extras(cls) -> tuple[str, ...]:
        """Return the extras that are available here, as `DeviceInfo.extras` holds them."""
        return tuple(
            sorted(
                need.ability
                for need in installation_needs()
                if need.on in (None, cls.kind)
                and (need.package is None or is_installed(need.package))
                and (not need.compiler or cls.can_compile())
            )
        )

    # Starting it, in the process that trains

    @classmethod
    @abstractmethod
    def is_available(cls) -> bool:
        """Return True if torch can use a device of this kind in this process."""

    @classmethod
    @abstractmethod
    def start(cls, *, index: int = 0, connect: Callable[[type["Device"]], None] | None = None) -> Self:
        """Start a device in this process and describe it.

        Args:
            index: torch's number of the device, which becomes the current one.
            connect: Called once the device can be used, and before the memory that starting it took is measured: what the
                connections to other devices take, such as NCCL's buffers, is not available to the training.
        """

    @classmethod
    def warm_up(cls) -> None:
        """Run one small training step, so that threads, libraries and workspaces exist and memory differs by tensors alone.

        The step's tensors are large enough for a parallel loop to use its whole pool, and are gone afterwards.
        """
        import torch

        weight = torch.ones(256, 256, device=cls.kind, requires_grad=True)
        (torch.ones(512, 256, device=cls.kind) @ weight).tanh().sum().backward()  # type: ignore[no-untyped-call]
        cls.synchronize()

    @classmethod
    def prepare_rank(cls, num_ranks: int) -> None:
        """Set this process up as one of `num_ranks` that train together, before it connects to the others."""

    # Time

    @classmethod
    def synchronize(cls) -> None:
        """Wait until all work on the device has finished; nothing to do for a kind that computes synchronously."""

    def clock_s(self) -> float:
        """Return a monotonic time in seconds, with all work on the device finished. Only differences have a meaning."""
        self.synchronize()
        return time.perf_counter()

    # Memory

    @abstractmethod
    def memory_meter(self) -> MemoryMeter:
        """Return a meter with its baseline taken now: make it after the device has started and before a model is built."""

    @abstractmethod
    def held_mib(self) -> float:
        """Return the memory that this process holds now, its context included."""

    @abstractmethod
    def enforce_memory_limit(self, memory_limit_mib: float) -> None:
        """Make allocations beyond a limit fail from now on, so that a configuration above it runs out of memory for real.

        Args:
            memory_limit_mib: The limit, by the measure of `peak_memory_mib`.

        Raises:
            ValueError: The limit leaves nothing for a training, or this system has no such limit.
        """

    def lift_memory_limit(self) -> None:
        """Undo `enforce_memory_limit` if it would get in the way of steps that are timed; a kind may keep it."""

    def left_in_limit_mib(self) -> float | None:
        """Return what an enforced limit still allows, for an error that does not say it; None if the kind can't tell."""
        return None

    def check_peak(self, peak_memory_mib: float, memory_limit_mib: float) -> None:
        """Compare a measured peak with the limit, if the limit alone does not stop everything above it.

        Raises:
            MemoryLimitExceededError: The peak is above the limit.
        """

    def measuring_memory(self) -> AbstractContextManager[None]:
        """Return a context for steps whose memory is measured; their times are not used."""
        return nullcontext()

    def release_cached_memory(self) -> None:
        """Give memory that torch keeps for reuse back to the device."""

    # Power

    def check_power_limits(self, limits_w: Sequence[float]) -> None:
        """Refuse power limits that the device can't be given.

        Raises:
            ValueError: It can't be given one; the sentence says why.
        """
        raise ValueError(f"space.power_limit_w: {self.info.name} has no power limit that can be set; leave it out")

    def limit_power(self, limit_w: float, folder: Path) -> None:
        """Set a power limit that was checked, until `power_limit.restore_power_limits` is given the directory `folder`."""
        raise NotImplementedError

    # What the driver reports

    def monitor(self) -> DeviceMonitor:
        """Return the driver's figures for this device, energy among them."""
        return DeviceMonitor()


def num_cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
