"""Ends a training whose learning class can no longer reach the front. Optuna has no pruning for several objectives.

A class reaches the front if what it learns beats, for one of its members, everything that is at least as fast and as small.
After each evaluation its final accuracy, or whatever metric is learned, is bounded: what the study's own finished trainings
gained from the same point on, and a little more than the most of it, is granted to this one too.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tradeoff.objectives.measurements.goals import GOALS, Goal

# Training samples and the value that was learned, at each evaluation.
Curve = Sequence[tuple[int, float]]

# Finished trainings before their curves are trusted.
MIN_CURVES = 3
# What a lucky seed may add to the largest gain seen: about one standard error of an accuracy on a few hundred samples.
SLACK = 0.01
# The same for a metric whose scale nobody knows, as a share of the range of the final values. Two seeds moved the evaluation
# loss of a BERT on reviews by 0.01, where classes lay between 1.22 and 1.31.
SLACK_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRule:
    """When to end a training.

    Attributes:
        goal: What is learned.
        thresholds: For a number of training samples, the value that the class must have reached to get to the front.
        required: The final value that the class must beat.
        dominating: The trials that it would have to beat.
    """

    goal: Goal
    thresholds: Mapping[int, float]
    required: float
    dominating: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values, for the trial's process."""
        return {
            "goal": asdict(self.goal),
            "thresholds": [[samples, value] for samples, value in self.thresholds.items()],
            "required": self.required,
            "dominating": list(self.dominating),
        }


def stop_rule(
    members: Sequence[Mapping[str, float]],
    finished: Sequence[tuple[int, Mapping[str, float]]],
    curves: Sequence[Curve],
    goal: Goal = GOALS["accuracy"],
) -> StopRule | None:
    """The rule for a class, or None where nothing can be said.

    Args:
        members: For each member of the class, the objectives that are costs (time, memory), known beforehand.
        finished: Trials that completed: number, and all objectives.
        curves: Of finished trainings: (training samples, value of the goal) at each evaluation.
        goal: The one objective that is learned.
    """
    if len(curves) < MIN_CURVES or not members:
        return None
    required, dominating = _required(members, finished, goal)
    if required is None:
        return None
    thresholds = {}
    finals = [curve[-1][1] for curve in curves]
    slack = SLACK if goal.best is not None else SLACK_SHARE * (max(finals) - min(finals))
    for position in range(max(len(curve) for curve in curves) - 1):
        reaching = [curve for curve in curves if len(curve) > position + 1]
        if len(reaching) >= MIN_CURVES:
            gain = largest_gain([goal.sign * (curve[-1][1] - curve[position][1]) for curve in reaching])
            thresholds[reaching[0][position][0]] = required - goal.sign * gain - goal.sign * slack
    return StopRule(goal=goal, thresholds=thresholds, required=required, dominating=dominating) if thresholds else None


def largest_gain(gains: Sequence[float]) -> float:
    """What a training may gain at the most, from what others gained: the largest gain, and its lead over the second largest.

    The largest of a few gains is often surpassed by the next one: of three, by one in four. This bound is due to D. S. Robson
    and J. H. Whitlock, "Estimation of a Truncation Point", Biometrika 51(1/2), 1964.
    """
    second, first = sorted(gains)[-2:]
    return max(0.0, first + (first - second))


def expected_final(curve: Curve, finished: Sequence[Curve]) -> float:
    """What a training that was stopped would have reached: its last value, and what finished ones gained from there on.

    Args:
        curve: Of the training that was stopped; not empty.
        finished: Of those that ran to their end. With none that was evaluated at the same point, it would have gained nothing.
    """
    num_samples, value = curve[-1]
    gains = [other[-1][1] - at for other in finished for samples, at in other[:-1] if samples == num_samples]
    return value + (statistics.median(gains) if gains else 0.0)


def _required(
    members: Sequence[Mapping[str, float]], finished: Sequence[tuple[int, Mapping[str, float]]], goal: Goal
) -> tuple[float | None, tuple[int, ...]]:
    """The least that must be learned for any member to reach the front, and the trials in its way; None if one is there."""
    hurdles = []
    for member in members:
        in_the_way = [
            (goal.sign * values[goal.name], number)
            for number, values in finished
            if not any(GOALS[name].better(value, values[name]) for name, value in member.items())
        ]
        if not in_the_way:
            return None, ()
        hurdles.append(max(in_the_way))
    required = min(height for height, _ in hurdles)
    return goal.sign * required, tuple(sorted({number for height, number in hurdles if height == required}))
