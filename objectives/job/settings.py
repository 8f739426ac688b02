"""The training job: everything that all trials of a study hold fixed.

A job is plain, validated data, so it can be compared key by key when a study is resumed, sent to a trial's process, and
written into an export. How a job becomes a Trainer is the business of the files that run inside that process.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from tradeoff.objectives.measurements.goals import GOALS, Direction, Goal, metric_goal, metric_name

EMBEDDED = "embedded"
RANDOM_TOKENS = "random-tokens"
LOCAL_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")


class TrainingSettings(BaseModel):
    """What every job holds fixed of a training, whoever builds its Trainer."""

    HOW_TO_EVALUATE: ClassVar[str] = ""  # what a user sets who wants an evaluation

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    epochs: float = Field(3, gt=0, description="passes over the training samples")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate, unless it is searched")
    lr_scheduler_type: str = Field("linear", description="a name of transformers.SchedulerType")
    warmup_steps: float = Field(0, ge=0, description="steps of warm-up; below 1, a share of all steps")
    weight_decay: float = Field(0.0, ge=0, description="the optimizer's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0 for no clipping")
    optim: str = Field("adamw_torch", description="a name of transformers' OptimizerNames")
    eval_batch_size: int = Field(8, ge=1, description="per-device evaluation batch")
    seed: int = Field(42, ge=0, description="seed of initialisation, shuffling and dropout")
    deterministic: bool = Field(True, description="ask torch for kernels that repeat their results, where it has them")
    shares_accuracy: bool = Field(
        True, description="whether every split of an effective batch learns the same; batch norm, for one, breaks that"
    )

    @property
    def evaluates(self) -> bool:
        """Whether a trial measures what it has learned."""
        raise NotImplementedError

    @property
    def num_train_asked(self) -> int | None:
        """The training samples that the job asks for; None where only the data tells."""
        raise NotImplementedError

    def goals(self) -> dict[str, Goal]:
        """What the job's evaluation can be asked for, by name; empty if it does not evaluate."""
        known = {name: GOALS[name] for name in ("accuracy", "eval_loss")}
        return known if self.evaluates else {}


class TextClassificationJob(TrainingSettings):
    """Fine-tuning a model of `AutoModelForSequenceClassification` on labelled texts.

    `model` is a name on the hub, a local folder, or `embedded` for a small BERT with random weights. `dataset` is a name on the
    hub, a local CSV, JSON Lines or Parquet file, `embedded` for generated reviews, or `random-tokens` for a job that measures
    time and memory alone.
    """

    HOW_TO_EVALUATE: ClassVar[str] = "job.eval_samples above 0"

    model: str = Field(EMBEDDED, min_length=1, description="hub name, local folder, or `embedded`")
    dataset: str = Field(EMBEDDED, min_length=1, description="hub name, local file, `embedded`, or `random-tokens`")
    dataset_config: str | None = Field(None, description="the hub data set's configuration, where it has several")
    eval_dataset: str | None = Field(None, description="a second local file to evaluate on; else the first one is split")
    train_split: str = Field("train", description="the hub data set's split to train on")
    eval_split: str = Field("test", description="the hub data set's split to evaluate on")
    text_column: str = Field("text", description="the column with the text")
    label_column: str = Field("label", description="the column with labels 0 to num_labels - 1, or stars 1 to num_labels")
    num_labels: int = Field(5, ge=2, description="number of classes")
    train_samples: int | None = Field(1000, ge=1, description="training samples; null for all there are")
    eval_samples: int | None = Field(1000, ge=0, description="evaluation samples; null for all, 0 for no evaluation")
    data_seed: int = Field(42, ge=0, description="seed of the shuffle that picks the samples")
    max_length: int = Field(512, ge=4, description="tokens; longer texts are cut")
    padding: Literal["max_length", "longest"] = Field(
        "max_length", description="pad every sequence to max_length, or to the longest of its batch"
    )
    trust_remote_code: bool = Field(False, description="run code from the hub that comes with the model or the data set")

    @model_validator(mode="after")
    def _check(self) -> "TextClassificationJob":
        if self.eval_dataset is not None and not self.is_local_file:
            raise ValueError(f"eval_dataset goes with a local data file, and dataset is {self.dataset!r}")
        if self.dataset == RANDOM_TOKENS and self.eval_samples:
            raise ValueError("random tokens can't be classified: set eval_samples to 0")
        return self

    @property
    def is_local_file(self) -> bool:
        """Whether the data is a local file: told by its ending, so that a missing file is not taken for a hub name."""
        return Path(self.dataset).suffix.lower() in LOCAL_SUFFIXES

    @property
    def evaluates(self) -> bool:
        """Whether a trial measures what it has learned."""
        return self.eval_samples != 0

    @property
    def num_train_asked(self) -> int | None:
        """The training samples that the job asks for; None for all that the data has."""
        return self.train_samples

    def data_settings(self) -> dict[str, Any]:
        """The fields on which the tokenised data depends, and nothing else."""
        return self.model_dump(
            include={
                "model", "dataset", "dataset_config", "eval_dataset", "train_split", "eval_split", "text_column",
                "label_column", "num_labels", "train_samples", "eval_samples", "data_seed", "max_length", "padding",
                "trust_remote_code",
            }
        )  # fmt: skip


