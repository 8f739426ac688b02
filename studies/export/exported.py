"""An export as `tradeoff train` reads it: its `tradeoff.yaml`, and the job to train.

Somebody else may have written it: everything that a training needs is looked at before anything starts.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from tradeoff.objectives.job.jobs import AnyJob, CustomJob, Job, TextClassificationJob, register_goals
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, BuiltInJob
from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.knob import Target
from tradeoff.studies.config.study_file import explain, read_yaml
from tradeoff.studies.errors import TradeoffError


class _Value(BaseModel):
    value: float
    std: float | None = None


class _Study(BaseModel):
    name: str


class _Device(BaseModel):
    name: str | None = None


class _Exported(BaseModel):
    """The part of `tradeoff.yaml` that a training reads."""

    job: Job
    parameters: dict[str, Any]
    study: _Study
    trial: int | None
    devices_per_trial: int = Field(1, ge=1)
    values: dict[str, _Value]
    memory_mib: dict[str, float]
    measured: dict[str, float]
    device: _Device

    @field_validator("job")
    @classmethod
    def _has_data(cls, job: AnyJob) -> AnyJob:
        if isinstance(job, TextClassificationJob) and job.dataset == RANDOM_TOKENS:
            raise ValueError("there must be data to learn from, and its study measured random tokens; export another")
        return job

    @field_validator("parameters")
    @classmethod
    def _are_legal(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if isinstance(info.data.get("job"), BuiltInJob):  # a function of one's own takes any keyword
            for name in parameters:
                if KNOBS[name].target is Target.KEYWORD:
                    raise ValueError(f"{name!r} is no parameter of the built-in jobs")
        return TrialParameters.read(parameters).as_dict()


def read_export(directory: Path) -> dict[str, Any]:
    """Read the `tradeoff.yaml` of an export.

    Raises:
        TradeoffError: The directory is no export, or one of random tokens, from which nothing can be learned.
    """
    path = directory / "tradeoff.yaml"
    rule = f"{directory} must be a directory that `tradeoff export` wrote"
    if not path.is_file():  # a pipe would be waited for
        raise TradeoffError(f"{rule}, and has no file tradeoff.yaml")
    try:
        exported = _Exported.model_validate(read_yaml(path, what="the export"))
    except ValidationError as error:
        raise TradeoffError(f"{rule}; its tradeoff.yaml can't be used: {explain(error, _Exported)}") from None
    register_goals(exported.job)
    return exported.model_dump(exclude_unset=True) | {"job": exported.job.model_dump(mode="json")}


def full_job(job: AnyJob, train_samples: str) -> AnyJob:
    """Return the job with as many training samples as asked for; a custom job chooses its samples itself.

    Raises:
        TradeoffError: The number is neither "all", "study" nor a number of at least 1, or the job takes none.
    """
    if isinstance(job, CustomJob):
        if train_samples in ("all", "study"):
            return job
        raise TradeoffError(f"--train-samples is for the built-in jobs, and {job.build} chooses its samples; leave it out")
    if train_samples == "study" or (train_samples == "all" and job.dataset == EMBEDDED):
        return job
    if train_samples == "all":
        return job.model_copy(update={"train_samples": None})
    if not train_samples.isdecimal() or int(train_samples) < 1:
        raise TradeoffError(f'--train-samples must be "all", "study" or a number of at least 1, got {train_samples!r}')
    return job.model_copy(update={"train_samples": int(train_samples)})
