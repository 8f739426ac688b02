"""What a database may say of a study, checked where it is read: whoever can write there may have written anything.

Optuna gives what it finds as plain values. Everything that reads a study relies on their types, so they are checked once, here,
and not at each use. What a study holds besides is another program's, and is left alone.
"""

import json
import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, ValidationError

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.knowledge.found_changes import FOUND_CHANGES
from tradeoff.objectives.knowledge.other_workers import TRIAL_PLAN
from tradeoff.objectives.measurements.goals import GOALS, Goal
from tradeoff.objectives.measurements.outcome import Memory, ProbeResult, TrainingResult
from tradeoff.objectives.measurements.records import OutcomeKind, check_sources, read_attributes
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.objectives.memory_estimator.estimates import MEMORY_ESTIMATES, MemoryEstimates
from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.domains import Value, is_number
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.config.study_file import explain
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE

# Of a training's measurements, those that are losses and metrics: they may be infinite or NaN.
_MAY_DIVERGE = ("train_loss", "curve")
# Measurements of a trial that are numbers, besides the goals.
_NUMBERS = frozenset(
    {*Memory.__dataclass_fields__, "trial_time_s", "first_step_time_s", "memory_shortfall_mib", "requested_mib", "free_mib"}
)


class _Device(BaseModel):
    kind: str
    name: str
    total_memory_mib: float = Field(gt=0, allow_inf_nan=False)
    precisions: list[str] = []
    extras: list[str] = []
    num_cpus: int | None = None
    num_cards: int | None = None
    context_mib: float | None = Field(None, allow_inf_nan=False)
    memory_measure: int = 1


class _Curve(BaseModel):
    memory_class: dict[str, Value] = Field(alias="class")
    batches: list[int]
    peak_memory_mib: list[float]
    lower_bound_mib: list[float]


class _Estimates(BaseModel):
    classes: list[_Curve]


class _Found(BaseModel):
    changes: list[Literal["memory", "time", "learning"]]
    told: list[Literal["memory", "time", "learning"]] | None
    trials: list[int] = Field(min_length=2)
    unclear: list[Literal["memory", "time"]]


class _Untrained(BaseModel):
    learning_class: dict[str, Value]
    why: str
    gain: float | None


class _Predicted(BaseModel):
    params: dict[str, Value]
    values: dict[str, float]
    errors: dict[str, float]


class _Expected(BaseModel):
    learning_class: dict[str, Value]
    values: dict[str, tuple[float, float]]


class _Plan(BaseModel):
    params: dict[str, Value]
    stages: list[Literal["probe", "train"]]
    seed: int | None = None


class _Owner(BaseModel):
    host: str
    boot: str
    namespace: str
    pid: int
    began: int | None
    memory_kills: int | None = None


# By the name of an attribute; one that is missing is right.
_STUDY = {
    "versions": dict[str, str],
    "tradeoff_version": str,
    "contents": dict[str, str],
    "baselines": dict[str, float],
    "superseded": dict[str, Any],
    "untrained": list[_Untrained],
    "predicted": list[_Predicted],
    "expected": list[_Expected],
    FOUND_CHANGES: dict[str, _Found],
    MEMORY_ESTIMATES: _Estimates,
}
_STORED = {"sources": dict[str, str], "measurements": dict[str, Any]}
_TRIAL = {
    "outcome": OutcomeKind,
    "reason": str,
    "stage": str,
    "traceback": str,
    "derived_from": int,
    "publishes": int,
    "confirms": int,
    "retry_of": int,
    "measured_in": int,
    "lost_worker": str,
    "seed": int,
    "num_seeds": PositiveInt,
    "memory_by_stage_mib": dict[str, float],
    "violated": dict[str, float],
    "probe": ProbeResult,
    "training": TrainingResult,
}
_SYSTEM = {TRIAL_PLAN: _Plan, OWNER_ATTRIBUTE: _Owner, "fixed_params": dict[str, Value]}


def check_study(attributes: Mapping[str, Any], directions: Sequence[StudyDirection]) -> StudyConfig:
    """Check the user attributes of a study of ours.

    Args:
        attributes: The attributes.
        directions: The directions of its objectives, as Optuna stores them.

    Returns:
        Its configuration.

    Raises:
        ValueError: One is not what it should be; the sentence names it.
    """
    try:
        config = StudyConfig.model_validate(attributes["config"])
    except ValidationError as error:
        raise ValueError(f"config.{explain(error, StudyConfig)}") from None
    if (found := [direction.name.lower() for direction in directions]) != [GOALS[name].direction for name in config.objectives]:
        raise ValueError(f"its objectives are {', '.join(config.objectives)}, and their directions {', '.join(found)}")
    _check(_STUDY, attributes)
    _check({"device": _Device}, {"device": attributes.get("device")})
    device_class(attributes["device"])
    if (estimates := attributes.get(MEMORY_ESTIMATES)) is not None:
        _check_finite(MEMORY_ESTIMATES, estimates)
        MemoryEstimates.from_dict(estimates)
    return config


