"""The lines of micro-batches that a survey can probe: one for each compute configuration, with and without accumulation.

In a small space every compute configuration has its lines. In a larger one there are too many: there each value of a knob has
one, beside the same values of all others, and effects tell of the rest (see `tradeoff.objectives.prediction.effects`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tradeoff.searchspace import (
    ACCUMULATION,
    MICRO_BATCH,
    Categorical,
    Domain,
    MemoryClass,
    SearchSpace,
    SpeedClass,
    TrialParameters,
    Values,
)
from tradeoff.searchspace.domains import is_number

# With more compute configurations than this, knobs are surveyed one by one.
MAX_FAMILIES = 8
# The most micro-batches of a line whose knobs are surveyed one by one.
MAX_BATCHES = 32

Line = Mapping[int, TrialParameters]


@dataclass(frozen=True, kw_only=True)
class Family:
    """The lines of one compute configuration.

    Attributes:
        lines: For each micro-batch the configuration with the fewest steps: with gradients held through the forward pass (True)
            and without (False), as far as there are any.
    """

    lines: Mapping[bool, Line]

    @cached_property
    def _first(self) -> TrialParameters:
        return next(parameters for line in self.lines.values() for parameters in line.values())

    @cached_property
    def speed_class(self) -> SpeedClass:
        """The class of its micro-steps."""
        return self._first.speed_class()

    @cached_property
    def memory_class(self) -> MemoryClass:
        """The class of its peaks, without regard to accumulation."""
        return _without_accumulation(self._first)

    @cached_property
    def values(self) -> Values:
        """What its memory or its time depends on."""
        return compute_values(self._first)

    @cached_property
    def members(self) -> tuple[TrialParameters, ...]:
        """The configurations of its lines."""
        return tuple(parameters for line in self.lines.values() for parameters in line.values())


@dataclass(frozen=True)
class Lines:
    """The lines of a space.

    Attributes:
        space: The space.
    """

    space: SearchSpace

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """Every compute configuration of a small space; of another, that of the first values and those around it."""
        return tuple(self._found_around({})) if self.are_many else self._all

    @property
    def are_many(self) -> bool:
        """True if knobs are surveyed one by one."""
        return len(self._all) > MAX_FAMILIES

    @cached_property
    def _all(self) -> tuple[Family, ...]:
        found: dict[Values, dict[bool, dict[int, TrialParameters]]] = {}
        for parameters in sorted(self.space.structures, key=cheapest_first):
            line = found.setdefault(compute_values(parameters), {}).setdefault(parameters.gradient_accumulation_steps > 1, {})
            line.setdefault(parameters.per_device_train_batch_size, parameters)
        return tuple(Family(lines=lines) for lines in found.values())

    def around(self, family: Family) -> tuple[Family, ...]:
        """Return a family of a large space, and those that differ from it in one knob, or in as few as the rules allow."""
        if family.values not in self._around:
            self._around[family.values] = tuple(self._found_around(family.members[0]))
        return self._around[family.values]

    @cached_property
    def _around(self) -> dict[Values, tuple[Family, ...]]:
        return {}

    def _found_around(self, base: Mapping[str, Any]) -> Iterator[Family]:
        left_out = {MICRO_BATCH, ACCUMULATION, *self.space.learning_only}
        domains = {name: domain for name, domain in self.space.domains.items() if name not in left_out}
        first = {name: base.get(name, domain.examples()[0]) for name, domain in domains.items()}
        knobs = self.space.knobs
        options: list[dict[str, Any]] = [
            {name: value}
            for name, domain in domains.items()
            if knobs[name].memory is not None or knobs[name].changes_time
            for value in compared(domain)
        ]
        seen = set()
        for wanted in ({}, *options):
            # A value may not be possible beside the first ones of all others.
            for other in ({}, *options):
                family = self._family(first | other | wanted)
                if family is not None and wanted.keys() <= family.members[0].keys():
                    if family.values not in seen:
                        seen.add(family.values)
                        yield family
                    break

    def _family(self, values: Mapping[str, Any]) -> Family | None:
        """Return the lines beside these values; None if no configuration meets the rules."""
        batches = self.space.domains[MICRO_BATCH].values() or ()
        step = -(-len(batches) // MAX_BATCHES)
        domains: dict[str, Domain] = {name: Categorical((value,)) for name, value in values.items()}
        domains[MICRO_BATCH] = Categorical(batches[::step])
        if ACCUMULATION in self.space.domains:
            domains[ACCUMULATION] = self.space.domains[ACCUMULATION]
        lines: dict[bool, dict[int, TrialParameters]] = {}
        for parameters in sorted(replace(self.space, domains=domains).grid(), key=cheapest_first):
            line = lines.setdefault(parameters.gradient_accumulation_steps > 1, {})
            line.setdefault(parameters.per_device_train_batch_size, parameters)
        return Family(lines=lines) if lines else None


def compute_values(parameters: TrialParameters) -> Values:
    """Return what the memory or the time of a configuration depends on, without micro-batch and accumulation."""
    return Values(**{**_without_accumulation(parameters), **parameters.speed_class()})


def cheapest_first(parameters: TrialParameters) -> tuple[int, int]:
    """Return by what a survey sorts configurations."""
    return parameters.per_device_train_batch_size, parameters.gradient_accumulation_steps


def _without_accumulation(parameters: TrialParameters) -> MemoryClass:
    return parameters.memory_class().replace(accumulates=False)


def compared(domain: Domain) -> list[Any]:
    """Return the values of a domain that are probed: of numbers the ends, between which effects are interpolated."""
    values = domain.examples()
    numbers = [value for value in values if is_number(value)]
    return [value for value in values if not is_number(value) or value in (min(numbers), max(numbers))]
