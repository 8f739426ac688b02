"""Two trials of a study, or two studies, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import KNOBS
from tradeoff.searchspace.domains import is_number
from tradeoff.studies.results.criteria import numeric_value
from tradeoff.studies.results.front import dominates, extremes, pareto_front
from tradeoff.studies.results.hypervolume import hypervolumes
from tradeoff.studies.results.results import OUTCOME_WORDS, StudyResults
from tradeoff.studies.results.tables import SHORT_NAMES, short_configuration

# Measurements worth comparing besides the study's objectives: label, and decimals worth showing.
_MEASUREMENTS = {
    "samples_per_s": ("samples/s", 2),
    "eval_loss": ("evaluation loss", 4),
    "peak_reserved_mib": ("reserved by torch (MiB)", 0),
    "peak_process_mib": ("held by the process (MiB)", 0),
    "trial_time_s": ("whole trial (s)", 1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of a comparison.

    Attributes:
        name: The full name of the parameter, the measurement or the setting.
        label: Its name for a person.
        a: The value on the left.
        b: The value on the right.
        digits: Decimals worth showing of a number; None for a setting.
        better: The better of the two, "a" or "b"; None where neither is or nobody can say.
    """

    name: str
    label: str
    a: Any
    b: Any
    digits: int | None = None
    better: str | None = None

    @property
    def difference(self) -> float | None:
        """The difference `b - a` of two numbers."""
        return self.b - self.a if self.digits is not None and is_number(self.a) and is_number(self.b) else None

    @property
    def ratio(self) -> float | None:
        """The ratio `b / a` of two numbers above 0."""
        return self.b / self.a if self.difference is not None and self.a > 0 and self.b > 0 else None

    def texts(self) -> list[str]:
        """Return the line as it is shown: label, both values, and their difference."""
        change = f"{self.difference:+,.{self.digits}f}" if self.difference else ""
        if change and self.ratio is not None:
            change += f" (x {self.ratio:.2f})"
        return [self.label, _show(self.a, self.digits), _show(self.b, self.digits), change]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two trials or two studies, line by line, and sentences about them.

    Attributes:
        a: The name of the left one.
        b: The name of the right one.
        rows: The lines.
        notes: Sentences below them.
    """

    a: str
    b: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def compare_trials(results: StudyResults, a: int, b: int) -> Comparison:
    """Compare two trials of a study: the parameters that differ, and the measurements of both.

    Raises:
        TradeoffError: The study has no such trial.
    """
    left, right = results.trial(a), results.trial(b)
    rows = [
        Row(name=name, label=SHORT_NAMES.get(name, name), a=left.params.get(name), b=right.params.get(name))
        for name in KNOBS.in_order({**left.params, **right.params})
        if left.params.get(name) != right.params.get(name)
    ]
    batches = [numeric_value(record, "effective_batch_size") for record in (left, right)]
    rows += [Row(name="effective_batch_size", label="effective batch", a=batches[0], b=batches[1], digits=0)]
    for name in results.objectives:
        goal = GOALS[name]
        x, y = left.values.get(name), right.values.get(name)
        rows.append(Row(name=name, label=goal.heading, a=x, b=y, digits=goal.digits, better=_better(name, x, y)))
    for name, (label, digits) in _MEASUREMENTS.items():
        x, y = numeric_value(left, name), numeric_value(right, name)
        if x is not None or y is not None:
            rows.append(Row(name=name, label=label, a=x, b=y, digits=digits))
    return Comparison(a=f"trial {a}", b=f"trial {b}", rows=tuple(rows), notes=tuple(_trial_notes(results, left, right)))


def compare_studies(a: StudyResults, b: StudyResults) -> Comparison:
    """Compare two studies: settings that differ, trials by outcome, the best of each objective, the fronts' hypervolumes."""
    shared = tuple(name for name in a.objectives if name in b.objectives)
    fronts = [pareto_front(results.records, shared) if shared else [] for results in (a, b)]
    rows = [Row(name=path, label=path, a=x, b=y) for path, x, y in _different(_settings(a), _settings(b))]
    rows += [*_outcome_rows(a, b), *_front_rows(fronts, shared)]
    notes = []
    if len(shared) >= 2 and any(fronts):
        volumes = hypervolumes(fronts, shared)
        better = None if volumes[0] == volumes[1] else "a" if volumes[0] > volumes[1] else "b"
        label = "hypervolume of the front"
        rows.append(Row(name="hypervolume", label=label, a=volumes[0], b=volumes[1], digits=3, better=better))
        notes.append(
            f"the hypervolume is over {', '.join(shared)}, each scaled to the range of both fronts, as a share of the box"
            " that ends a tenth beyond the worst"
        )
        notes += [
            f"{_num_dominated(mine, theirs, shared)} of {len(theirs)} on the front of {other} are dominated by one of {name}"
            for mine, theirs, name, other in ((fronts[0], fronts[1], a.name, b.name), (fronts[1], fronts[0], b.name, a.name))
        ]
    if a.device.get("name") != b.device.get("name"):
        notes.append("times and memory of different devices can't be compared")
    return Comparison(a=a.name, b=b.name, rows=tuple(rows), notes=tuple(notes))


