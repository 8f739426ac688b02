"""A study's memory estimates: peaks estimated before anything runs, and corrected by the peaks that probes measure.

They are made in a separate process, and kept as plain numbers that every process of the study can read quickly. Within a memory
class they are a curve over the micro-batch.

What an estimate lacks is much the same for similar configurations (the libraries' own memory on a CPU, kernel code on a GPU),
and differences between configurations are what it gets right. So measured peaks give an offset first, and then a scale.
"""

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tradeoff.searchspace import MemoryClass, TrialParameters

# A measured slope outside this range is taken for noise between two peaks that are close together.
_SLOPES = (0.5, 2.0)
# Peaks closer than this share of the larger one give no slope.
_MIN_SPAN = 0.2

# The study's user attribute that holds its estimates.
MEMORY_ESTIMATES = "memory_estimates"

Points = Mapping[MemoryClass, Mapping[float, float]]
# Estimated and measured peaks.
Pairs = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """The estimate for a configuration.

    Attributes:
        peak_memory_mib: Its peak.
        lower_bound_mib: The least that it can need.
    """

    peak_memory_mib: float
    lower_bound_mib: float


@dataclass(frozen=True, kw_only=True)
class MemoryEstimates:
    """Estimated memory by memory class and micro-batch.

    Attributes:
        curves: For each memory class, the estimates for some of its micro-batches, ascending.
    """

    curves: Mapping[MemoryClass, Mapping[int, MemoryEstimate]]

    @classmethod
    def of(cls, estimates: Iterable[tuple[TrialParameters, MemoryEstimate]]) -> "MemoryEstimates":
        """Collect the estimates of these configurations."""
        curves: dict[MemoryClass, dict[int, MemoryEstimate]] = {}
        for parameters, one in sorted(estimates, key=lambda pair: pair[0].per_device_train_batch_size):
            curves.setdefault(parameters.memory_class(), {})[parameters.per_device_train_batch_size] = one
        return cls(curves=curves)

    def at(self, memory_class: MemoryClass, batch: float) -> MemoryEstimate | None:
        """Return the estimate for a micro-batch, interpolated between its neighbours; None outside their range."""
        curve = self.curves.get(memory_class, {})
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
        # A larger batch needs at least as much as a smaller one; interpolation might claim more.
        return MemoryEstimate(peak_memory_mib=peak_mib, lower_bound_mib=low.lower_bound_mib)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, to be stored with the study."""
        return {
            "classes": [
                {
                    "class": dict(memory_class),
                    "batches": list(curve),
                    "peak_memory_mib": [round(one.peak_memory_mib, 2) for one in curve.values()],
                    "lower_bound_mib": [round(one.lower_bound_mib, 2) for one in curve.values()],
                }
                for memory_class, curve in self.curves.items()
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MemoryEstimates":
        """Read what `as_dict` returned."""
        curves = {}
        for entry in values["classes"]:
            rows = zip(entry["batches"], entry["peak_memory_mib"], entry["lower_bound_mib"], strict=True)
            curves[MemoryClass(**entry["class"])] = {
                batch: MemoryEstimate(peak_memory_mib=peak, lower_bound_mib=bound) for batch, peak, bound in rows
            }
        return cls(curves=curves)


def stored_memory_estimates(study_attributes: Mapping[str, Any]) -> MemoryEstimates | None:
    """Return the estimates among a study's user attributes, or None."""
    stored = study_attributes.get(MEMORY_ESTIMATES)
    return None if stored is None else MemoryEstimates.from_dict(stored)


