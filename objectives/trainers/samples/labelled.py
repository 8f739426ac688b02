"""The samples of text classification: texts in a model's tokens, with their labels, and how batches are made of them."""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import DataCollatorWithPadding, default_data_collator

from tradeoff.objectives.data.contents import short_hash
from tradeoff.objectives.data.sources import labelled_texts
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.settings import RANDOM_TOKENS
from tradeoff.objectives.trainers.models import ModelSource, resolve_model
from tradeoff.objectives.trainers.samples.samples import Samples


def labelled_samples(job: TextClassificationJob, model_folder: Path) -> Samples:
    """Load, check and tokenise a job's texts.

    Args:
        job: The job.
        model_folder: Where what belongs to the model is saved, such as its tokenizer.

    Raises:
        ValueError: The data or the model can't be used as the job says.
    """
    contents: dict[str, str] = {}
    label_names = None
    if job.dataset == RANDOM_TOKENS:
        source, _ = resolve_model(job, (), model_folder)
        parts = {"train": _random_tokens(job, source)}
    else:
        texts = labelled_texts(job)
        contents = texts.contents
        label_names = None if texts.label_names is None else list(texts.label_names)
        words = itertools.chain.from_iterable(
            texts.train[name] for name in ("text", "pair") if name in texts.train.column_names
        )
        source, tokenizer = resolve_model(job, words, model_folder)
        parts = {"train": _tokenise(texts.train, tokenizer, job, source)}
        _check_words(parts["train"]["input_ids"], tokenizer, job)
        if texts.eval is not None:
            parts["eval"] = _tokenise(texts.eval, tokenizer, job, source)
    counts = {name: Counter(part["labels"]) for name, part in parts.items()}
    facts = {
        "num_labels": job.num_labels,
        "label_counts": [counts["train"][label] for label in range(job.num_labels)],
        "eval_label_counts": [counts.get("eval", Counter())[label] for label in range(job.num_labels)],
        "is_padded": job.padding == "max_length",
        "label_names": label_names,
    }
    return Samples(model=source, parts=parts, contents=contents, facts=facts)


def collator(tokenizer: Any, padding: str, *, is_padded: bool, max_length: int) -> Any:
    """Return the data collator that makes batches of the samples.

    Args:
        tokenizer: The model's; None of random tokens.
        padding: Pad to `max_length`, or to the `longest` of the batch.
        is_padded: True if the samples were padded when they were tokenised.
        max_length: Number of tokens for the former.
    """
    if is_padded or tokenizer is None:
        assert padding == "max_length" or tokenizer is None, "padding that is stored can't be removed"
        return default_data_collator
    if padding == "max_length":
        return DataCollatorWithPadding(tokenizer, padding="max_length", max_length=max_length)
    return DataCollatorWithPadding(tokenizer)


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
        encode,
        batched=True,
        remove_columns=samples.column_names,
        keep_in_memory=True,
        new_fingerprint=short_hash(job.data_settings()),
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
