"""Loads labelled texts from the hub, a local file or the generator into two data sets with columns `text` and `label`.

Every error in the data is reported here, before anything is tokenised: a sentence with the rule, the value and the remedy.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.json  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from tradeoff.objectives.data.contents import table_fingerprint
from tradeoff.objectives.data.hub import hub_access
from tradeoff.objectives.data.labels import first_label, integer_labels, zero_based
from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.job.settings import EMBEDDED, TextClassificationJob


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledTexts:
    """Samples to train and to evaluate on, with columns `text` and `label` (from 0).

    Attributes:
        train: The training samples, shuffled.
        eval: The evaluation samples, disjoint from the training samples; None if the job does not evaluate.
        contents: Fingerprints of the hub's splits that were read, `train` and `eval`.
    """

    train: Any
    eval: Any
    contents: dict[str, str] = field(default_factory=dict)


def labelled_texts(job: TextClassificationJob) -> LabelledTexts:
    """Load the samples that a job asks for.

    Raises:
        ValueError: The data can't be read or does not match the job.
    """
    if job.dataset == EMBEDDED:
        return _generated(job)
    if job.is_local_file:
        train = _read_file(Path(job.dataset).expanduser(), job)
        apart = _read_file(Path(job.eval_dataset).expanduser(), job) if job.eval_dataset and job.evaluates else None
        names = job.dataset, job.eval_dataset or job.dataset
    else:
        train = _read_hub(job, job.train_split)
        is_split = not job.evaluates or job.eval_split == job.train_split
        apart = None if is_split else _read_hub(job, job.eval_split)
        names = f"{job.dataset} ({job.train_split})", f"{job.dataset} ({job.eval_split})"
    tables = [(table, name) for table, name in zip((train, apart), names, strict=True) if table is not None]
    picked = _pick(_check(tables, job), job, names)
    if job.is_local_file:
        return picked
    parts = zip(("train", "eval"), tables, strict=False)
    return replace(picked, contents={part: table_fingerprint(table) for part, (table, _) in parts})


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
        except ValueError as error:  # an unknown configuration or split
            message = str(error).strip().splitlines()[0]
            raise ValueError(f"split {split!r} of dataset {job.dataset!r} can't be loaded: {message}") from error
    return _with_columns(table, table.column_names, job, f"{job.dataset} ({split})")


def _read_file(path: Path, job: TextClassificationJob) -> Any:
    if not path.is_file():
        raise ValueError(f"the data file must exist, got {path}; a relative path starts at {Path.cwd()}")
    try:
        table = _READERS[path.suffix.lower()](path, job)
    except (pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, json.JSONDecodeError, UnicodeError) as error:
        message = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} can't be read as {path.suffix.lower()[1:]}: {message}") from error
    return _with_columns(datasets.Dataset(table), table.column_names, job, str(path))


def _read_csv(path: Path, job: TextClassificationJob) -> pa.Table:
    # Only an empty field counts as missing: a review may well say "None" or "N/A".
    frame = pd.read_csv(path, dtype={job.text_column: str}, keep_default_na=False, na_values=[""])
    return _from_frame(frame, job)


def _read_json(path: Path, job: TextClassificationJob) -> pa.Table:
    """Read JSON Lines, as in Yelp's open data set, or one JSON list of objects; both may end in .json."""
    with path.open(encoding="utf-8") as file:
        first_line = next((line for line in file if line.strip()), "{}")
        if first_line.lstrip().startswith("["):
            file.seek(0)
            return _from_frame(pd.DataFrame(json.load(file)), job)
    sample = json.loads(first_line)
    label = sample.get(job.label_column)
    # Explicit types, because a column may start with 4 and continue with 4.0; other columns are not read at all.
    schema = pa.schema(
        {
            name: pa.float64() if name == job.label_column and not isinstance(label, str) else pa.string()
            for name in (job.text_column, job.label_column)
        }
    )
    missing = [name for name in schema.names if name not in sample]
    if missing:
        return pa.table({name: pa.nulls(0) for name in sample})
    return pa.json.read_json(
        path,
        read_options=pa.json.ReadOptions(block_size=1 << 26),
        parse_options=pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _read_parquet(path: Path, job: TextClassificationJob) -> pa.Table:
    wanted = {job.text_column, job.label_column}
    names = pa.parquet.read_schema(path).names
    return pa.parquet.read_table(path, columns=[name for name in names if name in wanted] if wanted <= set(names) else None)


def _from_frame(frame: pd.DataFrame, job: TextClassificationJob) -> pa.Table:
    wanted = [name for name in (job.text_column, job.label_column) if name in frame]
    if len(wanted) < 2:
        return pa.table({str(name): pa.nulls(0) for name in frame})
    label = frame[job.label_column]
    if label.dtype == object and not all(isinstance(value, str) for value in label.dropna()):
        # Arrow holds one type per column: mixed types become text, and are converted when labels are checked.
        frame = frame.assign(**{job.label_column: label.map(str, na_action="ignore")})
    return pa.Table.from_pandas(frame[wanted], preserve_index=False)


_READERS = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_json, ".parquet": _read_parquet}


def _with_columns(table: Any, names: list[str], job: TextClassificationJob, where: str) -> Any:
    for key in ("text_column", "label_column"):
        if getattr(job, key) not in names:
            raise ValueError(
                f"{key} must name a column of {where}, got {getattr(job, key)!r}; its columns are {', '.join(sorted(names))}"
            )
    return table.select_columns([job.text_column, job.label_column])


def _check(tables: list[tuple[Any, str]], job: TextClassificationJob) -> list[Any]:
    """Return the tables with columns `text` and `label`, after checking that no text is missing and every label is in range."""
    columns = []
    for table, name in tables:
        texts = table.data.column(job.text_column)
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise ValueError(f"text column {job.text_column!r} of {name} must hold text, got {texts.type}; name another column")
        if texts.null_count:
            row = pc.index(pc.is_null(texts), pa.scalar(True)).as_py()
            raise ValueError(
                f"text column {job.text_column!r} of {name} must have no nulls, got {texts.null_count}, "
                f"the first in row {row + 1}; remove those rows"
            )
        columns.append(integer_labels(table.data.column(job.label_column), where=_label_name(job, name)))
    first = first_label(columns, num_labels=job.num_labels)
    checked = []
    for (table, name), labels in zip(tables, columns, strict=True):
        shifted = zero_based(labels, first=first, num_labels=job.num_labels, where=_label_name(job, name))
        texts = table.select_columns([job.text_column]).rename_columns({job.text_column: "text"})
        checked.append(texts.add_column("label", np.asarray(shifted)))
    return checked


def _label_name(job: TextClassificationJob, name: str) -> str:
    return f"label column {job.label_column!r} of {name}"


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
