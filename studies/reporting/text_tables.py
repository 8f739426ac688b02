"""Trials as rows of text under a header: what the Markdown and HTML tables hold."""

from collections.abc import Sequence
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.results import OUTCOME_WORDS
from tradeoff.studies.results.tables import SHORT_NAMES, is_elsewhere, marks, short_configuration, shown_value

TextTable = tuple[list[str], list[list[str]]]
PREDICTED_MEMORY = "predicted_peak_memory_mib"


def front_text_table(front: Sequence[TrialRecord], objectives: Sequence[str]) -> TextTable:
    """A header and a row for each configuration of a front; what is special about it comes last.

    The whole configuration is one column: with a column for each parameter the values would be off a phone's screen.
    """
    found = marks(front, objectives)
    header = ["trial", "batch x accumulation", *(GOALS[name].heading for name in objectives), "effective batch", ""]
    rows = [
        [
            str(record.number),
            short_configuration(record.params),
            *(_value(record, name) for name in objectives),
            _effective_batch(record),
            ", ".join(found[record.number]),
        ]
        for record in front
    ]
    return header, rows


def trials_text_table(records: Sequence[TrialRecord], objectives: Sequence[str]) -> TextTable:
    """A header and a row for each trial: its parameters, its values if it has any, what was predicted, and how it ended."""
    names = _parameter_names(records)
    is_predicted = any(PREDICTED_MEMORY in record.attributes for record in records)
    columns = [SHORT_NAMES.get(name, name) for name in names]
    header = ["trial", *columns, "effective batch", *(GOALS[name].heading for name in objectives), "outcome"]
    if is_predicted:
        header.insert(-1, "predicted memory (MiB)")
    rows = [
        [
            str(record.number),
            *(_parameter(record.params.get(name)) for name in names),
            _effective_batch(record),
            *(_value(record, name) for name in objectives),
            *([_predicted_memory(record)] if is_predicted else []),
            OUTCOME_WORDS[record.outcome],
        ]
        for record in records
    ]
    return header, rows


def _predicted_memory(record: TrialRecord) -> str:
    value = numeric_value(record, PREDICTED_MEMORY)
    return "" if value is None else f"{value:,.0f}"


def has_values_from_elsewhere(records: Sequence[TrialRecord]) -> bool:
    """Whether any value carries the mark of another trial or a probe."""
    return any(is_elsewhere(record, name) for record in records for name in record.values)


def _parameter_names(records: Sequence[TrialRecord]) -> list[str]:
    held = {name for record in records for name in record.params}
    return [name for name in TrialParameters.names() if name in held]


def _effective_batch(record: TrialRecord) -> str:
    value = numeric_value(record, "effective_batch_size")
    return "" if value is None else f"{value:g}"


def _parameter(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _value(record: TrialRecord, name: str) -> str:
    return shown_value(record, name) if name in record.values else ""
