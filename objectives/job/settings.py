"""The training job: everything that all trials of a study hold fixed.

A job is plain, validated data, so it can be compared key by key when a study is resumed, sent to a trial's process, and
written into an export. How a job becomes a Trainer is the business of the files that run inside that process.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from tradeoff.objectives.measurements.goals import BUILT_IN, GOALS, Direction, Goal, learned_names, metric_goal, metric_name
from tradeoff.searchspace.choices import SCHEDULERS, SCHEDULERS_OF_EVALUATIONS, SCHEDULERS_WITH_ARGUMENTS
from tradeoff.searchspace.kinds import MAX_INTEGER, MAX_RATE, Names

EMBEDDED = "embedded"
RANDOM_TOKENS = "random-tokens"
ALL_LINEAR = "all-linear"
# Numpy takes no larger seed.
NUM_SEEDS = 2**32
MAX_GENERATED = 1_000_000
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


class TrainingSettings(BaseModel):
    """The settings of a training that every job holds fixed, whoever builds its Trainer."""

    HOW_TO_EVALUATE: ClassVar[str] = ""  # what a user sets who wants an evaluation

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
        """The objectives that the job's evaluation can return; empty if it does not evaluate."""
        known = {name: GOALS[name] for name in learned_names(BUILT_IN)}
        return known if self.evaluates else {}


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


