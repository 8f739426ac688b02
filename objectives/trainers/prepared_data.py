"""A job's data, prepared once per study and read by every trial.

Preparing loads, checks, shuffles and tokenises; it takes seconds, and its result is a directory named after a hash of all that
it depends on. A trial maps that directory into memory. Directories appear complete or not at all: they are written under
another name and renamed. One that was damaged since, whichever of its files, is noticed before it is used, and made again.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc  # type: ignore[import-untyped]
from transformers import AutoTokenizer

from tradeoff.objectives.data import generated_conversations, reviews
from tradeoff.objectives.data.contents import file_fingerprint, local_contents, short_hash
from tradeoff.objectives.device.temporary_folder import put_in_place, temporary_folder
from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, BuiltInJob, gguf_file
from tradeoff.objectives.measurements.goals import learned_goals
from tradeoff.objectives.trainers import embedded
from tradeoff.objectives.trainers.model_files import check_files, first_line, is_whole
from tradeoff.objectives.trainers.models import ModelSource
from tradeoff.objectives.trainers.samples.labelled import labelled_samples
from tradeoff.objectives.trainers.samples.samples import Samples

_FACTS = "prepared.json"
_MODEL = "model"
_FORMAT = 8  # of the facts: data that another version of this file wrote is prepared again
_LIBRARIES = ("datasets", "tokenizers", "transformers")


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Tokenised data in a directory, and the model that it was tokenised for.

    Attributes:
        folder: The directory.
        model: Where the model comes from.
        num_train: Training samples.
        num_eval: Evaluation samples; 0 if the job does not evaluate.
        longest: Tokens of the longest sample, without padding.
        contents: Fingerprints of the data, `train` and `eval`; none of generated data.
        notices: What the user should know of the samples, in lines.
        num_labels: Number of classes; 0 of a language model.
        label_counts: Training samples with label 0, 1, ...
        eval_label_counts: Evaluation samples with label 0, 1, ...; all 0 if the job does not evaluate.
        is_padded: True if all samples are as long as the job's `max_length`.
        label_names: The classes in the order of their numbers, if the data has words for labels.
        num_packed: Sequences to train on if texts are packed; None if they are not.
        num_characters: Characters on which a language model's loss is evaluated.
        longest_eval: Tokens of the longest evaluation sample of a language model before it is cut.
        tokenizer_content: A hash of the tokenizer, by which losses of a token can be compared; empty if there are no texts.
    """

    folder: Path
    model: ModelSource
    num_train: int
    num_eval: int
    longest: int
    contents: dict[str, str]
    notices: list[str] = field(default_factory=list)
    num_labels: int = 0
    label_counts: list[int] = field(default_factory=list)
    eval_label_counts: list[int] = field(default_factory=list)
    is_padded: bool = False
    label_names: list[str] | None = None
    num_packed: int | None = None
    num_characters: int | None = None
    longest_eval: int | None = None
    tokenizer_content: str = ""

    @cached_property
    def train(self) -> Any:
        """The training samples: the model's inputs, `labels`, and `length`, the number of tokens without padding."""
        return datasets.load_from_disk(str(self.folder / "train"))

    @cached_property
    def packed(self) -> Any:
        """The training samples of a language model, several to a sequence; None if they are not packed."""
        return None if self.num_packed is None else datasets.load_from_disk(str(self.folder / "packed"))

    @cached_property
    def eval(self) -> Any:
        """The evaluation samples, in the same columns; None if the job does not evaluate."""
        return datasets.load_from_disk(str(self.folder / "eval")) if self.num_eval else None

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; None if the job has no texts."""
        folder = self.folder / _MODEL
        return AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer_config.json").exists() else None

    @property
    def model_module(self) -> str | None:
        """The module that defines the model's class, for a warm server to import in advance."""
        return self.model.module

    def facts(self) -> dict[str, Any]:
        """Return everything but the samples as JSON types; `load` reads it."""
        return asdict(self) | {
            "folder": str(self.folder),
            "model_module": self.model_module,
            "baselines": {
                name: goal.baseline([count / self.num_eval for count in self.eval_label_counts])
                for name, goal in learned_goals().items()
                if goal.baseline is not None and any(self.eval_label_counts)
            },
        }


def prepare(job: BuiltInJob, cache_folder: Path, say: Callable[[str], None] = lambda _: None) -> PreparedData:
    """Prepare a job's data, unless that was done before and nothing of it is damaged.

    Args:
        job: The job.
        cache_folder: Holds a directory for each prepared data set; created if it does not exist.
        say: Is given a line for the user if damaged data is prepared again.

    Raises:
        ValueError: The data or the model can't be used as the job says.
    """
    contents = local_contents(job)
    final = cache_folder.resolve() / _key(job, contents)
    if _is_whole(final) and _has_read_gguf(job, final):
        return _checked(load(final))
    if final.exists() and not _is_whole(final):
        say(f"the prepared data in {final} was damaged: it is prepared again")
    cache_folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".preparing-", final.parent) as folder:
        unfinished = folder / "data"
        _write(job, contents, unfinished, cache_folder.resolve())
        put_in_place(unfinished, final, _is_whole)
    return _checked(load(final))


