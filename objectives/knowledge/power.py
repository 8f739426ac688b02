"""Predict the energy of a training: the power that probes measured times the predicted training time.

NVML counts the energy of the whole GPU, so power is what the GPU drew while the steps of a probe were timed, whoever used it.
It grows with the micro-batch until the GPU is busy all the time; between probed batches it is interpolated.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.prediction.interpolation import interpolate
from tradeoff.searchspace import SpeedClass, TrialParameters


@dataclass(frozen=True, kw_only=True)
class PowerModel:
    """Average power by compute configuration and micro-batch.

    Attributes:
        energies_j: Energies measured by trainings, by structure.
        powers_w: Median power measured by probes, by speed class and micro-batch.
        calibration: The median ratio of measured energies to power x time of the probes: loading data, for one, draws less.
    """

    energies_j: dict[TrialParameters, float]
    powers_w: dict[SpeedClass, dict[float, float]]
    calibration: float

    @classmethod
    def of(cls, trials: Iterable[tuple[TrialParameters, TrialRecord]]) -> Self:
        """Fit the model to trials that ran; without NVML nothing is known."""
        energies_j: dict[TrialParameters, float] = {}
        trained_w: dict[TrialParameters, float] = {}
        probed_w: dict[SpeedClass, dict[float, list[float]]] = {}
        for parameters, record in trials:
            if (power_w := record.attributes.get("probe", {}).get("power_w")) is not None:
                by_batch = probed_w.setdefault(parameters.speed_class(), {})
                by_batch.setdefault(float(parameters.per_device_train_batch_size), []).append(power_w)
            if record.outcome == "completed" and (energy_j := record.attributes.get("energy_j")) is not None:
                if not record.attributes["train_time_s"] > 0:
                    continue
                structure = parameters.structure
                energies_j[structure] = energy_j
                trained_w[structure] = energy_j / record.attributes["train_time_s"]
        powers_w = {key: {b: statistics.median(w) for b, w in points.items()} for key, points in probed_w.items()}
        ratios = [
            power_w / probed
            for structure, power_w in trained_w.items()
            if (probed := powers_w.get(structure.speed_class(), {}).get(float(structure.per_device_train_batch_size)))
        ]
        return cls(energies_j=energies_j, powers_w=powers_w, calibration=statistics.median(ratios) if ratios else 1.0)

    def energy_j(self, structure: TrialParameters, train_time_s: float, time_source: str) -> tuple[float, str] | None:
        """Return the energy of a training in joules and its source; None if no power was measured.

        Args:
            structure: The configuration, as `TrialParameters.structure` gives it.
            train_time_s: The time of its training.
            time_source: The source of that time.
        """
        if (measured := self.energies_j.get(structure)) is not None:
            return measured, "measured"
        points, batch = self.powers_w.get(structure.speed_class(), {}), float(structure.per_device_train_batch_size)
        source = "model"
        if batch in points:
            power_w = points[batch]
            source = "model" if time_source == "model" else "probe"
        elif len(points) >= 2:
            power_w = interpolate(points, batch)
        elif known_w := list(points.values()) or [w for by_batch in self.powers_w.values() for w in by_batch.values()]:
            power_w = statistics.median(known_w)
        else:
            return None
        return power_w * self.calibration * train_time_s, source
