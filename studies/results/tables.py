"""The front as a table for a person, and as JSON or CSV for a program.

Programs get the stored numbers under their full names; a person gets rounded ones, short names, and a mark on values that
another trial or a probe measured.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS, spread_name
from tradeoff.searchspace import KNOBS, MICRO_BATCH
from tradeoff.studies.results.front import extremes, knee

if TYPE_CHECKING:
    from tradeoff.studies.results.fitted_table import FittedTable

# Parameter names in a table, where room is scarce.
SHORT_NAMES = {name: knob.label for name, knob in KNOBS.items()}
ELSEWHERE = "~"


def marks(front: Sequence[TrialRecord], objectives: Sequence[str]) -> dict[int, list[str]]:
    """Return the marks of a front's trials by number: "knee", "highest accuracy", "lowest peak memory"."""
    found: dict[int, list[str]] = {record.number: [] for record in front}
    if front:
        found[knee(front, objectives).number].append("knee")
        for name, record in extremes(front, objectives).items():
            found[record.number].append(GOALS[name].extreme)
    return found


def front_as_json(front: Sequence[TrialRecord], objectives: Sequence[str], *, only: TrialRecord | None = None) -> str:
    """Return a list of objects: `trial`, `params`, each objective under its name, `sources` by objective, and `marks`.

    Averages over seeds also have `num_seeds` and the standard deviation as `<objective>_std`. With `only`, the list holds that
    one trial.
    """
    found = marks(front, objectives)
    rows: list[dict[str, Any]] = [
        {"trial": record.number, "params": dict(record.params)}
        | {name: record.values[name] for name in objectives}
        | {"sources": dict(record.sources), "marks": found.get(record.number, [])}
        | _over_seeds(record, objectives)
        for record in _shown(front, only)
    ]
    return json.dumps(rows, indent=2)


def front_as_csv(front: Sequence[TrialRecord], objectives: Sequence[str], *, only: TrialRecord | None = None) -> str:
    """Return a line of names and a line for each trial; each value's source follows as `<objective>_source`.

    Where any value is an average over seeds, `num_seeds` and the standard deviation as `<objective>_std` follow.
    """
    shown = _shown(front, only)
    params = parameter_names(shown)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    over_seeds = [_over_seeds(record, objectives) for record in shown]
    seeds = list(dict.fromkeys(name for row in over_seeds for name in row))
    writer.writerow(["trial", *params, *objectives, *(f"{name}_source" for name in objectives), *seeds])
    for record, means in zip(shown, over_seeds, strict=True):
        writer.writerow(
            [
                record.number,
                *(record.params.get(name, "") for name in params),
                *(record.values[name] for name in objectives),
                *(record.sources.get(name, "") for name in objectives),
                *(means.get(name, "") for name in seeds),
            ]
        )
    return text.getvalue()


def front_table(
    front: Sequence[TrialRecord],
    objectives: Sequence[str],
    *,
    only: TrialRecord | None = None,
    most: int | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> "FittedTable":
    """Return a table of the front, or of the one trial `only`, or of its first `most` trials, with a title and a caption."""
    from tradeoff.studies.results.fitted_table import FittedTable

    shown = _shown(front, only)[:most]
    found = marks(front, objectives)
    notes = [caption] if caption else []
    if any(is_elsewhere(record, name) for record in shown for name in objectives):
        notes.append(f"{ELSEWHERE} measured by another trial or a probe; --format json says which")
    if any(spread_name(name) in record.attributes for record in shown for name in objectives):
        notes.append("± standard deviation over seeds")
    rows = [
        [
            str(record.number),
            # One column for the whole configuration: a column for each parameter would not fit a terminal.
            short_configuration(record.params),
            *(shown_value(record, name) for name in objectives),
            ", ".join(found.get(record.number, [])),
        ]
        for record in shown
    ]
    head = ["trial", "batch x accumulation", *(GOALS[name].short_heading for name in objectives), ""]
    return FittedTable(head=head, rows=rows, left=("batch x accumulation",), title=title or "", notes=notes)


def shown_value(record: TrialRecord, objective: str) -> str:
    """Return a value for a person, with its standard deviation over seeds and the mark of a value from elsewhere."""
    spread = record.attributes.get(spread_name(objective))
    error = "" if spread is None else f" ± {GOALS[objective].show(spread)}"
    return GOALS[objective].show(record.values[objective]) + error + ELSEWHERE * is_elsewhere(record, objective)


def short_configuration(params: Mapping[str, Any]) -> str:
    """Return a configuration in a few words: "32 x 2, checkpointing, bf16" for batch 32 with 2 accumulation steps."""
    if MICRO_BATCH not in params:
        return "no configuration yet"  # its worker died before it had chosen one
    words = [f"{params[MICRO_BATCH]} x {params.get('gradient_accumulation_steps', 1)}"]
    for name, value in params.items():
        if name in (MICRO_BATCH, "gradient_accumulation_steps") or value is None or value is False:
            continue
        if (knob := KNOBS.get(name)) is None:
            words.append(f"{name} {show_parameter(value)}")  # a knob of another version
            continue
        if value == knob.usual:
            continue
        shown = knob.label if value is True else str(value) if knob.names_itself else f"{knob.label} {show_parameter(value)}"
        words.append(shown)
    return ", ".join(words)


def _over_seeds(record: TrialRecord, objectives: Sequence[str]) -> dict[str, Any]:
    """Return the number of seeds that a record's learned values average, and the standard deviations; empty for one seed."""
    names = [NUM_SEEDS, *(spread_name(name) for name in objectives)]
    return {name: record.attributes[name] for name in names if name in record.attributes}


def _shown(front: Sequence[TrialRecord], only: TrialRecord | None) -> Sequence[TrialRecord]:
    return front if only is None else [only]


def parameter_names(records: Sequence[TrialRecord]) -> list[str]:
    """Return the parameters that any of the records holds, in the order in which they are shown."""
    held = {name for record in records for name in record.params}
    return [name for name in KNOBS if name in held]


def is_elsewhere(record: TrialRecord, objective: str) -> bool:
    """Return whether a value was not measured by the trial itself."""
    return record.sources.get(objective, "measured") != "measured"


def show_parameter(value: Any) -> str:
    """Return a parameter's value as a cell's text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        # Of a rate or a share, two digits tell enough.
        return f"{value:.2g}" if abs(value) < 1 else f"{value:g}"
    return "" if value is None else str(value)
