"""The jobs: the built-in tasks, and a Trainer of one's own. Which one a study has is told by `build` or else by `task`."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, TASKS, BuiltInJob, TrainingSettings
from tradeoff.objectives.measurements.goals import GOALS, LANGUAGE_METRICS, Direction, Goal, metric_goal, metric_name


class TextClassificationJob(BuiltInJob):
    """Fine-tuning an `AutoModelForSequenceClassification` on labelled texts.

    `model` is a name on the Hub, a local directory, or `embedded` for a small BERT with random weights. `dataset` is a name on
    the Hub, a local CSV, TSV, JSON Lines, JSON or Parquet file, `embedded` for generated reviews, or `random-tokens` for a job
    that measures only time and memory.
    """

    task_in_words: ClassVar[str] = "text classification"

    task: Literal["text_classification"] = Field("text_classification", description="what the model learns")
    dataset: str = Field(EMBEDDED, min_length=1, description="Hub name, local file, `embedded`, or `random-tokens`")
    text_column: str = Field("text", description="column with the text")
    text_pair_column: str | None = Field(None, description="column with a second text, which the model reads beside the first")
    label_column: str = Field(
        "label", description="column with labels 0 to num_labels - 1, stars 1 to num_labels, or words (in sorted order)"
    )
    num_labels: int = Field(5, ge=2, le=1_000_000, description="number of classes")
    padding: Literal["max_length", "longest"] = Field(
        "max_length", description="pad every text to max_length, or to the longest of its batch"
    )

    @model_validator(mode="after")
    def _check(self) -> "TextClassificationJob":
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


class CausalLMJob(BuiltInJob):
    """Fine-tuning an `AutoModelForCausalLM` on texts or conversations, by TRL's `SFTTrainer` (the extra `tradeoff[llm]`).

    `model` is a name on the Hub, a local directory, or `embedded` for a small Llama with random weights. `dataset` is a name on
    the Hub, a local file, or `embedded` for generated conversations. Its columns are TRL's: `text`, `prompt` and `completion`,
    or `messages`. Where there are answers, the loss is theirs alone.
    """

    BASELINE: ClassVar[str] = "the model before training"
    task_in_words: ClassVar[str] = "language modelling"

    task: Literal["causal_lm"] = Field("causal_lm", description="what the model learns")
    packing: bool = Field(False, description="put several short texts into one sequence of max_length tokens to train on")
    eval_max_length: int | None = Field(
        None, ge=4, le=1_000_000, description="tokens per evaluated text; default: the greatest max_length of the study"
    )
    load_in_4bit: bool = Field(False, description="train adapters beside weights of 4 bits (bitsandbytes)")
    activation_offloading: bool = Field(False, description="keep a GPU's activations in the host's memory meanwhile")

    @model_validator(mode="after")
    def _check(self) -> "CausalLMJob":
        if self.dataset == RANDOM_TOKENS:
            raise ValueError(f"dataset {RANDOM_TOKENS!r} is for text classification; name texts, or {EMBEDDED!r}")
        return self

    def with_whole_model(self) -> Self:
        """Return the job without adapters and without frozen layers, in full precision."""
        return super().with_whole_model().model_copy(update={"load_in_4bit": False})

    def goals(self) -> dict[str, Goal]:
        """What the evaluation of a language model returns."""
        return {name: GOALS[name] for name in ("eval_loss", *LANGUAGE_METRICS)} if self.evaluates else {}


class CustomJob(TrainingSettings):
    """Your own Trainer: any model, any data, any task.

    `build` is called with `transformers.TrainingArguments` and returns a `transformers.Trainer` that is ready to train.
    """

    HOW_TO_EVALUATE: ClassVar[str] = "job.metric to a key of its evaluation"
    # The module of a function that no process can import: the one that has defined it sends it to its trials.
    PROGRAM: ClassVar[str] = "__main__"

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
    def is_sent(self) -> bool:
        """True if only the program that has defined the function can run it."""
        return self.build.startswith(f"{self.PROGRAM}:")

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


JOBS: dict[str, type[TrainingSettings]] = {
    "text_classification": TextClassificationJob,
    "causal_lm": CausalLMJob,
    "custom": CustomJob,
}

AnyJob = TextClassificationJob | CausalLMJob | CustomJob


def kind_of_job(data: Any) -> str:
    """Return the kind of a job: custom where there is `build`, otherwise its task; text classification if that is no task."""
    if not isinstance(data, Mapping):
        return next((name for name, kind in JOBS.items() if isinstance(data, kind)), "text_classification")
    task = data.get("task")
    return "custom" if "build" in data else task if task in TASKS else "text_classification"


Job = Annotated[
    Annotated[TextClassificationJob, Tag("text_classification")]
    | Annotated[CausalLMJob, Tag("causal_lm")]
    | Annotated[CustomJob, Tag("custom")],
    Discriminator(kind_of_job),
]


def parse_job(data: Mapping[str, Any]) -> AnyJob:
    """Return the job that was stored as plain data.

    Raises:
        ValueError: The data is not a job's.
    """
    job: AnyJob = JOBS[kind_of_job(data)](**data)  # type: ignore[assignment]
    return job


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
