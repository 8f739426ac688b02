"""The study file: what a user writes, validated as a whole before anything runs.

A config is plain data, so it can be stored with the study and compared key by key when the study is resumed. Unknown keys are
refused with their path.
"""

import difflib
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from tradeoff.objectives.job.settings import (
    CustomJob,
    Job,
    TextClassificationJob,
    TrainingSettings,
    kind_of_job,
    register_goals,
)
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.goals import BUILT_IN, cost_names, learned_names, metric_name
from tradeoff.objectives.measurements.outcome import LONGEST_LIMIT_S
from tradeoff.searchspace import KNOBS, MICRO_BATCH, Domain, EffectiveBatchSizeRange, Knob, Knobs, Reuse, SearchSpace
from tradeoff.searchspace.knob import CHANGES
from tradeoff.searchspace.training_arguments import OPEN_FIELDS, REFUSED_FIELDS

# Of a grid all configurations are tried.
MAX_GRID = 100_000
# What some call parameters that have another name here.
OTHER_NAMES = {
    "accumulation": "gradient_accumulation_steps",
    "batch_size": MICRO_BATCH,
    "checkpointing": "gradient_checkpointing",
    "epochs": "num_train_epochs",
    "lora_r": "lora_rank",
    "lr": "learning_rate",
    "optimizer": "optim",
}

