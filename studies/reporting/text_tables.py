"""Trials as tables of text: what the Markdown and HTML tables hold."""

from collections.abc import Sequence
from typing import NamedTuple

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.evidence import JudgedFront
from tradeoff.studies.results.results import OUTCOME_WORDS
from tradeoff.studies.results.tables import (
    SHORT_NAMES,
    marks,
    parameter_cell,
    parameter_names,
    short_configuration,
    shown_value,
)

PREDICTED_MEMORY = "predicted_peak_memory_mib"


class TextTable(NamedTuple):
    """A table whose cells are text: the columns' names, and the cells of each row."""

    header: list[str]
    rows: list[list[str]]


def front_text_table(front: JudgedFront) -> TextTable:
    """Return the configurations of a front, one a row; what is special about a configuration comes last.

    The whole configuration is one column: with a column for each parameter the values would be off a phone's screen.
    """
    found = marks(front)
    header = ["trial", "batch x accumulation", *(GOALS[name].heading for name in front.objectives), "effective batch", ""]
    rows = [
        [
            record.shown_number,
            short_configuration(record.params),
            *(_value(record, name) for name in front.objectives),
            _number(record, "effective_batch_size"),
            ", ".join(found[record.number]),
        ]
        for record in front.records
    ]
    return TextTable(header, rows)


def trials_text_table(records: Sequence[TrialRecord], objectives: Sequence[str]) -> TextTable:
    """Return trials, one a row: parameters, values where there are any, the predicted memory, and the outcome."""
    names, cells = parameter_columns(records)
    predicted = [PREDICTED_MEMORY] if any(PREDICTED_MEMORY in record.attributes for record in records) else []
    header = ["trial", *names, "effective batch", *(GOALS[name].heading for name in objectives)]
    rows = [
        [
            record.shown_number,
            *cells[position],
            _number(record, "effective_batch_size"),
            *(_value(record, name) for name in objectives),
            *(_number(record, name) for name in predicted),
            OUTCOME_WORDS[record.outcome],
        ]
        for position, record in enumerate(records)
    ]
    return TextTable([*header, *("predicted memory (MiB)" for _ in predicted), "outcome"], rows)


def parameter_columns(records: Sequence[TrialRecord]) -> tuple[list[str], list[list[str]]]:
    """Return the short names of the parameters that any of the records holds, and their values for each record."""
    names = parameter_names(records)
    cells = [[parameter_cell(record.told_params, name) for name in names] for record in records]
    return [SHORT_NAMES.get(name, name) for name in names], cells


def _number(record: TrialRecord, name: str) -> str:
    value = numeric_value(record, name)
    return "" if value is None else f"{value:,.0f}"


def _value(record: TrialRecord, name: str) -> str:
    return shown_value(record, name) if name in record.values else ""
