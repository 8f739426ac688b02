"""Builds a job's Trainers, inside the process that trains.

Everything else (the probe, the training, `tradeoff train`) works with a `Workload` and does not depend on the type of job.
"""

import importlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from tradeoff.objectives.job.arguments import name_of_data, padding
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob, CustomJob, TextClassificationJob
from tradeoff.objectives.job.settings import BuiltInJob, gguf_file
from tradeoff.objectives.trainers import prepared_data as data
from tradeoff.objectives.trainers.accuracy import compute_metrics
from tradeoff.objectives.trainers.custom_trainer import (
    ExplainedError,
    build_trainer,
    examine_trainer,
    explained,
    load_function,
)
from tradeoff.objectives.trainers.model_files import JobFault, first_line
from tradeoff.objectives.trainers.models import build_model, check_sizes, name_labels
from tradeoff.objectives.trainers.samples.labelled import collator
from tradeoff.objectives.trainers.trained_parts import OptionFault, num_layers
from tradeoff.searchspace import TrialParameters

# Where weights are kept that adapters were trained beside, and that no name would give again.
BASE_MODEL = "base_model"
_OF_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "README.md")  # the last is peft's card


class Workload(ABC):
    """Builds the Trainers of a job.

    Attributes:
        arguments_class: The class of the arguments that they take.
    """

    arguments_class: type[TrainingArguments] = TrainingArguments

    @abstractmethod
    def import_ahead(self) -> None:
        """Import what building a Trainer imports, so that a peak that is measured from here on does not count it."""

    @abstractmethod
    def trainer(self, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:
        """Build a Trainer with a new model, its data and its metrics.

        Args:
            arguments: Exactly the arguments that it trains with.
            parameters: The configuration, for what it sets besides arguments.
        """

    @abstractmethod
    def examine(self, trainer: Trainer) -> dict[str, Any]:
        """Check a Trainer against the job before anything is trained.

        Returns:
            What it tells of the job, by name: at least `has_checkpointing`, and `num_layers` if the model has layers.

        Raises:
            ValueError: The job can't be run as the user wrote it.
        """

    @abstractmethod
    def explain(self, error: BaseException, *, is_of_an_option: bool = False) -> str:
        """Return why a Trainer could not be built or take a step: in a sentence, or as the reason why an option is left out."""

    def check_option(self, trainer: Trainer, parameters: TrialParameters) -> None:  # noqa: B027  most have nothing to check
        """Check that a Trainer does with a model what its configuration says.

        Raises:
            OptionFault: It does not.
        """

    def save_beside_model(self, folder: Path) -> None:  # noqa: B027  most have nothing to save
        """Save what belongs to a model and is not saved by its Trainer."""


class BuiltIn(Workload):
    """A built-in task on the data that `tradeoff.objectives.trainers.prepared_data.prepare` wrote into a directory."""

    def __init__(self, job: BuiltInJob, folder: Path) -> None:
        self._job = job
        self._data = data.load(folder)

    def import_ahead(self) -> None:  # noqa: D102
        if self._data.model.module is not None:
            importlib.import_module(self._data.model.module)
        if self._job.lora is not None:
            importlib.import_module("peft")

    def examine(self, trainer: Trainer) -> dict[str, Any]:  # noqa: D102
        check_sizes(self._job, trainer.model, highest_token=data.highest_token(self._data))
        return {"has_checkpointing": self._data.model.has_checkpointing, "num_layers": num_layers(trainer.model)}

    def explain(self, error: BaseException, *, is_of_an_option: bool = False) -> str:  # noqa: D102
        if isinstance(error, JobFault | OptionFault):
            return str(error)
        if is_of_an_option:
            return f"the model {self._job.model!r} can't be trained with it ({first_line(error)})"
        return (
            f"the model {self._job.model!r} must train on the longest sample, {self._data.longest} tokens, and fails"
            f" ({first_line(error)}); check its config.json, choose another model, or lower job.max_length"
        )

    def save_beside_model(self, folder: Path) -> None:  # noqa: D102
        if self._data.tokenizer is not None:
            self._data.tokenizer.save_pretrained(folder)
        if self._job.lora is not None and (not self._data.model.has_weights or gguf_file(self._job.model) is not None):
            from peft import PeftConfig

            # Adapters need the weights that they were trained beside: those of a GGUF file, or what the seed gives again.
            build_model(self._job.with_whole_model(), self._data.model).save_pretrained(folder / BASE_MODEL)
            adapters = PeftConfig.from_pretrained(str(folder))
            adapters.base_model_name_or_path = str((folder / BASE_MODEL).resolve())
            adapters.save_pretrained(str(folder))


class TextClassification(BuiltIn):
    """A classifier."""

    _job: TextClassificationJob

    def trainer(self, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:  # noqa: D102
        model = build_model(self._job, self._data.model, attention=parameters.get("attn_implementation"))
        name_labels(model, self._data.label_names)
        return Trainer(
            model=model,
            args=arguments,
            train_dataset=self._data.train,
            eval_dataset=self._data.eval,
            data_collator=collator(
                self._data.tokenizer,
                padding(self._job, parameters),
                is_padded=self._data.is_padded,
                max_length=self._job.max_length,
            ),
            compute_metrics=compute_metrics,
        )


class LanguageModel(BuiltIn):
    """A language model."""

    _job: CausalLMJob

    def __init__(self, job: CausalLMJob, folder: Path) -> None:
        from trl import SFTConfig

        super().__init__(job, folder)
        self.arguments_class = SFTConfig

    def import_ahead(self) -> None:  # noqa: D102
        super().import_ahead()
        importlib.import_module("tradeoff.objectives.trainers.language_trainer")

    def trainer(self, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:  # noqa: D102
        from tradeoff.objectives.trainers.language_trainer import LanguageTrainer

        arguments.packing, arguments.activation_offloading = self._job.packing, self._job.activation_offloading
        return LanguageTrainer(
            model=build_model(
                self._job,
                self._data.model,
                attention=parameters.get("attn_implementation"),
                compute_dtype=torch.bfloat16 if arguments.bf16 else torch.float32,
            ),
            args=arguments,
            train_dataset=self._data.packed if self._job.packing else self._data.train,
            eval_dataset=self._data.eval,
            processing_class=self._data.tokenizer,
            num_characters=self._data.num_characters,
        )

    def check_option(self, trainer: Trainer, parameters: TrialParameters) -> None:  # noqa: D102
        from tradeoff.objectives.trainers.samples.packing import texts_meet

        if self._job.packing and texts_meet(trainer, is_flash=parameters.get("attn_implementation") == "flash_attention_2"):
            raise OptionFault(
                f"texts that are packed together must not read each other, and in the model {self._job.model!r} they would;"
                " leave packing out"
            )


class Custom(Workload):
    """The Trainer that the user's own function builds."""

    def __init__(self, job: CustomJob) -> None:
        self._job = job

    def import_ahead(self) -> None:  # noqa: D102
        load_function(self._job)

    def trainer(self, arguments: TrainingArguments, parameters: TrialParameters) -> Trainer:  # noqa: D102
        return build_trainer(self._job, arguments, parameters)

    def examine(self, trainer: Trainer) -> dict[str, Any]:  # noqa: D102
        return examine_trainer(self._job, trainer)

    def explain(self, error: BaseException, *, is_of_an_option: bool = False) -> str:  # noqa: D102
        return str(error) if isinstance(error, ExplainedError) else explained(self._job, "fails", error)


def load_workload(job: AnyJob, folders: Mapping[str, str]) -> Workload:
    """Return the workload of a prepared job.

    Args:
        job: The job, of one trial.
        folders: The `folders` that `prepare_workload` returned.
    """
    if isinstance(job, CustomJob):
        return Custom(job)
    folder = Path(folders[name_of_data(job)])
    return LanguageModel(job, folder) if isinstance(job, CausalLMJob) else TextClassification(job, folder)


def merge_adapters(job: BuiltInJob, folders: Mapping[str, str], output: Path) -> None:
    """Put saved adapters into the weights of their model, in full precision; that takes their place.

    Args:
        job: The job that they were trained by.
        folders: Its prepared data, as `prepare_workload` returned it.
        output: The directory with the adapters.
    """
    from peft import PeftModel

    prepared = data.load(Path(folders[name_of_data(job)]))
    model = build_model(job.with_whole_model(), prepared.model)
    name_labels(model, prepared.label_names)
    PeftModel.from_pretrained(model, str(output)).merge_and_unload().save_pretrained(output)
    for name in _OF_ADAPTERS:
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / BASE_MODEL, ignore_errors=True)
