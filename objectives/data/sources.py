"""Loads labelled texts from the hub, a local file or the generator: two data sets with columns `text`, `pair` and `label`.

Every error in the data is reported here, before anything is tokenised: a sentence with the rule, the value and the remedy.
"""

from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]

from tradeoff.objectives.data.contents import table_fingerprint
from tradeoff.objectives.data.hub import first_line, hub_access
from tradeoff.objectives.data.labels import class_numbers
from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.data.text_files import NO_LISTS, Columns, Lists, check_columns, checked_texts, read_table
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.job.settings import EMBEDDED, BuiltInJob, local_path


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledTexts:
    """Samples to train and to evaluate on, with columns `text`, `pair` if the job has text pairs, and `label` (from 0).

    Attributes:
        train: The training samples, shuffled.
        eval: The evaluation samples, disjoint from the training samples; None if the job does not evaluate.
        label_names: The classes in the order of their numbers, if the data has words for labels.
        contents: Fingerprints of the hub's splits that were read, `train` and `eval`.
    """

    train: Any
    eval: Any
    label_names: tuple[str, ...] | None = None
    contents: dict[str, str] = field(default_factory=dict)


def labelled_texts(job: TextClassificationJob) -> LabelledTexts:
    """Load the samples that a job asks for.

    Raises:
        ValueError: The data can't be read or does not match the job.
    """
    if job.dataset == EMBEDDED:
        return _generated(job)
    tables, names = tables_of(job, job.columns())
    checked, label_names = _check(list(zip(tables, names, strict=True)), job)
    train, evaluation = picked(checked, names, job)
    return LabelledTexts(train=train, eval=evaluation, label_names=label_names, contents=hub_contents(job, tables))


def tables_of(job: BuiltInJob, columns: Columns, lists: Lists = NO_LISTS) -> tuple[list[Any], list[str]]:
    """Return the tables that a job reads, one that is split or one for each part, and their names.

    Args:
        job: The job, which names a file or a data set of the Hub.
        columns: As for `text_files.read_table`.
        lists: As for `text_files.read_table`.

    Raises:
        ValueError: They can't be read, or lack the columns.
    """
    if job.is_local_file:
        files = [job.dataset, *([job.eval_dataset] if job.eval_dataset and job.evaluates else [])]
        tables = [read_table(local_path(name), columns, encoding=job.encoding, lists=lists) for name in files]
        return [datasets.Dataset(table) for table in tables], files
    splits = [job.train_split, *([job.eval_split] if job.evaluates and job.eval_split != job.train_split else [])]
    return [_read_hub(job, split, columns, lists) for split in splits], [f"{job.dataset} ({split})" for split in splits]


def hub_contents(job: BuiltInJob, tables: list[Any]) -> dict[str, str]:
    """Return the fingerprints of the splits of the Hub that were read, as `train` and `eval`; of files none."""
    return (
        {} if job.is_local_file else {part: table_fingerprint(of) for part, of in zip(("train", "eval"), tables, strict=False)}
    )


def generated_counts(job: BuiltInJob) -> tuple[int, int]:
    """Return how many samples of generated data a job trains and evaluates on.

    Raises:
        ValueError: It asks for all.
    """
    if job.train_samples is None or job.eval_samples is None:
        raise ValueError("generated samples are unlimited: set train_samples and eval_samples to numbers")
    return job.train_samples, job.eval_samples


def _generated(job: TextClassificationJob) -> LabelledTexts:
    counts = generated_counts(job)
    if job.num_labels != 5:
        raise ValueError(f"generated reviews have five stars: num_labels must be 5, got {job.num_labels}")
    reviews = generate_reviews(sum(counts), seed=job.data_seed)
    samples = datasets.Dataset.from_dict(
        {"text": [review.text for review in reviews], "label": [review.stars - 1 for review in reviews]}
    )
    train, evaluation = split(samples, *counts)
    return LabelledTexts(train=train, eval=evaluation)


