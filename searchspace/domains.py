"""The values that one parameter may take, and how an Optuna trial draws one of them.

Everything is stored under the parameter's own name with the parameter's own value: whoever reads the study in a dashboard or
enqueues a trial deals with a batch size of 8, never with its exponent or its position in a list.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Value = bool | int | float | str | None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return True of a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_same(a: Any, b: Any) -> bool:
    """Return True if two values of a parameter are equal; 1 and True are to Python, and are not here."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


class Domain(Protocol):
    """A finite or continuous set of values that a sampler can draw from."""

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Any:
        """Draw a value with the trial's sampler."""

    def distribution(self) -> BaseDistribution:
        """Return the distribution under which Optuna stores what `suggest` draws."""

    def values(self) -> tuple[Any, ...] | None:
        """Return every value, or None where there are infinitely many."""

    def examples(self) -> tuple[Any, ...]:
        """Return every value, or the ends of a continuous range."""

    def at(self, share: float) -> Any:
        """Return the value that lies a share (0 to below 1) of the way from the first to the last."""


@dataclass(frozen=True, slots=True)
class Categorical:
    """A list of values.

    Raises:
        ValueError: The list is empty or names a value twice.
    """

    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("a domain must hold at least one value, got an empty list")
        for position, choice in enumerate(self.choices):
            if choice in self.choices[:position]:
                same = self.choices[self.choices.index(choice)]
                alike = f"{choice!r} twice" if repr(same) == repr(choice) else f"{same!r} and {choice!r}, which are equal"
                raise ValueError(f"a domain must name each value once, got {alike}")

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Any:
        """Draw one of the choices."""
        return trial.suggest_categorical(name, self.choices)

    def distribution(self) -> CategoricalDistribution:
        """Return a categorical distribution over the choices."""
        return CategoricalDistribution(self.choices)

    def values(self) -> tuple[Any, ...]:
        """Return the choices in the order given."""
        return self.choices

    examples = values

    def at(self, share: float) -> Any:
        """Return the choice at a share of the list."""
        return self.choices[int(share * len(self.choices))]


@dataclass(frozen=True, slots=True)
class PowersOfTwo(Categorical):
    """The powers of two from low to high, both included.

    Raises:
        ValueError: An end is not a power of two, or low exceeds high.
    """

    choices: tuple[Value, ...] = ()
    low: int = 1
    high: int = 1

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if end < 1 or end & (end - 1):
                raise ValueError(f"both ends must be powers of two (1, 2, 4, ...), got {end}")
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, got low={self.low} and high={self.high}")
        powers = tuple(1 << exponent for exponent in range(self.low.bit_length() - 1, self.high.bit_length()))
        object.__setattr__(self, "choices", powers)


@dataclass(frozen=True, slots=True)
class IntRange:
    """The integers from low to high, both included, in steps.

    Raises:
        ValueError: The range is empty, or the step is not positive.
    """

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"step must be at least 1, got {self.step}")
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, got low={self.low} and high={self.high}")
        # Optuna would shorten the range too, with a warning; `values` and the sampler must agree on the last value.
        object.__setattr__(self, "high", self.low + (self.high - self.low) // self.step * self.step)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> int:
        """Draw an integer of the range."""
        return trial.suggest_int(name, self.low, self.high, step=self.step)

    def distribution(self) -> IntDistribution:
        """Return an integer distribution over the range."""
        return IntDistribution(self.low, self.high, step=self.step)

    def values(self) -> tuple[int, ...]:
        """Return the integers in ascending order."""
        return tuple(range(self.low, self.high + 1, self.step))

    examples = values

    def at(self, share: float) -> int:
        """Return the integer at a share of the range."""
        return self.low + int(share * ((self.high - self.low) // self.step + 1)) * self.step


@dataclass(frozen=True, slots=True)
class FloatRange:
    """The numbers from low to high, on a linear or a logarithmic scale.

    Raises:
        ValueError: An end is not finite, low exceeds high, or low is not positive on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"both ends must be finite, got low={self.low} and high={self.high}")
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, got low={self.low} and high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be positive on a logarithmic scale, got {self.low}")

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> float:
        """Draw a number of the range."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def distribution(self) -> FloatDistribution:
        """Return a float distribution over the range."""
        return FloatDistribution(self.low, self.high, log=self.log)

    def values(self) -> tuple[float, ...] | None:
        """Return None, unless the range is a single number."""
        return (self.low,) if self.low == self.high else None

    def examples(self) -> tuple[float, float]:
        """Return both ends."""
        return self.low, self.high

    def at(self, share: float) -> float:
        """Return the number that lies a share (0 to 1) of the way from low to high, on the range's scale."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return float(self.low + (self.high - self.low) * share)
