"""A sweep as a table for a person, as CSV or Markdown, and the command that runs one."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.published_tables import SOURCE, TABLES
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.sweep import SweepRow, measured_columns, published_columns, sweep_config, sweep_rows
from tradeoff.studies.reporting.markdown import markdown_table
from tradeoff.studies.results.results import OUTCOME_WORDS, StudyResults, read_results
from tradeoff.studies.results.tables import SHORT_NAMES
from tradeoff.studies.storage.opening import load_study, open_storage

if TYPE_CHECKING:
    from rich.table import Table

_HEADS = {
    "train_time_s": ("time s", 2),
    "samples_per_s": ("samples/s", 2),
    "peak_memory_mib": ("memory MiB", 0),
    "memory_utilization_percent": ("utilisation %", 1),
    "train_loss": ("loss", 3),
    "accuracy": ("accuracy", 3),
}
_ALWAYS_SHOWN = ("per_device_train_batch_size", "gradient_accumulation_steps")


def run_sweep(
    study_file: Path | None,
    *,
    preset: str | None,
    embedded: bool,
    output_format: str,
    storage: str,
    name: str | None,
    overrides: Sequence[str],
) -> int:
    """What `tradeoff sweep` does: progress goes to the error stream, the table to the output.

    Args:
        study_file: A study file whose grid is run, or None.
        preset: Else the name of a published table.
        embedded: Run the preset's grid on the embedded job.
        output_format: "table", "csv" or "markdown".
        storage: Where the sweep's study is kept.
        name: The study's name.
        overrides: As `--set` gives them.

    Returns:
        The exit status: 0, 1 if trial after trial failed, 130 if the user ended it.

    Raises:
        TradeoffError: The sweep can't run as it is written.
    """
    import optuna
    from rich.console import Console

    from tradeoff.studies.execution.display import terminal_display
    from tradeoff.studies.execution.interrupts import EXIT_STATUS
    from tradeoff.studies.workers.run import StudyFailed, run_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = sweep_config(study_file, preset=preset, embedded=embedded, overrides=overrides, name=name)
    display, status = terminal_display(Console(stderr=True)), 0
    try:
        run_study(config, storage=storage, display=display)
    except StudyFailed as error:
        display.message(f"tradeoff: {error}")
        status = 1
    except KeyboardInterrupt:
        display.message("ended; the same command goes on")
        status = EXIT_STATUS
    try:
        results = read_results(load_study(config.name, open_storage(storage, create=False)))
    except TradeoffError:
        if status:
            return status  # ended before there was a study
        raise
    published = TABLES[preset].published if preset is not None and not embedded else {}
    rows = sweep_rows(results, config, published)
    title = config.name if preset is None else TABLES[preset].title(embedded=embedded)
    print_sweep(rows, results, output_format, title=title, budget_mib=config.limits.peak_memory_mib)
    return status


def print_sweep(
    rows: Sequence[SweepRow], results: StudyResults, output_format: str, *, title: str, budget_mib: float | None
) -> None:
    """Prints the rows to the output."""
    if output_format == "csv":
        print(as_csv(rows), end="")
        return
    notes = _notes(rows, results, budget_mib)
    if output_format == "markdown":
        print(f"**{title}**\n\n{as_markdown(rows)}\n\n" + "\n".join(f"- {note}" for note in notes))
        return
    from rich.console import Console

    console = Console(file=sys.stdout)
    (console if console.is_terminal else Console(file=sys.stdout, width=200)).print(as_table(rows, title=title, notes=notes))


def as_csv(rows: Sequence[SweepRow]) -> str:
    """A line of full names and a line for each row, with every digit; an empty field is not measured or not published."""
    params = _parameters(rows, always=())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    published = published_columns(rows)
    measured = measured_columns(rows)
    head = [*params, "outcome", *measured, *(f"published_{name}" for name in published)]
    is_marked = any(row.published is not None and row.published.out_of_memory for row in rows)
    writer.writerow([*head, *(["published_out_of_memory"] if is_marked else [])])
    for row in rows:
        line = [*(row.params.get(name, "") for name in params), row.outcome or "not_tried"]
        line += [row.figures.get(name, "") for name in measured]
        line += [_or_empty(getattr(row.published, name, None)) for name in published]
        line += [row.published is not None and row.published.out_of_memory] if is_marked else []
        writer.writerow(line)
    return text.getvalue()


def as_markdown(rows: Sequence[SweepRow]) -> str:
    """The table in Markdown."""
    return markdown_table(*_cells(rows), num_left=0, is_last_left=False)


def as_table(rows: Sequence[SweepRow], *, title: str, notes: Sequence[str]) -> "Table":
    """The table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    head, lines = _cells(rows)
    table = Table(
        title=Text(title), title_justify="left", caption=Text("\n".join(notes)), caption_justify="left"
    )  # fmt: skip
    for name in head:
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def _cells(rows: Sequence[SweepRow]) -> tuple[list[str], list[list[str]]]:
    """The heads and the lines of a table: what was measured, then what was published."""
    params, published = _parameters(rows, always=_ALWAYS_SHOWN), published_columns(rows)
    measured = measured_columns(rows)
    head = [SHORT_NAMES.get(name, name) for name in params]
    head += [_HEADS[name][0] if name in _HEADS else GOALS[name].label for name in measured]
    head += [f"published {_HEADS[name][0]}" for name in published]
    lines = []
    for row in rows:
        line = [_parameter(row.params.get(name)) for name in params]
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


def _notes(rows: Sequence[SweepRow], results: StudyResults, budget_mib: float | None) -> list[str]:
    device = results.device.get("name", "an unnamed device")
    memory_mib = budget_mib or results.device.get("total_memory_mib")
    notes = [f"measured on {device}, study {results.name}, {results.summary()}"]
    if memory_mib:
        what = "the memory budget" if budget_mib else "the device's memory"
        notes.append(f"utilisation is the peak's share of {what}, {memory_mib:,.0f} MiB")
    if published_columns(rows):
        notes.append(f"published: {SOURCE}")
    failures = [row for row in rows if row.outcome == "failed"]
    return notes + [f"failed: {row.reason}" for row in failures[:1]]


def _parameters(rows: Sequence[SweepRow], *, always: Sequence[str]) -> list[str]:
    """The parameters worth a column: some always, the others where they differ; with nothing to show always, all."""
    held = [name for name in TrialParameters.names() if any(name in row.params for row in rows)]
    if not always:
        return held
    return [name for name in held if name in always or len({row.params.get(name) for row in rows}) > 1]


def _parameter(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.{_HEADS[name][1]}f}" if name in _HEADS else GOALS[name].show(value)


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
