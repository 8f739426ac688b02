"""Stop a training whose learning class can no longer reach the front. Optuna has no pruning for several objectives.

A class reaches the front if one of its members learns more than every configuration that is at least as fast and as small.
After each evaluation its final accuracy, or whichever metric is learned, is bounded from above: the training is assumed to gain
a little more than the largest gain that the study's finished trainings made from the same point on.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tradeoff.objectives.measurements.goals import GOALS, Goal

# (training samples, learned value) at each evaluation.
Curve = Sequence[tuple[int, float]]

# Finished trainings that are needed before their curves are trusted.
MIN_CURVES = 3
# What a lucky seed may add to the largest gain so far: about one standard error of an accuracy on a few hundred samples.
SLACK = 0.01
# The same for a metric of unknown scale, as a share of the range of the final values. Two seeds moved the evaluation loss of a
# BERT on reviews by 0.01, while classes ranged from 1.22 to 1.31.
SLACK_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRule:
    """The point at which a training is stopped.

    Attributes:
        goal: The learned metric.
        thresholds: For a number of training samples, the value that the class must have reached by then to reach the front.
        required: The final value that the class must exceed.
        dominating: The numbers of the trials that it would have to exceed.
    """

    goal: Goal
    thresholds: Mapping[int, float]
    required: float
    dominating: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values, for the trial's process."""
        return {
            "goal": {"name": self.goal.name, "direction": self.goal.direction},
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
    """Return the rule for a class, or None if too little is known.

    Args:
        members: The costs (time, memory) of each member of the class, by objective.
        finished: The completed trials: number and all objectives.
        curves: The learning curves of finished trainings.
        goal: The one learned objective.
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
    """Return the most that a training may gain: the largest gain so far plus its lead over the second largest.

    The largest of a few gains is often exceeded by the next one: the largest of three with probability 1/4. The bound is due to
    D. S. Robson and J. H. Whitlock, "Estimation of a Truncation Point", Biometrika 51(1/2), 1964.
    """
    second, first = sorted(gains)[-2:]
    return max(0.0, first + (first - second))


def expected_final(curve: Curve, finished: Sequence[Curve]) -> float:
    """Return the value that a stopped training would have reached: its last one plus the median gain of finished trainings.

    Args:
        curve: The learning curve of the stopped training; not empty.
        finished: The curves of finished trainings. If none was evaluated at the same point, no gain is assumed.
    """
    num_samples, value = curve[-1]
    gains = [other[-1][1] - at for other in finished for samples, at in other[:-1] if samples == num_samples]
    return value + (statistics.median(gains) if gains else 0.0)


def _required(
    members: Sequence[Mapping[str, float]], finished: Sequence[tuple[int, Mapping[str, float]]], goal: Goal
) -> tuple[float | None, tuple[int, ...]]:
    """Return the value that a member must exceed to reach the front, and the trials in its way; None if one is there."""
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
