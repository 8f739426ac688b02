"""A comparison as a table for a person, as JSON for a program, and the command that makes one."""

import json
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage

from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.compare import Comparison, compare_studies, compare_trials, is_number
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import load_study

if TYPE_CHECKING:
    from rich.table import Table


def compare(a: str, b: str, storage: BaseStorage, *, study: str | None) -> Comparison:
    """Compares what `a` and `b` name: two numbers are trials of `study`, by default of the latest; two names are studies.

    Raises:
        TradeoffError: One of them does not exist, or a number stands beside a name.
    """
    numbers = [text.isdigit() for text in (a, b)]
    if all(numbers):
        return compare_trials(read_results(load_study(study, storage)), int(a), int(b))
    if any(numbers):
        raise TradeoffError(f"compare two trials by number or two studies by name, got {a} and {b}")
    if study is not None:
        raise TradeoffError(f"--study is for two trials, and {a} and {b} are studies; leave it out")
    return compare_studies(read_results(load_study(a, storage)), read_results(load_study(b, storage)))


def as_json(comparison: Comparison) -> str:
    """The comparison as one object: `a`, `b`, `rows` under full names, `notes`."""
    rows = [
        {"name": row.name, "a": row.a, "b": row.b, "difference": row.difference, "better": row.better}
        for row in comparison.rows
    ]
    plain = {"a": comparison.a, "b": comparison.b, "rows": rows, "notes": list(comparison.notes)}
    return json.dumps(plain, indent=2, default=str)


def as_table(comparison: Comparison) -> "Table":
    """The comparison for a person: the better figure of each line is bold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=Text("\n".join(comparison.notes)) if comparison.notes else None, caption_justify="left")
    table.add_column("")
    for name in (comparison.a, comparison.b, "difference"):
        table.add_column(Text(name), justify="right")
    for row in comparison.rows:
        styles = ["bold" if row.better == side else "" for side in ("a", "b")]
        change = "" if row.difference is None or row.difference == 0 else f"{row.difference:+,.{row.digits}f}"
        if change and row.ratio is not None:
            change += f" (x {row.ratio:.2f})"
        cells = [_show(row.a, row.digits), _show(row.b, row.digits)]
        table.add_row(row.label, *(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)), change)
    return table


def _show(value: Any, digits: int | None) -> str:
    if is_number(value):
        return f"{value:g}" if digits is None else f"{value:,.{digits}f}"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(_show(item, None) for item in value)
    return "" if value is None else str(value)
