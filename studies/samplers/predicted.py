"""What the search believes of configurations of which nothing alike was trained: those that would be on the front.

The learned objectives are the posterior means of the same Gaussian processes that the search decides by, and the costs are
those of probes. Only what would still add to the front if it were a standard deviation worse is listed: it is more likely to
be there than not. A prediction is never published as a trial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import LearningClass, TrialParameters
from tradeoff.studies.samplers.acquisition import Candidate, Volume

# A posterior mean and its standard deviation, by learned objective.
Beliefs = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A configuration that nobody has trained.

    Attributes:
        parameters: The configuration.
        values: What is expected of each objective.
        errors: The standard deviation of each, in its unit.
    """

    parameters: TrialParameters
    values: Mapping[str, float]
    errors: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, to store."""
        return {"params": self.parameters.as_dict(), "values": dict(self.values), "errors": dict(self.errors)}


def predicted_front(
    candidates: Sequence[Candidate],
    beliefs: Mapping[LearningClass, Beliefs],
    completed: Sequence[Mapping[str, float]],
    volume: Volume,
) -> list[Predicted]:
    """Return the configurations of untrained classes that would be on the front, the one that adds most first.

    Args:
        candidates: The learning classes with their members that fit.
        beliefs: What is believed of those that are not trained.
        completed: The values of what has completed.
        volume: The hypervolume in the study's objectives.
    """
    import moocore

    found = [
        _predicted(candidate, position, beliefs[candidate.learning_class], volume.objectives)
        for candidate in candidates
        if candidate.learning_class in beliefs
        for position in range(len(candidate.members))
    ]
    if not found:
        return []
    known = volume.front(np.array([volume.scaled(values) for values in completed]).reshape(-1, len(volume.objectives)))
    now = volume.of(known)
    cautious = np.array([volume.scaled(_a_deviation_worse(each)) for each in found])
    expected = np.array([volume.scaled(each.values) for each in found])
    places = [place for place in np.flatnonzero(volume.on_front(expected)) if _adds(cautious[place], known)]
    everything = np.vstack([known, expected[places]])
    stays = moocore.is_nondominated(everything)[len(known) :]
    gains = {
        place: volume.of(np.vstack([known, expected[place]])) - now for place, stay in zip(places, stays, strict=True) if stay
    }
    return [found[place] for place in sorted(gains, key=lambda place: -gains[place])]


def _adds(point: np.ndarray[Any, np.dtype[np.float64]], known: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    return bool((point < 1).all() and not (known <= point).all(axis=1).any())


def _predicted(candidate: Candidate, position: int, beliefs: Beliefs, objectives: Sequence[str]) -> Predicted:
    structure, cost = candidate.members[position]
    values, errors = {}, {}
    for name in objectives:
        value = cost.value(name)
        values[name], errors[name] = beliefs[name] if value is None else (value, cost.error(name))
    return Predicted(parameters=structure.replace(**candidate.settings), values=values, errors=errors)


def _a_deviation_worse(each: Predicted) -> dict[str, float]:
    """Return the values, with the learned ones worse by a standard deviation."""
    return {
        name: value - GOALS[name].sign * each.errors[name] if GOALS[name].learned else value
        for name, value in each.values.items()
    }
