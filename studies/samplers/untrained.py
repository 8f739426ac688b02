"""The learning classes that a search has left untrained: why, and what it expects of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.searchspace import LearningClass, TrialParameters
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.hypervolume import Volume
from tradeoff.studies.samplers.metric_gp import MetricGP

DOES_NOT_FIT = "does not fit"
# A posterior mean and its standard deviation, by learned objective.
Beliefs = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """A learning class that was not trained, whatever the values of the parameters that change learning only.

    Attributes:
        learning_class: The class, without those parameters.
        why: The reason, in a few words; empty if it can be trained.
        gain: What its training is expected to add, as a share; None if it can't be trained, or too little is known.
    """

    learning_class: LearningClass
    why: str = ""
    gain: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, to store."""
        return {"learning_class": dict(self.learning_class), "why": self.why, "gain": self.gain}


def untrained(knowledge: Knowledge, gains: Mapping[LearningClass, float]) -> list[Untrained]:
    """Return the classes of which no member was trained: the most promising first, then those that can't be trained.

    Args:
        knowledge: The models fitted to the study's trials.
        gains: The expected gains of classes by `select_next`.
    """
    best: dict[LearningClass, float] = {}
    for learning_class, gain in gains.items():
        key = learning_class.without(knowledge.setup.space.learning_only)
        best[key] = max(gain, best.get(key, 0.0))
    trained = {knowledge.class_of(o.parameters.structure) for o in knowledge.trainings.values()}
    found = [
        Untrained(learning_class=key, why="" if key in best else _why(structures, knowledge), gain=best.get(key))
        for key, structures in knowledge.setup.structures_of.items()
        if key not in trained
    ]
    return sorted(found, key=lambda each: (each.gain is None, -(each.gain or 0.0), bool(each.why)))


def _why(structures: Sequence[TrialParameters], knowledge: Knowledge) -> str:
    """Return why no member of a class can be trained, or is known well enough to say what it would add; empty if one can."""
    left = [p for p in structures if knowledge.out_of_memory(p) is None and not _is_too_large(p, knowledge)]
    if not left:
        return DOES_NOT_FIT
    reasons = [knowledge.ruled_out(p) for p in left]
    if knowledge.class_of(left[0]) in knowledge.failures.given_up:
        return "its trainings failed"
    return "" if None in reasons else next(reason for reason in reasons if reason is not None)


def _is_too_large(parameters: TrialParameters, knowledge: Knowledge) -> bool:
    limit_mib = knowledge.setup.memory_limit_mib
    known = knowledge.memory_mib(parameters)
    return (knowledge.memory.lower_bound_mib(parameters) or 0.0) > limit_mib or (known is not None and known[0] > limit_mib)


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


def beliefs_of(classes: Sequence[LearningClass], processes: Mapping[str, MetricGP]) -> dict[LearningClass, Beliefs]:
    """Return what is believed of some classes; nothing without a process.

    Args:
        classes: The classes.
        processes: What they are expected to learn, by learned objective.
    """
    if not processes:
        return {}
    posteriors = {name: np.column_stack(process.of_classes(classes)).tolist() for name, process in processes.items()}
    return {key: {name: tuple(rows[at]) for name, rows in posteriors.items()} for at, key in enumerate(classes)}


def predicted_front(
    candidates: Sequence[Candidate],
    beliefs: Mapping[LearningClass, Beliefs],
    completed: Sequence[Mapping[str, float]],
    volume: Volume,
    *,
    min_gain: float,
) -> list[Predicted]:
    """Return the configurations of untrained classes that would be on the front, the one that adds most first.

    The learned objectives are the posterior means of the same Gaussian processes that the search decides by, and the costs
    are those of probes. Only what would still add to the front if it were a standard deviation worse is listed: it is more
    likely to be there than not. A prediction is never published as a trial.

    Args:
        candidates: The learning classes with their members that fit.
        beliefs: What is believed of those that are not trained.
        completed: The values of what has completed.
        volume: The hypervolume in the study's objectives.
        min_gain: What a configuration must be expected to add, as a share of the hypervolume: less is nothing to tell.
    """
    found = [
        _predicted(candidate, position, beliefs[candidate.learning_class], volume.objectives)
        for candidate in candidates
        if candidate.learning_class in beliefs
        for position in range(len(candidate.members))
    ]
    if not found:
        return []
    known = volume.front(np.array([volume.scaled(values) for values in completed]).reshape(-1, len(volume.objectives)))
    cautious = np.array([volume.scaled(_a_deviation_worse(each)) for each in found])
    expected = np.array([volume.scaled(each.values) for each in found])
    # What the front does not beat a deviation worse, it does not beat as expected.
    places = np.flatnonzero(volume.on_front(expected) & volume.adds(cautious, known))
    now = volume.of(known)
    gains = {place: volume.of(np.vstack([known, expected[place]])) - now for place in places}
    return [found[place] for place in sorted(gains, key=lambda place: -gains[place]) if gains[place] > min_gain * now]


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
