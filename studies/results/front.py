"""The Pareto front of a study's trials, and its knee: pure functions over records.

A configuration that ran more than once stands on the front once, with what its last run measured. A run of its own counts more
than values derived from another trial, and a last run that ended out of memory takes the configuration off the front.
"""

from collections.abc import Mapping, Sequence

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord


def pareto_front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """The feasible configurations that no other one dominates.

    Args:
        records: Trials of one study.
        objectives: Two or more names of `tradeoff.objectives.measurements.goals.GOALS`.

    Returns:
        One record for each configuration, best in the first objective first; ties by the next objectives.
    """
    front: list[TrialRecord] = []
    # Whatever dominates a record comes before it in this order, so each is compared with the front found so far alone.
    for record in sorted(feasible(records), key=lambda record: (*_costs(record, objectives), record.number)):
        if not any(dominates(other, record, objectives) for other in front):
            front.append(record)
    return front


def feasible(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The record that speaks for each configuration that completed within all limits, in the order of the trials."""
    speaks: dict[frozenset[tuple[str, object]], TrialRecord] = {}
    for record in sorted(records, key=lambda record: record.number):
        if record.outcome not in ("completed", "out_of_memory"):
            continue
        configuration = frozenset(record.params.items())
        earlier = speaks.get(configuration)
        if earlier is None or earlier.is_derived or not record.is_derived:
            speaks[configuration] = record
    chosen = [record for record in speaks.values() if record.outcome == "completed" and not record.attributes.get("violated")]
    return sorted(chosen, key=lambda record: record.number)


def dominates(a: TrialRecord, b: TrialRecord, objectives: Sequence[str]) -> bool:
    """Whether `a` is at least as good as `b` in every objective and better in one."""
    costs_a, costs_b = _costs(a, objectives), _costs(b, objectives)
    return costs_a != costs_b and all(x <= y for x, y in zip(costs_a, costs_b, strict=True))


def knee(front: Sequence[TrialRecord], objectives: Sequence[str], weights: Mapping[str, float] | None = None) -> TrialRecord:
    """The knee: the record at the smallest Manhattan distance from the ideal point.

    Each objective is scaled to 0 (the best on the front) and 1 (the worst on the front); the ideal point, best in everything,
    is the origin, and the distance is the sum of the scaled values. This is the minimum Manhattan distance approach of W.-Y.
    Chiu, G. G. Yen and T.-K. Juan, "Minimum Manhattan Distance Approach to Multiple Criteria Decision Making in Multiobjective
    Optimization Problems", IEEE Transactions on Evolutionary Computation 20(6), 2016 (https://arxiv.org/abs/1705.01705). With
    two objectives it is the point farthest below the line through the two extremes, and unlike that line it is defined for
    any number of objectives.

    Args:
        front: What `pareto_front` returned, not empty.
        objectives: The objectives' names.
        weights: How much each objective counts; 1 where it is not named.

    Returns:
        The knee; of equals, the one that comes first on the front.
    """
    distances = manhattan_distances(front, objectives, weights or {})
    return front[distances.index(min(distances))]


def manhattan_distances(front: Sequence[TrialRecord], objectives: Sequence[str], weights: Mapping[str, float]) -> list[float]:
    """The weighted sum of the objectives, each scaled to 0 at its best and 1 at its worst, for each record of the front."""
    totals = [0.0] * len(front)
    for name in objectives:
        costs = [_cost(record, name) for record in front]
        low, high = min(costs), max(costs)
        if high == low:
            continue  # an objective in which all are equal says nothing
        for position, cost in enumerate(costs):
            totals[position] += weights.get(name, 1.0) * (cost - low) / (high - low)
    return totals


def extremes(front: Sequence[TrialRecord], objectives: Sequence[str]) -> dict[str, TrialRecord]:
    """For each objective the record that is best in it; of equals, the one better in the other objectives."""
    return {
        name: min(front, key=lambda record: (_cost(record, name), *_costs(record, objectives))) for name in objectives
    }  # fmt: skip


def _cost(record: TrialRecord, name: str) -> float:
    return GOALS[name].cost(record.values[name])


def _costs(record: TrialRecord, objectives: Sequence[str]) -> tuple[float, ...]:
    return tuple(_cost(record, name) for name in objectives)
