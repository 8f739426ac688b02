"""Reads columns of a local file: CSV, TSV, JSON Lines, a JSON list or Parquet, each of them also compressed with gzip.

An export copies this file beside its `train.py`, so it imports nothing of ours: both read the same samples. What can't be read
with certainty is refused, in a sentence with the rule, the row and the remedy: half of a text teaches the wrong thing.
"""

import codecs
import csv
import gzip
import io
import itertools
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

_ROWS_AT_ONCE = 50_000
# A novel has a million characters. Packed with gzip, text is a tenth of its size; what is far less is no text.
_MAX_CHARACTERS = 10_000_000
_MAX_EXPANSION, _ALWAYS_UNPACKED = 200, 100_000_000
# Columns by the keys that name them, or what chooses them from those that there are; the second argument says where.
Columns = Mapping[str, str] | Callable[[Sequence[str], object], Mapping[str, str]]
# Columns of a JSON file that may hold lists: what these become, and what reads one; its second argument says of which row.
ReadList = Callable[[list[Any], str], list[Any]]
Lists = Mapping[str, tuple[pa.DataType, ReadList]]
NO_LISTS: Lists = MappingProxyType({})
_ENDINGS = ".csv, .tsv, .jsonl, .json (each also with .gz) or .parquet"


def read_table(path: Path, columns: Columns, *, encoding: str = "utf-8", lists: Lists = NO_LISTS) -> pa.Table:
    """Read the columns that a job names.

    Args:
        path: The file; what it holds is told by its ending, and by its first bytes whether it is compressed.
        columns: The names of the columns by the keys that name them: `text_column`, `label_column`, `text_pair_column`.
            Or a function that chooses them.
        encoding: Of the text; a byte order mark is left out.
        lists: The columns that may hold lists, and how those of a JSON file are read; a Parquet file's stay as they are.

    Returns:
        The columns, under their names in the file. A text that is empty or blank is an error as a missing one is.

    Raises:
        ValueError: The file can't be read, or not as a table of these columns.
    """
    if not path.is_file():
        rule = "the data must be a file, and it is a directory" if path.is_dir() else "the data file must exist"
        raise ValueError(f"{rule}, got {path}; a relative path starts at {Path.cwd()}")
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind not in _READERS:
        raise ValueError(f"a data file must end in {_ENDINGS}, got {path}; rename it after what it holds, or convert it")
    try:
        table = _READERS[kind](path, columns, encoding, lists)
    except UnicodeDecodeError as error:
        raise ValueError(_not_in_encoding(path, encoding)) from error
    except (pa.ArrowException, EOFError, OSError, zlib.error, RecursionError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} can't be read as {kind}: {reason}; it may be damaged, or of another kind") from error
    if not table.num_rows:
        raise ValueError(f"{path} must hold samples, and it is empty; name another file")
    for key, name in check_columns(table.column_names, columns, path).items():
        if key != "label_column" and not (name in lists and pa.types.is_nested(table[name].type)):
            table = table.set_column(table.column_names.index(name), name, checked_texts(table[name], f"{name!r} of {path}"))
    return table


