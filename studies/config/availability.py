"""Holds a study's configuration against what a device, an installation and a data set offer.

Every check here is called once, by `tradeoff.studies.execution.preparation`, before the first trial.
"""

from collections.abc import Collection, Mapping
from typing import Any

from tradeoff.objectives.device.registry import device_class
from tradeoff.searchspace import KNOBS, SearchSpace
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError


def available_space(config: StudyConfig, device: Mapping[str, Any]) -> tuple[SearchSpace, str | None]:
    """Return the space without what the device or this installation lacks, and what was taken out, in lines, or None.

    Raises:
        TradeoffError: Nothing is left of a parameter, or what the job itself names is not there.
    """
    space, lines = config.search_space(), []
    abilities = {*device["precisions"], *device.get("extras", ())}
    for name, knob in KNOBS.items():
        if name not in space.domains:
            value = getattr(config.job, name, None)
            if value is not None and (need := knob.missing(value, abilities)) is not None:
                raise TradeoffError(f"job.{name}: {value} {need.reason}; install it, or choose another")
            continue
        taken = {value: need for value in space.domains[name].examples() if (need := knob.missing(value, abilities))}
        try:
            space = space.without(name, taken) if taken else space
        except ValueError as error:
            raise TradeoffError(f"space.{name}: {error}") from None
        for reason in dict.fromkeys(need.reason for need in taken.values()):
            values = [value if isinstance(value, str) else name for value, need in taken.items() if need.reason == reason]
            them = "it" if len(values) == 1 else "them"
            lines.append(f"{' and '.join(values)} left out: {reason.format(device=device['name'], them=them)}")
    return space, "\n".join(lines) or None


def check_batches(space: SearchSpace, num_train: int, num_devices: int = 1) -> None:
    """Refuse a micro-batch that the training data can't fill.

    Raises:
        TradeoffError: A batch on each device is more than all training samples.
    """
    each = f" on each of {num_devices} devices" if num_devices > 1 else ""
    for value in space.domains["per_device_train_batch_size"].values() or ():
        if value * num_devices > num_train:
            raise TradeoffError(
                f"space.per_device_train_batch_size: a batch{each} must not exceed the {num_train} training samples,"
                f" got {value}"
            )


def check_devices(devices_per_trial: int, device: Mapping[str, Any]) -> str | None:
    """Refuse more devices than there are.

    Args:
        devices_per_trial: Devices that train a configuration together.
        device: What trials run on, as `TrialServer.describe_device` gives it.

    Returns:
        A line to show, or None. On a CPU several ranks share its processors, which is for trying something out.

    Raises:
        TradeoffError: Fewer GPUs are visible.
    """
    if devices_per_trial == 1:
        return None
    if device_class(device).uses_host_processors:
        return f"{devices_per_trial} ranks share this machine's processors: timings are not meaningful"
    if devices_per_trial > (num_cards := device.get("num_cards") or 1):
        raise TradeoffError(
            f"devices_per_trial must not exceed the number of visible GPUs, {num_cards}, got {devices_per_trial}"
        )
    return None


def check_attention(space: SearchSpace, model: str, supported: Collection[str] | None) -> None:
    """Refuse an implementation of attention that the model's class does not have.

    Args:
        space: The study's space.
        model: The model's name.
        supported: What its class has; None where that is not known.

    Raises:
        TradeoffError: The space holds one that is not among them.
    """
    if "attn_implementation" not in space.domains or supported is None:
        return
    for value in space.domains["attn_implementation"].values() or ():
        if value not in supported:
            raise TradeoffError(
                f"space.attn_implementation: the model {model!r} does not have {value}; it has {', '.join(supported)}"
            )
