"""Follows a training from a thread of its own: peaks that only the driver sees, load, energy, and memory over time."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tradeoff.objectives.device.base import Device


class MemoryTrace:
    """Memory over time in a bounded number of points, whatever the duration.

    Each point holds the highest sample of its interval, so that no peak is lost. When there are too many points, each two
    become one.

    Attributes:
        points: Seconds and MiB, in order of time.
    """

    def __init__(self, max_points: int = 200) -> None:
        self._max_points = max_points
        self._stride = 1
        self._in_last = 0
        self.points: list[tuple[float, float]] = []

    def add(self, seconds: float, mib: float) -> None:
        """Add a sample, which must be later than all before it."""
        if self.points and self._in_last < self._stride:
            self.points[-1] = max(self.points[-1], (seconds, mib), key=lambda point: point[1])
            self._in_last += 1
            return
        if len(self.points) == self._max_points:
            pairs = (self.points[start : start + 2] for start in range(0, len(self.points), 2))
            self.points = [max(pair, key=lambda point: point[1]) for pair in pairs]
            self._stride *= 2
        self.points.append((seconds, mib))
        self._in_last = 1


class DeviceSampler:
    """Samples a device in the background between entering and leaving.

    If the driver reports nothing, as on a CPU, all but the memory over time is None.

    Attributes:
        peak_process_mib: The most that the driver reported for this process.
        peak_device_mib: The most that the driver reported for all processes on the device.
        gpu_utilization_percent: Mean of the samples; each covers 1/6 s to 1 s before it (NVML's own sampling).
        energy_j: The energy that the whole device used between entering and leaving.
        num_other_processes: Other processes on the device when leaving.
        memory_samples: Seconds since entering, and MiB held; 200 points at most.

    Args:
        device: The device.
        held_mib: Returns what is held now; `MemoryMeter.held_mib` of the trial counts from its baseline. Default:
            `Device.held_mib`.
        interval_s: Seconds between samples.
    """

    def __init__(self, device: Device, *, held_mib: Callable[[], float] | None = None, interval_s: float = 0.2) -> None:
        self._device = device
        self._held_mib = held_mib or device.held_mib
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._trace = MemoryTrace()
        self._utilization: list[float] = []
        self.peak_process_mib: float | None = None
        self.peak_device_mib: float | None = None
        self.energy_j: float | None = None
        self.num_other_processes: int | None = None

    @property
    def memory_samples(self) -> list[tuple[float, float]]:  # noqa: D102
        return list(self._trace.points)

    @property
    def gpu_utilization_percent(self) -> float | None:  # noqa: D102
        return sum(self._utilization) / len(self._utilization) if self._utilization else None

    def total_energy_j(self) -> float | None:
        """Return `DeviceMonitor.total_energy_j`, to measure a part of the time."""
        return self._monitor.total_energy_j()

    def __enter__(self) -> Self:
        self._monitor = self._device.monitor()
        self._begin_energy_j = self._monitor.total_energy_j()
        self._begin_s = time.perf_counter()
        self._sample()
        self._thread = threading.Thread(target=self._run, name="device-sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()
        end_energy_j = self._monitor.total_energy_j()
        if self._begin_energy_j is not None and end_energy_j is not None:
            self.energy_j = end_energy_j - self._begin_energy_j
        self.num_other_processes = self._monitor.num_other_processes()
        self._monitor.close()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        self._trace.add(time.perf_counter() - self._begin_s, self._held_mib())
        self.peak_process_mib = _higher(self.peak_process_mib, self._monitor.process_memory_mib())
        self.peak_device_mib = _higher(self.peak_device_mib, self._monitor.device_memory_mib())
        utilization_percent = self._monitor.utilization_percent()
        if utilization_percent is not None:
            self._utilization.append(utilization_percent)


def _higher(first: float | None, second: float | None) -> float | None:
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None
