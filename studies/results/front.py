"""The Pareto front of a study's trials, and its knee: pure functions over records.

A configuration that ran more than once is on the front once, with the measurements of its last run. A run of its own counts
more than values derived from another trial, and a last run that ended out of memory takes the configuration off the front. What
is derived and not published yet comes after everything that was.
"""

import operator
import statistics
from collections.abc import Mapping, Sequence

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord

# How far from the median a value sets the scale for others, in medians or in usual distances from it.
_FARTHEST = 1000.0

# What tells configurations apart: their parameters.
Configuration = frozenset[tuple[str, object]]


def pareto_front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """Return the feasible configurations that no other one dominates.

    Args:
        records: Trials of one study.
        objectives: Two or more names of `tradeoff.objectives.measurements.goals.GOALS`.

    Returns:
        One record for each configuration, best in the first objective first; ties by the next objectives.
    """
    costed = sorted(
        ((_costs(record, objectives), record) for record in feasible(records)), key=lambda pair: (pair[0], pair[1].number)
    )
    front: list[tuple[tuple[float, ...], TrialRecord]] = []
    # Whatever dominates a record comes before it in this order, so each is compared with the front found so far alone.
    for costs, record in costed:
        if not any(costs != others and all(map(operator.le, others, costs)) for others, _ in front):
            front.append((costs, record))
    return [record for _, record in front]


def feasible(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the latest record of each configuration that completed within all limits, in the order of the trials."""
    latest = standing(records).values()
    chosen = [record for record in latest if record.outcome == "completed" and not record.attributes.get("violated")]
    return sorted(chosen, key=lambda record: record.number)


def configuration(record: TrialRecord) -> Configuration:
    """Return what tells the record's configuration from others."""
    return frozenset(record.params.items())


def standing(records: Sequence[TrialRecord]) -> dict[Configuration, TrialRecord]:
    """Return the record that stands for each configuration: the last one that completed or ran out of memory."""
    latest: dict[Configuration, TrialRecord] = {}
    for record in sorted(records, key=lambda record: (record.number < 0, record.number)):
        if record.outcome not in ("completed", "out_of_memory"):
            continue
        earlier = latest.get(key := configuration(record))
        if earlier is None or earlier.is_derived or not record.is_derived:
            latest[key] = record
    return latest


def replaced(records: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
    """Return the record that stands in the place of each completed one that no longer stands for its configuration."""
    latest = standing(records)
    return {
        record.number: current
        for record in records
        if record.outcome == "completed" and (current := latest[configuration(record)]).number != record.number
    }


def dominates(a: TrialRecord, b: TrialRecord, objectives: Sequence[str]) -> bool:
    """Return whether `a` is at least as good as `b` in every objective and better in one."""
    costs_a, costs_b = _costs(a, objectives), _costs(b, objectives)
    return costs_a != costs_b and all(x <= y for x, y in zip(costs_a, costs_b, strict=True))


def knee(front: Sequence[TrialRecord], objectives: Sequence[str], weights: Mapping[str, float] | None = None) -> TrialRecord:
    """Return the knee: the record at the smallest Manhattan distance from the ideal point.

    Each objective is scaled to 0 (the best on the front) and 1 (the worst on the front); the ideal point, best in everything,
    is the origin, and the distance is the sum of the scaled values. This is the minimum Manhattan distance approach of W.-Y.
    Chiu, G. G. Yen and T.-K. Juan, "Minimum Manhattan Distance Approach to Multiple Criteria Decision Making in Multiobjective
    Optimization Problems", IEEE Transactions on Evolutionary Computation 20(6), 2016 (https://arxiv.org/abs/1705.01705). With
    two objectives it is the point farthest below the line through the two extremes, and unlike that line it is defined for
    any number of objectives.

    Args:
        front: A result of `pareto_front`, not empty.
        objectives: The objectives' names.
        weights: The weight of each objective; 1 where it is not named.

    Returns:
        The knee; among equals, the first one on the front.
    """
    distances = manhattan_distances(front, objectives, weights or {})
    return front[distances.index(min(distances))]


def manhattan_distances(front: Sequence[TrialRecord], objectives: Sequence[str], weights: Mapping[str, float]) -> list[float]:
    """Return each record's weighted sum of the objectives, scaled to 0 at their best and 1 at their worst on the front."""
    totals = [0.0] * len(front)
    for name in objectives:
        costs = [GOALS[name].cost(record.values[name]) for record in front]
        low, high = min(costs), max(near(costs))
        if high <= low:
            high = max(costs)
        if high == low:
            continue  # an objective in which all are equal tells none apart
        for position, cost in enumerate(costs):
            totals[position] += weights.get(name, 1.0) * (cost - low) / (high - low)
    return totals


def near(values: Sequence[float]) -> Sequence[float]:
    """Return the values that set a scale: by one that all but diverged, the rest would look alike."""
    if not values:
        return values
    middle = statistics.median(values)
    usual = max(abs(middle), statistics.median(abs(value - middle) for value in values))
    return [value for value in values if abs(value - middle) <= _FARTHEST * usual] if usual else values


def extremes(front: Sequence[TrialRecord], objectives: Sequence[str]) -> dict[str, TrialRecord]:
    """Return the best record of each objective; among equals, the one better in the other objectives."""
    return {name: min(front, key=lambda record: _costs(record, (name, *objectives))) for name in objectives}


def _costs(record: TrialRecord, objectives: Sequence[str]) -> tuple[float, ...]:
    return tuple(GOALS[name].cost(record.values[name]) for name in objectives)
