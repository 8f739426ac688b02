"""A job's data, prepared once per study and read by every trial.

Preparing loads, checks, shuffles and tokenises; it takes seconds, and its result is a directory named after a hash of all that
it depends on. A trial maps that directory into memory. Directories appear complete or not at all: they are written under
another name and renamed. One that was damaged since, whichever of its files, is noticed before it is used, and made again.
"""

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]
from transformers import AutoTokenizer, DataCollatorWithPadding, default_data_collator

from tradeoff.objectives.data import reviews
from tradeoff.objectives.data.contents import file_fingerprint, local_contents, short_hash
from tradeoff.objectives.data.sources import labelled_texts
from tradeoff.objectives.device.temporary_folder import temporary_folder
from tradeoff.objectives.job.settings import EMBEDDED, RANDOM_TOKENS, TextClassificationJob
from tradeoff.objectives.measurements.goals import learned_goals
from tradeoff.objectives.trainers import embedded
from tradeoff.objectives.trainers.model_files import check_files, first_line
from tradeoff.objectives.trainers.models import ModelSource, resolve_model

_FACTS = "prepared.json"
_MODEL = "model"
_FORMAT = 6  # of the facts: data that another version of this file wrote is prepared again
_LIBRARIES = ("datasets", "tokenizers", "transformers")


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Tokenised data in a directory, and the model that it was tokenised for.

    Attributes:
        folder: The directory.
        model: Where the model comes from.
        num_labels: Number of classes.
        num_train: Training samples.
        num_eval: Evaluation samples; 0 if the job does not evaluate.
        longest: Tokens of the longest sample, without padding.
        label_counts: Training samples with label 0, 1, ...
        eval_label_counts: Evaluation samples with label 0, 1, ...; all 0 if the job does not evaluate.
        is_padded: True if all samples are as long as the job's `max_length`.
        contents: Fingerprints of the data, `train` and `eval`; none of generated data.
        label_names: The classes in the order of their numbers, if the data has words for labels.
    """

    folder: Path
    model: ModelSource
    num_labels: int
    num_train: int
    num_eval: int
    longest: int
    label_counts: list[int]
    eval_label_counts: list[int]
    is_padded: bool
    contents: dict[str, str]
    label_names: list[str] | None

    @cached_property
    def train(self) -> Any:
        """The training samples: the model's inputs, `labels`, and `length`, the number of tokens without padding."""
        return datasets.load_from_disk(str(self.folder / "train"))

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
                if goal.baseline is not None and self.num_eval
            },
        }


def prepare(job: TextClassificationJob, cache_folder: Path, say: Callable[[str], None] = lambda _: None) -> PreparedData:
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
    if _is_whole(final):
        return _checked(load(final))
    if final.exists():
        say(f"the prepared data in {final} was damaged: it is prepared again")
    cache_folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".preparing-", final.parent) as folder:
        unfinished = folder / "data"
        _write(job, contents, unfinished)
        # Another process may be doing the same: whichever of them is first, one of two equal directories stays.
        if not _is_whole(final):
            with contextlib.suppress(FileNotFoundError):
                final.rename(folder / "damaged")
        try:
            unfinished.rename(final)
        except OSError:
            if not _is_whole(final):
                raise
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


def collator(data: PreparedData, padding: str, *, max_length: int) -> Any:
    """Return the data collator that makes batches of the samples.

    Args:
        data: The samples.
        padding: Pad to `max_length`, or to the `longest` of the batch.
        max_length: Number of tokens for the former.
    """
    if data.is_padded or data.tokenizer is None:
        assert padding == "max_length" or data.tokenizer is None, "padding that is stored can't be removed"
        return default_data_collator
    if padding == "max_length":
        return DataCollatorWithPadding(data.tokenizer, padding="max_length", max_length=max_length)
    return DataCollatorWithPadding(data.tokenizer)


def highest_token(data: PreparedData) -> int:
    """Return the highest token id of the samples and of their padding."""
    parts = [part.data.column("input_ids") for part in (data.train, data.eval) if part is not None]
    highest = [pc.max(pc.list_flatten(column)).as_py() for column in parts]
    return int(max(*highest, data.model.pad_token_id or 0))