def checked_texts(column: pa.ChunkedArray, name: str, *, blank_is_missing: bool = True) -> pa.ChunkedArray:
    """Return a column of texts, of which none is missing.

    Args:
        column: The column.
        name: Its name in an error, such as "'text' of reviews.csv".
        blank_is_missing: Whether a text of blanks alone counts as missing.

    Raises:
        ValueError: It does not hold text, or not everywhere.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"text column {name} must hold text, got {column.type}; name another column")
    missing = pc.is_null(column)
    if blank_is_missing:
        missing = pc.or_(missing, pc.equal(pc.fill_null(pc.utf8_trim_whitespace(column), ""), ""))
    if num_missing := pc.sum(missing).as_py() or 0:
        row = pc.index(missing, pa.scalar(True)).as_py() + 1
        raise ValueError(
            f"text column {name} must have no nulls or blanks, got {num_missing}, the first in row {row}; remove those rows"
        )
    row = pc.index(pc.greater(pc.utf8_length(column), _MAX_CHARACTERS), pa.scalar(True)).as_py() + 1
    if row:
        raise ValueError(
            f"text column {name} must have at most {_MAX_CHARACTERS:,} characters a row; split or remove row {row}"
        )
    return column


def check_columns(names: Sequence[str], columns: Columns, where: object, *, hint: str = "") -> Mapping[str, str]:
    """Return the columns by their keys, after checking that each is there once.

    Raises:
        ValueError: It is not; the sentence lists the columns and ends with the hint.
    """
    columns = columns(names, where) if callable(columns) else columns
    for key, name in columns.items():
        if name not in names:
            there = ", ".join(_shortened(name) for name in sorted(names)[:20])
            if "messages" in names or {"prompt", "completion"} <= set(names):
                hint = "; to learn its answers set job.task to causal_lm"
            raise ValueError(f"{key} must name a column of {where}, got {name!r}; its columns are {there}{hint}")
        if names.count(name) > 1:
            raise ValueError(f"{where} must have one column {name!r}, got {names.count(name)}; rename or remove the others")
    return columns


def _open(path: Path, encoding: str) -> IO[str]:
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"
    file: IO[str] = _open_bytes(path, "rt", encoding=encoding, newline="")
    return file


def _open_bytes(path: Path, mode: str = "rb", **options: Any) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        raise ValueError(f"{path} must be a text file, and it is a zip archive or an Excel sheet; save what it holds as CSV")
    if start[:2] != b"\x1f\x8b":
        return path.open(mode, **options)
    unpacked = _Unpacked(path)
    return io.TextIOWrapper(unpacked, **options) if mode == "rt" else unpacked


class _Unpacked(gzip.GzipFile):
    """A packed file, read as far as it can be text."""

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(self._limit() + 1 if size is None or size < 0 else size))

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))

    def _limit(self) -> int:
        return max(_ALWAYS_UNPACKED, _MAX_EXPANSION * os.path.getsize(self.name))

    def _checked(self, content: bytes) -> bytes:
        if self.tell() > self._limit():
            raise ValueError(
                f"{self.name} must hold text, and unpacks to more than {_MAX_EXPANSION} times its size, which no text does;"
                " unpack it yourself if it does hold text"
            )
        return content


def _not_in_encoding(path: Path, encoding: str) -> str:
    """Say which line can't be decoded, and how it would read in the encoding that is likely."""
    with _open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return f"{path} must be in the encoding {encoding}, and it begins as utf-16 does; set encoding to utf-16"
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                around = line[max(0, error.start - 12) : error.start + 12].decode("cp1252", errors="replace").strip()
                return (
                    f"{path} must be in the encoding {encoding}, and line {number} is not: if it says {around!r}, set encoding"
                    " to cp1252 (Western Windows); else to the one in which the file was written"
                )
    return f"{path} must be in the encoding {encoding}, and it is not; set encoding to the one in which it was written"


def _read_csv(path: Path, columns: Columns, encoding: str, _lists: Lists, delimiter: str = ",") -> pa.Table:
    csv.field_size_limit(sys.maxsize)
    with _open(path, encoding) as file:
        rows = _csv_rows(csv.reader(file, delimiter=delimiter, strict=True), path)
        _, header = next(rows, (0, []))
        names = [name.strip() for name in header]
        if not names:
            raise ValueError(f"{path} must hold a header and samples, and it is empty; name another file")
        columns = check_columns(names, columns, path, hint=_hint(header, columns, delimiter))
        places = [names.index(name) for name in columns.values()]
        return _table(columns, _picked(rows, places, len(names), delimiter, path), path)


