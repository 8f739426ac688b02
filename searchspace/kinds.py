"""The kinds of values that knobs take: how a study file writes them, and which are legal.

8                              always this value
[1, 2, 4, 8]                   one of these
{powers_of_two: [1, 64]}       1, 2, 4, ... 64
{low: 1, high: 12}             whole numbers, with an optional step
{low: 1e-5, high: 1e-3, log: true}    any number in between, for a parameter that need not be whole
{values: [4, 8], only_with: {optim: adafactor}}    any of these, and what others must be for the parameter to be set at all
{values: [4, 8], changes: [time, learning]}    any of these, and what the parameter changes, if it is one of your own
"""

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tradeoff.searchspace.domains import Categorical, Domain, FloatRange, IntRange, PowersOfTwo

# Every configuration of a space is looked at many times: a typing error must not make a space that takes forever.
MAX_VALUES = 1000
MAX_INTEGER = 2**31 - 1
# Single precision, in which a training computes, ends at 3e38 and a step multiplies such numbers.
MAX_RATE, MIN_RATE = 1e30, 1e-30
# A word is at most a path, and is stored with each trial.
MAX_WORD = 1000
# A longer list of names is not repeated in an error.
MAX_NAMES_LISTED = 6


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """A kind of values.

    Attributes:
        must: The rule for a value in words, after "must": "be at least 1".
        allows: The rule.
    """

    must: str = ""
    allows: Callable[[Any], bool] = lambda _: True

    @property
    def takes_none(self) -> bool:
        """True if None is one of the values: not the same as leaving the knob alone."""
        return False

    @abstractmethod
    def read_value(self, value: Any) -> Any:
        """Return one value as a study file writes it.

        Raises:
            ValueError: It is of another type.
        """

    def read(self, spec: Any) -> Domain:
        """Return the domain that a study file describes in one of the forms above.

        Raises:
            ValueError: It is written in another form.
        """
        if isinstance(spec, dict):
            raise ValueError(f"must be a value or a list of values, got {spec!r}")
        values = list(spec) if isinstance(spec, list | tuple) else [spec]
        if len(values) > MAX_VALUES:
            raise ValueError(f"a parameter may have at most {MAX_VALUES:,} values, got {len(values):,}")
        return Categorical(tuple(self.read_value(value) for value in values))

    def check(self, name: str, value: Any) -> None:
        """Check that a value is legal.

        Raises:
            ValueError: It is not; the sentence states the rule.
        """
        if not self.allows(value):
            raise ValueError(f"{name} must {self.must}, got {value}")

    def options(self) -> tuple[Any, ...]:
        """Return every value there is; nothing where that is a matter of numbers."""
        return ()


