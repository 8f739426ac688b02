"""Candidates of the decoupled search, the learning classes with their members that fit, and the reference point."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tradeoff.objectives.knowledge.knowledge import Cost, Knowledge
from tradeoff.objectives.knowledge.prefixes import EPOCHS, is_endless
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.goals import GOALS, cost_goals
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import Domain, FloatRange, LearningClass, SearchSpace, TrialParameters
from tradeoff.searchspace.domains import is_number
from tradeoff.studies.samplers.metric_gp import worst_that_counts

# Learning classes that are looked at: all of a space that has no more, else as many of a pool, and some near the front.
MAX_CLASSES = 512
MAX_NEIGHBOURS = 256
# Points that are drawn for the pool at most: where little fits, most are of no use. Sobol points are balanced at powers of two.
MAX_DRAWN = 4096
# Structures that are in the pool with the middle of all that changes learning only.
NUM_MIDDLE = 32
# A step of a range, as a share of it.
STEP = 0.1
# Words that are tried in place of another one.
MAX_WORDS = 8
# How far beyond the worst cost the reference is, as a factor: a model that costs most may be the only one that learns, and at
# the reference itself it would be worth nothing. A tenth is advised for fronts of ten points by H. Ishibuchi et al., "How to
# Specify a Reference Point in Hypervolume Calculation for Fair Performance Comparison", Evolutionary Computation 26(3), 2018.
COST_MARGIN = 1.1


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A learning class that may be trained next.

    Attributes:
        learning_class: The class.
        members: Its configurations that fit, with their costs.
        settings: The values of what changes learning only, where the members lack them.
        contained: The shorter trainings that this one settles as well.
    """

    learning_class: LearningClass
    members: tuple[tuple[TrialParameters, Cost], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    contained: tuple[LearningClass, ...] = ()

    @cached_property
    def fastest(self) -> tuple[TrialParameters, Cost]:
        """The member whose training is cheapest."""
        structure, cost = min(self.members, key=lambda member: member[1].train_time_s)
        return structure.replace(**self.settings) if self.settings else structure, cost

    @cached_property
    def train_time_s(self) -> float:
        """The time of that training."""
        return min(cost.train_time_s for _, cost in self.members)


def candidates(
    knowledge: Knowledge,
    *,
    seed: int | None = None,
    completed: Sequence[TrialRecord] = (),
    running: Iterable[TrialParameters] = (),
) -> list[Candidate]:
    """Return learning classes with their members that fit and have not failed: every one of a small space.

    Of a large or continuous one there are a pool, which is the same at every decision, whatever is or was trained, and the
    neighbours of the front.

    Args:
        knowledge: The models fitted to the study's trials.
        seed: The seed of the pool.
        completed: The trials that may be on the front.
        running: Configurations that are being trained.
    """
    space = knowledge.setup.space
    drawer = _Drawer(knowledge)
    groups = [structures[0] for structures in knowledge.setup.structures_of.values()]
    sizes = [len(values) if (values := domain.values()) is not None else math.inf for domain in space.learning_only.values()]
    if not space.is_drawn and len(groups) * math.prod(sizes) <= MAX_CLASSES:
        lists = {name: domain.values() or () for name, domain in space.learning_only.items()}
        settings = [dict(zip(lists, combination, strict=True)) for combination in itertools.product(*lists.values())]
        for structure, setting in itertools.product(groups, settings):
            drawer.add(structure, setting)
        return drawer.found
    for structure, setting in _pool(space, groups, seed):
        if drawer.number >= MAX_CLASSES:
            break
        drawer.add(structure, setting)
    trained = (o.parameters for o in knowledge.observations if "training" in o.record.attributes)
    for parameters in itertools.chain(trained, running):
        drawer.add(parameters.structure, parameters.learning_only)
    most = drawer.number + MAX_NEIGHBOURS
    front = (space.read(record.params) for record in front_of_many(completed, knowledge.setup.objectives))
    for parameters in neighbours((found for found in front if found is not None), space):
        if drawer.number >= most:
            break
        drawer.add(parameters.structure, parameters.learning_only)
    return drawer.found


# Configurations with their costs.
Members = tuple[tuple[TrialParameters, Cost], ...]


class _Drawer:
    """Collects the learning classes of configurations, each once, with its members that fit."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._setup = knowledge.setup
        space, failures = self._setup.space, knowledge.failures
        others = {other for name in space.learning_only for other in space.conditions[name]}
        # Members of one class that differ in these may differ in whether a parameter is set that changes learning only.
        self._conditions = [name for name in space.domains if name in others and name not in space.learning_only]
        self._has_failures = bool(failures.hopeless or failures.lost_trainings or failures.left_out)
        self._fitting: dict[LearningClass, Sequence[Members]] = {}
        self._found: dict[LearningClass, Candidate] = {}

    @property
    def found(self) -> list[Candidate]:
        """The classes so far."""
        return list(self._found.values())

    @property
    def number(self) -> int:
        """The number of classes so far."""
        return len(self._found)

    def add(self, structure: TrialParameters, settings: Mapping[str, Any]) -> None:
        """Add the class of a structure with values of the parameters that change learning only."""
        found: dict[LearningClass, Candidate] = {}
        for part in self._parts(structure):
            first = self._complete(part[0][0], settings)
            key = self._knowledge.class_of(first)
            members = self._not_ruled_out(part, settings) if self._has_failures else part
            if key in found:
                members = (*found[key].members, *members)
            if members:
                # What the parts of all classes share stays one object, so that its points are looked up once.
                found[key] = Candidate(learning_class=key, members=members, settings=first.learning_only)
        for key, candidate in found.items():
            self._found.setdefault(key, candidate)

    def _complete(self, structure: TrialParameters, settings: Mapping[str, Any]) -> TrialParameters:
        return self._setup.space.parameters({**structure, **settings}) if settings else structure

    def _not_ruled_out(self, members: Members, settings: Mapping[str, Any]) -> Members:
        ruled_out = self._knowledge.ruled_out
        left = tuple(member for member in members if ruled_out(self._complete(member[0], settings)) is None)
        return members if len(left) == len(members) else left

    def _parts(self, structure: TrialParameters) -> Sequence[Members]:
        """Return the members of a class that fit, those together that have the same parameters set."""
        key = self._knowledge.class_of(structure)
        if key not in self._fitting:
            parts: dict[tuple[Any, ...], list[tuple[TrialParameters, Cost]]] = {}
            for member in self._setup.members_of(structure):
                if (cost := self._cost(member)) is not None:
                    parts.setdefault(tuple(member.get(name) for name in self._conditions), []).append((member, cost))
            self._fitting[key] = [tuple(part) for part in parts.values()]
        return self._fitting[key]

    def _cost(self, structure: TrialParameters) -> Cost | None:
        """Return the costs of a structure that fits; None of one that does not, or can't be placed."""
        cost = self._knowledge.cost(structure)
        if cost is None or cost.peak_memory_mib > self._setup.memory_limit_mib or not cost.knows(self._setup.costs):
            return None
        return cost if self._knowledge.out_of_memory(structure) is None else None


def _pool(
    space: SearchSpace, groups: Sequence[TrialParameters], seed: int | None
) -> Iterator[tuple[TrialParameters, dict[str, Any]]]:
    """Yield structures with values of what changes learning only: some in the middle of all ranges, then spread evenly.

    Args:
        space: The space.
        groups: A structure of each class, without what changes learning only.
        seed: The seed by which the Sobol sequence is scrambled (A. B. Owen, "Scrambling Sobol' and Niederreiter-Xing points",
            Journal of Complexity 14(4), 1998).
    """
    from scipy.stats import qmc

    domains = space.learning_only
    middle = {name: domain.at(0.5) for name, domain in domains.items()}
    usual = sorted(groups, key=lambda structure: abs(math.log2(structure.effective_batch_size()) - 5))
    yield from ((structure, middle) for structure in usual[:NUM_MIDDLE])
    for first, *shares in qmc.Sobol(1 + len(domains), rng=seed or 0).random(MAX_DRAWN):
        values = {name: domain.at(share) for (name, domain), share in zip(domains.items(), shares, strict=True)}
        yield groups[int(first * len(groups))], values


def with_contained(found: Sequence[Candidate], setup: StudySetup) -> list[Candidate]:
    """Return the classes with those that the training of each contains: fewer epochs, where the schedule allows that."""
    if EPOCHS not in setup.space.domains:
        return list(found)
    alike: dict[LearningClass, list[Candidate]] = {}
    for candidate in found:
        if candidate.learning_class.get(EPOCHS) is not None and is_endless(candidate.fastest[0], setup):
            alike.setdefault(candidate.learning_class.without([EPOCHS]), []).append(candidate)
    shorter: dict[LearningClass, tuple[LearningClass, ...]] = {}
    for group in alike.values():
        group.sort(key=lambda candidate: candidate.learning_class[EPOCHS])
        classes = [candidate.learning_class for candidate in group]
        shorter |= {learning_class: tuple(classes[:position]) for position, learning_class in enumerate(classes)}
    return [replace(candidate, contained=shorter.get(candidate.learning_class, ())) for candidate in found]


def front_of_many(completed: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """Return the Pareto front, best in the first objective first: moocore, as comparing 2,000 trials in pairs takes seconds."""
    import moocore

    if not completed:
        return []
    costs = np.array([[GOALS[name].cost(record.values[name]) for name in objectives] for record in completed])
    front = [place for place, keep in enumerate(moocore.is_nondominated(costs)) if keep]
    return [completed[place] for place in sorted(front, key=lambda place: (*costs[place], place))]


def neighbours(front: Iterable[TrialParameters], space: SearchSpace) -> Iterator[TrialParameters]:
    """Yield the configurations that differ from one of the front in one parameter, by one step; of words, in any other."""
    middle = {name: domain.at(0.5) for name, domain in space.domains.items()}
    for parameters in front:
        for name, domain in space.domains.items():
            if name in parameters:
                for value in _near(parameters[name], domain):
                    # What is set with this value alone has the middle of its domain.
                    other = space.parameters({**middle, **parameters, name: value})
                    if space.violation(other) is None:
                        yield other


def _near(value: Any, domain: Domain) -> list[Any]:
    """Return the values beside one: a step of a range, or the next numbers of a list, or all of its words."""
    if isinstance(domain, FloatRange) and domain.high > domain.low:
        ends = (domain.low, domain.high, value)
        low, high, place = (math.log(end) for end in ends) if domain.log else ends
        share = (place - low) / (high - low)
        return [domain.at(moved) for moved in (share - STEP, share + STEP) if 0 <= moved <= 1]
    values = domain.values() or ()
    numbers = sorted(other for other in values if is_number(other))
    words = [other for other in values if not is_number(other) and other != value]
    if not is_number(value) or value not in numbers:
        return [*words, *numbers][:MAX_WORDS]
    place, jump = numbers.index(value), 1 + len(numbers) // MAX_WORDS
    return [numbers[moved] for moved in (place - jump, place + jump) if 0 <= moved < len(numbers)] + words[:MAX_WORDS]


def reference(
    everything: Sequence[Candidate],
    learned: Mapping[str, Collection[float]],
    setup: StudySetup,
    *,
    baselines: Mapping[str, float],
) -> Mapping[str, float]:
    """Return the reference point of the hypervolume: the slowest time, the memory limit, the baseline of a learned objective.

    What is no better than the baseline is of no use, even if nothing else has been found.

    Args:
        everything: The classes with their members that fit.
        learned: The values that trainings reached, by learned objective.
        setup: The terms of the study.
        baselines: The baselines (the constant answer) of the learned objectives for which they are known.
    """
    found = {
        name: baselines[name] if name in baselines else worst_that_counts(GOALS[name], learned.get(name, ()))
        for name in setup.learned
    }
    limited = [name for name, goal in cost_goals().items() if goal.limited_by_memory]
    # Classes that differ in what changes learning only have the same members.
    members = {id(candidate.members): candidate.members for candidate in everything}.values()
    for name in setup.costs:
        if name in limited:
            found[name] = setup.memory_limit_mib * 1.01
            continue
        known = [cost.value(name) for part in members for _, cost in part]
        values = [value for value in known if value is not None]
        found[name] = min(values) / COST_MARGIN if GOALS[name].direction == "maximize" else max(values) * COST_MARGIN
    return found
