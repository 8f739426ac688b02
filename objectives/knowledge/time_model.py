"""Predict the training time of a configuration: step times from probes times the number of steps, or its own measured time.

Each has an error, which is that of its samples (see `time_error`) and, for a prediction, what trainings of other configurations
were off by. A speed class in which less than two micro-batches were timed is predicted from the effects of its knobs in others.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.prediction.effects import Effects, Point
from tradeoff.objectives.prediction.interpolation import interpolate
from tradeoff.objectives.prediction.time_error import DRIFT, PRIOR_REPEATS, TimeSample, combine, error_factor
from tradeoff.searchspace import KNOBS, SpeedClass, TrialParameters

# Of a shorter time, measured by a clock that stood still or was set back, nothing follows.
SHORTEST_S = 1e-9
# The scatter of an update's time, as a relative standard deviation.
UPDATE_SCATTER = 0.1
# The knobs that change which weights are updated, and how.
_UPDATES = frozenset({"optim", "model", "frozen_layers", "lora_rank", "lora_target_modules"})


@dataclass(frozen=True, kw_only=True)
class TimeModel:
    """Step times by speed class and micro-batch.

    Attributes:
        setup: The terms of the study.
        observations: Trials that ran.
    """

    setup: StudySetup
    observations: Sequence[Observation]

    def train_time_s(self, parameters: TrialParameters) -> tuple[float, str] | None:
        """Return the training time in seconds and its source: "measured", or "probe" or "model" for step times x steps."""
        known = self.known(parameters)
        return None if known is None else known[:2]

    def known(self, parameters: TrialParameters) -> tuple[float, str, float] | None:
        """Return what `train_time_s` does, and the standard deviation of a time that is predicted from other classes.

        It is a share of the time, and 0 for any other.
        """
        if (measured := self._trainings.get(parameters.structure)) is not None:
            return combine(measured).time_s, "measured", 0.0
        if (predicted := self._uncalibrated(parameters)) is None:
            return None
        time_s, source, error = predicted
        return time_s * self._calibration, source, error

    def relative_error(self, parameters: TrialParameters) -> float:
        """Return the standard deviation of what `train_time_s` returns, as a share of it.

        That of a prediction from neighbours ("model") does not include the error of the interpolation.
        """
        if (measured := self._trainings.get(parameters.structure)) is not None:
            return self.training_error(measured)
        at = self._samples(parameters)
        groups = [at] if at else list(self._micro_step_samples.get(parameters.speed_class(), {}).values())
        sampled = max((combine(samples).relative_std for samples in groups), default=DRIFT)
        return math.hypot(self.error_factor * sampled, self._misfit)

    def training_error(self, trainings: Sequence[TimeSample]) -> float:
        """Return the standard deviation of what trainings of one configuration say together, as a share of their time."""
        # What predictions are off by may be drift of the trainings as well as of the probes, which ran close together.
        own = self._misfit / math.sqrt(2 * len(trainings))
        return math.hypot(self.error_factor * combine(trainings).relative_std, own)

    def num_probes(self, parameters: TrialParameters) -> int:
        """Return how many probes have timed this speed class and micro-batch."""
        return len(self._samples(parameters))

    def probing_error(self, parameters: TrialParameters) -> float:
        """Return the part of `relative_error` that more probes make smaller; 0 if there is no probe."""
        samples = self._samples(parameters)
        return self.error_factor * combine(samples).relative_std if samples else 0.0

    @cached_property
    def error_factor(self) -> float:
        """The factor by which times scatter more on this machine than is assumed of one sample."""
        probed = [samples for by_batch in self._micro_step_samples.values() for samples in by_batch.values()]
        return error_factor([*probed, *self._trainings.values()])

    def micro_step_s(self, parameters: TrialParameters) -> float | None:
        """Return the micro-step time in seconds measured at exactly this speed class and micro-batch; None if there is none."""
        return self._micro_step_points.get(parameters.speed_class(), {}).get(float(parameters.per_device_train_batch_size))

    def nearest_probe(self, parameters: TrialParameters) -> Observation | None:
        """Return the probe of the same compute configuration with the nearest micro-batch; None if there is none."""
        probes = self._probes.get(parameters.speed_class(), [])
        batch = parameters.per_device_train_batch_size
        return min(probes, key=lambda o: abs(o.parameters.per_device_train_batch_size - batch), default=None)

    @cached_property
    def _probes(self) -> dict[SpeedClass, list[Observation]]:
        probes: dict[SpeedClass, list[Observation]] = {}
        for observation in self.observations:
            if observation.step_times_s is not None:
                probes.setdefault(observation.parameters.speed_class(), []).append(observation)
        return probes

    @cached_property
    def _trainings(self) -> dict[TrialParameters, list[TimeSample]]:
        """The measured training times of each structure."""
        trainings: dict[TrialParameters, list[TimeSample]] = {}
        for observation in self.observations:
            if observation.record.outcome == "completed" and (sample := observation.train_time_sample) is not None:
                trainings.setdefault(observation.parameters.structure, []).append(sample)
        return trainings

    @cached_property
    def _micro_step_samples(self) -> dict[SpeedClass, dict[float, list[TimeSample]]]:
        """Micro-step times by speed class and micro-batch, one of each probe."""
        samples: dict[SpeedClass, dict[float, list[TimeSample]]] = {}
        for observation in self.observations:
            if (sample := observation.micro_step_sample) is not None:
                by_batch = samples.setdefault(observation.parameters.speed_class(), {})
                by_batch.setdefault(float(observation.parameters.per_device_train_batch_size), []).append(sample)
        return samples

    def _samples(self, parameters: TrialParameters) -> list[TimeSample]:
        by_batch = self._micro_step_samples.get(parameters.speed_class(), {})
        return by_batch.get(float(parameters.per_device_train_batch_size), [])

    @cached_property
    def _micro_step_points(self) -> dict[SpeedClass, dict[float, float]]:
        """What the probes of each speed class and micro-batch say together."""
        return {
            key: {batch: combine(samples).time_s for batch, samples in by_batch.items()}
            for key, by_batch in self._micro_step_samples.items()
        }

    def _update_s(self, parameters: TrialParameters) -> float:
        """Return the time of an update: the same weights are updated whatever the batch, checkpointing and precision."""
        speed_class = parameters.speed_class()
        if (known := self._updates.get(speed_class)) is None:
            key = _updated_by(parameters)
            if (known := self._update_times_s.get(key)) is None:
                predicted = self._update_effects.predict(key, 0.0)
                known = statistics.median(self._update_times_s.values()) if predicted is None else predicted[0]
            self._updates[speed_class] = known
        return known

    @cached_property
    def _updates(self) -> dict[SpeedClass, float]:
        """The cache of `_update_s`."""
        return {}

    @cached_property
    def _update_times_s(self) -> dict[SpeedClass, float]:
        times_s: dict[SpeedClass, list[float]] = {}
        for observation in self.observations:
            if observation.step_times_s is not None:
                times_s.setdefault(_updated_by(observation.parameters), []).append(observation.step_times_s[1])
        return {key: statistics.median(all_s) for key, all_s in times_s.items()}

    @cached_property
    def _update_effects(self) -> Effects:
        times_s = self._update_times_s.items()
        return Effects(
            points=[Point(key=k, batch=0, value=s, relative_std=UPDATE_SCATTER) for k, s in times_s if s > SHORTEST_S]
        )

    def _compile_time_s(self, parameters: TrialParameters) -> float:
        """Return the time that compiling takes, as its class or else other compiled ones say; 0 if it is not compiled."""
        times_s, key = self._compile_times_s, parameters.speed_class()
        return times_s[key] if key in times_s else self._usual_compile_times_s.get(key.get("torch_compile"), 0.0)

    @cached_property
    def _compile_times_s(self) -> dict[SpeedClass, float]:
        times_s = {
            key: [o.record.attributes["probe"].get("compile_time_s", 0.0) for o in probes]
            for key, probes in self._probes.items()
        }
        return {key: statistics.median(all_s) for key, all_s in times_s.items()}

    @cached_property
    def _usual_compile_times_s(self) -> dict[bool | None, float]:
        times_s: dict[bool | None, list[float]] = {}
        for key, time_s in self._compile_times_s.items():
            times_s.setdefault(key.get("torch_compile"), []).append(time_s)
        return {compiled: statistics.median(all_s) for compiled, all_s in times_s.items()}

    @cached_property
    def _effects(self) -> Effects:
        points = [
            Point(key=key, batch=batch, value=sample.time_s, relative_std=self.error_factor * sample.relative_std)
            for key, by_batch in self._micro_step_samples.items()
            for batch, samples in by_batch.items()
            if (sample := combine(samples)).time_s > SHORTEST_S
        ]
        return Effects(points=points, expected=self.setup.speed_classes)

    def _uncalibrated(self, parameters: TrialParameters) -> tuple[float, str, float] | None:
        """Return steps times step times, its source, and the error of its prediction from other classes."""
        points = self._micro_step_points.get(parameters.speed_class(), {})
        batch, error = float(parameters.per_device_train_batch_size), 0.0
        if batch in points:
            micro_step_s, source = points[batch], "probe"
        elif len(points) >= 2:
            micro_step_s, source = interpolate(points, batch), "model"
        elif not self.setup.lines.are_many or (predicted := self._effects.predict(parameters.speed_class(), batch)) is None:
            return None  # of a small space, each class is surveyed
        else:
            (micro_step_s, error), source = predicted, "model"
        schedule = Schedule.of(
            self.setup.job, parameters, num_samples=self.setup.num_rows(parameters), num_devices=self.setup.num_devices
        )
        return self._compile_time_s(parameters) + schedule.train_time_s(micro_step_s, self._update_s(parameters)), source, error

    @cached_property
    def _estimated_and_measured(self) -> list[tuple[float, float]]:
        pairs = []
        for observation in self.observations:
            if observation.train_time_s is not None and observation.record.outcome == "completed":
                estimate = self._uncalibrated(observation.parameters)
                if estimate is None or estimate[2] > 0:
                    continue  # what it is off by is the error of the effects
                if min(estimate[0], observation.train_time_s) > SHORTEST_S:
                    pairs.append((estimate[0], observation.train_time_s))
        return pairs

    @cached_property
    def _calibration(self) -> float:
        """The median ratio of measured training times to step times x steps: a probe synchronises, a training does not."""
        ratios = [measured / estimate for estimate, measured in self._estimated_and_measured]
        return statistics.median(ratios) if ratios else 1.0

    @cached_property
    def _misfit(self) -> float:
        """What trainings differ from calibrated predictions beyond the errors of both, as a relative standard deviation."""
        residuals = [math.log(measured / (estimate * self._calibration)) for estimate, measured in self._estimated_and_measured]
        if not residuals:
            return 0.0
        # That of a training and of the probe that predicted it.
        expected = 2 * (self.error_factor * DRIFT) ** 2
        excess = PRIOR_REPEATS * DRIFT**2 + sum(residual**2 for residual in residuals) - (len(residuals) - 1) * expected
        return math.sqrt(max(0.0, excess) / (PRIOR_REPEATS + len(residuals) - 1))


def _updated_by(parameters: TrialParameters) -> SpeedClass:
    """Return the values that the time of an update depends on: of a knob of which nothing is known, it may."""
    speed_class = parameters.speed_class()
    return SpeedClass(**{name: value for name, value in speed_class.items() if name in _UPDATES or name not in KNOBS})
