"""The search space of a study file: what it says of each parameter, and what must be true of all together."""

import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.job.settings import BuiltInJob, Lora, TrainingSettings
from tradeoff.searchspace import ACCUMULATION, KNOBS, MICRO_BATCH, Domain, Knob, SearchSpace
from tradeoff.searchspace.knob import CHANGES, Learning, Target
from tradeoff.searchspace.names import OTHER_NAMES, TAKEN_NAMES, hint
from tradeoff.searchspace.training_arguments import OPEN_FIELDS, REFUSED_FIELDS


class SpaceConfig(BaseModel):
    """The values that each parameter may take: one value, a list, or a range, and what is to be known of a parameter."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        # Null takes out what is searched by default.
        specs = {**{name: knob.searched for name, knob in KNOBS.items() if knob.searched is not None}, **data}
        for name, spec in specs.items():
            try:
                if name in REFUSED_FIELDS:
                    raise ValueError(f"it can't be searched: {REFUSED_FIELDS[name]}")
                if name == MICRO_BATCH and spec is None:
                    raise ValueError("it must have values")
                if spec is not None:
                    ParameterConfig.read(name, spec)
            except ValueError as error:
                raise _fault(name, str(error), spec) from None
        return handler({name: specs[name] for name in KNOBS.in_order(specs)})

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are written down, those without values included."""
        return tuple(self.model_extra or ())

    def read(self) -> dict[str, "ParameterConfig"]:
        """Return what the file says of each parameter that is searched, by name."""
        specs = self.model_extra or {}
        return {name: ParameterConfig.read(name, spec) for name, spec in specs.items() if spec is not None}


def _fault(name: str, message: str, spec: Any) -> ValidationError:
    """Return an error whose place is one key of the space."""
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    return ValidationError.from_exception_data("SpaceConfig", [InitErrorDetails(type=error, loc=(name,), input=spec)])


@dataclass(frozen=True, kw_only=True)
class ParameterConfig:
    """What a study file says of one parameter.

    Attributes:
        domain: Its values.
        changes: What it changes, of `CHANGES`; None if the file does not say.
        only_with: The values that others must have for it to be set, by their names.
    """

    domain: Domain
    changes: tuple[str, ...] | None = None
    only_with: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, spec: Any) -> Self:
        """Read what is written at a parameter's key.

        Raises:
            ValueError: It is written in no form that there is, or a value is not legal.
        """
        knob, values, changes, only_with = KNOBS[name], spec, None, {}
        if isinstance(spec, Mapping) and "values" in spec:
            if unknown := spec.keys() - {"values", "changes", "only_with"}:
                raise ValueError(f"beside values there may be changes and only_with, got {min(unknown)}")
            values = spec["values"]
            changes = None if spec.get("changes") is None else _changes(knob, spec["changes"])
            only_with = _only_with(name, spec.get("only_with"))
        elif isinstance(spec, Mapping) and not spec.keys().isdisjoint({"changes", "only_with"}):
            raise ValueError("beside changes and only_with there must be values: a value, a list or a range")
        domain = knob.kind.read(values)
        for value in domain.examples():
            knob.kind.check(name, value)
        return cls(domain=domain, changes=changes, only_with=only_with)


def _changes(knob: Knob, told: Any) -> tuple[str, ...]:
    if knob.searched is not None or knob.changes_length:
        raise ValueError("what it changes is known; leave changes out")
    told = told if isinstance(told, list | tuple) else [told]
    if not told or any(each not in CHANGES for each in told):
        raise ValueError(f"changes must be one or more of {', '.join(CHANGES)}, got {', '.join(map(str, told)) or 'none'}")
    return tuple(each for each in CHANGES if each in told)


def _only_with(name: str, told: Any) -> dict[str, tuple[Any, ...]]:
    if told is None:
        return {}
    if not isinstance(told, Mapping) or not told:
        raise ValueError(f"only_with must hold the values that other parameters must have, by their names, got {told!r}")
    if name in (MICRO_BATCH, ACCUMULATION):
        raise ValueError("it is always set; leave only_with out")
    found = {}
    for other, values in told.items():
        values = values if isinstance(values, list | tuple) else [values]
        if not values:
            raise ValueError(f"only_with must name one or more values of {other}, got none")
        try:
            found[other] = tuple(KNOBS[other].kind.read_value(value) for value in values)
        except ValueError as error:
            raise ValueError(f"only_with: {other} {error}") from None
    return found


