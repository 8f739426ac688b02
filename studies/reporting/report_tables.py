"""The tables of a report's page that speak of the whole study: what mattered, what was tried, and how far predictions were off.

What mattered is read off pairs of configurations that differ in one step alone, which anyone can check by hand.
"""

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import DERIVED_FROM, TrialRecord
from tradeoff.searchspace import ACCUMULATION, MICRO_BATCH
from tradeoff.studies.results import savings
from tradeoff.studies.results.knowledge import stored_knowledge
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.tables import SHORT_NAMES, parameter_names, show_parameter

SAME_BY_DESIGN = "the same by design"
# What a cell of the map may hold, the first that holds wins; and how a person reads it.
STATUSES = {
    "trained": "trained",
    "derived": "follows from another training",
    "oom": "ran out of memory",
    "probed": "only probed",
    "ruled-out": "known not to fit",
    "untried": "not tried",
}
_MAPPED = ("precision", "gradient_checkpointing")
_SHORT = 1.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What changes with one step of one parameter.

    Attributes:
        parameter: The parameter's label.
        step: The step, as "32 → 64".
        num_pairs: Pairs of configurations that differ in it alone.
        changes: For each objective, the median change in words, and 1 where it is better, -1 where it is worse; 0 for
            no change, and for one within the error.
    """

    parameter: str
    step: str
    num_pairs: int
    changes: list[tuple[str, int]]


def steps(
    candidates: Sequence[TrialRecord], objectives: Sequence[str], error: Callable[[TrialRecord, str], float]
) -> list[Step]:
    """Return the steps between neighbouring values for which there is a pair of configurations.

    Args:
        candidates: The configurations.
        objectives: The objectives' names.
        error: Returns the error of a configuration's value of an objective: a change within it is neither better nor worse.
    """
    found = []
    for name in parameter_names(candidates):
        groups: dict[Any, dict[Any, TrialRecord]] = defaultdict(dict)
        for record in candidates:
            if (value := record.params.get(name)) is not None:
                groups[frozenset((k, v) for k, v in record.params.items() if k != name)][value] = record
        values = {value for group in groups.values() for value in group}
        are_numbers = all(isinstance(value, int | float) for value in values)
        ordered = sorted(values) if are_numbers else sorted(values, key=str)
        for before, after in itertools.pairwise(ordered):
            pairs = [(group[before], group[after]) for group in groups.values() if before in group and after in group]
            if pairs:
                text = f"{show_parameter(before)} → {show_parameter(after)}"
                changes = [_change(pairs, objective, error) for objective in objectives]
                label = SHORT_NAMES.get(name, name)
                found.append(Step(parameter=label, step=text, num_pairs=len(pairs), changes=changes))
    return found


def _change(
    pairs: Sequence[tuple[TrialRecord, TrialRecord]], name: str, error: Callable[[TrialRecord, str], float]
) -> tuple[str, int]:
    goal = GOALS[name]
    if goal.learned and all(_training(a) == _training(b) for a, b in pairs):
        return SAME_BY_DESIGN, 0
    allowed = statistics.median(math.hypot(error(a, name), error(b, name)) for a, b in pairs)
    is_clear = abs(statistics.median(b.values[name] - a.values[name] for a, b in pairs)) > allowed
    if goal.learned or any(a.values[name] <= 0 or b.values[name] <= 0 for a, b in pairs):
        change = statistics.median(b.values[name] - a.values[name] for a, b in pairs)
        shown = goal.show(abs(change))
        text = f"{'+' if change > 0 else '-'}{shown}" if shown.strip("0.") else "no change"
        return text, 0 if text == "no change" or not is_clear else 1 if change * goal.sign > 0 else -1
    ratio = statistics.median(b.values[name] / a.values[name] for a, b in pairs)
    if 1 / _SHORT < ratio < _SHORT:
        return "no change", 0
    text = f"{ratio:.1f} x" if ratio >= 2 else f"{'+' if ratio > 1 else '-'}{abs(ratio - 1):.0%}"
    return text, 0 if not is_clear else 1 if (ratio - 1) * goal.sign > 0 else -1


def _training(record: TrialRecord) -> Any:
    return record.attributes.get(DERIVED_FROM, record.number)


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """What was tried of one precision and checkpointing: rows of accumulation steps over columns of batch sizes.

    Attributes:
        title: What its configurations share.
        columns: The batch sizes.
        rows: The accumulation steps, and for each batch size a status of `STATUSES` with its words.
    """

    title: str
    columns: list[Any]
    rows: list[tuple[Any, list[tuple[str, str]]]]


def maps(results: StudyResults) -> list[Map]:
    """Return the maps of what was tried; none for a space with a single batch size and number of accumulation steps."""
    cells: dict[Any, Counter[str]] = defaultdict(Counter)
    shared = [name for name in _MAPPED if any(name in record.params for record in results.records)]

    def count(params: Any, status: str) -> None:
        if MICRO_BATCH in params:
            place = (params[MICRO_BATCH], params.get(ACCUMULATION, 1))
            cells[tuple(params.get(name) for name in shared), *place][status] += 1

    statuses = {"out_of_memory": "oom", "completed": "trained", "diverged": "trained", "trained": "trained", "probed": "probed"}
    for record in results.records:
        if (status := statuses.get(record.outcome or "")) is not None:
            count(record.params, "derived" if status == "trained" and record.is_derived else status)
    knowledge = stored_knowledge(results.config, results.device, results.records, results.memory_estimates)
    if knowledge is not None:
        settled = savings.settled(results.records, knowledge)
        excluded = settled["ruled out"] | settled["out of memory"]
        for parameters in savings.configurations(knowledge):
            count(parameters.as_dict(), "ruled-out" if parameters in excluded else "untried")
    columns = sorted({batch for _, batch, _ in cells})
    rows = sorted({accumulation for *_, accumulation in cells})
    if len(columns) * len(rows) < 2:
        return []
    return [
        Map(
            title=", ".join(_setting(name, value) for name, value in zip(shared, each, strict=True) if value is not None),
            columns=columns,
            rows=[(row, [_cell(cells.get((each, column, row), Counter())) for column in columns]) for row in rows],
        )
        for each in sorted({each for each, *_ in cells}, key=str)
    ]


def _setting(name: str, value: Any) -> str:
    return f"{SHORT_NAMES[name]} {show_parameter(value)}" if isinstance(value, bool) else show_parameter(value)


def _cell(counted: Counter[str]) -> tuple[str, str]:
    status = next((each for each in STATUSES if counted[each]), "untried")
    return status, STATUSES[status]


def trust(results: StudyResults) -> tuple[list[str], list[tuple[str, int, str, str]]]:
    """Return the last lines of `tradeoff run`, and for each kind of prediction its number, median and worst error."""
    knowledge = stored_knowledge(results.config, results.device, results.records, results.memory_estimates)
    if knowledge is None:
        return [], []
    errors = savings.predicted_against_measured(results.records, knowledge)
    sizes = {name: [abs(error) for error in found] for name, found in errors.items() if found}
    rows = [(name, len(each), f"{statistics.median(each):.1%}", f"{max(each):.1%}") for name, each in sizes.items()]
    return savings.lines(results), rows
