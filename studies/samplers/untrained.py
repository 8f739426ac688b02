"""The learning classes that a search has left untrained, and why: what a user may still want to train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.searchspace import LearningClass, TrialParameters

DOES_NOT_FIT = "does not fit"


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
