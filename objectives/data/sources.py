"""Loads labelled texts from the hub, a local file or the generator: two data sets with columns `text`, `pair` and `label`.

Every error in the data is reported here, before anything is tokenised: a sentence with the rule, the value and the remedy.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import datasets

from tradeoff.objectives.data.contents import table_fingerprint
from tradeoff.objectives.data.hub import first_line, hub_access
from tradeoff.objectives.data.labels import class_numbers
from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.data.text_files import check_columns, checked_texts, read_table
from tradeoff.objectives.job.settings import EMBEDDED, TextClassificationJob, local_path


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
    if job.is_local_file:
        train = _read_file(job.dataset, job)
        apart = _read_file(job.eval_dataset, job) if job.eval_dataset and job.evaluates else None
        names = job.dataset, job.eval_dataset or job.dataset
    else:
        train = _read_hub(job, job.train_split)
        is_split = not job.evaluates or job.eval_split == job.train_split
        apart = None if is_split else _read_hub(job, job.eval_split)
        names = f"{job.dataset} ({job.train_split})", f"{job.dataset} ({job.eval_split})"
    tables = [(table, name) for table, name in zip((train, apart), names, strict=True) if table is not None]
    checked, label_names = _check(tables, job)
    parts = () if job.is_local_file else zip(("train", "eval"), tables, strict=False)
    contents = {part: table_fingerprint(table) for part, (table, _) in parts}
    return replace(_pick(checked, job, names), label_names=label_names, contents=contents)


def _generated(job: TextClassificationJob) -> LabelledTexts:
    if job.train_samples is None or job.eval_samples is None:
        raise ValueError("generated reviews are unlimited: set train_samples and eval_samples to numbers")
    if job.num_labels != 5:
        raise ValueError(f"generated reviews have five stars: num_labels must be 5, got {job.num_labels}")
    reviews = generate_reviews(job.train_samples + job.eval_samples, seed=job.data_seed)
    samples = datasets.Dataset.from_dict(
        {"text": [review.text for review in reviews], "label": [review.stars - 1 for review in reviews]}
    )
    return _split(samples, job.train_samples, job.eval_samples)


def _read_hub(job: TextClassificationJob, split: str) -> Any:
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
    check_columns(table.column_names, job.columns(), where)
    for key, name in job.columns().items():
        if key != "label_column":
            checked_texts(table.data.column(name), f"{name!r} of {where}", blank_is_missing=False)
    return table.select_columns(list(job.columns().values()))


def _read_file(name: str, job: TextClassificationJob) -> Any:
    return datasets.Dataset(read_table(local_path(name), job.columns(), encoding=job.encoding))


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


def _pick(tables: list[Any], job: TextClassificationJob, names: tuple[str, str]) -> LabelledTexts:
    # The same shuffle as the usual `load_dataset(...)["train"].shuffle(seed=42).select(range(1000))`.
    shuffled = [table.shuffle(seed=job.data_seed, keep_in_memory=True) for table in tables]
    if len(tables) == 2:
        num_train = _take(len(tables[0]), job.train_samples, "train_samples", names[0])
        num_eval = _take(len(tables[1]), job.eval_samples, "eval_samples", names[1])
        return LabelledTexts(train=shuffled[0].select(range(num_train)), eval=shuffled[1].select(range(num_eval)))
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
    return _split(shuffled[0], num_train, num_eval)


def _take(total: int, wanted: int | None, key: str, name: str) -> int:
    if total == 0 or (wanted is not None and wanted > total):
        raise ValueError(f"{key} must not exceed the {total} samples of {name}, got {wanted}; ask for fewer")
    return total if wanted is None else wanted


def _split(samples: Any, num_train: int, num_eval: int) -> LabelledTexts:
    return LabelledTexts(
        train=samples.select(range(num_train)),
        eval=samples.select(range(num_train, num_train + num_eval)) if num_eval else None,
    )
