"""The training job: everything that all trials of a study hold fixed.

A job is plain, validated data, so it can be compared key by key when a study is resumed, sent to a trial's process, and
written into an export. How a job becomes a Trainer is the business of the files that run inside that process.
"""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tradeoff.objectives.measurements.goals import BUILT_IN, GOALS, LANGUAGE_METRICS, Goal, learned_names
from tradeoff.searchspace.choices import SCHEDULERS, SCHEDULERS_OF_EVALUATIONS, SCHEDULERS_WITH_ARGUMENTS
from tradeoff.searchspace.kinds import MAX_INTEGER, MAX_RATE, Names

EMBEDDED = "embedded"
RANDOM_TOKENS = "random-tokens"
ALL_LINEAR = "all-linear"
TASKS = ("text_classification", "causal_lm")
# Numpy takes no larger seed.
NUM_SEEDS = 2**32
MAX_GENERATED = 1_000_000
# Settings of one task on which its data does not depend.
_OF_TRAINING = ("load_in_4bit", "activation_offloading")
LOCAL_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")


def is_local_data(name: str) -> bool:
    """Return True if a data set is a local file: by its ending, so that a missing one is not taken for a Hub name, or by its
    place, or because it is there.
    """
    is_path = name.startswith((".", "/", "~")) or name.lower().removesuffix(".gz").endswith(LOCAL_SUFFIXES)
    return is_path or (name not in (EMBEDDED, RANDOM_TOKENS) and os.path.isfile(name))


def local_path(name: str) -> Path:
    """Return where a file of this name would be; the home directory of nobody here is a name like any other."""
    return Path(os.path.expanduser(name))


def gguf_file(model: str) -> tuple[str, str] | None:
    """Return where a GGUF file is and how it is called, as transformers takes the two; None for every other model.

    Of `owner/name:file.gguf` that is a name on the Hub, and of any other name a local directory.
    """
    if not model.lower().endswith(".gguf"):
        return None
    path = local_path(model)
    on_hub, _, file = model.rpartition(":")
    return (on_hub, file) if on_hub and not os.path.isfile(path) else (str(path.parent), path.name)


