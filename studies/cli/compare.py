"""`tradeoff compare`: two trials, or two studies, side by side."""

import json
from typing import Annotated

import typer

from tradeoff.studies.cli.options import StorageUrl, TableOrJson
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import print_result
from tradeoff.studies.results.compare import Comparison, compare_studies, compare_trials
from tradeoff.studies.results.fitted_table import FittedTable
from tradeoff.studies.results.results import read_results
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.retrying import RetryingStorage
from tradeoff.studies.storage.urls import DEFAULT_STORAGE


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The number of a trial, or the name of a study.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.", show_default=False)],
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The study of the trials; default: the one created last.", show_default=False),
    ] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    output_format: TableOrJson = "table",
) -> None:
    """Show two trials of a study, or two studies, side by side: what differs, by how much, and which front is better.

    \b
    Example:
      tradeoff compare 3 7 --study my-study
      tradeoff compare yelp-a100 yelp-t4
    """
    comparison = comparison_of(a, b, open_storage(storage, create=False), study=study)
    if output_format == "json":
        print(as_json(comparison))
    else:
        print_result(as_table(comparison))


def comparison_of(a: str, b: str, storage: RetryingStorage, *, study: str | None) -> Comparison:
    """Compare what `a` and `b` name: two numbers are trials of `study`, by default of the latest; two names are studies.

    Raises:
        TradeoffError: One of them does not exist, or a number was given with a name.
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
    """Return the comparison as one object: `a`, `b`, `rows` under full names, `notes`."""
    rows = [
        {"name": row.name, "a": row.a, "b": row.b, "difference": row.difference, "better": row.better}
        for row in comparison.rows
    ]
    plain = {"a": comparison.a, "b": comparison.b, "rows": rows, "notes": list(comparison.notes)}
    return json.dumps(plain, indent=2, default=str)


def as_table(comparison: Comparison) -> FittedTable:
    """Return the comparison for a person, with the better value of each line in bold."""
    better = {(position, 1 + "ab".index(row.better)) for position, row in enumerate(comparison.rows) if row.better}
    head = ["", comparison.a, comparison.b, "B minus A"]
    return FittedTable(
        head=head, rows=[row.texts() for row in comparison.rows], left=[""], notes=comparison.notes, bold=frozenset(better)
    )
