"""The hypervolume of fronts: how it grew with the time spent on trials, and of two studies side by side.

Each objective is scaled to 0 (the best value) and 1 (the worst one). The reference point is 1.1 in each, so that the worst
values count for something, and a hypervolume is given as a share of the box that ends there (E. Zitzler and L. Thiele,
"Multiobjective Evolutionary Algorithms: A Comparative Case Study and the Strength Pareto Approach", IEEE Transactions on
Evolutionary Computation 3(4), 1999).
"""

from collections.abc import Sequence

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import DERIVED_FROM, PUBLISHES, TrialRecord
from tradeoff.studies.results.front import feasible, near

# How far beyond the worst value the reference point lies, as a share of the range.
REFERENCE_MARGIN = 0.1


def hypervolume_over_cost(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[tuple[float, float]]:
    """Return the hypervolume after each trial, with the time that the trials had taken by then.

    Trials count in their order, published ones where they were settled. One that failed or ran out of memory costs what it
    took; one whose values come from another trial costs nothing.

    Args:
        records: The trials of one study, whose values set the scale.
        objectives: Two or more names of `tradeoff.objectives.measurements.goals.GOALS`.

    Returns:
        (time in seconds, share from 0 to 1) for the start and for each trial that changed the hypervolume, and the last cost.
        Empty if nothing completed.
    """
    candidates = feasible(records)
    if not candidates:
        return []
    (scaled,) = _scaled([candidates], objectives)
    points_by_number = {record.number: point for record, point in zip(candidates, scaled, strict=True)}
    steps, points = [(0.0, 0.0)], []
    spent_s, share = 0.0, 0.0
    for record in sorted(records, key=_settled_at):
        spent_s += record.attributes.get("trial_time_s") or 0.0
        if record.number not in points_by_number:
            continue
        points.append(points_by_number[record.number])
        if (reached := _share(points)) > share:
            share = reached
            steps.append((spent_s, share))
    return [*steps, (spent_s, share)] if spent_s > steps[-1][0] else steps


def _settled_at(record: TrialRecord) -> tuple[int, int]:
    """Return the number of the trial that has settled a record, and its own: what is published was known before."""
    return record.attributes.get(DERIVED_FROM, record.attributes.get(PUBLISHES, record.number)), record.number


def hypervolumes(fronts: Sequence[Sequence[TrialRecord]], objectives: Sequence[str]) -> list[float]:
    """Return the hypervolume of each front, on one scale: comparable with each other, and with nothing else.

    An empty front has 0.
    """
    return [_share(points) for points in _scaled(fronts, objectives)]


def _scaled(fronts: Sequence[Sequence[TrialRecord]], objectives: Sequence[str]) -> list[list[list[float]]]:
    """Return the costs of each record of each front, scaled to the range of all of them."""
    costs = [[[GOALS[name].cost(record.values[name]) for name in objectives] for record in front] for front in fronts]
    columns = list(zip(*(point for points in costs for point in points), strict=True))
    ranges = [(min(column), max(near(column))) for column in columns]
    # An objective in which all are equal is at its best everywhere.
    return [
        [
            [(cost - low) / (high - low) if high > low else 0.0 for cost, (low, high) in zip(point, ranges, strict=True)]
            for point in points
        ]
        for points in costs
    ]


def _share(points: Sequence[Sequence[float]]) -> float:
    from moocore import hypervolume

    if not points:
        return 0.0
    reference = [1.0 + REFERENCE_MARGIN] * len(points[0])
    return float(hypervolume(points, ref=reference)) / reference[0] ** len(reference)