@dataclass(frozen=True, kw_only=True)
class CorrectedEstimates:
    """Memory estimates, corrected by measured peaks.

    Attributes:
        estimates: The estimates.
        points: Measured peaks by memory class and micro-batch.
    """

    estimates: MemoryEstimates
    points: Points

    def peak_memory_mib(self, memory_class: MemoryClass, batch: float) -> tuple[float, str] | None:
        """Return the peak of a configuration that was not measured; None without an estimate for it.

        Returns:
            The peak, and where it is from: "model" if two peaks of its own line, or of the one that differs in accumulation
            alone, say how measured memory follows the estimate; "estimate" while that is taken from elsewhere.
        """
        estimate = self.estimates.at(memory_class, batch)
        if estimate is None:
            return None
        at = estimate.peak_memory_mib
        own = self._pairs.get(memory_class, [])
        sibling = self._pairs.get(memory_class.other_accumulation, [])
        if len(own) >= 2:
            return max(0.0, _along(own, at)), "model"
        if len(sibling) >= 2:
            # Its line, moved to the one peak of this class.
            moved = own[0][1] - _along(sibling, own[0][0]) if own else 0.0
            return max(0.0, _along(sibling, at) + moved), "model"
        near = own or sibling or self._of_precision(memory_class["precision"]) or self._of_all
        offset = statistics.median(measured - self._slope * x for x, measured in near) if near else 0.0
        return max(0.0, offset + (self._slope if near else 1.0) * at), "estimate"

    def lower_bound_mib(self, memory_class: MemoryClass, batch: float) -> float | None:
        """Return the least that a configuration can need; bounds that a measured peak has refuted are lowered to it."""
        estimate = self.estimates.at(memory_class, batch)
        return None if estimate is None else estimate.lower_bound_mib * self._bound_scale

    @cached_property
    def _matched(self) -> list[tuple[MemoryClass, MemoryEstimate, float]]:
        """Every measured peak for which there is an estimate."""
        return [
            (memory_class, estimate, measured)
            for memory_class, by_batch in self.points.items()
            for batch, measured in by_batch.items()
            if (estimate := self.estimates.at(memory_class, batch)) is not None
        ]

    @cached_property
    def _pairs(self) -> dict[MemoryClass, Pairs]:
        """Estimated and measured peaks, ascending; the highest of several with the same estimate."""
        highest: dict[MemoryClass, dict[float, float]] = {}
        for memory_class, estimate, measured in self._matched:
            by_estimate = highest.setdefault(memory_class, {})
            by_estimate[estimate.peak_memory_mib] = max(by_estimate.get(estimate.peak_memory_mib, 0.0), measured)
        return {memory_class: sorted(by_estimate.items()) for memory_class, by_estimate in highest.items()}

    @cached_property
    def _of_all(self) -> Pairs:
        return [pair for pairs in self._pairs.values() for pair in pairs]

    def _of_precision(self, precision: str) -> Pairs:
        return [pair for key, pairs in self._pairs.items() if key["precision"] == precision for pair in pairs]

    @cached_property
    def _slope(self) -> float:
        """The slope of measured over estimated memory: the median over the lines with two peaks far enough apart.

        Never below 1: for a line that grows more slowly the error costs one probe, for one that grows faster than the others
        it would cost a run out of memory.
        """
        slopes = [
            (pairs[-1][1] - pairs[0][1]) / (pairs[-1][0] - pairs[0][0])
            for pairs in self._pairs.values()
            if pairs[-1][0] - pairs[0][0] > _MIN_SPAN * pairs[-1][0]
        ]
        return _within_bounds(max(1.0, statistics.median(slopes))) if slopes else 1.0

    @cached_property
    def _bound_scale(self) -> float:
        ratios = [measured / one.lower_bound_mib for _, one, measured in self._matched if one.lower_bound_mib > 0]
        return min(1.0, *ratios) if ratios else 1.0


def _along(pairs: Sequence[tuple[float, float]], at: float) -> float:
    """Return measured memory at an estimate: interpolated between its neighbours, extrapolated beyond them."""
    right = next((index for index, (x, _) in enumerate(pairs) if x >= at), len(pairs) - 1)
    right = max(1, right)
    (x1, y1), (x2, y2) = pairs[right - 1], pairs[right]
    slope = (y2 - y1) / (x2 - x1)
    if x1 <= at <= x2:
        return y1 + slope * (at - x1)
    anchor_x, anchor_y = (x1, y1) if at < x1 else (x2, y2)
    # Two peaks that are close together give a point of the line, but not its slope.
    slope = _within_bounds(slope) if x2 - x1 > _MIN_SPAN * x2 else 1.0
    return anchor_y + slope * (at - anchor_x)


def _within_bounds(slope: float) -> float:
    low, high = _SLOPES
    return min(high, max(low, slope))
