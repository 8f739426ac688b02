"""Ends a training whose learning class can no longer reach the front. Optuna has no pruning for several objectives.

A class reaches the front if its final accuracy beats, for one of its members, everything that is at least as fast and as small.
After each evaluation the final accuracy is bounded from above: what the study's own finished trainings gained from the same
point on, at the most, is granted to this one too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Finished trainings before their curves are trusted.
MIN_CURVES = 3
# What a lucky seed may add to the largest gain seen: about one standard error of an accuracy on a few hundred samples.
SLACK = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRule:
    """When to end a training.

    Attributes:
        thresholds: For a number of training samples, the accuracy below which the class can't reach the front.
        required: The final accuracy that the class must exceed.
        dominating: The trials that it would have to beat.
    """

    thresholds: Mapping[int, float]
    required: float
    dominating: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values, for the trial's process."""
        return {
            "thresholds": [[samples, accuracy] for samples, accuracy in self.thresholds.items()],
            "required": self.required,
            "dominating": list(self.dominating),
        }


def stop_rule(
    members: Sequence[Mapping[str, float]],
    finished: Sequence[tuple[int, Mapping[str, float]]],
    curves: Sequence[Sequence[tuple[int, float]]],
) -> StopRule | None:
    """The rule for a class, or None where nothing can be said.

    Args:
        members: For each member of the class, the objectives that are to be small (time, memory), known beforehand.
        finished: Trials that completed: number, and all objectives, `accuracy` among them.
        curves: Of finished trainings: (training samples, accuracy) at each evaluation.
    """
    if len(curves) < MIN_CURVES or not members:
        return None
    required, dominating = _required(members, finished)
    if required is None:
        return None
    thresholds = {}
    for position in range(max(len(curve) for curve in curves) - 1):
        reaching = [curve for curve in curves if len(curve) > position + 1]
        if len(reaching) >= MIN_CURVES:
            gain = max(0.0, *(curve[-1][1] - curve[position][1] for curve in reaching))
            thresholds[reaching[0][position][0]] = required - gain - SLACK
    return StopRule(thresholds=thresholds, required=required, dominating=dominating) if thresholds else None


def _required(
    members: Sequence[Mapping[str, float]], finished: Sequence[tuple[int, Mapping[str, float]]]
) -> tuple[float | None, tuple[int, ...]]:
    """The least accuracy with which any member reaches the front, and the trials in its way; None if one is there anyway."""
    hurdles = []
    for member in members:
        in_the_way = [
            (values["accuracy"], number)
            for number, values in finished
            if all(values[name] <= value for name, value in member.items())
        ]
        if not in_the_way:
            return None, ()
        hurdles.append(max(in_the_way))
    required = min(accuracy for accuracy, _ in hurdles)
    return required, tuple(sorted({number for accuracy, number in hurdles if accuracy == required}))
