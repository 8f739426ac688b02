"""What a report's page draws, as plain data by columns: Python chooses and words, JavaScript draws.

A column is far shorter than a list of objects, and a number has no more digits than a picture can show.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS, CostGoal, learned_names, learning_curve
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS, spread_name
from tradeoff.studies.results.evidence import JudgedFront
from tradeoff.studies.results.expectation import MEASURED as EXPECTED_OF
from tradeoff.studies.results.hypervolume import hypervolume_over_cost
from tradeoff.studies.results.results import OUTCOME_WORDS, StudyResults
from tradeoff.studies.results.tables import SHORT_NAMES, measured_names, parameter_names, short_configuration, show_parameter
from tradeoff.studies.visible import visible

# Ends that the table leaves out: nothing was trained, or another row shows the same configuration.
LEFT_OUT = ("probed", "skipped", "superseded", "trained")
# Where a value comes from.
MEASURED, DERIVED, PREDICTED = range(3)
# More values than this are a scale and not a choice.
_MAX_CHOICES = 12
_MAX_CURVES = 200
_MAX_STEPS = 400


def shown_records(results: StudyResults, front: JudgedFront) -> list[TrialRecord]:
    """Return the trials that the page shows: each configuration as the front judges it, and each trial that has no values."""
    judged = {record.number: record for record in front.candidates}
    return [
        judged.get(record.number, record)
        for record in results.records
        if record.number in judged or (record.number >= 0 and record.outcome not in (*LEFT_OUT, "completed"))
    ]


# A study, and its front as it is judged.
Judged = tuple[StudyResults, JudgedFront]


def page_data(results: StudyResults, front: JudgedFront, other: Judged | None = None) -> dict[str, Any]:
    """Return the data of the page, for JSON; of another study its front alone, behind all trials of the first."""
    own = shown_records(results, front)
    row = {record.number: position for position, record in enumerate(own)}
    shown = [(results, front, record) for record in own]
    fronts = [(front, row)]
    if other is not None:
        theirs = other[1]
        shown += [(*other, record) for record in theirs.records]
        fronts.append((theirs, {record.number: len(own) + place for place, record in enumerate(theirs.records)}))
    records = [record for _, _, record in shown]
    settings: dict[str, int] = {}
    parameters = [_parameter(own, name) for name in parameter_names(own)]
    limit_mib = results.memory_limit_mib
    return {
        "name": visible(results.name),
        "limitMib": limit_mib,
        "baselineName": results.baseline_name,
        "knee": None if front.knee is None else row[front.knee.number],
        "objectives": [_objective(results, name) for name in front.objectives],
        "parameters": [{key: value for key, value in each.items() if key != "column"} for each in parameters],
        "measured": [list(front.objectives).index(name) for name in measured_names(records) if name in front.objectives],
        "outcomes": list(OUTCOME_WORDS.values()),
        "trials": {
            "n": [record.number if record.number >= 0 else None for record in records],
            "outcome": [list(OUTCOME_WORDS).index(record.outcome) for record in records],
            # As places in the list of settings: whole texts would be half of a large study's page.
            "configuration": [
                [
                    settings.setdefault(visible(each), len(settings))
                    for each in short_configuration(record.told_params).split(", ")
                ]
                for record in records
            ],
            "p": [each["column"] for each in parameters],
            "v": [[_short(record.values.get(name)) for record in records] for name in front.objectives],
            # What its own training has reached, where its value is what all trainings lead to expect.
            "measured": [
                [_short(record.attributes.get(EXPECTED_OF, {}).get(name)) for record in records]
                for name in front.objectives
                if name in measured_names(records)
            ],
            "front": [row[record.number] for record in front.records],
            "weak": [
                places[n]
                for judged, places in fronts
                for n, standing in judged.standings.items()
                if standing.not_better_than_constant
            ],
            "ahead": {
                places[record.number]: [places[better.number] for better in judged.ahead_of(record)]
                for judged, places in fronts
                for record in judged.records
            },
            "words": {
                position: visible(text) for position, record in enumerate(own) if (text := ", ".join(_words(record, front)))
            },
            "needMib": {
                position: _short(limit_mib + float(record.attributes.get("memory_shortfall_mib") or 0.0))
                for position, record in enumerate(own)
                if record.outcome == "out_of_memory" and limit_mib is not None
            },
            **_sources(shown, front.objectives),
        },
        "other": None if other is None else {"name": visible(other[0].name), "front": list(range(len(own), len(records)))},
        "settings": list(settings),
        "predicted": [
            {
                "configuration": visible(short_configuration(each["params"])),
                "v": [_short(each["values"].get(name)) for name in front.objectives],
                "error": [_short(each["errors"].get(name) or 0.0) for name in front.objectives],
            }
            for each in results.predicted
        ],
        "curves": _curves(results, front),
        "hypervolume": _thinned(hypervolume_over_cost(results.records, results.objectives)),
    }


def error_of(results: StudyResults, front: JudgedFront, record: TrialRecord, name: str) -> tuple[float, str]:
    """Return the error of a value and what it is the error of; 0 and nothing where none is known: none is invented."""
    goal, value = GOALS[name], record.values[name]
    std, is_model = record.attributes.get(spread_name(name)), record.sources.get(name) == "model"
    if std is not None:
        if name in record.attributes.get(EXPECTED_OF, {}):
            return float(std), "by all trainings together"
        if goal.learned:
            return float(std), f"{record.attributes.get(NUM_SEEDS, 1)} seeds"
        return float(std), "its model's" if is_model else "repeats or noise"
    if isinstance(goal, CostGoal):
        return (goal.typical_error * abs(value), "typical error") if is_model else (0.0, "")
    num_samples = results.config.get("job", {}).get("eval_samples")
    if name == "accuracy" and num_samples and 0 <= value <= 1:
        return math.sqrt(value * (1 - value) / num_samples), f"{num_samples:,} samples"
    pooled = front.error(record, name)
    return pooled, "as over seeds elsewhere" if pooled else ""


def source_kind(source: str) -> int:
    """Return whether a source of a value is a measurement of the configuration, another trial's, or a model."""
    if source == "measured" or source.startswith("mean of"):
        return MEASURED
    return PREDICTED if source in ("model", "estimate") else DERIVED


