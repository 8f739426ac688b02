"""The study file: what a user writes, validated as a whole before anything runs.

A config is plain data, so it can be stored with the study and compared key by key when the study is resumed. Unknown keys are
refused with their path.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tradeoff.objectives.job.jobs import CustomJob, Job, TextClassificationJob, kind_of_job, register_goals
from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.goals import BUILT_IN, cost_names, learned_names, metric_name
from tradeoff.objectives.measurements.outcome import LONGEST_LIMIT_S
from tradeoff.searchspace import KNOBS, EffectiveBatchSizeRange, Knobs, Reuse, SearchSpace
from tradeoff.studies.config.space import SpaceConfig, check_space

# Of a grid all configurations are tried.
MAX_GRID = 100_000
SamplerName = Literal["decoupled", "tpe", "nsga2", "gp", "random", "grid"]
TrackerName = Literal["wandb", "mlflow", "tensorboard", "trackio"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    memory_estimate: Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_switch)] = Field(
        "auto",
        description="predict memory before anything runs: where it costs no time, in any case, or not at all",
    )
    trials: int = Field(24, ge=1, le=1_000_000, description="number of trials that are trained, or run out of memory or time")
    track: tuple[TrackerName, ...] = Field(
        (), description="experiment trackers to which each trial is written: wandb, mlflow, tensorboard, trackio"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_early_stopping(cls, data: Any) -> Any:
        """A study that is stored may hold the key, which a study file may not."""
        return {key: value for key, value in data.items() if key != "early_stopping"} if isinstance(data, Mapping) else data

    @model_validator(mode="before")
    @classmethod
    def _default_objectives(cls, data: Any) -> Any:
        """A language model is judged by its loss, a job of the user's own by its metric, unless the study says otherwise."""
        kind = kind_of_job(data.get("job")) if isinstance(data, Mapping) else ""
        if kind not in ("custom", "causal_lm") or "objectives" in data:
            return data
        if kind == "causal_lm":
            return {**data, "objectives": ("eval_loss", *cost_names(DEFAULT_OBJECTIVES))}
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

    @field_validator("track")
    @classmethod
    def _once_each(cls, names: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        return tuple(dict.fromkeys(names))

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
        check_space(self.space, space, self.job)
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

    def setup(
        self,
        space: SearchSpace,
        device: Mapping[str, Any],
        *,
        num_train: int,
        num_eval: int | None = None,
        num_packed: Mapping[str, int] | None = None,
    ) -> StudySetup:
        """Return the terms of the study on a device.

        Args:
            space: The study's space, without what the device lacks.
            device: What trials run on.
            num_train: Training samples per epoch.
            num_eval: Evaluation samples; None if they are not known.
            num_packed: Sequences to train on where texts are packed, by the name of their data.
        """
        return StudySetup(
            space=space,
            job=self.job,
            objectives=self.objectives,
            num_train=num_train,
            num_eval=num_eval,
            num_packed=num_packed or {},
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
