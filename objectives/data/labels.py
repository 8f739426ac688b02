"""Converts a data set's labels to those that a model needs, 0 to num_labels - 1.

Labels are integers from 0, stars from 1, or words, booleans among them, which count in sorted order. An export copies this file
beside its `train.py`, so it imports nothing of ours.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

Labels = npt.NDArray[np.int64]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_BOOLEANS = {"true", "false"}


def class_numbers(
    columns: Sequence[tuple[pa.ChunkedArray, str]], *, num_labels: int
) -> tuple[list[Labels], tuple[str, ...] | None]:
    """Return the labels of each column as numbers from 0, and the names of the classes if labels are words.

    Args:
        columns: The label columns of the training data and of the evaluation data, if that is apart; each with its name in an
            error, such as "label column 'stars' of reviews.csv".
        num_labels: Number of classes.

    Raises:
        ValueError: A label is missing, out of range, or unknown to the training data.
    """
    read = [_Column(column, where) for column, where in columns]
    (number, its_row), (word, other_row) = (_first_of(read, kind) for kind in (int, str))
    if number is not None and word is not None:
        raise ValueError(
            f"labels must be all integers or all words, got {number} in {its_row} and {word!r} in {other_row}; correct one"
        )
    if word is None:
        first = first_label([column.numbers() for column in read], num_labels=num_labels)
        return [zero_based(column.numbers(), first=first, num_labels=num_labels, where=column.where) for column in read], None
    names = _class_names(read, num_labels)
    return [column.places_in(names) for column in read], names


def first_label(columns: Sequence[Labels], *, num_labels: int) -> int:
    """Return 0 or 1: the first label of a data set, which counts from 0 or, for stars, from 1. All columns decide together.

    A 0 means labels from 0; otherwise `num_labels` means stars from 1. A data set with neither is read as labels from 0: every
    value fits, and which output of the model stands for which star makes no difference.
    """
    present = {int(value) for column in columns for value in np.unique(column)}
    return 1 if 0 not in present and num_labels in present else 0


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


def macro_f1(predicted: Labels, labels: Labels) -> float:
    """Return the mean F1 of the classes that occur among predictions or labels, each counted alike, 0 to 1.

    Example:
        >>> round(macro_f1(np.array([0, 0, 0]), np.array([0, 0, 1])), 3)
        0.4
    """
    classes = np.union1d(predicted, labels)
    scores = [
        2 * np.sum((predicted == one) & (labels == one)) / (np.sum(predicted == one) + np.sum(labels == one)) for one in classes
    ]
    return float(np.mean(scores))


class _Column:
    """A label column: its distinct values, and for each row the place of its value among them."""

    def __init__(self, column: pa.ChunkedArray, where: str) -> None:
        self.where = where
        if pa.types.is_nested(column.type):
            raise ValueError(f"a label must be an integer or a word, got {column.type} in the {where}; name another column")
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")  # a null is one of the values
        self.places = encoded.indices.to_numpy()
        self.values = [self._value(place, value.as_py()) for place, value in enumerate(encoded.dictionary)]
        if {value.lower() for value in self.values if isinstance(value, str)} <= _BOOLEANS:
            self.values = [value.lower() if isinstance(value, str) else value for value in self.values]

    def row_of(self, place: int) -> str:
        """Return the first row with the value at this place, in words."""
        return f"row {int((self.places == place).argmax()) + 1} of the {self.where}"

    def numbers(self) -> Labels:
        """Return the labels, which are integers."""
        found: Labels = np.array(self.values, dtype=np.int64)[self.places]
        return found

    def places_in(self, names: Sequence[str]) -> Labels:
        """Return the labels, which are words, as their places among the names."""
        for place, value in enumerate(self.values):
            if value not in names:
                raise ValueError(
                    f"a label of the evaluation data must be one of the training data's ({_listed(names)}), got {value!r} in"
                    f" {self.row_of(place)}; correct it or remove the row"
                )
        found: Labels = np.array([names.index(str(value)) for value in self.values], dtype=np.int64)[self.places]
        return found

    def _value(self, place: int, value: Any) -> int | str:
        text = str(value).strip()
        if value is None or text == "" or text.lower() == "nan":
            raise ValueError(
                f"a label must be an integer or a word, got nothing in {self.row_of(place)}; fill it in or remove the row"
            )
        if isinstance(value, bool) or not (isinstance(value, (int, float)) or _NUMBER.fullmatch(text)):
            return text
        if abs(number := float(text)) > 2**53 or not number.is_integer():
            raise ValueError(f"a label must be an integer or a word, got {text} in {self.row_of(place)}; correct it")
        return int(number)


def _first_of(columns: Sequence[_Column], kind: type) -> tuple[int | str | None, str]:
    """Return the first value of a kind, and its row in words."""
    found = ((value, column.row_of(place)) for column in columns for place, value in enumerate(column.values))
    return next(((value, row) for value, row in found if isinstance(value, kind)), (None, ""))


def _class_names(columns: Sequence[_Column], num_labels: int) -> tuple[str, ...]:
    train = columns[0]
    names = tuple(sorted({str(value) for value in train.values}))
    if len(names) < 2:
        raise ValueError(f"labels must be of at least two classes, and the {train.where} has only {names[0]!r}; add the others")
    if len(names) != num_labels:
        raise ValueError(
            f"num_labels must be {len(names)}, the number of classes in the {train.where} ({_listed(names)}), got {num_labels}"
        )
    return names


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*(name[:40] for name in names[:8]), *(["..."] if len(names) > 8 else [])])
