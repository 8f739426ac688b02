"""NVIDIA's GPUs, through torch's CUDA and NVML.

A GPU goes by its UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices, while NVML keeps its numbers. `peak_memory_mib` is what
the process holds on the GPU at its peak, the CUDA context included, because that decides whether the next run fits.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tradeoff.objectives.device.base import Device, DeviceInfo, DeviceMonitor, MemoryMeter, num_cpus
from tradeoff.objectives.device.extras import has_compiler, is_installed
from tradeoff.objectives.device.nvml import NvmlReader, driver_version, gpu_uuids, used_memory_by_uuid_mib
from tradeoff.objectives.device.power_limit import check_power_limits, set_power_limit
from tradeoff.objectives.measurements.outcome import Memory
from tradeoff.searchspace import Precision

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class CudaDevice(Device):
    """A GPU, or a MIG instance of one."""

    kind = "cuda"
    peak_scope = "with the CUDA context"
    traced_allocator = "cuda"
    process_group_backend = "nccl"
    out_of_memory_phrases = (
        r"(?:CUDA|HIP|XPU|MPS backend) out of memory\b",
        r"(?:CUDA|HIP|CUDA driver|HIP driver) error: out of memory\b",
        r"Triton Error \[(?:CUDA|HIP)\]: out of memory\b",
        r"\bCuda failure (?:\d+ )?'out of memory'",  # NCCL
        r"\bNVRTC_ERROR_OUT_OF_MEMORY\b",
        r"\b(?:CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_ALLOC_FAILED\b",
        r"\bCUDNN_STATUS_INTERNAL_ERROR_(?:HOST|DEVICE)_ALLOCATION_FAILED\b",
        r"\bCUFFT_ALLOC_FAILED\b",
    )

    @classmethod
    def visible(cls, environment: Mapping[str, str] = os.environ) -> list[str]:
        """Return the visible GPUs in CUDA's order, by what CUDA_VISIBLE_DEVICES and NVML say.

        Each is named as in CUDA_VISIBLE_DEVICES, or by its UUID if the variable is not set. Of a GPU that is divided into MIG
        instances CUDA shows a process only one instance, so each instance counts as a device.
        """
        present = gpu_uuids()
        named = environment.get(_VISIBLE)
        if named is None:
            return [usable for gpu, instances in present.items() for usable in instances or [gpu]]
        uuids = [uuid for gpu, instances in present.items() for uuid in (gpu, *instances)]
        found: list[str] = []
        for entry in (part.strip() for part in named.split(",")):
            # As CUDA reads it: a number or the beginning of a UUID; nothing after the first unknown entry is visible.
            exists = int(entry) < len(present) if entry.isdecimal() else any(entry and uuid.startswith(entry) for uuid in uuids)
            if not exists:
                break
            if entry not in found:
                found.append(entry)
        return found

    @classmethod
    def visibility(cls, names: Sequence[str]) -> dict[str, str]:  # noqa: D102
        return {_VISIBLE: ",".join(names)}

    @classmethod
    def see_one(cls) -> None:  # noqa: D102
        os.environ.update(cls.visibility(os.environ.get(_VISIBLE, "0").split(",")[:1]))

    @classmethod
    def can_compile(cls) -> bool:
        """Return True if Triton and the C compiler with which it builds its launcher are installed."""
        return is_installed("triton") and has_compiler("CC", ("gcc", "clang"))

    @classmethod
    def is_available(cls) -> bool:  # noqa: D102
        import torch

        return torch.cuda.is_available()

    @classmethod
    def start(cls, *, index: int = 0, connect: Callable[[type[Device]], None] | None = None) -> Self:  # noqa: D102
        import torch

        # Read before CUDA starts here: the difference is this process's context, even if NVML lists no processes.
        before_mib = {} if torch.cuda.is_initialized() else used_memory_by_uuid_mib()  # type: ignore[no-untyped-call]
        torch.cuda.set_device(index)
        cls.warm_up()
        if connect is not None:
            connect(cls)
        properties = torch.cuda.get_device_properties(index)
        uuid = nvml_uuid(
            str(properties.uuid), name=properties.name, visible_devices=os.environ.get(_VISIBLE), index=index
        )  # fmt: skip
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(
            DeviceInfo(
                kind=cls.kind,
                name=properties.name,
                uuid=uuid,
                total_memory_mib=properties.total_memory / 2**20,
                precisions=tuple(precision.value for precision in Precision if precision is not Precision.BF16 or has_bf16),
                driver=driver_version(),
                num_cpus=num_cpus(),
                context_mib=_context_mib(uuid, before_mib),
                measures_energy=_measures_energy(uuid),
                num_cards=torch.cuda.device_count(),
                extras=cls.extras(),
            )
        )

    @classmethod
    def synchronize(cls) -> None:  # noqa: D102
        import torch

        torch.cuda.synchronize()

    def memory_meter(self) -> MemoryMeter:  # noqa: D102
        return CudaMemoryMeter(self)

    def held_mib(self) -> float:
        """Return the context and what torch's caching allocator has reserved."""
        import torch

        return (self.info.context_mib or 0.0) + torch.cuda.memory_reserved() / 2**20

    def enforce_memory_limit(self, memory_limit_mib: float) -> None:
        """Set torch's memory fraction for this process; the limit counts the CUDA context as well."""
        import torch

        context_mib = self.info.context_mib or 0.0
        if memory_limit_mib <= context_mib:
            raise ValueError(
                f"limits.peak_memory_mib must be above the CUDA context, {context_mib:,.0f} MiB on {self.info.name}, "
                f"got {memory_limit_mib:,.0f}"
            )
        self.warm_up()
        fraction = (memory_limit_mib - context_mib) / self.info.total_memory_mib
        torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))

    def release_cached_memory(self) -> None:  # noqa: D102
        import torch

        torch.cuda.empty_cache()

    def check_power_limits(self, limits_w: Sequence[float]) -> None:  # noqa: D102
        check_power_limits(str(self.info.uuid), limits_w, name=self.info.name)

    def limit_power(self, limit_w: float, folder: Path) -> None:  # noqa: D102
        set_power_limit(str(self.info.uuid), limit_w, folder)

    def monitor(self) -> DeviceMonitor:
        """Return NVML's figures; NVML measures neither utilisation nor energy of a MIG instance."""
        return NvmlReader.open(self.info.uuid)