def load(folder: Path) -> PreparedData:
    """Return the data that `prepare` wrote into `folder`; samples and tokenizer are read on first use.

    Raises:
        ValueError: What it says of the data is damaged.
    """
    facts = _read_facts(folder)
    for computed in ("files", "model_module", "baselines"):
        facts.pop(computed, None)
    model = ModelSource(**facts["model"])
    if model.name_or_folder == str(Path(facts["folder"]) / _MODEL):
        model = replace(model, name_or_folder=str(folder / _MODEL))  # wherever the directory was moved since
    return PreparedData(**(facts | {"folder": folder, "model": model}))


def _has_read_gguf(job: BuiltInJob, folder: Path) -> bool:
    """Return False if what was made of the model's GGUF file, which lies beside the prepared data, is not there any more."""
    return gguf_file(job.model) is None or is_whole(load(folder).model.name_or_folder)


def _checked(data: PreparedData) -> PreparedData:
    """Return the data if its model's own files, which are not a part of it, are complete."""
    if data.model.has_weights:
        check_files(data.model.name_or_folder, data.model.revision)
    return data


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / _FACTS
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")  # a pipe would be waited for
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts.pop("checksum") != short_hash(facts):
            raise ValueError("its checksum is that of another content")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} must be as it was written, and is damaged ({first_line(error)}); rerun the command: it is prepared again"
        ) from error
    return facts


def _is_whole(folder: Path) -> bool:
    """Return True if a directory holds all that was prepared, byte for byte."""
    try:
        return bool(_read_facts(folder)["files"] == _files(folder))
    except (OSError, ValueError):
        return False


def _files(folder: Path) -> dict[str, str]:
    """Return the fingerprints of a directory's files but for the facts, which hold them."""
    return {
        str(path.relative_to(folder)): file_fingerprint(path)
        for path in folder.rglob("[!.]*")
        if path.is_file() and path != folder / _FACTS
    }


def highest_token(data: PreparedData) -> int:
    """Return the highest token id of the samples and of their padding."""
    parts = [part.data.column("input_ids") for part in (data.train, data.eval) if part is not None]
    highest = [pc.max(pc.list_flatten(column)).as_py() for column in parts]
    return int(max(*highest, data.model.pad_token_id or 0))


def _write(job: BuiltInJob, contents: dict[str, str], folder: Path, cache_folder: Path) -> None:
    """Prepare into `folder`; what it holds says so last."""
    model_folder = folder / _MODEL
    model_folder.mkdir(parents=True)
    samples = _samples(job, model_folder, cache_folder)
    for name, part in samples.parts.items():
        part.save_to_disk(str(folder / name))
    tokenizer = model_folder / "tokenizer.json"
    prepared = PreparedData(
        folder=folder,
        model=samples.model,
        num_train=len(samples.parts["train"]),
        num_eval=len(samples.parts["eval"]) if "eval" in samples.parts else 0,
        longest=max(max(part["length"]) for part in samples.parts.values()),
        contents=contents | samples.contents | ({} if job.model == EMBEDDED else {"model": samples.model.content}),
        tokenizer_content=file_fingerprint(tokenizer) if tokenizer.is_file() else "",
        **samples.facts,
    )
    facts = prepared.facts() | {"files": _files(folder)}
    text = json.dumps(facts | {"checksum": short_hash(facts)}, indent=2)
    (folder / _FACTS).write_text(text + "\n", encoding="utf-8")


def _samples(job: BuiltInJob, model_folder: Path, cache_folder: Path) -> Samples:
    if isinstance(job, CausalLMJob):
        from tradeoff.objectives.trainers.samples.language import language_samples

        return language_samples(job, model_folder, cache_folder)
    assert isinstance(job, TextClassificationJob)
    return labelled_samples(job, model_folder)


def _key(job: BuiltInJob, contents: dict[str, str]) -> str:
    """Return a hash of all that the prepared data depends on: of local files what they hold, and not how they are called."""
    paths = {"dataset", "eval_dataset"} if job.is_local_file else set()
    depends: dict[str, Any] = {
        "format": _FORMAT,
        "job": {name: value for name, value in job.data_settings().items() if name not in paths},
        "contents": contents,
        "versions": {name: version(name) for name in (*_LIBRARIES, *(["trl"] if isinstance(job, CausalLMJob) else []))},
    }
    if EMBEDDED in (job.dataset, job.model):
        modules = (reviews, generated_conversations, embedded)
        depends["generator"] = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules]
    return short_hash(depends)
