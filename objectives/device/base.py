"""The device that a trial runs on: what it is, what it can, and what only starting it takes.

It is described in the trial's own process, because CUDA must not be initialised in a process that forks. A card goes by its
UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices, and NVML's keep their numbers.
"""

import os
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tradeoff.objectives.device.extras import available_extras
from tradeoff.objectives.device.malloc import give_back_free_blocks
from tradeoff.objectives.device.nvml import NvmlReader, driver_version, used_memory_by_uuid_mib
from tradeoff.searchspace import Precision

DeviceKind = Literal["cuda", "cpu"]

# glibc keeps up to 40 MiB of stacks for reuse: four of 8 MiB.
_NUM_CACHED_STACKS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceInfo:
    """A device as plain values, so that it crosses a process boundary and is stored with a study.

    Attributes:
        kind: What torch calls it.
        name: The card's model, or the processor's.
        uuid: The card's or the MIG instance's, as NVML writes it; None on a CPU.
        total_memory_mib: The card's memory, or the machine's.
        precisions: The values of `searchspace.Precision` that it has.
        driver: Version of NVIDIA's driver; None on a CPU or where NVML does not say.
        num_cpus: Processors that this process may use.
        context_mib: What initialising CUDA took on the card, libraries of the first operations included, and, where several
            cards train together, what connecting them took; None on a CPU.
        measures_energy: Whether NVML counts the card's energy; it does not on a CPU, and not for a MIG instance.
        num_cards: Cards that this process may use; None on a CPU.
        extras: What some values of a space need and is there: see `tradeoff.objectives.device.extras`.
    """

    kind: DeviceKind
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

    @property
    def model_key(self) -> str:
        """What memory and time depend on: devices with equal keys share what is known of either, others never do."""
        cores = f", {self.num_cpus} processors" if self.kind == "cpu" else ""
        return f"{self.name}, {self.total_memory_mib:.0f} MiB{cores}"

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values; `from_dict` reads them again."""
        return asdict(self) | {"precisions": list(self.precisions), "extras": list(self.extras)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DeviceInfo":
        """The device that `as_dict` wrote."""
        return cls(**{**values, "precisions": tuple(values["precisions"]), "extras": tuple(values.get("extras", ()))})


def describe_device(*, index: int = 0, connect: Callable[[DeviceKind], None] | None = None) -> DeviceInfo:
    """Describes the device that trials use: a card, or else the CPU. Initialises CUDA in this process.

    Args:
        index: Torch's number of the card, which becomes its current one.
        connect: Called once the device can be used, and before what starting it took is measured: what connecting several
            cards takes, such as NCCL's buffers, is gone for the training as well.
    """
    import torch

    if torch.cuda.is_available():
        return _describe_card(index, connect)
    if connect is not None:
        connect("cpu")
    return DeviceInfo(
        kind="cpu",
        name=processor_name(),
        total_memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20,
        precisions=(Precision.FP32.value, Precision.BF16.value),
        num_cpus=_num_cpus(),
        extras=available_extras("cpu"),
    )


def see_one_card() -> None:
    """Leaves this process the first of the cards that it sees. CUDA must not have been initialised in it.

    With more, the Trainer splits batches that many times as large between them (DataParallel): another effective batch than the
    one that was asked for.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = first


def warm_up(kind: DeviceKind) -> None:
    """Brings what a training step starts on first use, so that later levels of memory differ by tensors alone.

    It runs one small step: threads, libraries and workspaces are there afterwards. The tensors are large enough for a parallel
    loop to use its whole pool, and are gone. On a CPU, where threads and free blocks count as memory, a few threads leave
    their stacks in glibc's cache for the next ones (models are loaded by a pool of them), and free blocks go back.
    """
    import torch

    weight = torch.ones(256, 256, device=kind, requires_grad=True)
    (torch.ones(512, 256, device=kind) @ weight).tanh().sum().backward()  # type: ignore[no-untyped-call]
    if kind == "cuda":
        torch.cuda.synchronize()
    else:
        _fill_stack_cache()
        give_back_free_blocks()


def _fill_stack_cache() -> None:
    together = threading.Barrier(_NUM_CACHED_STACKS)
    threads = [threading.Thread(target=together.wait) for _ in range(_NUM_CACHED_STACKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, or as much of it as this system tells."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def nvml_uuid(torch_uuid: str, *, name: str, visible_devices: str | None, index: int) -> str:
    """The name by which NVML knows one of torch's cards.

    Args:
        torch_uuid: What torch says, which has no prefix.
        name: The card's name; that of a MIG instance says so.
        visible_devices: CUDA_VISIBLE_DEVICES, or None.
        index: Torch's number of the card.
    """
    entries = [entry.strip() for entry in (visible_devices or "").split(",")]
    if index < len(entries) and entries[index].startswith("MIG-"):
        # What the user wrote is NVML's own name; of a MIG instance torch may give the UUID of the card around it.
        return entries[index]
    if torch_uuid.startswith(("GPU-", "MIG-")):
        return torch_uuid
    return f"{'MIG' if ' MIG ' in f' {name} ' else 'GPU'}-{torch_uuid}"


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _describe_card(index: int, connect: Callable[[DeviceKind], None] | None) -> DeviceInfo:
    import torch

    # Read before CUDA starts here: the difference is this process's context, even where NVML lists no processes.
    before_mib = {} if torch.cuda.is_initialized() else used_memory_by_uuid_mib()  # type: ignore[no-untyped-call]
    torch.cuda.set_device(index)
    warm_up("cuda")
    if connect is not None:
        connect("cuda")
    properties = torch.cuda.get_device_properties(index)
    uuid = nvml_uuid(
        str(properties.uuid),
        name=properties.name,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        index=index,
    )
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return DeviceInfo(
        kind="cuda",
        name=properties.name,
        uuid=uuid,
        total_memory_mib=properties.total_memory / 2**20,
        precisions=tuple(precision.value for precision in Precision if precision is not Precision.BF16 or has_bf16),
        driver=driver_version(),
        num_cpus=_num_cpus(),
        context_mib=_context_mib(uuid, before_mib),
        measures_energy=_measures_energy(uuid),
        num_cards=torch.cuda.device_count(),
        extras=available_extras("cuda"),
    )


def _measures_energy(uuid: str) -> bool:
    with NvmlReader.open(uuid) as nvml:
        return nvml.total_energy_j() is not None


def _context_mib(uuid: str, before_mib: Mapping[str, float]) -> float:
    """What this process holds on the card besides what torch's allocator reserved.

    By NVML's figure for this process; where it lists no such process (a container may see the host's process ids), by the
    card's before and after; without NVML, by what CUDA says is in use, which counts other processes as well.
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