def _csv_rows(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its first line."""
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        reason = "is never closed" if "end of data" in str(error) else "is followed by more text"
        raise ValueError(
            f"{path} can't be read as a table: in the row that begins in line {line}, a quoted text {reason};"
            ' write a quote inside quotes twice ("")'
        ) from error


def _picked(
    rows: Iterable[tuple[int, list[str]]], places: Sequence[int], width: int, delimiter: str, path: Path
) -> Iterator[tuple[str | None, ...]]:
    first, num_wrong = "", 0
    for number, (line, row) in enumerate(rows, 1):
        if len(row) == width:
            yield tuple(row[place] or None for place in places)
        else:
            first = first or f"row {number} (line {line}) has {len(row)}"
            num_wrong += 1
    if num_wrong:
        more = f", as {num_wrong:,} rows in all have another number" if num_wrong > 1 else ""
        mark = "a tab" if delimiter == "\t" else f"{delimiter!r}"
        raise ValueError(
            f"every row of {path} must have the {width} fields of its header, and {first}{more};"
            f' put a text that holds {mark} in quotes (")'
        )


def _hint(header: Sequence[str], columns: Columns, delimiter: str) -> str:
    """Return what is probably wrong with a header that lacks the columns: its delimiter, or that it is no header."""
    if "\0" in header[0]:
        return "; it holds zero bytes: set encoding to the one in which it was written, probably utf-16-le"
    other = next((mark for mark in ";\t|," if mark != delimiter and mark in header[0]), None)
    if len(header) == 1 and other is not None:
        kind = "as .tsv" if other == "\t" else f"with {delimiter!r} between them"
        return f", as if {other!r} separated them; save the file {kind}"
    if not callable(columns) and any(
        re.search(r"^\s*[-+]?[\d.]*\s*$|[.!?]\s*$|\S\s+\S+\s+\S|.{60}", field) for field in header
    ):
        line = delimiter.join(columns.values()).replace("\t", "<tab>")
        return (
            f"; if that is its first sample, the file has no header: put the line {line} before it, in the order of its fields"
        )
    return ""


def _read_json(path: Path, columns: Columns, encoding: str, lists: Lists) -> pa.Table:
    """Read JSON Lines, as in Yelp's open data set, or one JSON list of objects; both may end in .json."""
    with _open(path, encoding) as file:
        objects = _json_objects(file, path)
        first = next(objects, None)
        if first is None:
            raise ValueError(f"{path} must hold samples, and it is empty; name another file")
        columns = check_columns(list(first), columns, path)
        lists = {name: how for name, how in lists.items() if isinstance(first.get(name), list)}
        rows = (
            tuple(
                _json_list(item.get(name), name, number, path, lists[name][1])
                if name in lists
                else _json_value(item.get(name), key, number, path)
                for key, name in columns.items()
            )
            for number, item in enumerate(itertools.chain([first], objects), 1)
        )
        return _table(columns, rows, path, {name: kind for name, (kind, _) in lists.items()})


def _json_objects(file: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    number, line = next(lines, (1, ""))
    if line.lstrip().startswith("["):
        file.seek(0)
        found: Iterable[tuple[int, Any]] = enumerate(_json(file.read(), 1, path), 1)
    else:
        found = ((at, _json(text, at, path)) for at, text in itertools.chain([(number, line)] if line else [], lines))
    for at, item in found:
        if not isinstance(item, dict):
            raise ValueError(f"{path} must hold an object a line, or one list of objects, got {item!r:.40} as number {at}")
        yield item


def _json(text: str, line: int, path: Path) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff").rstrip())
    except RecursionError as error:
        raise ValueError(f"{path} must hold flat objects, and line {line} is nested too deeply; remove it") from error
    except ValueError as error:
        at = getattr(error, "lineno", 1) + line - 1
        reason = getattr(error, "msg", "a number is too long")
        raise ValueError(
            f"{path} must hold an object a line, or one list of objects, and line {at} is not JSON: {reason}; mend it"
        ) from error


def _json_value(value: Any, key: str, row: int, path: Path) -> str | None:
    if value is None or isinstance(value, str) or (isinstance(value, float) and math.isnan(value)):
        return value if isinstance(value, str) else None
    if key == "label_column" and isinstance(value, (bool, int, float)):
        return str(value).lower()
    must = f"{key} must name a column that holds text" if key.endswith("_column") else f"{key!r} must hold text as in row 1"
    if key == "label_column":
        must = "a label must be an integer or a word"
    raise ValueError(f"{must}, got {value!r:.40} in row {row} of {path}")


def _json_list(value: Any, name: str, row: int, path: Path, read: ReadList) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(
            f"{name!r} must hold a list in every row, as in the first one, got {value!r:.40} in row {row} of {path}; correct it"
        )
    return read(value, f"{name!r} in row {row} of {path}")


def _read_parquet(path: Path, columns: Columns, _encoding: str, _lists: Lists) -> pa.Table:
    columns = check_columns(pa.parquet.read_schema(path).names, columns, path)
    return pa.parquet.read_table(path, columns=list(columns.values()))


def _table(
    columns: Mapping[str, str],
    rows: Iterator[tuple[Any, ...]],
    path: Path,
    nested: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> pa.Table:
    schema = pa.schema({name: nested.get(name, pa.string()) for name in columns.values()})
    parts = []
    while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        try:
            parts.append(pa.table(list(zip(*some, strict=True)), schema=schema))
        except UnicodeEncodeError as error:  # JSON may hold one half of a character
            raise ValueError(
                f"{path} must hold text, and {error.object[:40]!r} holds half of a character; remove it"
            ) from error
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _shortened(name: str) -> str:
    return repr(name[:40])[1:-1] + ("..." if len(name) > 40 else "")  # as it is, but for what a terminal would obey


def _read_tsv(path: Path, columns: Columns, encoding: str, lists: Lists) -> pa.Table:
    return _read_csv(path, columns, encoding, lists, "\t")


_READERS: dict[str, Callable[[Path, Columns, str, Lists], pa.Table]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "json": _read_json,
    "jsonl": _read_json,
    "ndjson": _read_json,
    "parquet": _read_parquet,
}
