"""What all trainings of a study together lead to expect of a configuration, in place of what its own training has reached.

The best of many measured values is partly luck: where classes differ by less than two seeds of one do, a front of measured
values shows the lucky ones (the winner's curse). What similar classes have reached tells how much of it was luck. So a front is
judged, and a configuration chosen, by the posterior means that the search itself decides by; what was measured is shown beside
them. Until a search has ended, and without one, measured values are all there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.searchspace import LearningClass

# The study's user attribute that holds what is expected of each trained class.
EXPECTED = "expected"
# The attribute of a record that holds what was measured, where its values are what is expected.
MEASURED = "measured"

# Where such a value comes from, in words.
BY_ALL_TRAININGS = "expected by all trainings"

# A mean and its standard deviation, by learned objective.
Expectation = Mapping[str, tuple[float, float]]


def as_expected(record: TrialRecord, expectation: Expectation) -> TrialRecord:
    """Return a record with what is expected in place of what was measured."""
    if not expectation:
        return record
    means = {name: mean for name, (mean, _) in expectation.items()}
    errors = {spread_name(name): error for name, (_, error) in expectation.items()}
    measured = {name: record.values[name] for name in expectation}
    return replace(record, values={**record.values, **means}, attributes={**record.attributes, **errors, MEASURED: measured})


def source_of(record: TrialRecord, objective: str, *, default: str = "measured") -> str:
    """Return where a value comes from, in words; of one that its trial has measured, whether it is what is expected instead.

    Args:
        record: The trial.
        objective: The value's name.
        default: What is returned if no source is stored.
    """
    source = record.sources.get(objective, default)
    return BY_ALL_TRAININGS if source == "measured" and objective in record.attributes.get(MEASURED, {}) else source


def stored(expected: Mapping[LearningClass, Expectation]) -> list[dict[str, Any]]:
    """Return what is expected of classes as plain values, to store."""
    return [{"learning_class": dict(key), "values": dict(values)} for key, values in expected.items()]


def expected_of(
    stored: Sequence[Mapping[str, Any]], records: Sequence[TrialRecord], knowledge: Knowledge
) -> dict[int, Expectation]:
    """Return what is expected of the records that have completed, by their numbers.

    Nothing is, if a class was trained after it was stored: one expectation beside another one's measurement would compare luck
    with none.

    Args:
        stored: What the search has stored: each trained class, with what is expected of it.
        records: The study's trials.
        knowledge: The models fitted to them.
    """
    by_class = {tuple(sorted(each["learning_class"].items())): each["values"] for each in stored}
    found: dict[int, Expectation] = {}
    for record in records:
        if record.outcome not in ("completed", "trained") or not record.values:
            continue
        parameters = knowledge.setup.space.read(record.params)
        key = None if parameters is None else tuple(sorted(knowledge.class_of(parameters).items()))
        if key not in by_class:
            return {}
        found[record.number] = {name: (mean, error) for name, (mean, error) in by_class[key].items()}
    return found
