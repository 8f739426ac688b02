"""The front as a table for a person, and as JSON or CSV for a program.

Programs get the stored numbers under their full names; a person gets rounded ones, short names, and a mark on values that
another trial or a probe measured.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS, spread_name
from tradeoff.searchspace import KNOBS, MICRO_BATCH
from tradeoff.studies.results.evidence import JudgedFront, Standing
from tradeoff.studies.results.expectation import MEASURED, source_of
from tradeoff.studies.results.front import extremes, knee
from tradeoff.studies.visible import visible

if TYPE_CHECKING:
    from tradeoff.studies.results.fitted_table import FittedTable

# Parameter names in a table, where room is scarce.
SHORT_NAMES = {name: knob.label for name, knob in KNOBS.items()}
ELSEWHERE = "~"
# Of a path.
_PARTS_SHOWN = 2
# Some spreadsheets take the wide forms too.
_FORMULA_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SPREAD_OF_COSTS = "± standard deviation of a cost: over repeated measurements or by its model"
SPREAD_NOTE = "± standard deviation: of what is learned over seeds, of a cost over repeated measurements or by its model"


def marks(front: JudgedFront, among: Sequence[TrialRecord] | None = None) -> dict[int, list[str]]:
    """Return the marks of a front's rows by number: "knee", "highest accuracy", "no better than a constant answer".

    Args:
        front: The front.
        among: The rows to mark; None for all.
    """
    rows = front.records if among is None else among
    found: dict[int, list[str]] = {record.number: [] for record in (*rows, *front.records)}
    recommended = {record.number for record in front.recommended}
    if sound := [record for record in rows if record.number in recommended]:
        found[knee(sound, front.objectives).number].append("knee")
        for name, record in extremes(sound, front.objectives).items():
            found[record.number].append(GOALS[name].extreme)
    for number, standing in front.standings.items():
        found[number] += standing.words()
    return found


def front_as_json(front: JudgedFront, *, rows: Sequence[TrialRecord] | None = None, only: TrialRecord | None = None) -> str:
    """Return a list of objects: `trial`, `params`, each objective under its name, `sources` by objective, and `marks`.

    `baselines` holds the values of a constant answer, and what a row's place rests on follows (see `Standing`). A value whose
    spread is known has its standard deviation as `<objective>_std`, and averages over seeds have `num_seeds`. `rows` are the
    trials of the front to show, by default all of them; with `only`, the list holds that one trial.
    """
    found = marks(front, rows)
    objects: list[dict[str, Any]] = [
        {"trial": record.number if record.number >= 0 else None, "params": dict(record.params)}
        | {name: record.values[name] for name in front.objectives}
        | {MEASURED: record.attributes.get(MEASURED, {})}
        | {"sources": {name: source_of(record, name) for name in record.sources}, "marks": found.get(record.number, [])}
        | {"baselines": front.known_baselines}
        | front.standings.get(record.number, Standing()).as_dict()
        | _spreads(record, front.objectives)
        for record in _shown(front, rows, only)
    ]
    return json.dumps(objects, indent=2)


def front_as_csv(front: JudgedFront, *, rows: Sequence[TrialRecord] | None = None, only: TrialRecord | None = None) -> str:
    """Return a line of names and a line for each trial; each value's source follows as `<objective>_source`.

    What a row's place rests on follows, and where the spread of any value is known, `num_seeds` and the standard deviation as
    `<objective>_std`; where a value is expected by all trainings, what its own has reached as `measured_<objective>`. The
    arguments are those of `front_as_json`.
    """
    shown = _shown(front, rows, only)
    params = parameter_names(shown)
    spreads = [_spreads(record, front.objectives) for record in shown]
    known = [name for name in _spread_names(front.objectives) if any(name in row for row in spreads)]
    sources = [f"{name}_source" for name in front.objectives]
    measured = measured_names(shown)
    lines: list[list[Any]] = [
        [
            "trial",
            *params,
            *front.objectives,
            *sources,
            *Standing().as_dict(),
            *known,
            *(f"{MEASURED}_{name}" for name in measured),
        ]
    ]
    for record, spread in zip(shown, spreads, strict=True):
        standing = front.standings.get(record.number, Standing()).as_dict()
        lines.append(
            [
                record.number if record.number >= 0 else "",
                *(record.params.get(name, "") for name in params),
                *(record.values[name] for name in front.objectives),
                *(source_of(record, name, default="") for name in front.objectives),
                *(" ".join(map(str, value)) if isinstance(value, list) else value for value in standing.values()),
                *(spread.get(name, "") for name in known),
                *(record.attributes.get(MEASURED, {}).get(name, "") for name in measured),
            ]
        )
    return csv_text(lines)


def csv_text(lines: Iterable[Sequence[Any]]) -> str:
    """Return lines of cells as CSV, with a quote before a text that a spreadsheet would take for a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_csv_cell(cell) for cell in line] for line in lines)
    return text.getvalue()


