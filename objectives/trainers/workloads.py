"""Builds a job's Trainers, inside the process that trains.

Everything else (the probe, the training, `tradeoff train`) works with a `Workload` and does not depend on the type of job.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from tradeoff.objectives.data.contents import custom_contents
from tradeoff.objectives.job.arguments import padding, settings_beside_arguments
from tradeoff.objectives.job.settings import AnyJob, CustomJob, TextClassificationJob
from tradeoff.objectives.trainers import prepared_data as data
from tradeoff.objectives.trainers.accuracy import compute_metrics
from tradeoff.objectives.trainers.custom_trainer import build_trainer, describe_trainer
from tradeoff.objectives.trainers.models import build_model
from tradeoff.searchspace import TrialParameters


class Workload(ABC):
    """Builds the Trainers of a job."""

    @abstractmethod
    def trainer(self, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:
        """Build a Trainer with a new model, its data and its metrics.

        Args:
            arguments: Exactly the arguments that it trains with.
            parameters: The configuration, for what it sets besides arguments.
        """

    def save_beside_model(self, folder: Path) -> None:  # noqa: B027  most have nothing to save
        """Save what belongs to a model and is not saved by its Trainer."""


class TextClassification(Workload):
    """A classifier on the data that `tradeoff.objectives.trainers.prepared_data.prepare` wrote into a directory."""

    def __init__(self, job: TextClassificationJob, folder: Path) -> None:
        self._job = job
        self._data = data.load(folder)

    def trainer(self, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:  # noqa: D102
        return Trainer(
            model=build_model(self._job, self._data.model, attention=parameters.get("attn_implementation")),
            args=arguments,
            train_dataset=self._data.train,
            eval_dataset=self._data.eval,
            data_collator=data.collator(self._data, padding(self._job, parameters), max_length=self._job.max_length),
            compute_metrics=compute_metrics,
        )

    def save_beside_model(self, folder: Path) -> None:  # noqa: D102
        if self._data.tokenizer is not None:
            self._data.tokenizer.save_pretrained(folder)


class Custom(Workload):
    """The Trainer that the user's own function builds."""

    def __init__(self, job: CustomJob) -> None:
        self._job = job

    def trainer(self, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:  # noqa: D102
        return build_trainer(self._job, arguments, settings_beside_arguments(parameters))


def load_workload(job: AnyJob, folder: str) -> Workload:
    """Return the workload of a prepared job.

    Args:
        job: The job.
        folder: The `folder` that `prepare_workload` returned.
    """
    return Custom(job) if isinstance(job, CustomJob) else TextClassification(job, Path(folder))


def prepare_workload(job: AnyJob, cache_folder: Path) -> dict[str, Any]:
    """Prepare what all trials of a study share.

    Args:
        job: The job.
        cache_folder: The directory for prepared data.

    Returns:
        JSON types: `folder` for `load_workload`, `num_train`, `num_eval`, `baselines`, the value that a constant answer
        reaches in each learned objective, if that is known, and `contents`, the fingerprints of what the job reads.

    Raises:
        ValueError: The job can't be run as the user wrote it.
    """
    if isinstance(job, CustomJob):
        facts = describe_trainer(job)  # which imports the module
        return {"folder": "", "baselines": job.baselines(), "contents": custom_contents(job), **facts}
    return data.prepare(job, cache_folder).facts()
