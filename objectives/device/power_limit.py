"""The power limit of a GPU, set while a trial runs.

A limit is the GPU's and outlives the process that sets it. So what it was is first written into the trial's directory, and
whoever removes that restores it: the trial's parent, however the trial ended, or the next command that makes a directory beside
it, if the parent was killed too.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

_RECORD = "power-limit-"


def check_power_limits(uuid: str, limits_w: Sequence[float], *, name: str) -> None:
    """Refuse limits that a GPU can't be given: out of its range, or not by this user.

    Args:
        uuid: The GPU's UUID, as NVML writes it.
        limits_w: The limits, in watts.
        name: The GPU's name.

    Raises:
        ValueError: It can't be given one; the sentence says why.
    """
    import pynvml

    from tradeoff.objectives.device.nvml import started

    try:
        with started():
            gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            low_w, high_w = (limit_mw / 1000 for limit_mw in pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu))
            for limit_w in limits_w:
                if not low_w <= limit_w <= high_w:
                    raise ValueError(f"space.power_limit_w must be from {low_w:g} to {high_w:g} W on {name}, got {limit_w:g}")
            # The limit that is in force: it changes nothing, and needs the same right as any other.
            pynvml.nvmlDeviceSetPowerManagementLimit(gpu, pynvml.nvmlDeviceGetPowerManagementLimit(gpu))
    except pynvml.NVMLError as error:
        raise ValueError(
            f"space.power_limit_w: the power limit of {name} can't be set here (NVML: {error}); run as root on a machine"
            " whose GPU allows it, or leave it out"
        ) from error


def set_power_limit(uuid: str, limit_w: float, folder: Path) -> None:
    """Set a GPU's power limit, after writing into a directory what it was, unless a record is there already.

    Args:
        uuid: The GPU's UUID, as NVML writes it.
        limit_w: The limit, in watts.
        folder: The directory, which `restore_power_limits` is to be given.

    Raises:
        pynvml.NVMLError: The driver refused.
    """
    import pynvml

    from tradeoff.objectives.device.nvml import started

    with started():
        gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        record, unfinished = folder / f"{_RECORD}{uuid}", folder / f".{_RECORD}{uuid}"
        if not record.exists():
            unfinished.write_text(str(pynvml.nvmlDeviceGetPowerManagementLimit(gpu)), encoding="ascii")
            os.replace(unfinished, record)
        pynvml.nvmlDeviceSetPowerManagementLimit(gpu, round(limit_w * 1000))


def restore_power_limits(folder: Path) -> None:
    """Give each GPU back the limit that a record in a directory, or in one directly below it, holds."""
    for record in [*folder.glob(f"{_RECORD}*"), *folder.glob(f"*/{_RECORD}*")]:
        import pynvml

        from tradeoff.objectives.device.nvml import started

        uuid = record.name.removeprefix(_RECORD)
        try:
            with started():
                limit_mw = int(record.read_text(encoding="ascii"))
                pynvml.nvmlDeviceSetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByUUID(uuid), limit_mw)
            record.unlink()
        except (pynvml.NVMLError, OSError, ValueError) as error:
            warnings.warn(
                f"the power limit of {uuid} was not restored ({error}); see nvidia-smi --query-gpu=power.limit", stacklevel=2
            )
