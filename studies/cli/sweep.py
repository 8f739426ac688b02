"""`tradeoff sweep`: runs every configuration of a grid, and prints a table, CSV or Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import KNOBS
from tradeoff.studies.cli.options import Overrides, StorageUrl
from tradeoff.studies.config.published_tables import SOURCE, TABLES
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.display import print_result, standard_console, terminal_display
from tradeoff.studies.execution.interrupts import run_to_end
from tradeoff.studies.execution.sweep import SweepRow, measured_columns, published_columns, sweep_config, sweep_rows
from tradeoff.studies.reporting.markdown import markdown_table, plain
from tradeoff.studies.results.ending import nothing_completed
from tradeoff.studies.results.fitted_table import FittedTable
from tradeoff.studies.results.results import OUTCOME_WORDS, StudyResults, read_results
from tradeoff.studies.results.tables import SHORT_NAMES, csv_text, parameter_cell
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.urls import DEFAULT_STORAGE
from tradeoff.studies.workers.run import run_study

_HEADS = {
    "train_time_s": ("time s", 2),
    "samples_per_s": ("samples/s", 2),
    "peak_memory_mib": ("memory MiB", 0),
    "memory_utilization_percent": ("utilisation %", 1),
    "train_loss": ("loss", 3),
    "accuracy": ("accuracy", 3),
}
_ALWAYS_SHOWN = ("per_device_train_batch_size", "gradient_accumulation_steps")


def sweep(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="STUDY.yaml", help="A study file, whose whole grid is run.", show_default=False)
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="lecture-batch-size, lecture-accumulation, lecture-yelp or lecture-checkpointing.",
            show_default=False,
        ),
    ] = None,
    job: Annotated[
        Literal["preset", "embedded"],
        typer.Option(help="The preset's own job, or the embedded one, which needs neither a GPU nor a network."),
    ] = "preset",
    output_format: Annotated[
        Literal["table", "csv", "markdown"], typer.Option("--format", help="Print a table, CSV or Markdown.")
    ] = "table",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study's name; default: sweep-PRESET.", show_default=False)
    ] = None,
    storage: StorageUrl = DEFAULT_STORAGE,
    overrides: Overrides = None,
) -> None:
    """Run every configuration of a grid, and print time, samples/s, memory, loss and accuracy of each.

    The presets are tables of a published lecture, whose values are printed beside the measured ones. A sweep is a study of its
    own: rerun the same command to resume it; front, export and compare work on it.

    \b
    Example:
      tradeoff sweep --preset lecture-batch-size
      tradeoff sweep --preset lecture-accumulation --job embedded --format markdown
      tradeoff sweep study.yaml --set space.precision=fp32 --format csv
    """
    embedded = job == "embedded"
    config = sweep_config(study_file, preset=preset, embedded=embedded, overrides=overrides or [], name=name)
    display = terminal_display(standard_console(stderr=True))
    status = run_to_end(lambda: run_study(config, storage=storage, display=display), display.message)
    try:
        results = read_results(load_study(config.name, open_storage(storage, create=False)))
    except TradeoffError:
        if status:
            raise typer.Exit(status) from None  # it ended before there was a study
        raise
    published = TABLES[preset].published if preset is not None and not embedded else {}
    rows = sweep_rows(results, config, published)
    title = config.name if preset is None else TABLES[preset].title(embedded=embedded)
    notes = _notes(rows, results, config.limits.peak_memory_mib)
    if output_format == "csv":
        print(as_csv(rows), end="")
    elif output_format == "markdown":
        print(f"**{plain(title)}**\n\n{as_markdown(rows)}\n\n" + "\n".join(f"- {plain(note)}" for note in notes))
    else:
        print_result(as_table(rows, title=title, notes=notes))
    if (why := nothing_completed(results)) is not None:
        display.message(f"tradeoff: {why}")
        status = status or 1
    raise typer.Exit(status)


def as_csv(rows: Sequence[SweepRow]) -> str:
    """Return a line of full names and a line for each row, with every digit; an empty field was not measured or published."""
    params = _parameters(rows, always=())
    published = published_columns(rows)
    measured = measured_columns(rows)
    head = [*params, "outcome", *measured, *(f"published_{name}" for name in published)]
    is_marked = any(row.published is not None and row.published.out_of_memory for row in rows)
    lines: list[list[Any]] = [[*head, *(["published_out_of_memory"] if is_marked else [])]]
    for row in rows:
        line = [*(row.params.get(name, "") for name in params), row.outcome or "not_tried"]
        line += [row.figures.get(name, "") for name in measured]
        line += [_or_empty(getattr(row.published, name, None)) for name in published]
        line += [row.published is not None and row.published.out_of_memory] if is_marked else []
        lines.append(line)
    return csv_text(lines)


def as_markdown(rows: Sequence[SweepRow]) -> str:
    """Return the table in Markdown."""
    return markdown_table(*_cells(rows), num_left=0, is_last_left=False)


def as_table(rows: Sequence[SweepRow], *, title: str, notes: Sequence[str]) -> FittedTable:
    """Return the table for a terminal."""
    head, lines = _cells(rows)
    return FittedTable(head=head, rows=lines, title=title, notes=notes)


def _cells(rows: Sequence[SweepRow]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the lines of a table: measured values, then published ones."""
    params, published = _parameters(rows, always=_ALWAYS_SHOWN), published_columns(rows)
    measured = measured_columns(rows)
    head = [SHORT_NAMES.get(name, name) for name in params]
    head += [_HEADS[name][0] if name in _HEADS else GOALS[name].label for name in measured]
    head += [f"published {_HEADS[name][0]}" for name in published]
    lines = []
    for row in rows:
        line = [parameter_cell(row.params, name) for name in params]
        if row.outcome == "completed":
            line += [_number(name, row.figures.get(name)) for name in measured]
        else:
            # In place of the first figure, as the tables of the lecture say it.
            words = "not tried" if row.outcome is None else OUTCOME_WORDS[row.outcome]  # type: ignore[index]
            line += [words, *([""] * (len(measured) - 1))]
        if row.published is not None and row.published.out_of_memory:
            line += ["out of memory", *([""] * (len(published) - 1))]
        else:
            line += [_number(name, getattr(row.published, name, None)) for name in published]
        lines.append(line)
    return head, lines


def _notes(rows: Sequence[SweepRow], results: StudyResults, memory_limit_mib: float | None) -> list[str]:
    device = results.device.get("name", "an unnamed device")
    memory_mib = memory_limit_mib or results.device.get("total_memory_mib")
    notes = [f"measured on {device}, study {results.name}, {results.summary()}"]
    if memory_mib:
        what = "the memory limit" if memory_limit_mib else "the device's memory"
        notes.append(f"utilisation is the peak's share of {what}, {memory_mib:,.0f} MiB")
    if published_columns(rows):
        notes.append(f"published: {SOURCE}")
    failures = [row for row in rows if row.outcome == "failed"]
    return notes + [f"failed: {row.reason}" for row in failures[:1]]


def _parameters(rows: Sequence[SweepRow], *, always: Sequence[str]) -> list[str]:
    """Return the parameters with a column: those in `always`, and others whose values differ; all if `always` is empty."""
    held = KNOBS.in_order({name: None for row in rows for name in row.params})
    if not always:
        return held
    return [name for name in held if name in always or len({row.params.get(name) for row in rows}) > 1]


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.{_HEADS[name][1]}f}" if name in _HEADS else GOALS[name].show(value)


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
