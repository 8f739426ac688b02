"""Loads what a language model learns from: texts, prompts with their completions, or conversations, as TRL names them.

As with labelled texts, every error in the data is reported here, before anything is tokenized.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

from tradeoff.objectives.data.generated_conversations import generate_conversations
from tradeoff.objectives.data.language_columns import LABELS, LISTS, Kind, checked, kind_of, language_columns
from tradeoff.objectives.data.sources import generated_counts, hub_contents, picked, split, tables_of
from tradeoff.objectives.job.jobs import CausalLMJob
from tradeoff.objectives.job.settings import EMBEDDED


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageTexts:
    """Samples to train and to evaluate on, with the columns of their kind.

    Attributes:
        train: The training samples, shuffled.
        eval: The evaluation samples, disjoint from the training samples; None if the job does not evaluate.
        kind: `text`, `prompt_completion` (texts, or lists of messages) or `messages`.
        contents: Fingerprints of the hub's splits that were read, `train` and `eval`.
        notices: Labels that are not read, in lines.
    """

    train: Any
    eval: Any
    kind: Kind
    contents: dict[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def language_texts(job: CausalLMJob) -> LanguageTexts:
    """Load the samples that a job asks for.

    Raises:
        ValueError: The data can't be read, or holds samples that teach nothing.
    """
    if job.dataset == EMBEDDED:
        counts = generated_counts(job)
        samples = datasets.Dataset.from_dict({"messages": generate_conversations(sum(counts), seed=job.data_seed)})
        train, evaluation = split(samples, *counts)
        return LanguageTexts(train=train, eval=evaluation, kind="messages")
    notices = []

    def chosen(names: Sequence[str], where: object) -> dict[str, str]:
        columns = language_columns(names, where)
        if unread := [repr(name)[1:-1] for name in names if name.lower() in LABELS and name not in columns]:
            # A judgement that a user may mean: a class, or that an answer is a bad one.
            notices.append(
                f"{' and '.join(unread)} of {where} is not read; to learn labels set job.task to text_classification"
            )
        return columns

    read, names = tables_of(job, chosen, LISTS)
    if len({tuple(table.column_names) for table in read}) > 1:
        columns = " and ".join(", ".join(table.column_names) for table in read)
        raise ValueError(f"{' and '.join(names)} must have the same columns, got {columns}; rename those of one of them")
    tables = [datasets.Dataset(checked(of.data.table, name)) for of, name in zip(read, names, strict=True)]
    if len({str(table.features) for table in tables}) > 1:
        raise ValueError(f"{' and '.join(names)} must both hold texts or both lists of messages; convert one of them")
    train, evaluation = picked(tables, names, job)
    kind = kind_of(train.column_names)
    return LanguageTexts(train=train, eval=evaluation, kind=kind, contents=hub_contents(job, tables), notices=notices)