class TextClassificationJob(TrainingSettings):
    """Fine-tuning an `AutoModelForSequenceClassification` on labelled texts.

    `model` is a name on the Hub, a local directory, or `embedded` for a small BERT with random weights. `dataset` is a name on
    the Hub, a local CSV, TSV, JSON Lines, JSON or Parquet file, `embedded` for generated reviews, or `random-tokens` for a job
    that measures only time and memory.
    """

    HOW_TO_EVALUATE: ClassVar[str] = "job.eval_samples above 0"

    model: str = Field(EMBEDDED, min_length=1, description="Hub name, local directory, or `embedded`")
    dataset: str = Field(EMBEDDED, min_length=1, description="Hub name, local file, `embedded`, or `random-tokens`")
    dataset_config: str | None = Field(None, description="configuration of the Hub data set, if it has several")
    eval_dataset: str | None = Field(None, description="a second local file to evaluate on; default: a part of the first one")
    train_split: str = Field("train", description="split of the Hub data set to train on")
    eval_split: str = Field("test", description="split of the Hub data set to evaluate on")
    text_column: str = Field("text", description="column with the text")
    text_pair_column: str | None = Field(None, description="column with a second text, which the model reads beside the first")
    label_column: str = Field(
        "label", description="column with labels 0 to num_labels - 1, stars 1 to num_labels, or words (in sorted order)"
    )
    encoding: str = Field("utf-8", description="encoding of a local text file, as Python names it, such as cp1252 or utf-16")
    num_labels: int = Field(5, ge=2, le=1_000_000, description="number of classes")
    train_samples: int | None = Field(1000, ge=1, le=MAX_INTEGER, description="training samples; null for all")
    eval_samples: int | None = Field(
        1000, ge=0, le=MAX_INTEGER, description="evaluation samples; null for all, 0 for no evaluation"
    )
    data_seed: int = Field(42, ge=0, lt=NUM_SEEDS, description="seed of the shuffle that picks the samples")
    max_length: int = Field(512, ge=4, le=1_000_000, description="tokens per text; longer texts are cut")
    padding: Literal["max_length", "longest"] = Field(
        "max_length", description="pad every text to max_length, or to the longest of its batch"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model or data set from the Hub")
    dropout: float | None = Field(None, ge=0, lt=1, description="every dropout of the model; default: the model's own")
    frozen_layers: int = Field(
        0, ge=0, le=10_000, description="layers that are not trained, from the first one on, and the embeddings with them"
    )
    lora: Lora | None = Field(None, description="train low-rank adapters instead of the model's weights")

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
    def _check(self) -> "TextClassificationJob":
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
        if self.dataset == RANDOM_TOKENS and self.eval_samples:
            raise ValueError("random tokens can't be classified: set eval_samples to 0")
        if self.text_pair_column is not None and self.dataset in (EMBEDDED, RANDOM_TOKENS):
            raise ValueError(f"text_pair_column goes with data of your own, and dataset is {self.dataset!r}; leave it out")
        if len(set(self.columns().values())) < len(self.columns()):
            raise ValueError(
                f"{' and '.join(self.columns())} must name different columns, got {', '.join(self.columns().values())}"
            )
        return self

    def columns(self) -> dict[str, str]:
        """The columns that are read, by the keys that name them."""
        pair = {} if self.text_pair_column is None else {"text_pair_column": self.text_pair_column}
        return {"text_column": self.text_column, **pair, "label_column": self.label_column}

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

    def data_settings(self) -> dict[str, Any]:
        """The fields on which the tokenized data depends, and nothing else."""
        return self.model_dump(
            include={
                "model", "dataset", "dataset_config", "eval_dataset", "train_split", "eval_split", "text_column",
                "text_pair_column", "label_column", "encoding", "num_labels", "train_samples", "eval_samples", "data_seed",
                "max_length", "padding", "trust_remote_code",
            }
        )  # fmt: skip


class CustomJob(TrainingSettings):
    """Your own Trainer: any model, any data, any task.

    `build` is called with `transformers.TrainingArguments` and returns a `transformers.Trainer` that is ready to train.
    """

    HOW_TO_EVALUATE: ClassVar[str] = "job.metric to a key of its evaluation"

    build: str = Field(description="`module:function` that takes TrainingArguments and returns a Trainer")
    python_path: str | None = Field(None, description="directory of the module; default: that of the study file")
    kwargs: dict[str, JsonValue] = Field({}, description="keyword arguments for the function")
    metric: str | None = Field("eval_loss", description="key of the Trainer's evaluation; null for no evaluation")
    direction: Direction | None = Field(None, description="how the metric is optimized; losses, accuracy and f1 need none")
    baseline: float | None = Field(None, description="value that a useful training beats, such as that of a constant answer")

    @field_validator("build")
    @classmethod
    def _names_a_function(cls, build: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", build):
            raise ValueError(f'build must be "module:function", such as my_module:build, got {build!r}')
        return build

    @model_validator(mode="after")
    def _check_metric(self) -> "CustomJob":
        if self.metric is not None:
            metric_goal(self.metric, self.direction)
        return self

    @property
    def evaluates(self) -> bool:
        """True if a trial evaluates what it has learned."""
        return self.metric is not None

    @property
    def num_train_asked(self) -> int | None:
        """None: only the user's function knows."""
        return None

    def goals(self) -> dict[str, Goal]:
        """Accuracy and loss, and the job's own metric; only the job knows over what F1 is a mean."""
        if self.metric is None:
            return {}
        own = metric_goal(self.metric, self.direction)
        return {name: goal for name, goal in super().goals().items() if name != "f1"} | {own.name: own}

    def baselines(self) -> dict[str, float]:
        """The baseline of the metric, if the user gave one."""
        return {} if self.metric is None or self.baseline is None else {metric_name(self.metric): self.baseline}


def kind_of_job(data: Any) -> str:
    """Return the kind of a job, which the presence of `build` tells."""
    is_custom = "build" in data if isinstance(data, Mapping) else isinstance(data, CustomJob)
    return "custom" if is_custom else "text_classification"


JOBS: dict[str, type[TrainingSettings]] = {"text_classification": TextClassificationJob, "custom": CustomJob}

AnyJob = TextClassificationJob | CustomJob
Job = Annotated[
    Annotated[TextClassificationJob, Tag("text_classification")] | Annotated[CustomJob, Tag("custom")],
    Discriminator(kind_of_job),
]


def parse_job(data: Mapping[str, Any]) -> AnyJob:
    """Return the job that was stored as plain data.

    Raises:
        ValueError: The data is not a job's.
    """
    return CustomJob(**data) if kind_of_job(data) == "custom" else TextClassificationJob(**data)


def register_goals(job: TrainingSettings) -> None:
    """Make a job's own metric known to `GOALS`.

    Raises:
        ValueError: This process knows the metric with the other direction.
    """
    for goal in job.goals().values():
        GOALS.add(goal)


def objective_names(study_attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the objectives of a study from its user attributes, in the study's order.

    Raises:
        KeyError: The study was not made by `tradeoff`.
    """
    config = study_attributes["config"]
    if "build" in config.get("job", ()):
        register_goals(parse_job(config["job"]))
    return tuple(name for name in config["objectives"] if name in GOALS)
