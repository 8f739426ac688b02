"""The joint space: a domain for each searched parameter, and the rules between them."""

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from tradeoff.searchspace.constraints import EffectiveBatchSizeRange, Violation, check_attention
from tradeoff.searchspace.domains import Categorical, Domain
from tradeoff.searchspace.parameters import Precision, TrialParameters


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
        for name in self.domains:
            if name not in TrialParameters.names():
                raise ValueError(f"{name} is not a parameter; there are {', '.join(TrialParameters.names())}")
        if "per_device_train_batch_size" not in self.domains:
            raise ValueError("per_device_train_batch_size must have a domain")
        # Each value is tried alone once, so that a batch of 0 is refused here and not in the middle of a study.
        smallest: dict[str, Any] = {"per_device_train_batch_size": 1}
        for name, domain in self.domains.items():
            values = domain.values()
            for value in values if values is not None else (getattr(domain, "low", None), getattr(domain, "high", None)):
                TrialParameters(**(smallest | {name: value}))

    def suggest(self, trial: optuna.trial.BaseTrial) -> TrialParameters:
        """Draws a configuration with the trial's sampler, a suggestion for each domain in the order given."""
        return TrialParameters(**{name: domain.suggest(trial, name) for name, domain in self.domains.items()})

    def distributions(self) -> dict[str, BaseDistribution]:
        """The distributions that Optuna stores for a trial of this space, by parameter."""
        return {name: domain.distribution() for name, domain in self.domains.items()}

    def read(self, stored: Mapping[str, Any]) -> TrialParameters | None:
        """The parameters of a stored trial, or None where the trial does not hold all of them."""
        if any(name not in stored for name in self.domains):
            return None
        return TrialParameters(**{name: stored[name] for name in self.domains})

    def stored(self, parameters: TrialParameters) -> dict[str, Any]:
        """What Optuna stores of `parameters`: the inverse of `read`."""
        return {name: value for name, value in parameters.as_dict().items() if name in self.domains}

    def violation(self, parameters: TrialParameters) -> Violation | None:
        """The rule that `parameters` break, or None."""
        return self.effective_batch_size.check(parameters) or check_attention(parameters)

    def size(self) -> int | None:
        """The number of configurations that meet the rules, or None where a domain is continuous."""
        return None if any(domain.values() is None for domain in self.domains.values()) else sum(1 for _ in self.grid())

    def grid(self) -> Iterator[TrialParameters]:
        """Every configuration that meets the rules.

        Raises:
            ValueError: A domain is continuous.
        """
        values: dict[str, tuple[Any, ...]] = {}
        for name, domain in self.domains.items():
            listed = domain.values()
            if listed is None:
                raise ValueError(f"{name} is continuous: a grid needs a list of values")
            values[name] = listed
        for combination in itertools.product(*values.values()):
            parameters = TrialParameters(**dict(zip(values, combination, strict=True)))
            if self.violation(parameters) is None:
                yield parameters

    @cached_property
    def structures(self) -> tuple[TrialParameters, ...]:
        """Every configuration but for the learning rate, on which neither memory nor time depends."""
        domains = {name: domain for name, domain in self.domains.items() if name != "learning_rate"}
        return tuple(SearchSpace(domains=domains, effective_batch_size=self.effective_batch_size).grid())

    def complete(self, structure: TrialParameters) -> TrialParameters:
        """The structure with the first learning rate of the space, if it has any: for what does not depend on it."""
        domain = self.domains.get("learning_rate")
        if domain is None or structure.learning_rate is not None:
            return structure
        values = domain.values()
        return structure.with_learning_rate(values[0] if values else getattr(domain, "low", None))

    def without_precisions(self, missing: frozenset[Precision]) -> "SearchSpace":
        """The same space without the precisions that a device lacks.

        Raises:
            ValueError: No precision is left.
        """
        domain = self.domains.get("precision", Categorical((Precision.FP32.value,)))
        left = tuple(value for value in domain.values() or () if Precision(value) not in missing)
        if not left:
            raise ValueError(f"the device has none of the precisions to search ({', '.join(domain.values() or ())}); add fp32")
        return self.without("precision", [precision.value for precision in missing])

    def without(self, name: str, missing: Collection[Any]) -> "SearchSpace":
        """The same space without some values of a parameter; it is as it was where the parameter is not searched.

        Raises:
            ValueError: No value is left.
        """
        if name not in self.domains:
            return self
        values = self.domains[name].values() or ()
        left = tuple(value for value in values if value not in missing)
        if not left:
            raise ValueError(f"none of the values to search is available here ({', '.join(map(str, values))}); add another")
        return replace(self, domains={**self.domains, name: Categorical(left)})