@dataclass(frozen=True, kw_only=True)
class WholeNumbers(Kind):
    """Integers: a list, a range with a step, or powers of two.

    Attributes:
        most: The largest one.
    """

    most: int = MAX_INTEGER

    def read_value(self, value: Any) -> int:
        """Return an integer."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, got {value!r}")
        if abs(value) > self.most:
            raise ValueError(f"must be a whole number of at most {self.most:,}, got {value:,}")
        return value

    def read(self, spec: Any) -> Domain:
        """Return the integers that a study file describes."""
        if not isinstance(spec, dict):
            return super().read(spec)
        if set(spec) == {"powers_of_two"}:
            ends = spec["powers_of_two"]
            if not isinstance(ends, list) or len(ends) != 2:
                raise ValueError(f"powers_of_two must be two numbers, [low, high], got {ends!r}")
            return PowersOfTwo(low=self.read_value(ends[0]), high=self.read_value(ends[1]))
        _check_keys(spec, "step")
        low, high, step = (self.read_value(value) for value in (spec["low"], spec["high"], spec.get("step", 1)))
        if step > 0 and (count := (high - low) // step + 1) > MAX_VALUES:
            raise ValueError(f"a parameter may have at most {MAX_VALUES:,} values, got {count:,}; use a step or powers_of_two")
        return IntRange(low, high, step)


class Numbers(Kind):
    """Numbers: a list, or a range on a linear or a logarithmic scale."""

    def read_value(self, value: Any) -> float:
        """Return a number; YAML 1.1 reads 5e-5, without a point, as text."""
        try:
            if isinstance(value, bool) or not math.isfinite(number := float(value)):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"must be a finite number, got {value!r}") from None
        if number and not MIN_RATE <= abs(number) <= MAX_RATE:
            raise ValueError(f"must be 0 or a number from {MIN_RATE} to {MAX_RATE}, got {value!r}")
        return number

    def read(self, spec: Any) -> Domain:
        """Return the numbers that a study file describes."""
        if not isinstance(spec, dict):
            return super().read(spec)
        _check_keys(spec, "log")
        log = Switch().read_value(spec.get("log", False))
        return FloatRange(self.read_value(spec["low"]), self.read_value(spec["high"]), log)


class Switch(Kind):
    """True and false."""

    def read_value(self, value: Any) -> bool:
        """Return a truth value."""
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, got {value!r}")
        return value

    def options(self) -> tuple[bool, ...]:
        """Return both."""
        return (False, True)


@dataclass(frozen=True, kw_only=True)
class Names(Kind):
    """Names out of a list.

    Attributes:
        names: The list.
        refused: Names that exist and can't be used, with the reason.
    """

    names: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    def read_value(self, value: Any) -> str:
        """Return the name; `check` says whether it exists."""
        if not isinstance(value, str):
            raise ValueError(f"must be a name, got {value!r}")
        return value

    def check(self, name: str, value: Any) -> None:
        """Check that a name is on the list."""
        if value in self.names:
            return
        if value in self.refused:
            raise ValueError(f"{name} {value!r} can't be used here: {self.refused[value]}; choose another")
        if len(self.names) <= MAX_NAMES_LISTED:
            raise ValueError(f"{name} must be one of {', '.join(self.names)}, got {value!r}")
        close = difflib.get_close_matches(value, self.names, n=1, cutoff=0.75)
        hint = f"did you mean {close[0]!r}?" if close else f"it can be {', '.join(self.names)}"
        raise ValueError(f"{name} must be a name that transformers has, got {value!r}; {hint}")

    def options(self) -> tuple[str, ...]:
        """Return the list."""
        return self.names


@dataclass(frozen=True, kw_only=True)
class Words(Kind):
    """Words that only what takes them can judge, such as the name of a model."""

    def read_value(self, value: Any) -> str:
        """Return the word."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"must be a word or a name, got {value!r}")
        return _short(value)


@dataclass(frozen=True, kw_only=True)
class OrNone(Kind):
    """The values of another kind, and None.

    Attributes:
        kind: The other kind.
        example: A value of it that needs what all of them need, if they need something.
    """

    kind: Kind
    example: Any = None

    @property
    def takes_none(self) -> bool:
        """True."""
        return True

    def read_value(self, value: Any) -> Any:
        """Return the value."""
        return None if value is None else self.kind.read_value(value)

    def read(self, spec: Any) -> Domain:
        """Return the domain that a study file describes."""
        return self.kind.read(spec) if isinstance(spec, dict) else super().read(spec)

    def options(self) -> tuple[Any, ...]:
        """Return None, and the example of all others."""
        return (None,) if self.example is None else (None, self.example)

    def check(self, name: str, value: Any) -> None:
        """Check a value that is not None."""
        if value is not None:
            self.kind.check(name, value)


@dataclass(frozen=True, kw_only=True)
class Anything(Kind):
    """None, truth values, numbers and words: of a knob of which only its user knows what it takes."""

    @property
    def takes_none(self) -> bool:
        """True."""
        return True

    def read_value(self, value: Any) -> Any:
        """Return the value; a number that YAML 1.1 reads as text, such as 5e-5, is a number."""
        if isinstance(value, float) or (isinstance(value, str) and _EXPONENT.fullmatch(value)):
            return Numbers().read_value(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return WholeNumbers().read_value(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _short(value)
        raise ValueError(f"must be null, true, false, a number or a word, got {value!r}")

    def read(self, spec: Any) -> Domain:
        """Return the domain that a study file describes: of whole numbers where both ends of a range are, without a scale."""
        if not isinstance(spec, dict):
            return super().read(spec)
        ends = [self.read_value(spec.get(end)) for end in ("low", "high")]
        is_whole = "log" not in spec and all(isinstance(end, int) for end in ends)
        return (WholeNumbers() if is_whole or "powers_of_two" in spec or "step" in spec else Numbers()).read(spec)


# A number without a point before its exponent.
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _short(word: str) -> str:
    if len(word) > MAX_WORD:
        raise ValueError(f"a word may have at most {MAX_WORD:,} characters, got {len(word):,}")
    return word


def _check_keys(spec: Mapping[Any, Any], optional: str) -> None:
    if not {"low", "high"} <= set(spec) <= {"low", "high", optional}:
        raise ValueError(f"a range has the keys low, high, {optional}, got {', '.join(map(str, spec)) or 'none'}")
