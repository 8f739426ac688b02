"""Places of learning classes as points: what the Gaussian process of a learned metric compares them by.

Whatever the knob, its values give its place. Numbers are scaled to their domain, on a logarithmic axis where that is theirs;
any two words, truth values, None, or a knob that is left out are a unit apart. Two scaling rules tilt the axes, each by an
exponent that is learnt, so that data can overrule them:

- The best learning rate grows with the batch, to the power of one half by S. Malladi et al., "On the SDEs and Scaling Rules for
  Adaptive Gradient Algorithms", NeurIPS 2022, and hardly at all by M. Marek et al., "Small Batch Size Training for Language
  Models", arXiv 2507.07101.
- Weight decay acts through AdamW's time scale, batch / (learning rate x weight decay x samples): S. Bergsma et al., "Power
  Lines: Scaling Laws for Weight Decay and Batch Size in LLM Pre-training", arXiv 2505.13738.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tradeoff.searchspace import KNOBS, Categorical, Domain, FloatRange, Learning, LearningClass, PowersOfTwo, SearchSpace
from tradeoff.searchspace.domains import is_number, is_same
from tradeoff.searchspace.kinds import MIN_RATE
from tradeoff.studies.samplers.gaussian_process import Array, Inputs

BATCH, RATE, DECAY, EPOCHS = "effective_batch_size", "learning_rate", "weight_decay", "num_train_epochs"
# An axis of numbers is so many units long; a unit apart is far enough to tell little of each other.
LENGTH = 2.0
# Three doublings of the effective batch are a unit, and three times the learning rate, whatever is searched.
UNITS = {BATCH: math.log(8), RATE: math.log(3)}
# Numbers that span a decade are on a logarithmic axis, as are those whose effect is relative whatever they span.
DECADE = 10.0
ALWAYS_LOGARITHMIC = (RATE, DECAY, EPOCHS)
# On a logarithmic axis 0 is as far below the smallest number: what is a tenth of it does next to nothing.
BELOW = 10.0
# The smallest number of a range that begins at 0, as a share of the largest, on such an axis.
SMALLEST_SHARE = 0.01
# What changes the arithmetic alone is half as far apart as what changes the method.
PRECISION_UNIT = 0.5
# What is believed of the exponents before anything is trained.
RATE_EXPONENT, DECAY_EXPONENT = 0.5, 0.7
# A knob that is not in a class has this for its value.
ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The place of the values of one knob: a coordinate for its numbers, and one for each word or other value.

    Attributes:
        name: The knob.
        words: Everything that is not a number; with `ABSENT` if there are classes without the knob.
        has_numbers: Whether there are several numbers, or a number beside words.
        is_log: Whether numbers are on a logarithmic axis.
        floor: On such an axis, the number that smaller ones, such as 0, count as.
        middle: The middle of the numbers, or of their logarithms.
        unit: The length of a unit.
        apart: The distance between two words.
    """

    name: str
    words: tuple[Any, ...]
    has_numbers: bool
    is_log: bool = False
    floor: float = 0.0
    middle: float = 0.0
    unit: float = 1.0
    apart: float = 1.0

    @classmethod
    def of(cls, name: str, domain: Domain, *, may_be_absent: bool, apart: float) -> "Axis":
        """Return the axis of a knob's values."""
        values = domain.examples()
        words = tuple(value for value in values if not is_number(value)) + ((ABSENT,) if may_be_absent else ())
        numbers = [float(value) for value in values if is_number(value)]
        if not numbers:
            return cls(name=name, words=words, has_numbers=False, apart=apart)
        low, high = min(numbers), max(numbers)
        smallest = min((number for number in numbers if number > 0), default=0.0)
        is_log = low >= 0 < smallest and (name in (BATCH, *ALWAYS_LOGARITHMIC) or _is_logarithmic(domain, smallest, high))
        if has_zero := is_log and low == 0:
            low = high * SMALLEST_SHARE if isinstance(domain, FloatRange) else smallest / BELOW
        ends = (math.log(low), math.log(high)) if is_log else (low, high)
        return cls(
            name=name,
            words=words,
            has_numbers=high > low or bool(words) or name == BATCH,
            is_log=is_log,
            floor=low if has_zero else MIN_RATE,
            middle=sum(ends) / 2,
            unit=UNITS.get(name) or (ends[1] - ends[0]) / LENGTH or 1.0,
            apart=apart,
        )

    @property
    def num_coordinates(self) -> int:
        """The number of coordinates of a value."""
        kinds = len(self.words) + self.has_numbers
        return self.has_numbers + (kinds if kinds > 1 else 0)

    def at(self, value: Any) -> list[float]:
        """Return the coordinates of a value; a word has the middle of the numbers."""
        place = [self.number(value) / self.unit if is_number(value) else 0.0] if self.has_numbers else []
        if not self.words:
            return place
        kinds = [not is_number(value) and is_same(word, value) for word in self.words] + [is_number(value)] * self.has_numbers
        return place + [self.apart * kind / math.sqrt(2) for kind in kinds]

    def number(self, value: float) -> float:
        """Return how far a number, or its logarithm, is from the middle."""
        return (math.log(max(value, self.floor)) if self.is_log else float(value)) - self.middle


