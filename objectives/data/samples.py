"""Selects rows of a training or evaluation data set for a probe: the longest first, or ordinary ones.

Lengths come from a column `length`, or else from `input_ids`, of a `datasets.Dataset` or of the items of any data set with
`__getitem__` and `__len__`. If there is neither (images, say) the first rows are taken, and a data set that can only be
iterated over is used from its beginning: then the probe's measurements hold for batches like the first ones.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
from torch.utils.data import IterableDataset, Subset

# Items of a data set that is not a table are read one by one, which may run the user's own transforms: at most this many.
MAX_ITEMS = 2000
_ARROW_ROWS = 10_000


def longest_rows(dataset: Any, count: int, *, repeats: int = 1) -> Any:
    """Return the `count` longest rows, longest first, cycling if there are fewer; the whole selection `repeats` times."""
    if isinstance(dataset, Mapping):
        return {name: longest_rows(part, count, repeats=repeats) for name, part in dataset.items()}
    if not is_map_style(dataset):
        return dataset
    lengths = row_lengths(dataset)
    order = range(len(dataset)) if lengths is None else sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return take(dataset, [order[position % len(order)] for position in range(count)] * repeats)


def ordinary_rows(dataset: Any, count: int, seed: int, *, repeat: bool = True) -> Any:
    """Return `count` rows in a random order, cycling if there are fewer; without `repeat` at most all rows once."""
    if isinstance(dataset, Mapping):
        return {name: ordinary_rows(part, count, seed, repeat=repeat) for name, part in dataset.items()}
    if not is_map_style(dataset):
        return dataset
    order = list(range(len(dataset)))
    random.Random(seed).shuffle(order)
    num_rows = count if repeat else min(count, len(order))
    return take(dataset, [order[position % len(order)] for position in range(num_rows)])


def first_rows(dataset: Any, count: int) -> Any:
    """Return the first rows."""
    if isinstance(dataset, Mapping):
        return {name: first_rows(part, count) for name, part in dataset.items()}
    return take(dataset, range(min(count, len(dataset)))) if is_map_style(dataset) else dataset


def num_rows(dataset: Any) -> int:
    """Return the number of rows of a data set, or of several by name together."""
    return sum(len(part) for part in dataset.values()) if isinstance(dataset, Mapping) else len(dataset)


def row_lengths(dataset: Any) -> list[int] | None:
    """Return the length of each sequence, or of the first `MAX_ITEMS` if they are read one by one; None if unknown."""
    if isinstance(dataset, datasets.Dataset):
        if "length" in dataset.column_names:
            return [int(length) for length in dataset.with_format(None)["length"]]
        if "input_ids" in dataset.column_names:
            return list(_list_lengths(dataset))
    lengths = []
    for row in range(min(len(dataset), MAX_ITEMS)):
        if (length := _item_length(dataset[row])) is None:
            return None
        lengths.append(length)
    return lengths or None


def is_map_style(dataset: Any) -> bool:
    """Return True if rows can be accessed by index."""
    # torch's own iterable data sets inherit a `__getitem__` that does not work.
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset)


def _list_lengths(dataset: datasets.Dataset) -> Iterator[int]:
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    for batch in dataset.select_columns("input_ids").with_format("arrow").iter(batch_size=_ARROW_ROWS):
        yield from pc.list_value_length(batch["input_ids"]).to_pylist()


def _item_length(item: Any) -> int | None:
    # `BatchEncoding` has keys but is not a Mapping.
    if not hasattr(item, "keys"):
        return None
    if "length" in item:
        return int(item["length"])
    return len(item["input_ids"]) if "input_ids" in item else None


def take(dataset: Any, rows: Sequence[int]) -> Any:
    """Return these rows of a data set with access by index."""
    return dataset.select(rows) if isinstance(dataset, datasets.Dataset) else Subset(dataset, rows)
