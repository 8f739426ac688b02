"""Converts a data set's labels to those that a model needs, 0 to num_labels - 1."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

Labels = npt.NDArray[np.int64]


def first_label(columns: Sequence[Labels], *, num_labels: int) -> int:
    """Return 0 or 1: the first label of a data set, which counts from 0 or, for stars, from 1. All columns decide together.

    A 0 means labels from 0; otherwise `num_labels` means stars from 1. A data set with neither is read as labels from 0: every
    value fits, and which output of the model stands for which star makes no difference.
    """
    present = {int(value) for column in columns for value in np.unique(column)}
    return 1 if 0 not in present and num_labels in present else 0


def integer_labels(column: pa.ChunkedArray, *, where: str) -> Labels:
    """Return a column's labels as integers; floats such as 4.0 and texts such as "4" are accepted.

    Args:
        column: The label column.
        where: The column's name in an error, such as "label column 'stars' of reviews.csv".

    Raises:
        ValueError: A label is missing or not an integer.
    """
    if column.null_count:
        row = pc.index(pc.is_null(column), pa.scalar(True)).as_py()
        raise ValueError(
            f"a label must be an integer, got nothing in row {row + 1} of the {where}; fill it in or remove the row"
        )
    values = column.to_numpy()
    try:
        numbers = values.astype(np.float64)
        wrong = ~np.isfinite(numbers) | (numbers != np.round(numbers))
    except (TypeError, ValueError):
        wrong = np.array([not _is_integer(value) for value in values])
        numbers = np.zeros(len(values))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"a label must be an integer, got {values[row]!s} in row {row + 1} of the {where}")
    labels: Labels = numbers.astype(np.int64)
    return labels


def zero_based(labels: Labels, *, first: int, num_labels: int, where: str) -> Labels:
    """Return labels that count from 0, given the data set's first label.

    Raises:
        ValueError: A label is out of range.
    """
    shifted: Labels = labels - first
    wrong = (shifted < 0) | (shifted >= num_labels)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"labels must be 0 to {num_labels - 1}, or stars 1 to {num_labels}, got {labels[row]} "
            f"in row {row + 1} of the {where}; set num_labels to the number of classes"
        )
    return shifted


def _is_integer(value: object) -> bool:
    try:
        return float(str(value)).is_integer()
    except ValueError:
        return False
