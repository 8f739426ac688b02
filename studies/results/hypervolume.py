"""How good a search was by the time it had cost so much: the hypervolume of its front over the time spent on trials."""

from collections.abc import Sequence

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.results.front import feasible

# How far beyond the worst value the reference point lies, as a share of the range, so that the worst ones count for something.
REFERENCE_MARGIN = 0.1


def hypervolume_over_cost(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[tuple[float, float]]:
    """The hypervolume after each trial, with the time that the trials had taken by then.

    Each objective is scaled to 0 (the best value of the study) and 1 (the worst one); the reference point is 1.1 in each, and
    the hypervolume is given as a share of the whole box. Trials count in their order. One that failed or ran out of memory
    costs what it took; one whose values come from another trial costs nothing.

    Args:
        records: The trials of one study.
        objectives: Two or more names of `tradeoff.objectives.measurements.goals.GOALS`.

    Returns:
        (time in seconds, share from 0 to 1) for the start and for each trial that changed the hypervolume, and the last cost.
        Empty if nothing completed.
    """
    from moocore import hypervolume

    candidates = {record.number: record for record in feasible(records)}
    if not candidates:
        return []
    costs = {number: [GOALS[name].cost(record.values[name]) for name in objectives] for number, record in candidates.items()}
    low = [min(column) for column in zip(*costs.values(), strict=True)]
    high = [max(column) for column in zip(*costs.values(), strict=True)]
    reference = 1.0 + REFERENCE_MARGIN
    steps, points = [(0.0, 0.0)], []
    spent_s, share = 0.0, 0.0
    for record in sorted(records, key=lambda record: record.number):
        spent_s += record.attributes.get("trial_time_s") or 0.0
        if record.number not in candidates:
            continue
        # An objective in which all are equal is at its best everywhere.
        points.append(
            [(cost - a) / (b - a) if b > a else 0.0 for cost, a, b in zip(costs[record.number], low, high, strict=True)]
        )
        reached = float(hypervolume(points, ref=[reference] * len(objectives))) / reference ** len(objectives)
        if reached > share:
            share = reached
            steps.append((spent_s, share))
    return [*steps, (spent_s, share)] if spent_s > steps[-1][0] else steps