def check_space(config: SpaceConfig, space: SearchSpace, job: TrainingSettings) -> None:
    """Check that there is something that takes each parameter, and that its conditions can be met.

    Raises:
        ValueError: The first fault in a sentence, with the key.
    """
    for name in config.names:
        lacks = name not in type(job).model_fields and not name.startswith("lora_")
        if isinstance(job, BuiltInJob) and KNOBS[name].target in (Target.JOB, Target.DATA) and lacks:
            raise ValueError(f"space.{name}: there is no {name} in {job.task_in_words}; leave it out")
        if not KNOBS[name].is_open or name in OPEN_FIELDS:
            continue
        if isinstance(job, CustomJob):
            # What the function takes is known where it is imported, in a process of its own.
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(f"space.{name}: a keyword of job.build must be a name of Python")
            if name in TAKEN_NAMES:
                raise ValueError(f"space.{name}: a study knows {TAKEN_NAMES[name]} by this name; give the keyword another one")
        elif name in type(job).model_fields and name not in OTHER_NAMES:
            raise ValueError(f"space.{name}: it can't be searched; job.{name} holds it fixed")
        elif name == "lora_dropout" and isinstance(job, BuiltInJob):
            raise ValueError(f"space.{name}: it can't be searched; job.lora.dropout holds it fixed")
        else:
            raise ValueError(f"unknown key 'space.{name}'; {hint(name)}")
    if isinstance(job, CustomJob) and (both := space.domains.keys() & job.kwargs.keys()):
        raise ValueError(f"space.{min(both)}: it is searched, and fixed in job.kwargs; leave one of them out")
    _check_changes(config, job)
    if isinstance(job, BuiltInJob):
        _check_adapters(space, job)
    if {"warmup_ratio", "warmup_steps"} <= space.domains.keys():
        raise ValueError("space.warmup_steps: warmup_ratio says the same; search one of them")
    for name, conditions in space.only_with.items():
        for other, allowed in conditions.items():
            _check_condition(space, name, other, allowed)


def _check_changes(config: SpaceConfig, job: TrainingSettings) -> None:
    for name, told in config.read().items():
        knob = KNOBS[name]
        is_keyword = isinstance(job, CustomJob) and knob.is_beside_arguments
        if told.changes is None or knob.is_open or is_keyword:
            continue
        known = (knob.memory is not None, knob.changes_time, knob.learning > Learning.ROUNDING)
        if missing := [what for what, does in zip(CHANGES, known, strict=True) if does and what not in told.changes]:
            raise ValueError(f"space.{name}: it changes {' and '.join(missing)} too; add that to changes, or leave changes out")


def _check_adapters(space: SearchSpace, job: BuiltInJob) -> None:
    if getattr(job, "load_in_4bit", False) and "lora_rank" not in space.domains and job.lora is None:
        raise ValueError("job.load_in_4bit: there must be adapters to train; search lora_rank too, or set job.lora")
    for name in ("lora_alpha", "lora_target_modules", "load_in_4bit"):
        if name in space.domains and "lora_rank" not in space.domains and job.lora is None:
            raise ValueError(f"space.{name}: there must be adapters for it; search lora_rank too, or set job.lora")
    for value in space.domains["lora_target_modules"].examples() if "lora_target_modules" in space.domains else ():
        try:
            Lora(target_modules=value)
        except ValidationError:
            raise ValueError(
                f"space.lora_target_modules: must be names of layers, separated by commas, or all-linear, got {value!r}"
            ) from None


def _check_condition(space: SearchSpace, name: str, other: str, allowed: tuple[Any, ...]) -> None:
    if other not in space.domains:
        raise ValueError(f"space.{name}: only_with must name a parameter that is searched, got {other}")
    values = space.domains[other].values()
    if values is None:
        raise ValueError(f"space.{name}: only_with needs a parameter with a list of values, and {other} is a range")
    if missing := [value for value in allowed if value not in values]:
        raise ValueError(
            f"space.{name}: only_with must name values of {other}, {', '.join(map(str, values))}, got {missing[0]}"
        )
    if name not in space.learning_only and other in space.learning_only:
        raise ValueError(f"space.{name}: only_with can't name {other}, which changes learning only, while {name} changes more")