def _csv_cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return "'" * cell.lstrip().startswith(_FORMULA_SIGNS) + visible(cell)


def front_table(
    front: JudgedFront,
    *,
    rows: Sequence[TrialRecord] | None = None,
    only: TrialRecord | None = None,
    most: int | None = None,
    title: str = "",
    caption: str = "",
) -> "FittedTable":
    """Return a table of a front, with a warning if it has nothing better than a constant answer.

    Args:
        front: The front.
        rows: Its trials to show; None for all.
        only: The one trial to show, on the front or not.
        most: Show no more than the first ones.
        title: A title.
        caption: A line below.
    """
    from tradeoff.studies.results.fitted_table import FittedTable

    shown = _shown(front, rows, only)[:most]
    found = marks(front, rows)
    measured = measured_names(shown)
    columns: list[tuple[str, str, Callable[[TrialRecord, str], str]]] = []
    for name in front.objectives:
        columns.append((GOALS[name].short_heading, name, shown_value))
        if name in measured:
            columns.append((MEASURED, name, measured_value))
    head = ["trial", "batch x accumulation", *(heading for heading, _, _ in columns), ""]
    cells = [
        [
            record.shown_number,
            # One column for the whole configuration: a column for each parameter would not fit a terminal.
            short_configuration(record.params),
            *(show(record, name) for _, name, show in columns),
            ", ".join(found.get(record.number, [])),
        ]
        for record in shown
    ]
    notes = [*([caption] if caption else []), *front_notes(front, shown)]
    left = ("batch x accumulation",)
    return FittedTable(head=head, rows=cells, left=left, title=title, alert=capitalized(front.warning or ""), notes=notes)


def front_notes(front: JudgedFront, shown: Sequence[TrialRecord] | None = None) -> list[str]:
    """Return the lines below a front's table: the constant answer, and the meaning of what stands beside its values."""
    shown = front.records if shown is None else shown
    notes = [front.baseline] if front.baseline is not None else []
    if any(is_elsewhere(record, name) for record in shown for name in front.objectives):
        notes.append(f"{ELSEWHERE} measured by another trial or a probe")
    if names := measured_names(shown):
        labels = " and ".join(GOALS[name].label for name in names)
        notes.append(f"{labels}: expected by all trainings together, ± a standard deviation; {MEASURED}: by its own training")
        spread = any(spread_name(name) in record.attributes for record in shown for name in record.values if name not in names)
        return notes + ([SPREAD_OF_COSTS] if spread else [])
    return notes + ([SPREAD_NOTE] if has_spreads(shown) else [])


def measured_names(records: Sequence[TrialRecord]) -> list[str]:
    """Return the learned objectives of which something else is expected than was measured."""
    return list(dict.fromkeys(name for record in records for name in record.attributes.get(MEASURED, {})))


def measured_value(record: TrialRecord, objective: str) -> str:
    """Return what the training of a configuration has reached, for a person; empty where nothing else is expected of it."""
    value = record.attributes.get(MEASURED, {}).get(objective)
    return "" if value is None else GOALS[objective].show(value)