def check_trial(trial: FrozenTrial, config: StudyConfig) -> None:
    """Check a trial of a study of ours.

    Raises:
        ValueError: Something of it is not what it should be; the sentence names it.
    """
    if trial.state.is_finished() and trial.datetime_complete is None:
        raise ValueError("it has ended, and the moment of its end is missing")
    _check(_STORED, trial.user_attrs)
    _check(_SYSTEM, trial.system_attrs)
    attributes = read_attributes(trial.user_attrs)
    check_sources({name.removesuffix("_source"): text for name, text in attributes.items() if name.endswith("_source")})
    _check(_TRIAL, attributes)
    check_measurements(attributes)
    for name, amount in trial.system_attrs.items():
        if name.startswith("constraints:"):
            _check_number(name, amount)
    is_completed = attributes.get("outcome") == "completed" and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    _check_params(trial, config, is_whole=is_completed)
    if is_completed or trial.state == TrialState.COMPLETE:
        is_published = trial.state == TrialState.COMPLETE
        values = trial.values or () if is_published else [attributes.get(name) for name in config.objectives]
        if len(values) != len(config.objectives):
            raise ValueError(f"it must have a value for each of {', '.join(config.objectives)}, got {values}")
        for name, value in zip(config.objectives, values, strict=True):
            _check_number(name, value, is_learned=GOALS[name].learned)


def check_measurements(attributes: Mapping[str, Any]) -> None:
    """Check the numbers among a trial's measurements.

    Args:
        attributes: The measurements, as `tradeoff.objectives.measurements.records.measurement_attributes` names them.

    Raises:
        ValueError: One is not what it should be; the sentence names it.
    """
    for name, value in attributes.items():
        if name in _NUMBERS or _goal(name) is not None:
            is_learned = getattr(_goal(name), "learned", False)
            _check_number(name, value, is_learned=is_learned, may_diverge=is_learned)
        elif name in ("probe", "training"):
            _check_finite(name, value)


def _check(types: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    for name in types.keys() & attributes.keys():
        try:
            # As JSON, the types of which are the storage's.
            _adapter(types[name]).validate_json(json.dumps(attributes[name]), strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}: {explain(error, BaseModel)}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _goal(name: str) -> Goal | None:
    """Return the goal of which an attribute holds a value, a prediction or a deviation."""
    return GOALS.get(name.removeprefix("predicted_").removeprefix("estimated_").removesuffix(spread_name("")))


def _check_number(name: str, value: Any, *, is_learned: bool = False, may_diverge: bool = False) -> None:
    # A whole number in JSON may have more digits than a float can hold.
    is_too_long = isinstance(value, int) and abs(value) > sys.float_info.max
    if not is_number(value) or is_too_long or not (may_diverge or math.isfinite(value)):
        raise ValueError(f"{name} must be a number, got {reprlib.repr(value)}")
    if is_learned:  # a metric of the user's own may have any name, and any value
        return
    if (least := 1 if name.endswith("num_samples") else 0) > value and name.endswith(("_s", "num_samples")):
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_finite(name: str, value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(name, value)
    parts = value.items() if isinstance(value, Mapping) else enumerate(value if isinstance(value, list) else ())
    for key, part in parts:
        if key not in _MAY_DIVERGE:
            _check_finite(f"{name}.{key}", part)


def _check_params(trial: FrozenTrial, config: StudyConfig, *, is_whole: bool) -> None:
    """Check the values of the knobs; a trial that has completed has no others, and all that are needed."""
    for name, value in trial.params.items():
        if name not in KNOBS and name not in config.space.names:
            raise ValueError(f"it has a value of {name!r}, which the study does not search")
        if value is not None or KNOBS[name].kind.takes_none:
            KNOBS[name].kind.read_value(value)
            KNOBS[name].kind.check(name, value)
            choices = getattr(trial.distributions[name], "choices", ())
            if not all(isinstance(choice, Value) for choice in choices):
                raise ValueError(f"the choices of {name} must be values, got {str(choices)[:100]}")
    if is_whole:
        TrialParameters(**trial.params)