def _outcome_rows(a: StudyResults, b: StudyResults) -> list[Row]:
    ours, theirs = a.counts(), b.counts()
    rows = [
        Row(name=words, label=f"trials {words}", a=ours.get(words, 0), b=theirs.get(words, 0), digits=0)
        for words in OUTCOME_WORDS.values()
        if words in ours or words in theirs
    ]
    spent = [sum(record.attributes.get("trial_time_s") or 0.0 for record in results.records) for results in (a, b)]
    return [*rows, Row(name="spent_s", label="time spent on trials (s)", a=spent[0], b=spent[1], digits=1)]


def _front_rows(fronts: Sequence[Sequence[TrialRecord]], objectives: Sequence[str]) -> list[Row]:
    sizes = [len(front) for front in fronts]
    rows = [Row(name="front_size", label="configurations on the front", a=sizes[0], b=sizes[1], digits=0)]
    for name in objectives:
        goal = GOALS[name]
        x, y = (extremes(front, [name])[name].values[name] if front else None for front in fronts)
        label = f"best {goal.heading}"
        rows.append(Row(name=f"best_{name}", label=label, a=x, b=y, digits=goal.digits, better=_better(name, x, y)))
    return rows


def _trial_notes(results: StudyResults, a: TrialRecord, b: TrialRecord) -> list[str]:
    notes = [f"trial {record.number} is {short_configuration(record.params)}" for record in (a, b)]
    for record in (a, b):
        if record.outcome != "completed":
            reason = f": {record.reason}" if record.reason else ""
            notes.append(f"trial {record.number} is {OUTCOME_WORDS[record.outcome]}{reason}")
    if all(record.outcome == "completed" for record in (a, b)):
        for better, worse in ((a, b), (b, a)):
            if dominates(better, worse, results.objectives):
                notes.append(f"trial {better.number} is at least as good as trial {worse.number} in every objective")
        elsewhere = [
            f"{name} of trial {record.number}: {record.sources[name]}"
            for record in (a, b)
            for name in results.objectives
            if record.sources.get(name, "measured") != "measured"
        ]
        notes += [f"not measured by the trial itself: {'; '.join(elsewhere)}"] if elsewhere else []
    return notes


def _show(value: Any, digits: int | None) -> str:
    if is_number(value):
        return f"{value:g}" if digits is None else f"{value:,.{digits}f}"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(_show(item, None) for item in value)
    return "" if value is None else str(value)


def _settings(results: StudyResults) -> dict[str, Any]:
    settings = {name: value for name, value in results.config.items() if name != "name"}
    return {**settings, "device": results.device.get("name"), "tradeoff_version": results.tradeoff_version}


def _num_dominated(front: Sequence[TrialRecord], other: Sequence[TrialRecord], objectives: Sequence[str]) -> int:
    return sum(any(dominates(mine, theirs, objectives) for mine in front) for theirs in other)


def _different(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path of each key under which two settings differ, and both values."""
    for key in dict.fromkeys([*a, *b]):
        ours, theirs = a.get(key), b.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _different(ours, theirs, f"{path}{key}.")
        elif ours != theirs:
            yield f"{path}{key}", ours, theirs


def _better(name: str, a: float | None, b: float | None) -> str | None:
    """Return the better of two values of an objective: "a", "b", or None."""
    if a is None or b is None or a == b:
        return None
    return "a" if GOALS[name].better(a, b) else "b"
