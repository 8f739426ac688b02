"""The joint space: a domain for each searched parameter, and the rules between them."""

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from tradeoff.searchspace.constraints import EffectiveBatchSizeRange, Violation, check_conflicts
from tradeoff.searchspace.domains import Categorical, Domain
from tradeoff.searchspace.knobs import KNOBS, MICRO_BATCH
from tradeoff.searchspace.parameters import TrialParameters


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

    Raises:
        ValueError: A domain's name is not a parameter, the batch size has no domain, or a value is not allowed for it.
    """

    domains: Mapping[str, Domain]
    effective_batch_size: EffectiveBatchSizeRange = field(default_factory=EffectiveBatchSizeRange)

    def __post_init__(self) -> None:
        # Each value is tried alone once, so that a batch of 0 is refused here and not in the middle of a study.
        for name, domain in self.domains.items():
            for value in domain.examples():
                TrialParameters(**({MICRO_BATCH: 1} | {name: value}))
        if MICRO_BATCH not in self.domains:
            raise ValueError(f"{MICRO_BATCH} must have a domain")

    def suggest(self, trial: optuna.trial.BaseTrial) -> TrialParameters:
        """Draw a configuration with the trial's sampler, a suggestion for each domain in the order given."""
        return TrialParameters(**{name: domain.suggest(trial, name) for name, domain in self.domains.items()})

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the distributions that Optuna stores for a trial of this space, by parameter."""
        return {name: domain.distribution() for name, domain in self.domains.items()}

    def read(self, stored: Mapping[str, Any]) -> TrialParameters | None:
        """Return the parameters of a stored trial, or None where the trial does not hold all of them."""
        if any(name not in stored for name in self.domains):
            return None
        return TrialParameters(**{name: stored[name] for name in self.domains})

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
            ends, is_number = domain.examples(), isinstance(value, int | float) and not isinstance(value, bool)
            if (values := domain.values()) is not None:
                # 1 == True in Python.
                if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values):
                    return f"{name} must be one of {', '.join(map(str, values))}, got {value!r}"
            elif not (is_number and ends[0] <= value <= ends[-1]):
                return f"{name} must be a number from {ends[0]} to {ends[-1]}, got {value!r}"
        return None

    def violation(self, parameters: TrialParameters) -> Violation | None:
        """Return the violation of a rule that `parameters` break, or None."""
        return self.effective_batch_size.check(parameters) or check_conflicts(parameters)

    def size(self) -> int | None:
        """Return the number of configurations that meet the rules, or None where a domain is continuous."""
        return None if self.continuous() else sum(1 for _ in self.grid())

    def grid(self) -> Iterator[TrialParameters]:
        """Yield every configuration that meets the rules.

        Raises:
            ValueError: A domain is continuous.
        """
        if continuous := self.continuous():
            raise ValueError(f"{continuous[0]} is continuous: a grid needs a list of values")
        values = {name: domain.values() or () for name, domain in self.domains.items()}
        for combination in itertools.product(*values.values()):
            parameters = TrialParameters(**dict(zip(values, combination, strict=True)))
            if self.violation(parameters) is None:
                yield parameters

    def continuous(self) -> list[str]:
        """Return the names of the parameters that are searched over a range of numbers."""
        return [name for name, domain in self.domains.items() if domain.values() is None]

    @cached_property
    def learning_only(self) -> Mapping[str, Domain]:
        """The domains of the parameters on which neither memory nor time depends, such as the learning rate."""
        return {name: domain for name, domain in self.domains.items() if KNOBS[name].changes_learning_only}

    @cached_property
    def structures(self) -> tuple[TrialParameters, ...]:
        """Every configuration without those parameters: all that can differ in memory or time."""
        domains = {name: domain for name, domain in self.domains.items() if name not in self.learning_only}
        return tuple(SearchSpace(domains=domains, effective_batch_size=self.effective_batch_size).grid())

    def complete(self, structure: TrialParameters) -> TrialParameters:
        """Return the structure with the first value of each parameter that it lacks, as Optuna wants a value of each."""
        missing = {name: domain for name, domain in self.learning_only.items() if name not in structure}
        return structure.replace(**{name: domain.examples()[0] for name, domain in missing.items()}) if missing else structure

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
            always = next(option for option in KNOBS[name].kind.options() if KNOBS[name].needs(option) is None)
            raise ValueError(f"none of the values to search is available here ({', '.join(map(str, values))}); add {always}")
        return replace(self, domains={**self.domains, name: Categorical(left)})