def _write(job: TextClassificationJob, contents: dict[str, str], folder: Path) -> None:
    """Prepare into `folder`; what it holds says so last."""
    model_folder = folder / _MODEL
    model_folder.mkdir(parents=True)
    if job.dataset == RANDOM_TOKENS:
        source, _ = resolve_model(job, (), model_folder)
        parts, label_names = {"train": _random_tokens(job, source)}, None
    else:
        texts = labelled_texts(job)
        contents = contents | texts.contents
        label_names = None if texts.label_names is None else list(texts.label_names)
        words = itertools.chain.from_iterable(
            texts.train[name] for name in ("text", "pair") if name in texts.train.column_names
        )
        source, tokenizer = resolve_model(job, words, model_folder)
        parts = {"train": _tokenise(texts.train, tokenizer, job, source)}
        _check_words(parts["train"]["input_ids"], tokenizer, job)
        if texts.eval is not None:
            parts["eval"] = _tokenise(texts.eval, tokenizer, job, source)
    for name, samples in parts.items():
        samples.save_to_disk(str(folder / name))
    counts = Counter(parts["train"]["labels"])
    eval_counts = Counter(parts["eval"]["labels"]) if "eval" in parts else Counter()
    num_eval = eval_counts.total()
    prepared = PreparedData(
        folder=folder,
        model=source,
        num_labels=job.num_labels,
        num_train=counts.total(),
        num_eval=num_eval,
        longest=max(max(samples["length"]) for samples in parts.values()),
        label_counts=[counts[label] for label in range(job.num_labels)],
        eval_label_counts=[eval_counts[label] for label in range(job.num_labels)],
        is_padded=job.padding == "max_length",
        contents=contents | ({} if job.model == EMBEDDED else {"model": source.content}),
        label_names=label_names,
    )
    facts = prepared.facts() | {"files": _files(folder)}
    text = json.dumps(facts | {"checksum": short_hash(facts)}, indent=2)
    (folder / _FACTS).write_text(text + "\n", encoding="utf-8")


def _tokenise(samples: Any, tokenizer: Any, job: TextClassificationJob, source: ModelSource) -> Any:
    # A text that mentions the end token would hold it once more than the others, which the model refuses.
    end = None if source.end_token_id is None else tokenizer.convert_ids_to_tokens(source.end_token_id)

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [batch[name] for name in ("text", "pair") if name in batch]
        if end is not None:
            texts = [[text.replace(end, " ") for text in column] for column in texts]
        padding = "max_length" if job.padding == "max_length" else False
        columns = dict(tokenizer(*texts, truncation=True, max_length=job.max_length, padding=padding))
        return columns | {"length": [sum(mask) for mask in columns["attention_mask"]], "labels": batch["label"]}

    # In memory and without datasets' own cache: the result is stored under our key.
    return samples.map(
        encode, batched=True, remove_columns=samples.column_names, keep_in_memory=True, new_fingerprint=_key(job, {})
    )


def _check_words(samples: Iterable[list[int]], tokenizer: Any, job: TextClassificationJob) -> None:
    """Refuse a tokenizer that does not know the words: a model could learn nothing from them."""
    counts = Counter(token for tokens in samples for token in tokens)
    num_unknown = counts[tokenizer.unk_token_id]
    num_words = num_unknown + sum(counts[token] for token in counts.keys() - {*tokenizer.all_special_ids})
    if num_unknown > num_words / 2:
        raise ValueError(
            f"the tokenizer of model {job.model!r} must know the words of the texts, and {num_unknown:,} of the {num_words:,}"
            " tokens of the training samples are unknown to it; choose a model for these texts, or complete its tokenizer files"
        )
    if num_words == 0:
        raise ValueError(
            f"the tokenizer of model {job.model!r} makes no token of any training text; complete its tokenizer files"
        )


def _random_tokens(job: TextClassificationJob, source: ModelSource) -> Any:
    if job.train_samples is None:
        raise ValueError("random tokens are unlimited: set train_samples to a number")
    draw = np.random.default_rng(job.data_seed)
    ids = draw.integers(source.vocab_size, size=(job.train_samples, job.max_length), dtype=np.int32)
    if (end := source.end_token_id) is not None:
        ids[ids == end] = (end + 1) % source.vocab_size
        ids[:, -1] = end
    return datasets.Dataset.from_dict(
        {
            "input_ids": list(ids),
            "attention_mask": list(np.ones_like(ids, dtype=np.int8)),
            "length": [job.max_length] * job.train_samples,
            "labels": draw.integers(job.num_labels, size=job.train_samples),
        }
    )


def _key(job: TextClassificationJob, contents: dict[str, str]) -> str:
    """Return a hash of all that the prepared data depends on: of local files what they hold, and not how they are called."""
    paths = {"dataset", "eval_dataset"} if job.is_local_file else set()
    depends: dict[str, Any] = {
        "format": _FORMAT,
        "job": {name: value for name, value in job.data_settings().items() if name not in paths},
        "contents": contents,
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    if EMBEDDED in (job.dataset, job.model):
        depends["generator"] = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (reviews, embedded)]
    return short_hash(depends)
