"""The criteria that a user gives in options: a limit, a distance from the best, a weight."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.errors import TradeoffError

_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
# A metric of the user's own may have any name, spaces included.
_NAME = r"\s*([^\s<>=:](?:[^<>=]*[^\s<>=:])?)\s*"
_NUMBER = r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
_LIMIT = re.compile(f"{_NAME}(<=|>=|==|<|>){_NUMBER}")
_WITHIN = re.compile(f"{_NAME}:{_NUMBER}(%?)\\s*")
_WEIGHT = re.compile(f"{_NAME}:{_NUMBER}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A bound on a trial's measurement, such as `peak_memory_mib<=7000`.

    Attributes:
        name: An objective, another stored measurement, a numeric parameter, or `effective_batch_size`.
        comparison: One of <=, >=, <, >, ==.
        bound: The number on the right.
    """

    name: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Read an option's text.

        Raises:
            TradeoffError: The text is not a name, a comparison and a number.
        """
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise TradeoffError(
                f'a limit must be written like "peak_memory_mib<=7000" (in quotes; <= >= < > or ==), got {text!r}'
            )
        return cls(name=match[1], comparison=match[2], bound=float(match[3]))

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{self.bound:g}"

    def is_satisfied_by(self, record: TrialRecord) -> bool:
        """Return whether the record has the measurement and it is within the bound."""
        value = numeric_value(record, self.name)
        return value is not None and bool(_COMPARISONS[self.comparison](value, self.bound))

    def excess(self, record: TrialRecord) -> float:
        """Return by how much the bound is broken, as a share of it (of 1 where it is 0); infinite without the measurement."""
        value = numeric_value(record, self.name)
        if value is None:
            return float("inf")
        return 0.0 if self.is_satisfied_by(record) else abs(value - self.bound) / (abs(self.bound) or 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Within:
    """The distance from the best value that an objective may have, such as `accuracy:0.005` or `train_time_s:10%`."""

    objective: str
    tolerance: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str) -> "Within":
        """Read an option's text.

        Raises:
            TradeoffError: The text is not an objective, a colon and a number of at least 0.
        """
        match = _WITHIN.fullmatch(text)
        if match is None or float(match[2]) < 0:
            raise TradeoffError(f"--within must be written like accuracy:0.005 or train_time_s:10%, got {text!r}")
        share = 0.01 if match[3] else 1.0
        return cls(objective=match[1], tolerance=float(match[2]) * share, relative=bool(match[3]))

    def __str__(self) -> str:
        return f"{self.objective} within {self.tolerance:{'.0%' if self.relative else 'g'}}"

    def keep(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the records that are close enough to the best of them."""
        values = [record.values[self.objective] for record in records]
        best = max(values) if GOALS[self.objective].direction == "maximize" else min(values)
        distance = self.tolerance * abs(best) if self.relative else self.tolerance
        # The sum of two decimals is not exact in binary: 0.8 - 0.795 must count as within 0.005.
        slack = 1e-9 * max(abs(best), distance)
        return [record for record, value in zip(records, values, strict=True) if abs(value - best) <= distance + slack]


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """Read weights such as `accuracy:2`.

    Raises:
        TradeoffError: One is not a name, a colon and a number of at least 0.
    """
    weights = {}
    for text in texts:
        match = _WEIGHT.fullmatch(text)
        if match is None or float(match[2]) < 0:
            raise TradeoffError(f"a weight must be written like accuracy:2 and be at least 0, got {text!r}")
        weights[match[1]] = float(match[2])
    return weights


def numeric_value(record: TrialRecord, name: str) -> float | None:
    """Return the number that a record holds under a name: an objective, another measurement or a parameter; else None."""
    if name == "effective_batch_size" and "per_device_train_batch_size" in record.params:
        batch, accumulation = record.params["per_device_train_batch_size"], record.params.get("gradient_accumulation_steps", 1)
        value = batch * accumulation * record.num_devices
    else:
        value = record.values.get(name, record.attributes.get(name, record.params.get(name)))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