def _sources(shown: Sequence[tuple[StudyResults, JudgedFront, TrialRecord]], objectives: Sequence[str]) -> dict[str, Any]:
    """Return for each value where it comes from, its error, and what the error is of, as places in lists of words."""
    told = {"measured": "measured", "probe": "from a probe", "model": "predicted, not run", "estimate": "estimated, not run"}
    sources: dict[str, int] = {}
    reasons: dict[str, int] = {"": 0}
    columns: dict[str, list[list[Any]]] = {"source": [], "error": [], "why": []}
    for name in objectives:
        found = [
            (record.sources.get(name, "measured"), *error_of(results, front, record, name)) if name in record.values else None
            for results, front, record in shown
        ]
        columns["source"].append([None if each is None else sources.setdefault(each[0], len(sources)) for each in found])
        columns["error"].append([0 if each is None else _short(each[1], 3) for each in found])
        columns["why"].append([0 if each is None else reasons.setdefault(each[2], len(reasons)) for each in found])
    words = [[told.get(source, source), source_kind(source), source == "measured"] for source in sources]
    return {**columns, "sources": words, "reasons": list(reasons)}


def _objective(results: StudyResults, name: str) -> dict[str, Any]:
    goal = GOALS[name]
    return {
        "name": name,
        "label": visible(goal.label),
        "short": visible(goal.short),
        "unit": goal.unit,
        "digits": goal.digits,
        "freeScale": goal.free_scale,
        "maximize": goal.direction == "maximize",
        "learned": goal.learned,
        "points": goal.learned and goal.direction == "maximize" and not goal.free_scale,
        "baseline": results.baselines.get(name),
    }


def _parameter(records: Sequence[TrialRecord], name: str) -> dict[str, Any]:
    """Return a parameter as the page has it: choices by their place, or numbers where they are many."""
    values = [record.told_params.get(name) for record in records]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    known = [value for value in values if value is not None]
    distinct = sorted(set(known)) if len(numbers) == len(known) else sorted(set(map(show_parameter, known)))
    whole = {"name": name, "label": visible(SHORT_NAMES.get(name, name))}
    if len(numbers) == len(known) and len(distinct) > _MAX_CHOICES:
        return {**whole, "choices": None, "column": [_short(value) for value in values]}
    if known and all(isinstance(value, bool) for value in known):
        distinct = ["off", "on"] if len(distinct) > 1 else distinct
    texts = [value if isinstance(value, str) else show_parameter(value) for value in distinct]
    return {
        **whole,
        "choices": [visible(text) for text in texts],
        "column": [None if value is None else texts.index(show_parameter(value)) for value in values],
    }


def _words(record: TrialRecord, front: JudgedFront) -> list[str]:
    """Return what is said of a trial beside its values."""
    if record.outcome == "completed":
        standing = front.standings.get(record.number)
        return [] if standing is None else standing.words()
    return [record.reason] if record.reason else []


def _curves(results: StudyResults, front: JudgedFront) -> list[dict[str, Any]]:
    """Return the evaluations of each training over the samples that it had seen, of the first objective that is learned."""
    name = next(iter(learned_names(front.objectives)), "accuracy")
    found = []
    for record in results.records:
        points = learning_curve(record.attributes.get("training") or {}, name)
        if len(points) > 1 and not record.is_published:
            text = visible(short_configuration(record.told_params))
            found.append({"n": record.number, "configuration": text, "points": [[x, _short(y)] for x, y in points]})
    return found[:_MAX_CURVES]


def _thinned(steps: Sequence[tuple[float, float]]) -> list[list[float | None]]:
    every = max(1, math.ceil(len(steps) / _MAX_STEPS))
    kept = [*steps[::every], *([steps[-1]] if steps and (len(steps) - 1) % every else [])]
    return [[_short(spent_s), _short(share)] for spent_s, share in kept]


def _short(value: Any, digits: int = 5) -> Any:
    """Return a number with five significant digits."""
    if value is None or isinstance(value, bool | int):
        return value
    shortened = float(f"{value:.{digits}g}")
    return int(shortened) if shortened.is_integer() and abs(shortened) < 1e9 else shortened


def counted_out(results: StudyResults) -> Mapping[str, int]:
    """Return how many trials the page leaves out, by how they ended."""
    return {words: count for words, count in results.counts().items() if words in LEFT_OUT}
