"""`tradeoff front`: shows the Pareto front of a study."""

import sys
from typing import Annotated, Literal

import typer

from tradeoff.studies.cli import options
from tradeoff.studies.cli.options import results_of, selection_of
from tradeoff.studies.execution.display import print_result
from tradeoff.studies.execution.output import say
from tradeoff.studies.results.ending import predicted_lines
from tradeoff.studies.results.selection import choose, near_the_best, qualifying
from tradeoff.studies.results.shared_machine import busy_lines
from tradeoff.studies.results.tables import capitalized, front_as_csv, front_as_json, front_table
from tradeoff.studies.storage.urls import DEFAULT_STORAGE


def front(
    name: options.StudyName = None,
    storage: options.StorageUrl = DEFAULT_STORAGE,
    output_format: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="Print a table, JSON or CSV.")
    ] = "table",
    limit: options.Limits = None,
    within: options.Withins = None,
    trial: options.Trial = None,
    knee: options.Knee = False,
    maximize: options.Maximize = None,
    minimize: options.Minimize = None,
    weight: options.Weights = None,
) -> None:
    """Show the Pareto front of a study, best accuracy first; with an option that chooses, only that configuration.

    \b
    Example:
      tradeoff front
      tradeoff front my-study --limit "peak_memory_mib<=7000" --format json
      tradeoff front --within accuracy:0.005 --minimize train_time_s
    """
    selection = selection_of(
        limit=limit, within=within, trial=trial, knee=knee, maximize=maximize, minimize=minimize, weight=weight
    )
    results = results_of(name, storage)
    selection = selection.of(results.objectives)
    only = choose(results, selection).record if selection.ways() else None
    judged = qualifying(results, selection)
    rows = near_the_best(judged.records, selection)
    if output_format == "json":
        print(front_as_json(judged, rows=rows, only=only))
    elif output_format == "csv":
        print(front_as_csv(judged, rows=rows, only=only), end="")
    elif not rows:
        say(f"The front of {results.name} is empty: no trial has completed ({results.summary()}).")
    else:
        device = f" on {results.device['name']}" if "name" in results.device else ""
        title = f"Pareto front of {results.name}{device}"
        print_result(front_table(judged, rows=rows, only=only, title=title, caption=results.summary()))
    # What a program reads has none of it.
    predicted = [] if selection.ways() else predicted_lines(results)
    for line in (*map(capitalized, busy_lines(results.records)), *predicted, *map(str, results.found)):
        say(line, file=sys.stdout if output_format == "table" else sys.stderr)
    if output_format != "table" and judged.warning is not None:
        say(capitalized(judged.warning), file=sys.stderr)