class CudaMemoryMeter(MemoryMeter):
    """The context as measured when CUDA started, plus what torch's caching allocator has reserved.

    NVML's figures are those at the time of reading. The caching allocator gives nothing back by itself, so for this process
    they are its peak as long as nobody emptied the cache; `DeviceSampler` follows them over time.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self.reset_peak()

    def reset_peak(self) -> None:  # noqa: D102
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> Memory:  # noqa: D102
        import torch

        torch.cuda.synchronize()
        context_mib = self._device.info.context_mib or 0.0
        reserved_mib = torch.cuda.max_memory_reserved() / 2**20
        with self._device.monitor() as nvml:
            return Memory(
                peak_memory_mib=context_mib + reserved_mib,
                peak_allocated_mib=torch.cuda.max_memory_allocated() / 2**20,
                peak_reserved_mib=reserved_mib,
                peak_process_mib=nvml.process_memory_mib(),
                peak_device_mib=nvml.device_memory_mib(),
                context_mib=context_mib,
            )

    def held_mib(self) -> float:  # noqa: D102
        return self._device.held_mib()


def nvml_uuid(torch_uuid: str, *, name: str, visible_devices: str | None, index: int) -> str:
    """Return the name by which NVML knows one of torch's GPUs.

    Args:
        torch_uuid: The UUID that torch gives, which has no prefix.
        name: The GPU's name; that of a MIG instance says so.
        visible_devices: CUDA_VISIBLE_DEVICES, or None.
        index: torch's number of the GPU.
    """
    entries = [entry.strip() for entry in (visible_devices or "").split(",")]
    if index < len(entries) and entries[index].startswith("MIG-"):
        # What the user wrote is NVML's own name; for a MIG instance torch may give the UUID of the GPU around it.
        return entries[index]
    if torch_uuid.startswith(("GPU-", "MIG-")):
        return torch_uuid
    return f"{'MIG' if ' MIG ' in f' {name} ' else 'GPU'}-{torch_uuid}"


def _measures_energy(uuid: str) -> bool:
    with NvmlReader.open(uuid) as nvml:
        return nvml.total_energy_j() is not None


def _context_mib(uuid: str, before_mib: Mapping[str, float]) -> float:
    """Return what this process holds on the GPU besides what torch's allocator has reserved.

    It is NVML's figure for this process; if NVML lists no such process (a container may see the host's process ids), the
    difference of the GPU's total before and after; without NVML, what CUDA reports as in use, which counts other processes too.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    with NvmlReader.open(uuid) as nvml:
        held_mib = nvml.process_memory_mib()
        if held_mib is None:
            after_mib = nvml.device_memory_mib()
            if after_mib is not None and uuid in before_mib:
                held_mib = after_mib - before_mib[uuid]
    if held_mib is None:
        held_mib = (total - free) / 2**20
    return max(0.0, held_mib - torch.cuda.memory_reserved() / 2**20)