@dataclass(frozen=True, kw_only=True)
class Features:
    """Places of the learning classes of a space.

    Attributes:
        axes: An axis for each knob that differs between classes.
    """

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, classes: Iterable[LearningClass], space: SearchSpace | None = None) -> "Features":
        """Return the features of some classes.

        Args:
            classes: All that are to be compared.
            space: Their space; without it, a knob has the values that it has in the classes.
        """
        classes = list(classes)
        seen: dict[str, dict[Any, None]] = {}
        counts: dict[str, int] = {}
        for learning_class in classes:
            for name, value in learning_class.items():
                seen.setdefault(name, {})[value] = None
                counts[name] = counts.get(name, 0) + 1
        knobs, domains = (KNOBS, {}) if space is None else (space.knobs, space.domains)
        axes = []
        for name, values in seen.items():
            learning = Learning.METHOD if name == BATCH else knobs[name].learning
            # Ways to compute the same thing, which tell trials apart where no accuracy is shared, count as one.
            if learning < Learning.PRECISION:
                continue
            domain = domains.get(name) or Categorical(tuple(values))
            apart = 1.0 if learning >= Learning.METHOD else PRECISION_UNIT
            axis = Axis.of(name, domain, may_be_absent=counts[name] < len(classes), apart=apart)
            if axis.num_coordinates:
                axes.append(axis)
        return cls(axes=tuple(axes))

    def inputs(self, classes: Sequence[LearningClass]) -> Inputs:
        """Return the places of some classes."""
        values = [[axis.at(each.get(axis.name, ABSENT)) for each in classes] for axis in self.axes]
        widths = [axis.num_coordinates for axis in self.axes]
        parts = [np.array(part).reshape(len(classes), width) for part, width in zip(values, widths, strict=True)]
        points = np.hstack([np.zeros((len(classes), 0)), *parts])
        scales = np.repeat(np.arange(len(self.axes)), widths)
        shears = np.zeros((len(self._rules), *points.shape))
        starts = dict(zip((axis.name for axis in self.axes), np.cumsum(widths) - widths, strict=True))
        for shear, (name, _, powers) in zip(shears, self._rules, strict=True):
            shear[:, starts[name]] = self._tilt(classes, name, powers)
        return Inputs(points=points, shears=shears, scales=scales, exponents=tuple(prior for _, prior, _ in self._rules))

    def _tilt(self, classes: Sequence[LearningClass], name: str, powers: Mapping[str, int]) -> Array:
        """Return what a rule subtracts from the axis of a knob at exponent 1; nothing from 0, or from what is not a number."""
        unit = self._axis_of[name].unit
        tilt = np.zeros(len(classes))
        for other, power in powers.items():
            if (axis := self._axis_of.get(other)) is not None and axis.is_log:
                values = [each.get(other, ABSENT) for each in classes]
                tilt += [power * axis.number(value) / unit if is_number(value) else 0.0 for value in values]
        return np.where([is_number(value := each.get(name, ABSENT)) and value > 0 for each in classes], tilt, 0.0)

    @cached_property
    def _axis_of(self) -> Mapping[str, Axis]:
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def _rules(self) -> list[tuple[str, float, Mapping[str, int]]]:
        """The scaling rules that concern these axes: the knob, the exponent that is believed, and the powers of others."""
        rules = [
            (RATE, RATE_EXPONENT, {BATCH: 1}),
            (DECAY, DECAY_EXPONENT, {BATCH: 1, RATE: -1, EPOCHS: -1}),
        ]
        return [rule for rule in rules if (axis := self._axis_of.get(rule[0])) is not None and axis.is_log]


def _is_logarithmic(domain: Domain, smallest: float, high: float) -> bool:
    if isinstance(domain, FloatRange):
        return domain.log
    return isinstance(domain, PowersOfTwo) or high / smallest >= DECADE
