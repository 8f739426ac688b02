"""An export as `tradeoff train` reads it: its `tradeoff.yaml`, and the job to train."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tradeoff.objectives.job.settings import (
    EMBEDDED,
    RANDOM_TOKENS,
    AnyJob,
    CustomJob,
    TextClassificationJob,
    parse_job,
    register_goals,
)
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.errors import TradeoffError


def read_export(directory: Path) -> dict[str, Any]:
    """Read the `tradeoff.yaml` of an export.

    Raises:
        TradeoffError: The directory is no export, or one of random tokens, from which nothing can be learned.
    """
    try:
        exported = yaml.safe_load((directory / "tradeoff.yaml").read_text(encoding="utf-8"))
        job = parse_job(exported["job"])
        TrialParameters(**exported["parameters"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError, ValueError) as error:
        message = " ".join(str(error).split())
        raise TradeoffError(
            f"{directory} must be a directory that `tradeoff export` wrote; its tradeoff.yaml can't be used: {message}"
        ) from error
    if isinstance(job, TextClassificationJob) and job.dataset == RANDOM_TOKENS:
        raise TradeoffError(
            f"{directory} must hold a configuration of a study with data, and its study measured random tokens; export another"
        )
    register_goals(job)
    return dict(exported)


def full_job(job: AnyJob, train_samples: str) -> AnyJob:
    """Return the job with as many training samples as asked for; a custom job chooses its samples itself.

    Raises:
        TradeoffError: The number is neither "all", "study" nor a number of at least 1, or the job takes none.
    """
    if isinstance(job, CustomJob):
        if train_samples in ("all", "study"):
            return job
        raise TradeoffError(f"--train-samples is for text classification, and {job.build} chooses its samples; leave it out")
    if train_samples == "study" or (train_samples == "all" and job.dataset == EMBEDDED):
        return job
    if train_samples == "all":
        return job.model_copy(update={"train_samples": None})
    if not train_samples.isdigit() or int(train_samples) < 1:
        raise TradeoffError(f'--train-samples must be "all", "study" or a number of at least 1, got {train_samples!r}')
    return job.model_copy(update={"train_samples": int(train_samples)})
