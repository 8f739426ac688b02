"""Creates a study or goes on with one, and refuses to mix measurements that can't be compared."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import optuna

from tradeoff.objectives.device.extras import KNOBS_WITH_NEEDS, missing
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import Precision, SearchSpace
from tradeoff.studies.config.study import StudyConfig, differences
from tradeoff.studies.environment import library_versions, tradeoff_version
from tradeoff.studies.errors import TradeoffError

# What trials of one study must share for its front to mean anything.
FIXED_KEYS = ("job", "space", "objectives", "devices_per_trial")
FIXED_LIMITS = ("peak_memory_mib", "effective_batch_size")


def open_study(config: StudyConfig, storage: optuna.storages.BaseStorage, device: Mapping[str, Any]) -> optuna.Study:
    """Creates the study of `config` in `storage`, or loads it to go on.

    Raises:
        TradeoffError: A study of this name exists with another job, space, objectives, memory limit or device; the sentence
            lists the differences.
    """
    directions = [GOALS[name].direction for name in config.objectives]
    study = optuna.create_study(study_name=config.name, storage=storage, directions=directions, load_if_exists=True)
    stored = study.user_attrs
    if "config" in stored:
        _check_same(config, stored, device)
    elif study.get_trials(deepcopy=False) or [direction.name.lower() for direction in study.directions] != directions:
        raise TradeoffError(f"the study {config.name!r} was not made by tradeoff; choose another --name")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(config.objectives))
        study.set_user_attr("device", dict(device))
        study.set_user_attr("versions", library_versions())
        study.set_user_attr("tradeoff_version", tradeoff_version())
    # Written last: a study that holds it is complete. The number of trials and the sampler may change from run to run.
    study.set_user_attr("config", config.plain())
    return study


def _check_same(config: StudyConfig, stored: Mapping[str, Any], device: Mapping[str, Any]) -> None:
    # A study that was made before trials could take several devices has one.
    old, new = {"devices_per_trial": 1, **stored["config"]}, config.plain()
    lines = differences(_fixed(old), _fixed(new))
    lines += differences(
        {"limits": {key: old["limits"][key] for key in FIXED_LIMITS}},
        {"limits": {key: new["limits"][key] for key in FIXED_LIMITS}},
    )
    if lines:
        raise TradeoffError(
            f"the study {config.name!r} exists with other settings; choose another --name, or set these back:\n  "
            + "\n  ".join(lines)
        )
    check_device(config.name, stored["device"], device)


def check_device(name: str, measured_on: Mapping[str, Any], device: Mapping[str, Any]) -> None:
    """Refuses a device whose measurements can't be compared with those of a study.

    Raises:
        TradeoffError: It is another model, or on a CPU a trial has another number of processors.
    """
    if (ours := device["name"]) != (theirs := measured_on["name"]):
        raise TradeoffError(
            f"the study {name!r} was measured on {theirs}, and times and memory on {ours} can't be compared with it;"
            " choose another --name"
        )
    ours, theirs = device.get("num_cpus"), measured_on.get("num_cpus")
    if device.get("kind") == "cpu" and None not in (ours, theirs) and ours != theirs:
        processors = "1 processor" if theirs == 1 else f"{theirs} processors"
        raise TradeoffError(
            f"the study {name!r} was measured with {processors} for a trial, and here a trial has {ours}, so that times"
            " can't be compared; set --workers so that each has as many, or choose another --name"
        )


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    # A folder that has moved holds the same module.
    job = {key: value for key, value in config["job"].items() if key != "python_path"}
    return {key: config[key] for key in FIXED_KEYS} | {"job": job}


def available_space(config: StudyConfig, device: Mapping[str, Any]) -> tuple[SearchSpace, str | None]:
    """The space without what the device or this installation lacks, and lines that say what was taken out, or None.

    Raises:
        TradeoffError: Nothing is left of a parameter, or what the job itself names is not there.
    """
    space, lines = config.search_space(), []
    extras = frozenset(device.get("extras", ()))
    if "optim" not in space.domains and (why := missing("optim", config.job.optim, extras)) is not None:
        raise TradeoffError(f"job.optim: {config.job.optim} needs {why}; install it, or choose another optimizer")
    for name in ("precision", *KNOBS_WITH_NEEDS):
        if name not in space.domains:
            continue
        reasons = {value: _lacks(name, value, device) for value in space.domains[name].values() or ()}
        taken = {value: reason for value, reason in reasons.items() if reason is not None}
        try:
            space = (
                space.without_precisions(frozenset(map(Precision, taken)))
                if name == "precision"
                else space.without(name, taken)
            )
        except ValueError as error:
            raise TradeoffError(f"space.{name}: {error}") from None
        for reason in dict.fromkeys(taken.values()):
            values = [value if isinstance(value, str) else name for value, other in taken.items() if other == reason]
            lines.append(f"{' and '.join(values)} left out: {reason.format(them='it' if len(values) == 1 else 'them')}")
    return space, "\n".join(lines) or None


def _lacks(name: str, value: Any, device: Mapping[str, Any]) -> str | None:
    """Why a value can't be tried here, or None."""
    if name == "precision":
        return None if value in device["precisions"] else f"{device['name']} does not train in {{them}}"
    why = missing(name, value, frozenset(device.get("extras", ())))
    return None if why is None else f"needs {why}"


def check_batches(space: SearchSpace, num_train: int, num_devices: int = 1) -> None:
    """Refuses a micro-batch that the data can't fill.

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
    """Refuses more devices than there are.

    Args:
        devices_per_trial: Devices that train a configuration together.
        device: What trials run on, as `TrialServer.describe_device` gives it.

    Returns:
        A line to show, or None: processors stand in for cards to try something out, and their times say nothing.

    Raises:
        TradeoffError: There are fewer cards.
    """
    if devices_per_trial == 1:
        return None
    if device["kind"] == "cpu":
        return f"{devices_per_trial} ranks share this machine's processors: good for trying out, not for its times"
    if devices_per_trial > (num_cards := device.get("num_cards") or 1):
        raise TradeoffError(
            f"devices_per_trial must not exceed the cards that are visible here, {num_cards}, got {devices_per_trial}"
        )
    return None


def check_attention(space: SearchSpace, model: str, supported: Collection[str] | None) -> None:
    """Refuses an implementation of attention that the model's class does not have.

    Args:
        space: The study's space.
        model: The model's name.
        supported: What its class has; None where that is not known.

    Raises:
        TradeoffError: One that is searched is not among them.
    """
    if "attn_implementation" not in space.domains or supported is None:
        return
    for value in space.domains["attn_implementation"].values() or ():
        if value not in supported:
            raise TradeoffError(
                f"space.attn_implementation: the model {model!r} does not have {value}; it has {', '.join(supported)}"
            )
