"""Holds a study's configuration against what a device, an installation and a data set offer.

Every check here is called once, by `tradeoff.studies.execution.preparation`, before the first trial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tradeoff.objectives.device.extras import LANGUAGE_MODELS
from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.job.settings import BuiltInJob, TrainingSettings
from tradeoff.objectives.measurements.goals import learned_names
from tradeoff.searchspace import KNOBS, SearchSpace
from tradeoff.searchspace.kinds import Names, Words
from tradeoff.searchspace.knob import Target
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError


def available_space(config: StudyConfig, device: Mapping[str, Any]) -> tuple[SearchSpace, str | None]:
    """Return the space without what the device or this installation lacks, and what was taken out, in lines, or None.

    Raises:
        TradeoffError: Nothing is left of a parameter, or what the job itself names is not there.
    """
    space, lines = config.search_space(), []
    abilities = {*device.get("precisions", ()), *device.get("extras", ())}
    lora = None if "lora_rank" in space.domains else getattr(config.job, "lora", None)
    if lora is not None and (need := KNOBS["lora_rank"].missing(lora.r, abilities)) is not None:
        raise TradeoffError(f"job.lora: it {need.reason}; install it, or leave job.lora out")
    if isinstance(config.job, CausalLMJob) and LANGUAGE_MODELS.ability not in abilities:
        raise TradeoffError(f"job.task: causal_lm {LANGUAGE_MODELS.reason}; install it")
    for name in KNOBS.in_order({**dict.fromkeys(KNOBS), **space.domains}):
        knob = space.knobs[name]
        if knob.target is Target.JOB and not isinstance(config.job, BuiltInJob):
            continue  # a keyword of the user's own function, which knows what it needs
        if name not in space.domains:
            value = getattr(config.job, name, None)
            if value is not None and (need := knob.missing(value, abilities)) is not None:
                what, remedy = ("it", "leave it out") if value is True else (value, "install it, or choose another")
                raise TradeoffError(f"job.{name}: {what} {need.reason}; {remedy}")
            continue
        taken = {value: need for value in space.domains[name].examples() if (need := knob.missing(value, abilities))}
        try:
            space = space.without(name, taken) if taken else space
        except ValueError as error:
            reason = next(iter(taken.values())).reason.format(device=device["name"], them=name)
            raise TradeoffError(f"space.{name}: {error}: {name} {reason}") from None
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


def check_tokenizers(config: StudyConfig, data: Mapping[str, Any]) -> None:
    """Refuse to compare language models whose tokens differ by the loss of a token, or on texts that are cut at other places.

    Raises:
        TradeoffError: They do.
    """
    if data.get("tokenizers", 1) < 2 or not isinstance(config.job, CausalLMJob):
        return
    if of_tokens := [name for name in learned_names(config.objectives) if name != "bits_per_character"]:
        raise TradeoffError(
            f"objectives: {of_tokens[0]} is of tokens, and the models of space.model have different tokenizers, so it can't"
            " be compared; take bits_per_character instead"
        )
    if (longest := data.get("longest_cut")) is not None:
        raise TradeoffError(
            "job.eval_max_length must hold every evaluation text where models with different tokenizers are compared, since"
            f" each cuts it elsewhere, and the longest has {longest} tokens; set it to {longest} or more"
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


def trainable_space(space: SearchSpace, lacks: Sequence[Mapping[str, Any]]) -> tuple[SearchSpace, str | None]:
    """Return the space without what the job's model can't be trained with, and what was taken out, in lines, or None.

    Args:
        space: The study's space.
        lacks: Values that can't be trained with, each as `values`, by the name of the parameter, and `reason`.

    Raises:
        TradeoffError: Nothing is left of a parameter, or no configuration is.
    """
    alone: dict[str, dict[Any, str]] = {}
    for lack in lacks:
        if len(lack["values"]) == 1:
            ((name, value),) = lack["values"].items()
            alone.setdefault(name, {})[value] = lack["reason"]
    lines = []
    for name, taken in alone.items():
        if not set(space.domains[name].values() or ()) - taken.keys():
            reasons = "; ".join(dict.fromkeys(taken.values()))
            raise TradeoffError(f"space.{name}: none of the values to search can be trained with: {reasons}; search others")
        space = space.without(name, taken)
        lines += [f"{_named({name: value})} left out: {reason}" for value, reason in taken.items()]
    together = [lack for lack in lacks if len(lack["values"]) > 1]
    if together:
        space = replace(space, excluded=tuple(lack["values"] for lack in together))
        lines += [f"{_named(lack['values'])} left out: {lack['reason']}" for lack in together]
        if space.is_empty():
            raise TradeoffError(f"space: no configuration can be trained: {lines[-1]}; search other values")
    return space, "\n".join(lines) or None


def _named(values: Mapping[str, Any]) -> str:
    """Return values in words: a name says what it is of, and of a switch that is on the name is enough."""
    words = [
        name if value is True else str(value) if isinstance(KNOBS[name].kind, Names | Words) else f"{name} {value}"
        for name, value in values.items()
    ]
    return " with ".join(words)


def check_warmup(space: SearchSpace, job: TrainingSettings, num_train: int, num_devices: int = 1) -> str | None:
    """Refuse a warm-up that no training of the study comes to the end of.

    Returns:
        A line if only some of the trainings come to its end, or None.

    Raises:
        TradeoffError: The learning rate never reaches its value.
    """
    searched = space.domains.get("warmup_steps")
    key, warmup = ("job", job.warmup_steps) if searched is None else ("space", max(searched.examples()))
    if warmup < 1 or "warmup_ratio" in space.domains:
        return None
    steps = {
        Schedule.of(job, parameters, num_samples=num_train, num_devices=num_devices).num_updates
        for parameters in space.structures
    }
    if warmup >= max(steps):
        raise TradeoffError(
            f"{key}.warmup_steps must be below the steps of a training, at most {max(steps)} here, got {warmup:g}: the"
            " learning rate would never reach its value; set fewer, or a share of all steps such as 0.1"
        )
    if warmup < min(steps):
        return None
    return (
        f"{key}.warmup_steps: {warmup:g} is not below the steps of every training, of which the shortest has"
        f" {min(steps)}: there the learning rate never reaches its value; a share of all steps such as 0.1 would fit each"
    )
