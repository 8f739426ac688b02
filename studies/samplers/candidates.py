"""Candidates of the decoupled search, the learning classes with their members that fit, and the reference point."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tradeoff.objectives.knowledge.knowledge import Cost, Knowledge
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.goals import GOALS, Goal, cost_goals, is_comparable
from tradeoff.searchspace import FloatRange, LearningClass, SearchSpace, TrialParameters
from tradeoff.studies.samplers.acquisition import Candidate

# Points drawn for a decision for each parameter that changes learning only and is searched over a range.
NUM_DRAWS = 12
# How far beyond the worst value the reference is, as a share of the range, if there is no other measure.
RANGE_MARGIN = 0.1
# A learned value counts up to this many times the distance between best and median, once there are so many values.
FENCE = 4.0
MIN_FOR_FENCE = 5


def candidates(
    knowledge: Knowledge,
    *,
    seed: int | None = None,
    num_trials: int = 0,
) -> list[Candidate]:
    """Return every learning class with its members that fit and have not failed.

    Args:
        knowledge: The models fitted to the study's trials.
        seed: The seed of the values that are drawn from ranges, such as the learning rate's.
        num_trials: The number of trials of the study: after each trial other values are drawn.
    """
    groups: dict[LearningClass, list[tuple[TrialParameters, Cost]]] = {}
    setup = knowledge.setup
    settings = _learning_settings(setup.space, seed, num_trials)
    for structure in setup.space.structures:
        cost = knowledge.cost(structure)
        if cost is None or cost.peak_memory_mib > setup.memory_limit_mib or knowledge.out_of_memory(structure) is not None:
            continue
        if not cost.knows(setup.costs):
            continue  # it can't be placed
        for values in settings:
            parameters = setup.space.parameters({**structure, **values}) if values else structure
            if knowledge.ruled_out(parameters) is not None:
                continue
            groups.setdefault(knowledge.class_of(parameters), []).append((parameters, cost))
    return [Candidate(learning_class=key, members=tuple(group)) for key, group in groups.items()]


def reference(
    everything: Sequence[Candidate],
    learned: Mapping[str, Collection[float]],
    setup: StudySetup,
    *,
    baselines: Mapping[str, float],
) -> Mapping[str, float]:
    """Return the reference point of the hypervolume: the slowest time, the memory limit, the baseline of a learned objective.

    Args:
        everything: The classes with their members that fit.
        learned: The values that trainings reached, by learned objective.
        setup: The terms of the study.
        baselines: The baselines (the constant answer) of the learned objectives for which they are known.
    """
    found = {name: worst_that_counts(GOALS[name], learned.get(name, ()), baselines.get(name)) for name in setup.learned}
    limited = [name for name, goal in cost_goals().items() if goal.limited_by_memory]
    for name in setup.costs:
        if name in limited:
            found[name] = setup.memory_limit_mib * 1.01
            continue
        known = [cost.value(name) for candidate in everything for _, cost in candidate.members]
        values = [value for value in known if value is not None]
        found[name] = min(values) / 1.01 if GOALS[name].direction == "maximize" else max(values) * 1.01
    return found


def worst_that_counts(goal: Goal, values: Collection[float], baseline: float | None) -> float:
    """Return the reference value of a learned objective: better values count.

    It is the baseline; while no training is better than that, it is just beyond the worst value. Without a baseline (a loss is
    unbounded, and one training that diverged can be a thousand times worse than the others) it is just beyond the worst value,
    but no farther from the best than `FENCE` times the median is: measured by the better half of the trainings, a few that
    went wrong don't make all others look alike.

    Args:
        goal: The objective.
        values: The values that trainings reached; what has diverged is ignored.
        baseline: The value of the constant answer; None if it is not known.
    """
    heights = sorted((goal.sign * value for value in values if is_comparable(value)), reverse=True)
    if baseline is not None:
        # The margin lets the worst value itself count a little.
        margin = 0.01 if goal.best is not None else RANGE_MARGIN * abs(baseline)
        return goal.sign * (heights[-1] - margin) if heights and heights[0] <= goal.sign * baseline else baseline
    if not heights:
        return -goal.sign
    best, worst = heights[0], heights[-1]
    if len(heights) >= MIN_FOR_FENCE:
        worst = max(worst, best - FENCE * (best - heights[(len(heights) - 1) // 2]))
    return goal.sign * (worst - RANGE_MARGIN * ((best - worst) or abs(best) or 1.0))


def _learning_settings(space: SearchSpace, seed: int | None, num_trials: int) -> list[dict[str, Any]]:
    """Return values of the parameters that change learning only: every combination of lists, with draws from ranges."""
    lists = {name: values for name, domain in space.learning_only.items() if (values := domain.values()) is not None}
    ranges = {name: d for name, d in space.learning_only.items() if name not in lists and isinstance(d, FloatRange)}
    shares = np.random.default_rng([seed or 0, num_trials]).random((len(ranges), NUM_DRAWS * len(ranges)))
    drawn = [{name: ranges[name].at(share) for name, share in zip(ranges, point, strict=True)} for point in shares.T]
    listed = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    return [point | values for point in drawn or [{}] for values in listed]
