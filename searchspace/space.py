"""The joint space: a domain for each searched parameter, and the rules between them."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from tradeoff.searchspace.conditions import Conditions, is_set, set_values
from tradeoff.searchspace.constraints import EffectiveBatchSizeRange, Violation, check_conflicts
from tradeoff.searchspace.domains import Categorical, Domain, IntRange, is_number, is_same
from tradeoff.searchspace.knobs import ACCUMULATION, KNOBS, MICRO_BATCH, Knobs
from tradeoff.searchspace.parameters import TrialParameters

# Of a larger space, as many structures are drawn.
MAX_STRUCTURES = 4096
# The ways to split an effective batch are not drawn, unless there are very many.
_SPLIT = (MICRO_BATCH, ACCUMULATION)
_MAX_SPLITS = 256
_NUMBER_OF_SPLIT = ""  # no parameter has this name
# Values of one parameter that are looked at beside the first ones of all others.
_MOST_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The configurations that a study may try.

    Example:
        >>> space = SearchSpace(
        ...     domains={
        ...         "per_device_train_batch_size": Categorical((8, 16)),
        ...         "gradient_accumulation_steps": Categorical((1, 2)),
        ...     },
        ...     effective_batch_size=EffectiveBatchSizeRange(high=16),
        ... )
        >>> [parameters.effective_batch_size() for parameters in space.grid()]
        [8, 16, 16]

    Attributes:
        domains: The values of each parameter that is searched.
        effective_batch_size: The effective batch sizes that may be tried.
        knobs: What the parameters change.
        only_with: For a parameter that is not always set: the values that others must have for that, by their names.
        excluded: Values of several parameters that can't be tried together, by their names.

    Raises:
        ValueError: The batch size has no domain, a value is not allowed for a parameter, or conditions go round in a circle.
    """

    domains: Mapping[str, Domain]
    effective_batch_size: EffectiveBatchSizeRange = field(default_factory=EffectiveBatchSizeRange)
    knobs: Knobs = KNOBS
    only_with: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    excluded: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        # Each value is tried alone once, so that a batch of 0 is refused here and not in the middle of a study.
        for name, domain in self.domains.items():
            for value in domain.examples():
                TrialParameters(self.knobs, **({MICRO_BATCH: 1} | {name: value}))
        if MICRO_BATCH not in self.domains:
            raise ValueError(f"{MICRO_BATCH} must have a domain")
        _ = self.conditions

    @cached_property
    def conditions(self) -> Conditions:
        """The conditions of all parameters, those of a parameter after those of the ones that it depends on."""
        found = {name: self._conditions_of(name) for name in self.domains}
        ordered: dict[str, Mapping[str, tuple[Any, ...]]] = {}
        while left := [name for name in found if name not in ordered]:
            ready = [name for name in left if found[name].keys() <= ordered.keys()]
            if not ready:
                raise ValueError(f"conditions must not go round in a circle, got {' and '.join(left)}")
            ordered |= {name: found[name] for name in ready}
        return ordered

    def _conditions_of(self, name: str) -> dict[str, tuple[Any, ...]]:
        found = {**self.only_with.get(name, {})}
        if (other := self.knobs[name].only_with) is not None and other in self.domains and other not in found:
            values = self.domains[other].values()
            found |= {} if values is None else {other: tuple(value for value in values if value)}
        # What is not searched is as the job says.
        return {other: allowed for other, allowed in found.items() if other in self.domains}

    def parameters(self, values: Mapping[str, Any]) -> TrialParameters:
        """Return the configuration with some values, without those that their conditions leave unset."""
        return TrialParameters(self.knobs, **set_values(values, self.conditions))

    def suggest(self, trial: optuna.trial.BaseTrial) -> TrialParameters:
        """Draw a configuration with the trial's sampler, a suggestion for each parameter that is set, after its conditions."""
        values: dict[str, Any] = {}
        for name in self.conditions:
            if is_set(name, values, self.conditions):
                values[name] = self.domains[name].suggest(trial, name)
        return TrialParameters(self.knobs, **values)

    def distributions(self, names: Iterable[str] | None = None) -> dict[str, BaseDistribution]:
        """Return the distributions that Optuna stores for a trial of this space, by parameter; of all or of some."""
        return {name: self.domains[name].distribution() for name in (self.domains if names is None else names)}

    def read(self, stored: Mapping[str, Any]) -> TrialParameters | None:
        """Return the parameters of a stored trial, or None where the trial does not hold all that it needs."""
        values: dict[str, Any] = {}
        for name in self.conditions:
            if is_set(name, values, self.conditions):
                if name not in stored:
                    return None
                values[name] = stored[name]
        return TrialParameters(self.knobs, **values)

    def stored(self, parameters: TrialParameters) -> dict[str, Any]:
        """Return what Optuna stores of `parameters`: the inverse of `read`."""
        return {name: value for name, value in parameters.as_dict().items() if name in self.domains}

    def foreign(self, stored: Mapping[str, Any]) -> str | None:
        """Describe the first of some stored values that is not one of the space; None if all are.

        Args:
            stored: Values by parameter, such as those of a trial that somebody has enqueued.
        """
        for name, value in stored.items():
            if name not in self.domains:
                return f"{name} must be one of the study's parameters ({', '.join(self.domains)}), got {value!r} for it"
            domain = self.domains[name]
            ends = domain.examples()
            if (values := domain.values()) is not None:
                if not any(is_same(value, one) for one in values):
                    return f"{name} must be one of {', '.join(map(str, values))}, got {value!r}"
            elif not (is_number(value) and ends[0] <= value <= ends[-1]):
                return f"{name} must be a number from {ends[0]} to {ends[-1]}, got {value!r}"
        return None

    def violation(self, parameters: TrialParameters) -> Violation | None:
        """Return the violation of a rule that `parameters` break, or None."""
        return self.effective_batch_size.check(parameters) or self.conflict(parameters)

    def conflict(self, parameters: TrialParameters) -> Violation | None:
        """Return the violation of a rule between values that can't be tried together, or None."""
        for values in self.excluded:
            if all(parameters.get(name) == value for name, value in values.items()):
                together = " and ".join(f"{name} {value}" for name, value in values.items())
                return Violation(name="excluded", amount=1.0, reason=f"{together} can't be trained with together")
        return check_conflicts(parameters)

    def num_combinations(self) -> float:
        """Return the number of combinations of values within the batch limits; infinite of a continuous space."""
        values = [domain.values() for domain in self._others.values()]
        return len(self._splits) * math.prod(math.inf if each is None else len(each) for each in values)

    @cached_property
    def _splits(self) -> list[dict[str, Any]]:
        """The values of batch and accumulation, together, that the limits of an effective batch allow."""
        names = [name for name in _SPLIT if name in self.domains]
        ways = itertools.product(*(self.domains[name].values() or () for name in names))
        return [dict(zip(names, values, strict=True)) for values in ways if self.effective_batch_size.allows(*values)]

    @cached_property
    def _others(self) -> dict[str, Domain]:
        """The domains of all other parameters."""
        return {name: domain for name, domain in self.domains.items() if name not in _SPLIT}

    def grid(self) -> Iterator[TrialParameters]:
        """Yield every configuration that meets the rules.

        Raises:
            ValueError: A domain is continuous.
        """
        if continuous := self.continuous():
            raise ValueError(f"{continuous[0]} is continuous: a grid needs a list of values")
        others = {name: domain.values() or () for name, domain in self._others.items()}
        return self._meeting({**split, **values} for split in self._splits for values in _combinations(others))

    def drawn(self, most: int) -> Iterator[TrialParameters]:
        """Yield different configurations that meet the rules, spread over the space, at most so many, always the same.

        First come those that differ in one parameter from the first value of each, then points of a Sobol sequence (I. M.
        Sobol', "On the distribution of points in a cube", 1967). Batch and accumulation are combined in every way that their
        limits allow; where these are very many, each point has one of them.
        """
        others, splits = self._others, self._splits
        if len(splits) > _MAX_SPLITS:
            others = {**others, _NUMBER_OF_SPLIT: IntRange(0, len(splits) - 1)}
        points = itertools.chain(_one_by_one(others), _sobol(others, most))
        found = self._meeting(
            {**point, **split}
            for point in points
            for split in ([splits[point.pop(_NUMBER_OF_SPLIT)]] if _NUMBER_OF_SPLIT in point else splits)
        )
        return itertools.islice(found, most)

    def _meeting(self, combinations: Iterable[Mapping[str, Any]]) -> Iterator[TrialParameters]:
        """Yield the different configurations that meet the rules."""
        met = set()
        for values in combinations:
            parameters = self.parameters(values)
            if self.violation(parameters) is None and parameters not in met:
                met.add(parameters)
                yield parameters

    def continuous(self) -> list[str]:
        """Return the names of the parameters that are searched over a range of numbers."""
        return [name for name, domain in self.domains.items() if domain.values() is None]

    @cached_property
    def learning_only(self) -> Mapping[str, Domain]:
        """The domains of the parameters on which neither memory nor time depends, such as the learning rate."""
        return {name: domain for name, domain in self.domains.items() if self.knobs[name].changes_learning_only}

    @cached_property
    def structures(self) -> tuple[TrialParameters, ...]:
        """Every configuration without those parameters, all that can differ in memory or time; of a large space, a part."""
        return tuple(self._structures())

    def is_empty(self) -> bool:
        """Return True if no configuration meets the rules; of a large space, none that was looked at."""
        return next(self._structures(), None) is None

    def _structures(self) -> Iterator[TrialParameters]:
        return self._of_structures.drawn(MAX_STRUCTURES) if self.is_drawn else self._of_structures.grid()

    @cached_property
    def is_drawn(self) -> bool:
        """True if there are more structures than can be looked at, so that `structures` are a part of them."""
        return self._of_structures.num_combinations() > MAX_STRUCTURES

    @cached_property
    def _of_structures(self) -> "SearchSpace":
        domains = {name: domain for name, domain in self.domains.items() if name not in self.learning_only}
        return replace(self, domains=domains)

    def complete(self, structure: TrialParameters) -> TrialParameters:
        """Return the structure with the first value of each parameter that it lacks, as Optuna wants a value of each."""
        missing = {name: domain.examples()[0] for name, domain in self.learning_only.items() if name not in structure}
        return self.parameters({**structure, **missing}) if missing else structure

    def without(self, name: str, missing: Collection[Any]) -> "SearchSpace":
        """Return the same space without some values of a parameter; it is as it was where the parameter is not searched.

        Raises:
            ValueError: No value is left.
        """
        if name not in self.domains:
            return self
        values = self.domains[name].values() or ()
        left = tuple(value for value in values if value not in missing)
        if not left:
            knob = self.knobs[name]
            free = next(option for option in knob.kind.options() if knob.needs(option) is None)
            always = "null" if free is None else free
            raise ValueError(f"none of the values to search is available here ({', '.join(map(str, values))}); add {always}")
        return replace(self, domains={**self.domains, name: Categorical(left)})


def _combinations(values: Mapping[str, Collection[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of values."""
    return (dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values()))


def _one_by_one(domains: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Yield the first value of each domain, and then each other one beside them."""
    first = {name: domain.examples()[0] for name, domain in domains.items()}
    yield first
    for name, domain in domains.items():
        values = domain.examples()
        shown = values[1:] if len(values) <= _MOST_SHOWN else [domain.at(step / _MOST_SHOWN) for step in range(1, _MOST_SHOWN)]
        yield from (first | {name: value} for value in shown)


def _sobol(domains: Mapping[str, Domain], number: int) -> Iterator[dict[str, Any]]:
    """Yield points that are spread evenly over some domains."""
    from scipy.stats import qmc

    if not domains:
        return iter(())
    points = qmc.Sobol(len(domains), rng=0).random(1 << (number - 1).bit_length())
    return ({name: domain.at(share) for (name, domain), share in zip(domains.items(), point, strict=True)} for point in points)
