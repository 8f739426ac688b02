"""The kinds of device that there are, and the ways to find one: from a stored description, on this machine, or by starting it.

A new kind is a module with a subclass of `Device` and its place in `KINDS`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tradeoff.objectives.device.base import Device
from tradeoff.objectives.device.cpu import CpuDevice
from tradeoff.objectives.device.cuda import CudaDevice

# In order of preference; a CPU is always there.
KINDS: dict[str, type[Device]] = {device.kind: device for device in (CudaDevice, CpuDevice)}


class VisibleDevices(NamedTuple):
    """The devices that trials on this machine will use.

    Attributes:
        kind: Their class.
        names: A name for each, as `Device.visible` gives them; empty if they are not divided among workers.
    """

    kind: type[Device]
    names: list[str]


def device_class(description: Mapping[str, Any]) -> type[Device]:
    """Return the class of a device that is described as `DeviceInfo.as_dict` does.

    Raises:
        ValueError: This version does not know the kind.
    """
    kind = description.get("kind")
    if kind not in KINDS:
        raise ValueError(f"a device's kind must be one of {', '.join(KINDS)}, got {kind!r}; another version measured it")
    return KINDS[kind]


def start_device(*, index: int = 0, connect: Callable[[type[Device]], None] | None = None) -> Device:
    """Start the device that trials use, a GPU if there is one: see `Device.start`. Initialises CUDA in this process."""
    return next(device for device in KINDS.values() if device.is_available()).start(index=index, connect=connect)


def see_one_device() -> None:
    """Leave this process the first device of each kind: see `Device.see_one`."""
    for device in KINDS.values():
        device.see_one()


def visible_devices() -> VisibleDevices:
    """Return the devices that trials on this machine will use, without starting any."""
    found = [VisibleDevices(device, device.visible()) for device in KINDS.values()]
    return next((visible for visible in found if visible.names), found[-1])
