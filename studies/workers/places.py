"""The places of the workers of one machine: a GPU each, or a share of the CPU's processors each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tradeoff.objectives.device.registry import VisibleDevices, visible_devices
from tradeoff.studies.errors import TradeoffError


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place where one worker runs its trials.

    Attributes:
        environment: Variables for the worker's process, over this one's.
        processors: The processors that it may use; empty for all.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    processors: tuple[int, ...] = ()


def default_num_workers(devices: VisibleDevices | None = None, *, devices_each: int = 1) -> int:
    """Return one worker for each GPU, or for each group of `devices_each`; one on a machine without any."""
    return max(1, len((devices or visible_devices()).names) // devices_each)


def places(
    num_workers: int,
    *,
    devices: VisibleDevices | None = None,
    processors: Sequence[int] | None = None,
    devices_each: int = 1,
) -> list[Place]:
    """Return a place for each worker.

    On a CPU each worker has processors of its own, the same number as the others, so that what its trials measure can be
    compared. With more workers than processors they share them.

    Args:
        num_workers: How many workers there will be.
        devices: The devices; those of this process if None.
        processors: The processors; those of this process if None.
        devices_each: The GPUs that each worker has.

    Raises:
        TradeoffError: There are not enough GPUs.
    """
    kind, names = devices or visible_devices()
    processors = sorted(os.sched_getaffinity(0)) if processors is None else processors
    if names:
        if num_workers * devices_each > len(names):
            each = "a GPU" if devices_each == 1 else f"{devices_each} GPUs"
            raise TradeoffError(
                f"--workers must leave {each} for each worker: got {num_workers} workers, and {len(names)} visible here"
                f" ({', '.join(names)}); trials that share a GPU would measure each other's memory"
            )
        share = max(1, len(processors) // num_workers)
        groups = [names[start : start + devices_each] for start in range(0, num_workers * devices_each, devices_each)]
        return [Place(environment={**kind.visibility(group), **_threads(share)}) for group in groups]
    share = max(1, len(processors) // num_workers)
    starts = [index * share % len(processors) for index in range(num_workers)]
    return [Place(environment=_threads(share), processors=tuple(processors[start : start + share])) for start in starts]


def memory_shares(num_processes: int, limit_mib: float | None, memory_mib: float) -> str | None:
    """Return a warning if processes may together take more of the machine's memory than it has; else None.

    The limit itself is unchanged: a study measures against the same one on every machine, with any number of workers.

    Args:
        num_processes: Processes that train at the same time.
        limit_mib: What each may take; None for all that the machine has.
        memory_mib: What the machine has, or what is left of it to a container.
    """
    if num_processes * (limit_mib or memory_mib) <= memory_mib:
        return None
    may_take = "all of it" if limit_mib is None else f"{limit_mib:,.0f}"
    return (
        f"{num_processes} trainings share {memory_mib:,.0f} MiB of memory, and each may take {may_take}: where they run out of"
        " it together, the kernel may end one; a new study with limits.peak_memory_mib of at most"
        f" {int(memory_mib / num_processes)} leaves each its share"
    )


def _threads(num: int) -> dict[str, str]:
    # What the user has set is meant for each worker.
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(num)}