SamplerName = Literal["decoupled", "tpe", "nsga2", "gp", "random", "grid"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _fault(name: str, message: str, spec: Any) -> ValidationError:
    """Return an error whose place is one key of the space."""
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    return ValidationError.from_exception_data("SpaceConfig", [InitErrorDetails(type=error, loc=(name,), input=spec)])


class SpaceConfig(_Model):
    """The values that each parameter may take: one value, a list, or a range, and what is to be known of a parameter."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        defaults = {name: knob.searched for name, knob in KNOBS.items() if knob.searched is not None}
        specs = {**defaults, **data}
        if specs[MICRO_BATCH] is None:
            raise _fault(MICRO_BATCH, "it must have values", None)
        for name, spec in specs.items():
            if spec is not None:
                try:
                    ParameterConfig.read(name, spec)
                except ValueError as error:
                    raise _fault(name, str(error), spec) from None
        # Null takes out what is searched by default, and says nothing of other parameters.
        return handler({name: specs[name] for name in KNOBS.in_order(specs) if specs[name] is not None or name in defaults})

    def read(self) -> dict[str, "ParameterConfig"]:
        """Return what the file says of each parameter that is searched, by name."""
        specs = self.model_extra or {}
        return {name: ParameterConfig.read(name, spec) for name, spec in specs.items() if spec is not None}


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
    if name in (MICRO_BATCH, "gradient_accumulation_steps"):
        raise ValueError("it is always set; leave only_with out")
    found = {}
    for other, values in told.items():
        kind, values = KNOBS[other].kind, values if isinstance(values, list | tuple) else [values]
        if not values:
            raise ValueError(f"only_with must name one or more values of {other}, got none")
        found[other] = tuple(kind.read_value(value) for value in values)
    return found


class EffectiveBatchSizeLimits(_Model):
    """The effective batch sizes (batch x accumulation x devices) that may be tried."""

    min: int | None = Field(None, ge=1, description="smallest effective batch size")
    max: int | None = Field(None, ge=1, description="largest effective batch size")


class Limits(_Model):
    """The limits that a configuration must satisfy."""

    peak_memory_mib: float | None = Field(None, gt=0, le=1e12, description="memory limit, enforced even if the device has more")
    effective_batch_size: EffectiveBatchSizeLimits = EffectiveBatchSizeLimits()
    trial_time_s: float | None = Field(
        None,
        gt=0,
        le=LONGEST_LIMIT_S,
        description="time after which a trial is ended, or an attempt at the job before the study",
    )


def _known_objectives(names: tuple[str, ...], job: TrainingSettings | None) -> tuple[str, ...]:
    """The objectives by their own names: those of a job's metrics may be written with and without the Trainer's `eval_`."""
    learned = [] if job is None else [*(job.goals() or learned_names(BUILT_IN))]
    known = [*learned, *cost_names(BUILT_IN)]
    names = tuple(metric_name(name) if name not in known and metric_name(name) in known else name for name in names)
    for name in names:
        if name not in known and job is not None:
            raise ValueError(f"an objective must be one of {', '.join(known)}, got {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"an objective must be named once, got {name!r} twice")
    if len(names) < 2:
        raise ValueError(f"a trade-off needs at least 2 objectives, got {len(names)}")
    return names


DEFAULT_OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")


def _yaml_switch(value: Any) -> Any:
    """Return `on` and `off` as text, since YAML reads them as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _flash_attention_alone(space: SearchSpace) -> str | None:
    """Return the reason why no configuration is left whatever its effective batch, or None."""
    without_limits = replace(space, effective_batch_size=EffectiveBatchSizeRange())
    if not without_limits.is_empty():
        return None
    domains = {name: domain.examples()[0] for name, domain in space.domains.items()}
    violation = without_limits.violation(space.parameters(domains))
    return None if violation is None else violation.reason


def _check_conditions(space: SearchSpace) -> None:
    """Check that what a condition names is searched, has these values, and is decided before.

    Raises:
        ValueError: It is not.
    """
    for name, conditions in space.only_with.items():
        for other, allowed in conditions.items():
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
                raise ValueError(
                    f"space.{name}: only_with can't name {other}, which changes learning only, while {name} changes more"
                )


def _check_names(space: SearchSpace, job: TrainingSettings) -> None:
    """Check that there is something that takes each parameter.

    Raises:
        ValueError: There is not.
    """
    for name in space.domains:
        if name in REFUSED_FIELDS:
            raise ValueError(f"space.{name}: it can't be searched: {REFUSED_FIELDS[name]}")
        if not space.knobs[name].is_open or name in OPEN_FIELDS:
            continue
        if isinstance(job, CustomJob):
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(f"space.{name}: a keyword of job.build must be a name of Python")
            if name in job.kwargs:
                raise ValueError(f"space.{name}: it is searched, and fixed in job.kwargs; leave one of them out")
            continue
        known = [*KNOBS, *OPEN_FIELDS]
        close = OTHER_NAMES.get(name) or next(iter(difflib.get_close_matches(name, known, n=1)), None)
        what = "a parameter is a field of TrainingArguments or a setting of the built-in job"
        hint = what if close is None else f"did you mean {close!r}?"
        raise ValueError(f"unknown key 'space.{name}'; {hint}")
    if {"warmup_ratio", "warmup_steps"} <= space.domains.keys():
        raise ValueError("space.warmup_steps: warmup_ratio says the same; search one of them")


class StudyConfig(_Model):
    """A whole study: the job, the space, the limits, the objectives, and how to search."""

    name: str = Field("study", min_length=1, max_length=200, pattern=r"^[^/\\\x00-\x1f]+$", description="the study's name")
    job: Job = TextClassificationJob()
    space: SpaceConfig = SpaceConfig()
    limits: Limits = Limits()
    objectives: tuple[str, ...] = Field(
        DEFAULT_OBJECTIVES,
        description=f"two or more of {', '.join(BUILT_IN)}, and the job.metric of a custom job",
    )
    sampler: SamplerName = Field("decoupled", description="method that chooses configurations")
    sampler_seed: int | None = Field(
        None, ge=0, lt=2**32, description="seed that makes the search repeatable, given the same measurements"
    )
    reuse: Annotated[Reuse, BeforeValidator(_yaml_switch)] = Field(
        Reuse.EFFECTIVE_BATCH,
        description="what shares a training's accuracy: nothing, checkpointing on and off, or the whole learning class",
    )
    seeds_per_class: int = Field(
        3,
        ge=1,
        le=1000,
        description="most seeds that a learning class is trained with; more than one only where noise decides its rank",
    )
    stop_below_gain: float = Field(
        0.002,
        ge=0,
        lt=1,
        description="the decoupled search ends when no training is expected to add this share of the hypervolume; 0 trains all",
    )
    prefer: str | None = Field(
        None, description="an objective that comes first, such as accuracy: what may raise its best value is trained as well"
    )
    devices_per_trial: int = Field(1, ge=1, le=64, description="GPUs that train a configuration together (DDP)")
    early_stopping: bool = Field(True, description="stop a training whose learning class can no longer reach the front")
    memory_estimate: Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_switch)] = Field(
        "auto",
        description="predict memory before anything runs: where it costs no time, in any case, or not at all",
    )
    trials: int = Field(24, ge=1, le=1_000_000, description="number of trials that are trained, or run out of memory or time")

    @model_validator(mode="before")
    @classmethod
    def _default_objectives(cls, data: Any) -> Any:
        """A job of the user's own is judged by its metric, unless the study says by what else."""
        if not isinstance(data, Mapping) or "objectives" in data or kind_of_job(data.get("job")) != "custom":
            return data
        job = data["job"] if isinstance(data["job"], Mapping) else data["job"].model_dump()
        metric = job.get("metric", CustomJob.model_fields["metric"].default)
        learned = (metric_name(metric),) if isinstance(metric, str) else ()
        return {**data, "objectives": (*learned, *cost_names(DEFAULT_OBJECTIVES))}

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        job = info.data.get("job")  # missing where it is wrong itself, which is said first
        names = _known_objectives(names, job)
        if job is not None:
            register_goals(job)
        return names

    @field_validator("prefer")
    @classmethod
    def _check_preferred(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None or not {"job", "objectives"} <= info.data.keys():  # wrong themselves, which is said first
            return name
        learned = learned_names(info.data["objectives"])
        if (known := name if name in learned else metric_name(name)) not in learned:
            names = " or ".join(learned) or "of which this study has none"
            raise ValueError(f"the preferred objective must be one that a training measures, {names}, got {name!r}")
        return known

    @model_validator(mode="after")
    def _check(self) -> "StudyConfig":
        if not self.job.evaluates and (learned := learned_names(self.objectives)):
            raise ValueError(
                f"{learned[0]} can't be an objective of a job that does not evaluate: set {self.job.HOW_TO_EVALUATE}"
            )
        space = self.search_space()
        _check_names(space, self.job)
        _check_conditions(space)
        if self.sampler == "grid" and (continuous := space.continuous()):
            raise ValueError(f"sampler: grid needs a list of values for every parameter, and {continuous[0]} is a range")
        if self.sampler == "grid" and (size := space.num_combinations()) > MAX_GRID:
            raise ValueError(f"sampler: grid tries every combination, at most {MAX_GRID:,}, got {size:,}; give fewer values")
        try:
            KNOBS["optim"].kind.check("optim", self.job.optim)
        except ValueError as error:
            raise ValueError(f"job.{error}") from None
        if space.is_empty():
            if (broken := _flash_attention_alone(space)) is not None:
                raise ValueError(f"no configuration of the space can be run: {broken}; add fp16, bf16 or another attention")
            limits = self.limits.effective_batch_size
            raise ValueError(
                "no configuration of the space meets limits.effective_batch_size"
                f" (min={limits.min}, max={limits.max}); widen the limit or the space"
            )
        return self

    def search_space(self) -> SearchSpace:
        """Return the search space that the file describes."""
        limits, parameters = self.limits.effective_batch_size, self.space.read()
        return SearchSpace(
            domains={name: each.domain for name, each in parameters.items()},
            effective_batch_size=EffectiveBatchSizeRange(low=limits.min, high=limits.max, num_devices=self.devices_per_trial),
            knobs=Knobs({name: each.changes for name, each in parameters.items() if each.changes is not None}),
            only_with={name: each.only_with for name, each in parameters.items() if each.only_with},
        )

    def effective_reuse(self) -> Reuse:
        """Return how far accuracy is shared: as the study says, unless the job's learning depends on the split."""
        return self.reuse if self.job.shares_accuracy else Reuse.OFF

    def memory_limit_mib(self, device: Mapping[str, Any]) -> float:
        """Return the most memory that a configuration may need; see the function of that name."""
        return memory_limit_mib(self.limits.peak_memory_mib, device)

    def setup(self, space: SearchSpace, device: Mapping[str, Any], *, num_train: int) -> StudySetup:
        """Return the terms of the study on a device.

        Args:
            space: The study's space, without what the device lacks.
            device: What trials run on.
            num_train: Training samples per epoch.
        """
        return StudySetup(
            space=space,
            job=self.job,
            objectives=self.objectives,
            num_train=num_train,
            num_devices=self.devices_per_trial,
            memory_limit_mib=self.memory_limit_mib(device),
            enforces_memory_limit=self.limits.peak_memory_mib is not None,
            reuse=self.effective_reuse(),
            uses_memory_estimates=self.memory_estimate != "off",
            publishes_at_end=self.sampler == "decoupled",
        )

    def plain(self) -> dict[str, Any]:
        """The config as JSON types: what is stored, compared and exported."""
        return self.model_dump(mode="json")


def memory_limit_mib(peak_memory_mib: float | None, device: Mapping[str, Any]) -> float:
    """Return the most memory that a configuration may need: the study's limit, or all that the device has."""
    return peak_memory_mib or float(device["total_memory_mib"])


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """Return the differences of two configurations, a line for each key: `job.epochs: 3 -> 1`."""
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{path}{key}.")
        elif a != b:
            lines.append(f"{path}{key}: {a!r} -> {b!r}")
    return lines
