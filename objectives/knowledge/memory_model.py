"""Predict the peak memory of a configuration from the peaks of others and from the memory estimate.

Within a memory class it is close to linear in the micro-batch, so two measured batches determine the others. A class in which
less was measured is predicted from the effects of its knobs in other classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.memory_estimator.estimates import CorrectedEstimates, MemoryEstimates
from tradeoff.objectives.prediction.effects import Effects, Point
from tradeoff.objectives.prediction.interpolation import interpolate
from tradeoff.searchspace import MemoryClass, TrialParameters

# How far a measured peak may be off the line of its class: allocators round, and keep what they may need again.
SCATTER = 0.01


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """Peak memory by memory class and micro-batch.

    Attributes:
        observations: Trials that ran.
        estimates: Memory as estimated before anything ran; None if it was not.
        classes: The memory classes of a space in which effects tell of what was not probed; empty if all are probed.
    """

    observations: Sequence[Observation]
    estimates: MemoryEstimates | None
    classes: Sequence[MemoryClass] = ()

    def peak_memory_mib(self, parameters: TrialParameters) -> tuple[float, str] | None:
        """Return the peak memory in MiB and its source: "probe", "model" or "estimate"; None while too little is known.

        Within a memory class it is interpolated in the micro-batch, in which it is close to linear. A class without two
        measured batches borrows from the one that differs only in whether gradients are held through the forward pass: the
        difference is the size of the gradients, unless the update is the peak. With a memory estimate, measured memory is
        interpolated over the estimated one instead, and the estimate alone ("estimate") is used while too little was measured.
        What is left is predicted from the effects of knobs in other classes (see `Effects`).
        """
        known = self.known(parameters)
        return None if known is None else known[:2]

    def known(self, parameters: TrialParameters) -> tuple[float, str, float] | None:
        """Return what `peak_memory_mib` does, and the standard deviation of a peak that is predicted from other classes.

        It is a share of the peak, and 0 for any other.
        """
        memory_class, batch = parameters.memory_class(), float(parameters.per_device_train_batch_size)
        points = self._points.get(memory_class, {})
        if batch in points:
            return points[batch], "probe", 0.0
        if (corrected := self._corrected.peak_memory_mib(memory_class, batch)) is not None:
            return *corrected, 0.0
        if len(points) >= 2:
            return interpolate(points, batch), "model", 0.0
        other = self._points.get(memory_class.other_accumulation, {})
        if len(other) < 2 and batch not in other:
            predicted = self._effects.predict(memory_class, batch) if self.classes else None
            return None if predicted is None else (predicted[0], "model", predicted[1])
        base = other[batch] if batch in other else interpolate(other, batch)
        # Too low for a batch so small that the update is its peak. A prediction that is too low is corrected by the probe that
        # checks it once it is on the front; one that is too high would never be checked.
        gradients_mib = self._gradients_mib.get(memory_class.other_accumulation, 0.0)
        return max(0.0, base + gradients_mib * (1 if memory_class["accumulates"] else -1)), "model", 0.0

    def measured_mib(self, parameters: TrialParameters) -> float | None:
        """Return the peak in MiB measured at exactly this memory class and micro-batch; None if there is none."""
        return self._points.get(parameters.memory_class(), {}).get(float(parameters.per_device_train_batch_size))

    def lower_bound_mib(self, parameters: TrialParameters) -> float | None:
        """Return the lower bound in MiB on what a configuration needs, by the memory estimate; None without an estimate."""
        return self._corrected.lower_bound_mib(parameters.memory_class(), float(parameters.per_device_train_batch_size))

    def estimated_mib(self, parameters: TrialParameters) -> float | None:
        """Return the peak in MiB as estimated before anything was measured; None without an estimate."""
        if self.estimates is None:
            return None
        estimate = self.estimates.at(parameters.memory_class(), float(parameters.per_device_train_batch_size))
        return None if estimate is None else estimate.peak_memory_mib

    def measured_by(self, parameters: TrialParameters) -> Observation | None:
        """Return the observation that measured this configuration's peak; None if there is none."""
        return self._highest.get(parameters.memory_class(), {}).get(float(parameters.per_device_train_batch_size))

    def measured_batches(self, memory_class: MemoryClass) -> list[int]:
        """The micro-batches whose memory was measured within a class, ascending."""
        return sorted(int(batch) for batch in self._points.get(memory_class, {}))

    def errors(self) -> list[float]:
        """Relative errors of predicted memory, each measured point predicted from the others."""
        errors = []
        for points in self._points.values():
            for batch, measured in points.items():
                others = {b: m for b, m in points.items() if b != batch}
                if len(others) >= 2:
                    errors.append(interpolate(others, batch) / measured - 1)
        return errors

    @cached_property
    def _effects(self) -> Effects:
        points = [
            Point(key=memory_class, batch=batch, value=peak_mib, relative_std=SCATTER)
            for memory_class, by_batch in self._points.items()
            for batch, peak_mib in by_batch.items()
            if peak_mib > 0
        ]
        return Effects(points=points, expected=self.classes)

    @cached_property
    def _corrected(self) -> CorrectedEstimates:
        return CorrectedEstimates(estimates=self.estimates or MemoryEstimates(curves={}), points=self._points)

    @cached_property
    def _highest(self) -> dict[MemoryClass, dict[float, Observation]]:
        """The observation of each measured peak by memory class and micro-batch; the highest where several measured it."""
        found: dict[MemoryClass, dict[float, Observation]] = {}
        for o in self.observations:
            if o.peak_memory_mib is not None and o.record.outcome != "out_of_memory":
                by_batch = found.setdefault(o.parameters.memory_class(), {})
                batch = float(o.parameters.per_device_train_batch_size)
                if batch not in by_batch or (by_batch[batch].peak_memory_mib or 0.0) < o.peak_memory_mib:
                    by_batch[batch] = o
        return found

    @cached_property
    def _points(self) -> dict[MemoryClass, dict[float, float]]:
        """Those peaks."""
        return {
            memory_class: {batch: o.peak_memory_mib or 0.0 for batch, o in by_batch.items()}
            for memory_class, by_batch in self._highest.items()
        }

    @cached_property
    def _gradients_mib(self) -> dict[MemoryClass, float]:
        """The size of all gradients by memory class: adapters have fewer, and so has a smaller model."""
        found: dict[MemoryClass, float] = {}
        for observation in self.observations:
            if (probe := observation.record.attributes.get("probe")) is not None:
                found[observation.parameters.memory_class()] = probe["gradients_mib"]
        return found
