"""Rules that a configuration must meet before anything is run: pure functions of its parameters.

A rule that is broken gives a violation: how far the configuration is from meeting it, in the form that Optuna's samplers learn
from (positive means infeasible), and a sentence for the user.
"""

import math
from dataclasses import dataclass

from tradeoff.searchspace.parameters import TrialParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A rule that a configuration breaks.

    Attributes:
        name: The rule's key among the trial's constraints.
        amount: How far the rule is broken, above 0; grows with the distance.
        reason: The rule, the value and the limit in a sentence.
    """

    name: str
    amount: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectiveBatchSizeRange:
    """The effective batch sizes that may be tried; None leaves an end open.

    Raises:
        ValueError: An end is below 1, or low exceeds high.
    """

    low: int | None = None
    high: int | None = None
    num_devices: int = 1

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if end is not None and end < 1:
                raise ValueError(f"an effective batch size must be at least 1, got {end}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the smallest effective batch size must not exceed the largest, got {self.low} and {self.high}")

    def allows(self, micro_batch: int, accumulation: int = 1) -> bool:
        """Return True if a split of an effective batch meets the limits."""
        return (self.low or 0) <= micro_batch * accumulation * self.num_devices <= (self.high or math.inf)

    def check(self, parameters: TrialParameters) -> Violation | None:
        """Return the violation, measured in doublings (the logarithm of the ratio to the nearer end), or None."""
        size = parameters.effective_batch_size(self.num_devices)
        if self.low is not None and size < self.low:
            return self._violation(self.low / size, f"effective batch size {size} is below the limit of {self.low}")
        if self.high is not None and size > self.high:
            return self._violation(size / self.high, f"effective batch size {size} is above the limit of {self.high}")
        return None

    def _violation(self, ratio: float, reason: str) -> Violation:
        return Violation(name="effective_batch_size_doublings", amount=math.log2(ratio), reason=reason)


def check_conflicts(parameters: TrialParameters) -> Violation | None:
    """Return the violation of the first rule between knobs that a configuration breaks, or None."""
    for name in parameters:
        conflict = parameters.knobs[name].conflict
        if conflict is not None and (reason := conflict.reason(parameters)) is not None:
            return Violation(name=conflict.name, amount=1.0, reason=reason)
    return None
