"""A study's memory plan: what each configuration was predicted to take before anything ran, and what probes make of it.

The prediction itself is made in a process of its own; this is its result as plain numbers, light enough for every file that
looks at a study. Within a memory class it is a curve over the micro-batch.

Measured peaks put it right as they come in: what the plan lacks is much the same for neighbours (the libraries' own memory on a
CPU, the code of kernels on a card), and the differences between configurations are what it predicts best.
"""

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tradeoff.searchspace import MemoryClass, TrialParameters

# A measured slope beyond these is taken for noise between two peaks that lie close together.
_SLOPES = (0.5, 2.0)
# Peaks closer than this share of the larger one tell no slope.
_MIN_SPAN = 0.2

# The study's user attribute that holds its plan.
MEMORY_ESTIMATES = "memory_estimates"

Points = Mapping[MemoryClass, Mapping[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """What a plan says of a configuration.

    Attributes:
        peak_memory_mib: Its predicted peak.
        at_least_mib: What it surely needs.
    """

    peak_memory_mib: float
    lower_bound_mib: float


@dataclass(frozen=True, kw_only=True)
class MemoryEstimates:
    """Predicted memory by memory class and micro-batch.

    Attributes:
        curves: For each memory class, what is planned for some of its micro-batches, ascending.
    """

    curves: Mapping[MemoryClass, Mapping[int, MemoryEstimate]]

    @classmethod
    def of(cls, planned: Iterable[tuple[TrialParameters, MemoryEstimate]]) -> "MemoryEstimates":
        """The plan that says this of these configurations."""
        curves: dict[MemoryClass, dict[int, MemoryEstimate]] = {}
        for parameters, one in sorted(planned, key=lambda pair: pair[0].per_device_train_batch_size):
            curves.setdefault(parameters.memory_class(), {})[parameters.per_device_train_batch_size] = one
        return cls(curves=curves)

    def planned(self, memory_class: MemoryClass, batch: float) -> MemoryEstimate | None:
        """What is planned for a micro-batch; between two planned ones the peak is on their line. None beyond them."""
        curve = self.curves.get(memory_class)
        if not curve:
            return None
        batches = list(curve)
        position = bisect_right(batches, batch) - 1
        if position < 0 or batch > batches[-1]:
            return None
        low = curve[batches[position]]
        if batches[position] == batch:
            return low
        high = curve[batches[position + 1]]
        share = (batch - batches[position]) / (batches[position + 1] - batches[position])
        peak_mib = low.peak_memory_mib + share * (high.peak_memory_mib - low.peak_memory_mib)
        # What is surely needed by a smaller batch is by a larger one; a line between the two might claim more.
        return MemoryEstimate(peak_memory_mib=peak_mib, lower_bound_mib=low.lower_bound_mib)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to be stored with the study that the plan is for."""
        return {
            "classes": [
                {
                    "class": dict(memory_class),
                    "batches": list(curve),
                    "peak_memory_mib": [round(one.peak_memory_mib, 2) for one in curve.values()],
                    "at_least_mib": [round(one.lower_bound_mib, 2) for one in curve.values()],
                }
                for memory_class, curve in self.curves.items()
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MemoryEstimates":
        """The plan that `as_dict` wrote."""
        curves = {}
        for entry in values["classes"]:
            peaks = zip(entry["batches"], entry["peak_memory_mib"], entry["at_least_mib"], strict=True)
            curves[MemoryClass(**entry["class"])] = {
                batch: MemoryEstimate(peak_memory_mib=peak, lower_bound_mib=at_least) for batch, peak, at_least in peaks
            }
        return cls(curves=curves)


def stored_memory_estimates(study_attributes: Mapping[str, Any]) -> MemoryEstimates | None:
    """The plan among a study's user attributes, or None."""
    stored = study_attributes.get(MEMORY_ESTIMATES)
    return None if stored is None else MemoryEstimates.from_dict(stored)


@dataclass(frozen=True, kw_only=True)
class CorrectedEstimates:
    """A plan, and the peaks that put it right.

    Attributes:
        plan: The plan.
        points: Measured peaks by memory class and micro-batch.
    """

    plan: MemoryEstimates
    points: Points

    def peak_memory_mib(self, memory_class: MemoryClass, batch: float) -> tuple[float, str] | None:
        """The peak of a configuration that was not measured; None where the plan doesn't know it.

        Returns:
            The peak, and where it is from: "model" where two peaks of its own line, or of the one that differs in
            accumulation alone, say how measured memory follows the planned one; "plan" while that is taken from elsewhere.
        """
        planned = self.plan.planned(memory_class, batch)
        if planned is None:
            return None
        at = planned.peak_memory_mib
        own = self._pairs.get(memory_class, [])
        sibling = self._pairs.get(memory_class.other_accumulation, [])
        if len(own) >= 2:
            return max(0.0, _along(own, at)), "model"
        if len(sibling) >= 2:
            # Its line, moved to where the one peak of this class is.
            moved = own[0][1] - _along(sibling, own[0][0]) if own else 0.0
            return max(0.0, _along(sibling, at) + moved), "model"
        near = own or sibling or self._of_precision(memory_class["precision"]) or self._of_all
        offset = statistics.median(measured - self._slope * x for x, measured in near) if near else 0.0
        return max(0.0, offset + (self._slope if near else 1.0) * at), "plan"

    def lower_bound_mib(self, memory_class: MemoryClass, batch: float) -> float | None:
        """What a configuration surely needs; a bound that measured peaks have shown to be too high is lowered with them."""
        planned = self.plan.planned(memory_class, batch)
        return None if planned is None else planned.lower_bound_mib * self._bound_scale

    @cached_property
    def _pairs(self) -> dict[MemoryClass, list[tuple[float, float]]]:
        """Planned and measured peaks, ascending; of several with the same planned one the highest counts."""
        pairs = {}
        for memory_class, by_batch in self.points.items():
            highest: dict[float, float] = {}
            for batch, measured in by_batch.items():
                if (planned := self.plan.planned(memory_class, batch)) is not None:
                    x = planned.peak_memory_mib
                    highest[x] = max(highest.get(x, 0.0), measured)
            if highest:
                pairs[memory_class] = sorted(highest.items())
        return pairs

    @cached_property
    def _of_all(self) -> list[tuple[float, float]]:
        return [pair for pairs in self._pairs.values() for pair in pairs]

    def _of_precision(self, precision: str) -> list[tuple[float, float]]:
        return [pair for key, pairs in self._pairs.items() if key["precision"] == precision for pair in pairs]

    @cached_property
    def _slope(self) -> float:
        """How measured memory grows with planned memory: the plan's scale, the median over the lines that tell it.

        Never below 1: a line of its own that grows more slowly shows it at the cost of a probe, one that grows faster than
        others do at the cost of running out of memory.
        """
        slopes = [
            (pairs[-1][1] - pairs[0][1]) / (pairs[-1][0] - pairs[0][0])
            for pairs in self._pairs.values()
            if pairs[-1][0] - pairs[0][0] > _MIN_SPAN * pairs[-1][0]
        ]
        return _within_bounds(max(1.0, statistics.median(slopes))) if slopes else 1.0

    @cached_property
    def _bound_scale(self) -> float:
        ratios = [
            measured / planned.lower_bound_mib
            for memory_class, by_batch in self.points.items()
            for batch, measured in by_batch.items()
            if (planned := self.plan.planned(memory_class, batch)) is not None and planned.lower_bound_mib > 0
        ]
        return min(1.0, *ratios) if ratios else 1.0


def _along(pairs: Sequence[tuple[float, float]], at: float) -> float:
    """Measured memory at a planned one: on the line of the two neighbours, and beyond the last along its line."""
    right = next((index for index, (x, _) in enumerate(pairs) if x >= at), len(pairs) - 1)
    right = max(1, right)
    (x1, y1), (x2, y2) = pairs[right - 1], pairs[right]
    slope = (y2 - y1) / (x2 - x1)
    if x1 <= at <= x2:
        return y1 + slope * (at - x1)
    anchor_x, anchor_y = (x1, y1) if at < x1 else (x2, y2)
    # Two peaks that lie close together tell where the line is, and not where it leads.
    slope = _within_bounds(slope) if x2 - x1 > _MIN_SPAN * x2 else 1.0
    return anchor_y + slope * (at - anchor_x)


def _within_bounds(slope: float) -> float:
    low, high = _SLOPES
    return min(high, max(low, slope))