class CustomJob(TrainingSettings):
    """A Trainer of the user's own: any model, any data, any task.

    `build` is called with `transformers.TrainingArguments` and returns a `transformers.Trainer` that is ready to train.
    """

    HOW_TO_EVALUATE: ClassVar[str] = "job.metric to a key of its evaluation"

    build: str = Field(description="`module:function`: given TrainingArguments, it returns a ready Trainer")
    python_path: str | None = Field(None, description="the folder of the module; by default that of the study file")
    kwargs: dict[str, JsonValue] = Field({}, description="further keyword arguments of the function")
    metric: str | None = Field("eval_loss", description="a key of the Trainer's evaluation; null for no evaluation")
    direction: Direction | None = Field(None, description="minimize or maximize the metric")
    baseline: float | None = Field(None, description="a value of the metric that is of no use, as of a constant answer")

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
        """Whether a trial measures what it has learned."""
        return self.metric is not None

    @property
    def num_train_asked(self) -> int | None:
        """The user's function alone knows."""
        return None

    def goals(self) -> dict[str, Goal]:
        """Accuracy and loss, and the job's own metric."""
        if self.metric is None:
            return {}
        own = metric_goal(self.metric, self.direction)
        return super().goals() | {own.name: own}

    def baselines(self) -> dict[str, float]:
        """What is of no use, as far as the user has said so."""
        return {} if self.metric is None or self.baseline is None else {metric_name(self.metric): self.baseline}


def kind_of_job(data: Any) -> str:
    """Which job this is: the presence of `build` tells."""
    is_custom = "build" in data if isinstance(data, Mapping) else isinstance(data, CustomJob)
    return "custom" if is_custom else "text_classification"


JOBS: dict[str, type[TrainingSettings]] = {"text_classification": TextClassificationJob, "custom": CustomJob}

AnyJob = TextClassificationJob | CustomJob
Job = Annotated[
    Annotated[TextClassificationJob, Tag("text_classification")] | Annotated[CustomJob, Tag("custom")],
    Discriminator(kind_of_job),
]


def parse_job(data: Mapping[str, Any]) -> AnyJob:
    """The job that was stored as plain data.

    Raises:
        ValueError: The data is not a job's.
    """
    return CustomJob(**data) if kind_of_job(data) == "custom" else TextClassificationJob(**data)


def register_goals(job: TrainingSettings) -> None:
    """Makes a job's own metric known to `GOALS`.

    Raises:
        ValueError: This process knows the metric with the other direction.
    """
    for goal in job.goals().values():
        GOALS.add(goal)


def objective_names(study_attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The objectives of a study of ours, from its user attributes, in the study's order.

    Raises:
        KeyError: The study was not made by `tradeoff`.
    """
    config = study_attributes["config"]
    if "build" in config.get("job", ()):
        register_goals(parse_job(config["job"]))
    return tuple(name for name in config["objectives"] if name in GOALS)