def shown_value(record: TrialRecord, objective: str) -> str:
    """Return a value for a person, with its standard deviation and the mark of a value from elsewhere."""
    return with_spread(record, objective) + ELSEWHERE * is_elsewhere(record, objective)


def with_spread(record: TrialRecord, objective: str, *, unit: bool = False) -> str:
    """Return a value for a person, with its standard deviation where it is known: "12.34 ± 0.21 s"."""
    goal = GOALS[objective]
    text = goal.show_with_spread(record.values[objective], record.attributes.get(spread_name(objective)))
    return f"{text} {goal.unit}".rstrip() if unit else text


def has_spreads(records: Sequence[TrialRecord]) -> bool:
    """Return whether the standard deviation of any of the values is known."""
    return any(spread_name(name) in record.attributes for record in records for name in record.values)


def capitalized(text: str) -> str:
    """Return a sentence's text with a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def short_configuration(params: Mapping[str, Any]) -> str:
    """Return a configuration in a few words: "32 x 2, checkpointing, bf16" for batch 32 with 2 accumulation steps."""
    if MICRO_BATCH not in params:
        return "no configuration yet"  # its worker died before it had chosen one
    batch = f"{params[MICRO_BATCH]} x {params.get('gradient_accumulation_steps', 1)}"
    return ", ".join([batch, *_settings(params, MICRO_BATCH, "gradient_accumulation_steps")])


def short_class(learning_class: Mapping[str, Any]) -> str:
    """Return a learning class in a few words: "effective batch 16, adafactor"."""
    size = "effective_batch_size"
    return ", ".join([f"effective batch {learning_class[size]}", *_settings(learning_class, size)])


def _settings(values: Mapping[str, Any], *besides: str) -> list[str]:
    """Return the settings that are not the usual ones in words, without those that are shown in another way."""
    words = []
    for name, value in values.items():
        if name in besides or value is None or value is False:
            continue
        knob = KNOBS[name]
        if value != knob.usual:
            itself = show_parameter(value) if knob.names_itself else f"{knob.label} {show_parameter(value)}"
            words.append(knob.label if value is True else itself)
    return words


def _spreads(record: TrialRecord, objectives: Sequence[str]) -> dict[str, Any]:
    """Return the standard deviations of a record's values that are known, and the number of seeds of averages."""
    return {name: record.attributes[name] for name in _spread_names(objectives) if name in record.attributes}


def _spread_names(objectives: Sequence[str]) -> list[str]:
    return [NUM_SEEDS, *(spread_name(name) for name in objectives)]


def _shown(front: JudgedFront, rows: Sequence[TrialRecord] | None, only: TrialRecord | None) -> Sequence[TrialRecord]:
    return [only] if only is not None else front.records if rows is None else rows


def parameter_names(records: Sequence[TrialRecord]) -> list[str]:
    """Return the parameters that any of the records holds, in the order in which they are shown."""
    return KNOBS.in_order({name: None for record in records for name in record.params})


def is_elsewhere(record: TrialRecord, objective: str) -> bool:
    """Return whether a value was not measured by the trial itself."""
    return record.sources.get(objective, "measured") != "measured"


def parameter_cell(params: Mapping[str, Any], name: str) -> str:
    """Return a parameter's value as a cell's text, empty where it is not set."""
    return show_parameter(params[name]) if name in params else ""


def show_parameter(value: Any) -> str:
    """Return a parameter's value in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        # Of a rate or a share, two digits tell enough; of one close to 1, such as a decay, two of what is left.
        digits = 2 + max(0, math.floor(-math.log10(1 - abs(value)))) if 0.9 < abs(value) < 1 else 2
        return f"{value:.{digits}g}" if abs(value) < 1 else f"{value:g}"
    return "none" if value is None else _short_path(str(value))


def _short_path(text: str) -> str:
    """Return the path of a local directory as its last two parts, which tell models apart; any other text as it is."""
    if not text.startswith(("/", "./", "../", "~")):
        return text
    return min(text, ".../" + "/".join(PurePath(text).parts[-_PARTS_SHOWN:]), key=len)