class TrainingSettings(BaseModel):
    """The settings of a training that every job holds fixed, whoever builds its Trainer."""

    HOW_TO_EVALUATE: ClassVar[str] = ""  # what a user sets who wants an evaluation
    BASELINE: ClassVar[str] = "a constant answer"  # what a training has to beat

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    epochs: float = Field(3, gt=0, le=1_000_000, description="passes over the training samples")
    learning_rate: float = Field(5e-5, gt=0, le=MAX_RATE, description="peak learning rate, unless it is searched")
    lr_scheduler_type: str = Field("linear", description="a name of transformers.SchedulerType")
    warmup_steps: float = Field(0, ge=0, description="warm-up steps; below 1, a share of all steps")
    weight_decay: float = Field(0.0, ge=0, le=MAX_RATE, description="the optimizer's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, le=MAX_RATE, description="norm to which gradients are clipped; 0 for no clipping")
    optim: str = Field("adamw_torch", description="a name of transformers.training_args.OptimizerNames")
    eval_batch_size: int = Field(8, ge=1, le=MAX_INTEGER, description="evaluation batch size per device")
    seed: int = Field(42, ge=0, lt=NUM_SEEDS, description="seed of initialization, shuffling and dropout")
    deterministic: bool = Field(True, description="ask torch for deterministic kernels, where it has them")
    shares_accuracy: bool = Field(
        True, description="true if every split of an effective batch learns the same; batch normalization, for one, breaks that"
    )

    @field_validator("lr_scheduler_type")
    @classmethod
    def _is_a_scheduler(cls, name: str) -> str:
        Names(names=SCHEDULERS).check("lr_scheduler_type", name)
        return name

    @model_validator(mode="after")
    def _check_scheduler(self) -> Self:
        if self.lr_scheduler_type in SCHEDULERS_OF_EVALUATIONS and not self.evaluates:
            raise ValueError(f"lr_scheduler_type {self.lr_scheduler_type!r} follows an evaluation: set {self.HOW_TO_EVALUATE}")
        return self

    @property
    def evaluates(self) -> bool:
        """True if a trial evaluates what it has learned."""
        raise NotImplementedError

    @property
    def num_train_asked(self) -> int | None:
        """The training samples that the job asks for; None if only the data tells."""
        raise NotImplementedError

    def goals(self) -> dict[str, Goal]:
        """The objectives that the job's evaluation can return, the usual one first; empty if it does not evaluate."""
        names = [name for name in learned_names(BUILT_IN) if name not in LANGUAGE_METRICS]
        return {name: GOALS[name] for name in names} if self.evaluates else {}


class Lora(BaseModel):
    """Low-rank adapters (LoRA), trained instead of a model's own weights; its head is trained as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    r: int = Field(8, ge=1, le=MAX_INTEGER, description="rank of the adapters")
    alpha: float | None = Field(None, gt=0, le=MAX_RATE, description="their scale, as alpha / r; default: 2 x r")
    target_modules: tuple[Annotated[str, Field(pattern=r"^[\w.-]+$")], ...] = Field(
        (ALL_LINEAR,), min_length=1, description="names of the layers that get an adapter, or `all-linear`"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of an adapter's input")

    @field_validator("target_modules", mode="before")
    @classmethod
    def _split(cls, names: Any) -> Any:
        # In a search space, where a value is one word, names are separated by commas.
        return tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names

    def settings(self) -> dict[str, Any]:
        """Return all of it as plain values; the scale is twice the rank where none is given."""
        return self.model_dump(mode="json") | {"alpha": 2 * self.r if self.alpha is None else self.alpha}


class BuiltInJob(TrainingSettings):
    """What the built-in jobs share: a model of transformers, texts from the Hub or a file, and the parts that are trained."""

    HOW_TO_EVALUATE: ClassVar[str] = "job.eval_samples above 0"
    task_in_words: ClassVar[str]

    model: str = Field(
        EMBEDDED, min_length=1, description="Hub name, local directory, GGUF file of a language model, or `embedded`"
    )
    dataset: str = Field(EMBEDDED, min_length=1, description="Hub name, local file, or `embedded`")
    dataset_config: str | None = Field(None, description="configuration of the Hub data set, if it has several")
    eval_dataset: str | None = Field(None, description="a second local file to evaluate on; default: a part of the first one")
    train_split: str = Field("train", description="split of the Hub data set to train on")
    eval_split: str = Field("test", description="split of the Hub data set to evaluate on")
    encoding: str = Field("utf-8", description="encoding of a local text file, as Python names it, such as cp1252 or utf-16")
    train_samples: int | None = Field(1000, ge=1, le=MAX_INTEGER, description="training samples; null for all")
    eval_samples: int | None = Field(
        1000, ge=0, le=MAX_INTEGER, description="evaluation samples; null for all, 0 for no evaluation"
    )
    data_seed: int = Field(42, ge=0, lt=NUM_SEEDS, description="seed of the shuffle that picks the samples")
    max_length: int = Field(512, ge=4, le=1_000_000, description="tokens per text; longer texts are cut")
    trust_remote_code: bool = Field(False, description="run code that comes with the model or data set from the Hub")
    dropout: float | None = Field(None, ge=0, lt=1, description="every dropout of the model; default: the model's own")
    frozen_layers: int = Field(
        0, ge=0, le=10_000, description="layers that are not trained, from the first one on, and the embeddings with them"
    )
    lora: Lora | None = Field(None, description="train low-rank adapters instead of the model's weights")

    @field_validator("task", mode="before", check_fields=False)
    @classmethod
    def _is_a_task(cls, task: Any) -> Any:
        if task not in TASKS:
            raise ValueError(f"task must be {' or '.join(TASKS)}, got {task!r}")
        return task

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            "".encode(encoding)  # of text: hex and others are codecs too
        except (LookupError, ValueError):
            raise ValueError(
                f"encoding must be one that Python knows, such as utf-8, cp1252 or utf-16, got {encoding!r}"
            ) from None
        return encoding

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if self.eval_dataset is not None and not self.is_local_file:
            raise ValueError(f"eval_dataset goes with a local data file, and dataset is {self.dataset!r}")
        if self.lr_scheduler_type in SCHEDULERS_WITH_ARGUMENTS:
            raise ValueError(
                f"lr_scheduler_type {self.lr_scheduler_type!r} needs arguments of its own, which only your own Trainer (build)"
                " can be given; choose another, such as cosine"
            )
        asked = max(self.train_samples or 0, self.eval_samples or 0)
        if self.dataset in (EMBEDDED, RANDOM_TOKENS) and asked > MAX_GENERATED:
            raise ValueError(
                f"train_samples and eval_samples may be at most {MAX_GENERATED:,} of generated data, got {asked:,}"
            )
        return self

    @property
    def is_local_file(self) -> bool:
        """True if the data is a local file."""
        return is_local_data(self.dataset)

    @property
    def evaluates(self) -> bool:
        """True if a trial evaluates what it has learned."""
        return self.eval_samples != 0

    @property
    def num_train_asked(self) -> int | None:
        """The training samples that the job asks for; None for all that the data has."""
        return self.train_samples

    def with_whole_model(self) -> Self:
        """Return the job without adapters and without frozen layers."""
        return self.model_copy(update={"lora": None, "frozen_layers": 0})

    def data_settings(self) -> dict[str, Any]:
        """The fields on which the tokenized data depends, and nothing else."""
        return self.model_dump(exclude={*TrainingSettings.model_fields, "dropout", "frozen_layers", "lora", *_OF_TRAINING})