def _read_hub(job: BuiltInJob, split: str, columns: Columns, lists: Lists) -> Any:
    with hub_access("dataset", job.dataset):
        try:
            table = datasets.load_dataset(job.dataset, job.dataset_config, split=split)
        except Exception as error:  # an unknown configuration or split, or damage, of any type
            if isinstance(error, OSError) and type(error) is not OSError:
                raise  # it is not there, or the hub is not; what Arrow can't read is an OSError itself
            raise ValueError(
                f"split {split!r} of dataset {job.dataset!r} can't be loaded ({first_line(error)}); name one that"
                f" it has, or, if its files are damaged, remove it from {datasets.config.HF_DATASETS_CACHE} to download it"
                " again"
            ) from error
    where = f"{job.dataset} ({split})"
    columns = check_columns(table.column_names, columns, where)
    for key, name in columns.items():
        column = table.data.column(name)
        if key != "label_column" and not (name in lists and pa.types.is_nested(column.type)):
            checked_texts(column, f"{name!r} of {where}", blank_is_missing=False)
    return table.select_columns(list(columns.values()))


def _check(tables: list[tuple[Any, str]], job: TextClassificationJob) -> tuple[list[Any], tuple[str, ...] | None]:
    """Return the tables with columns `text`, `pair` and `label`, and the classes' names, after checking each label."""
    columns = [(table.data.column(job.label_column), f"label column {job.label_column!r} of {name}") for table, name in tables]
    numbers, names = class_numbers(columns, num_labels=job.num_labels)
    ours = {job.text_column: "text"} | ({job.text_pair_column: "pair"} if job.text_pair_column is not None else {})
    checked = []
    for (table, _), labels in zip(tables, numbers, strict=True):
        texts = table.select_columns(list(ours))
        checked.append(datasets.Dataset(texts.data.table.rename_columns(list(ours.values()))).add_column("label", labels))
    return checked, names


def picked(tables: list[Any], names: list[str], job: BuiltInJob) -> tuple[Any, Any]:
    """Return the samples to train and to evaluate on, shuffled; the latter are None if the job does not evaluate.

    Raises:
        ValueError: The tables have fewer samples than the job asks for.
    """
    # The same shuffle as the usual `load_dataset(...)["train"].shuffle(seed=42).select(range(1000))`.
    shuffled = [table.shuffle(seed=job.data_seed, keep_in_memory=True) for table in tables]
    if len(tables) == 2:
        num_train = _take(len(tables[0]), job.train_samples, "train_samples", names[0])
        num_eval = _take(len(tables[1]), job.eval_samples, "eval_samples", names[1])
        return shuffled[0].select(range(num_train)), shuffled[1].select(range(num_eval))
    total = len(tables[0])
    if job.train_samples is None and job.eval_samples is None:
        raise ValueError(f"{names[0]} is split in two: set train_samples or eval_samples to a number, or name an eval_dataset")
    num_train = max(1, total - (job.eval_samples or 0)) if job.train_samples is None else job.train_samples
    num_eval = max(1, total - num_train) if job.eval_samples is None else job.eval_samples
    if num_train + num_eval > total:
        raise ValueError(
            f"train_samples and eval_samples must not exceed the {total} samples of {names[0]} together, "
            f"got {num_train} and {num_eval}; ask for fewer"
        )
    return split(shuffled[0], num_train, num_eval)


def _take(total: int, wanted: int | None, key: str, name: str) -> int:
    if total == 0 or (wanted is not None and wanted > total):
        raise ValueError(f"{key} must not exceed the {total} samples of {name}, got {wanted}; ask for fewer")
    return total if wanted is None else wanted


def split(samples: Any, num_train: int, num_eval: int) -> tuple[Any, Any]:
    """Return the first samples, to train on, and the next ones, to evaluate on; None for none of these."""
    return (
        samples.select(range(num_train)),
        samples.select(range(num_train, num_train + num_eval)) if num_eval else None,
    )
