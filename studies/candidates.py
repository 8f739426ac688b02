"""What the decoupled search may train next: every learning class with its members that fit, and what would be of no use."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from optuna.distributions import FloatDistribution

from objectives.knowledge import Cost, Knowledge
from searchspace import LearningClass, SearchSpace, TrialParameters
from studies.decision import Candidate

# Learning rates drawn for a decision, where the learning rate is searched over a range.
NUM_LEARNING_RATES = 12


def candidates(
    knowledge: Knowledge, space: SearchSpace, *, budget_mib: float, seed: int | None = None, num_trials: int = 0
) -> list[Candidate]:
    """Every learning class with the members that fit.

    Args:
        knowledge: What is known so far.
        space: Where configurations come from.
        budget_mib: What a configuration may need.
        seed: Of the learning rates that are drawn.
        num_trials: Trials that the study holds: others are drawn after each.
    """
    groups: dict[LearningClass, list[tuple[TrialParameters, Cost]]] = {}
    rates = _learning_rates(space, seed, num_trials)
    for structure in space.structures:
        cost = knowledge.cost(structure)
        if cost is None or cost.peak_memory_mib > budget_mib or knowledge.out_of_memory(structure) is not None:
            continue
        for rate in rates:
            parameters = structure.with_learning_rate(rate)
            groups.setdefault(knowledge.class_of(parameters), []).append((parameters, cost))
    return [Candidate(learning_class=key, members=tuple(group)) for key, group in groups.items()]


def reference(
    everything: Sequence[Candidate], accuracies: Collection[float], *, budget_mib: float, baseline_accuracy: float
) -> Mapping[str, float]:
    """What is of no use: as slow as the slowest, as large as the budget, as good as a constant answer.

    Where nothing has beaten a constant answer yet, everything counts that beats the worst.
    """
    accuracy = baseline_accuracy
    if accuracies and max(accuracies) <= accuracy:
        accuracy = min(accuracies) - 0.01
    slowest = max(cost.train_time_s for candidate in everything for _, cost in candidate.members)
    return {"train_time_s": slowest * 1.01, "peak_memory_mib": budget_mib * 1.01, "accuracy": accuracy}


def _learning_rates(space: SearchSpace, seed: int | None, num_trials: int) -> list[float | None]:
    domain = space.domains.get("learning_rate")
    if domain is None:
        return [None]
    if (values := domain.values()) is not None:
        return list(values)
    distribution = domain.distribution()
    assert isinstance(distribution, FloatDistribution)
    drawn = np.random.default_rng([seed or 0, num_trials]).random(NUM_LEARNING_RATES)
    low, high = distribution.low, distribution.high
    if distribution.log:
        return [float(low * (high / low) ** share) for share in drawn]
    return [float(low + (high - low) * share) for share in drawn]
