"""What earlier trials of a study settle about configurations that were not run.

Three kinds of knowledge, in falling order of certainty: an out-of-memory settles every configuration that needs at least as
much memory; memory and step times of a configuration follow from those of its neighbours; and a training settles the accuracy
of its whole learning class. All of it holds for one job on one device model with one memory budget, which is what a study is.

Everything here is computed from the stored records, so any process that can read the study knows the same.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from objectives.interpolation import interpolate
from objectives.jobs import TrainingSettings
from objectives.memory_plan import CorrectedPlan, MemoryPlan
from objectives.power import PowerModel
from objectives.records import MEMORY_PREDICTION, TrialRecord
from objectives.repeats import NUM_SEEDS
from objectives.schedule import Schedule
from searchspace import LearningClass, MemoryClass, Reuse, SearchSpace, SpeedClass, TrialParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a configuration costs.

    Attributes:
        peak_memory_mib: Its peak memory.
        train_time_s: The time of its training.
        memory_source: "probe", "measured" or "model".
        time_source: Likewise.
        samples_per_s: Training samples by the time of the training.
        energy_j: The energy of its training; None where no power was measured.
        energy_source: "measured" by its own training, "probe" for probed power over probed time, else "model".
    """

    peak_memory_mib: float
    train_time_s: float
    memory_source: str
    time_source: str
    samples_per_s: float | None = None
    energy_j: float | None = None
    energy_source: str | None = None

    def value(self, name: str) -> float | None:
        """The value of an objective that is a cost; None where it is not known."""
        value: float | None = getattr(self, name)
        return value

    def source(self, name: str) -> str | None:
        """Where the value of an objective that is a cost comes from."""
        return {"peak_memory_mib": self.memory_source, "energy_j": self.energy_source}.get(name, self.time_source)

    def knows(self, names: Iterable[str]) -> bool:
        """Whether all of these objectives are known."""
        return all(self.value(name) is not None for name in names)

    def is_measured(self, names: Iterable[str] = ()) -> bool:
        """Whether neither time nor memory, nor any of these objectives, is a model's word."""
        return all(self.source(name) != "model" for name in ("train_time_s", "peak_memory_mib", *names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """A trial that ran, as far as later trials learn from it."""

    record: TrialRecord
    parameters: TrialParameters

    @property
    def peak_memory_mib(self) -> float | None:
        """The peak that was measured."""
        return self.record.attributes.get("peak_memory_mib")

    @property
    def train_time_s(self) -> float | None:
        """The training time that was measured."""
        return self.record.attributes.get("train_time_s")

    @property
    def step_times_s(self) -> tuple[float, float] | None:
        """A micro-step and an update, where the trial was probed."""
        probe = self.record.attributes.get("probe")
        return None if probe is None else (probe["micro_step_time_s"], probe["optimizer_step_time_s"])


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a study's trials settle.

    Attributes:
        observations: Trials that ran here; derived and skipped ones teach nothing new.
        job: What is trained.
        num_train: Training samples an epoch.
        num_devices: Devices that share an optimizer step.
        reuse: How far a training's accuracy speaks for others.
        plan: What was predicted of memory before anything ran; None where there is no plan.
    """

    observations: tuple[Observation, ...]
    job: TrainingSettings
    num_train: int
    num_devices: int = 1
    reuse: Reuse = Reuse.EFFECTIVE_BATCH
    plan: MemoryPlan | None = None

    @classmethod
    def of(
        cls,
        records: Sequence[TrialRecord],
        space: SearchSpace,
        job: TrainingSettings,
        *,
        num_train: int,
        num_devices: int = 1,
        reuse: Reuse = Reuse.EFFECTIVE_BATCH,
        plan: MemoryPlan | None = None,
    ) -> "Knowledge":
        """Reads the records of a study that teach something."""
        observations = tuple(o for record in records if (o := observe(record, space)) is not None)
        return cls(observations=observations, job=job, num_train=num_train, num_devices=num_devices, reuse=reuse, plan=plan)

    def out_of_memory(self, parameters: TrialParameters) -> Observation | None:
        """The observation that settles that `parameters` do not fit, or None.

        Of several, the one that is nearest in the micro-batch.
        """
        settling = [
            observation
            for observation in self._out_of_memory
            if parameters.needs_at_least_the_memory_of(observation.parameters)
        ]
        return max(settling, key=lambda o: o.parameters.per_device_train_batch_size, default=None)

    def with_observation(self, observation: Observation) -> "Knowledge":
        """What is known with one observation more."""
        return replace(self, observations=(*self.observations, observation))

    def class_of(self, parameters: TrialParameters) -> LearningClass:
        """The learning class of a configuration, as widely as this study shares accuracy."""
        return parameters.learning_class(self.num_devices, self.reuse)

    @cached_property
    def trainings(self) -> dict[LearningClass, Observation]:
        """The training that speaks for each learning class: of those with the most seeds behind them, the latest."""
        completed = [o for o in self.observations if o.record.outcome == "completed"]
        # The sort is stable: of as many seeds, the latest comes last.
        completed.sort(key=lambda o: o.record.attributes.get(NUM_SEEDS, 1))
        return {self.class_of(o.parameters): o for o in completed}

    def trained(self, parameters: TrialParameters) -> list[Observation]:
        """The trainings of exactly this configuration that completed, the latest of each seed, in order."""
        by_seed = {
            o.record.attributes.get("seed"): o
            for o in self.observations
            if o.parameters == parameters and o.record.outcome == "completed" and "training" in o.record.attributes
        }
        return sorted(by_seed.values(), key=lambda o: o.record.number)

    def cost(self, parameters: TrialParameters) -> Cost | None:
        """Memory and time of a configuration, measured or predicted; None while too little is known."""
        structure = parameters.with_learning_rate(None)  # neither depends on it
        if structure not in self._costs:
            self._costs[structure] = self._cost(structure)
        return self._costs[structure]

    def _cost(self, structure: TrialParameters) -> Cost | None:
        memory, time = self.memory_mib(structure), self.time_s(structure)
        if memory is None or time is None:
            return None
        num_samples = Schedule.of(self.job, structure, num_samples=self.num_train).num_samples
        energy = self._power.energy_j(structure, *time)
        return Cost(
            peak_memory_mib=memory[0],
            # What is not measured is a model's word, whoever the model had it from.
            memory_source="model" if memory[1] == "plan" else memory[1],
            train_time_s=time[0],
            time_source=time[1],
            samples_per_s=num_samples / time[0] if time[0] > 0 else None,
            energy_j=None if energy is None else energy[0],
            energy_source=None if energy is None else energy[1],
        )

    def memory_mib(self, parameters: TrialParameters) -> tuple[float, str] | None:
        """Peak memory and where it comes from.

        Within a memory class it is interpolated in the micro-batch, in which it is close to linear. A class without two
        measured batches borrows from the one that differs only in whether gradients are held through the forward pass: the
        difference is the size of the gradients, except where the update is the peak. With a memory plan, measured memory is
        interpolated over the planned one instead, and where too little was measured the plan speaks for itself ("plan").
        """
        memory_class, batch = parameters.memory_class(), float(parameters.per_device_train_batch_size)
        points = self._memory_points.get(memory_class, {})
        if batch in points:
            return points[batch], "probe"
        if (planned := self._corrected_plan.peak_memory_mib(memory_class, batch)) is not None:
            return planned
        if len(points) >= 2:
            return interpolate(points, batch), "model"
        other = self._memory_points.get(_other_accumulation(memory_class), {})
        if len(other) < 2 and batch not in other:
            return None
        base = other[batch] if batch in other else interpolate(other, batch)
        # Too low for a batch so small that the update is its peak. An estimate that is too low is put right by the probe that
        # checks it once it stands on the front; one that is too high would never be looked at.
        return max(0.0, base + self._gradients_mib * (1 if memory_class.accumulates else -1)), "model"

    def surely_needs_mib(self, parameters: TrialParameters) -> float | None:
        """What a configuration needs at least by the memory plan; None where no plan knows it."""
        return self._corrected_plan.at_least_mib(parameters.memory_class(), float(parameters.per_device_train_batch_size))

    def planned_memory_mib(self, parameters: TrialParameters) -> float | None:
        """The peak that was planned before anything was measured; None where no plan knows it."""
        if self.plan is None:
            return None
        planned = self.plan.planned(parameters.memory_class(), float(parameters.per_device_train_batch_size))
        return None if planned is None else planned.peak_memory_mib

    def measured_by(self, parameters: TrialParameters) -> Observation | None:
        """The observation whose peak stands for this configuration's memory; None where none was measured."""
        memory_class, batch = parameters.memory_class(), parameters.per_device_train_batch_size
        same = [
            o
            for o in self._with_peak
            if o.parameters.per_device_train_batch_size == batch and o.parameters.memory_class() == memory_class
        ]
        return max(same, key=lambda o: o.peak_memory_mib or 0.0, default=None)

    def time_s(self, parameters: TrialParameters) -> tuple[float, str] | None:
        """Training time and where it comes from: "measured" by a training of this configuration, else step times x steps."""
        if (measured := self._measured_times_s.get(parameters.with_learning_rate(None))) is not None:
            return measured, "measured"
        predicted = self._uncalibrated_time_s(parameters)
        return None if predicted is None else (predicted[0] * self._calibration, predicted[1])

    def probed(self, parameters: TrialParameters) -> tuple[float, float] | None:
        """The micro-step time in seconds and the peak memory in MiB that probes of this structure measured, or None."""
        batch = float(parameters.per_device_train_batch_size)
        step_s = self._micro_step_points.get(parameters.speed_class(), {}).get(batch)
        memory_mib = self._memory_points.get(parameters.memory_class(), {}).get(batch)
        return None if step_s is None or memory_mib is None else (step_s, memory_mib)

    def nearest_probe(self, parameters: TrialParameters) -> Observation | None:
        """The probe of the same way to compute whose micro-batch is nearest; None where there is none."""
        probes = self._probes.get(parameters.speed_class(), [])
        batch = parameters.per_device_train_batch_size
        return min(probes, key=lambda o: abs(o.parameters.per_device_train_batch_size - batch), default=None)

    def measured_batches(self, memory_class: MemoryClass) -> list[int]:
        """The micro-batches whose memory was measured within a class, ascending."""
        return sorted(int(batch) for batch in self._memory_points.get(memory_class, {}))

    def memory_errors(self) -> list[float]:
        """Relative errors of predicted memory, each measured point predicted from the others."""
        errors = []
        for points in self._memory_points.values():
            for batch, measured in points.items():
                others = {b: m for b, m in points.items() if b != batch}
                if len(others) >= 2:
                    errors.append(interpolate(others, batch) / measured - 1)
        return errors

    def time_errors(self) -> list[float]:
        """Relative errors of predicted training time, for each training that was measured and probed."""
        return [estimate * self._calibration / measured - 1 for estimate, measured in self._estimated_and_measured]

    @cached_property
    def _probes(self) -> dict[SpeedClass, list[Observation]]:
        probes: dict[SpeedClass, list[Observation]] = {}
        for observation in self.observations:
            if observation.step_times_s is not None:
                probes.setdefault(observation.parameters.speed_class(), []).append(observation)
        return probes

    @cached_property
    def _costs(self) -> dict[TrialParameters, Cost | None]:
        """What `cost` has answered before: a decision asks for the same configurations many times."""
        return {}

    @cached_property
    def _out_of_memory(self) -> list[Observation]:
        return [observation for observation in self.observations if observation.record.outcome == "out_of_memory"]

    @cached_property
    def _measured_times_s(self) -> dict[TrialParameters, float]:
        """The latest measured training time of each configuration, whatever its learning rate."""
        return {
            o.parameters.with_learning_rate(None): o.train_time_s
            for o in self.observations
            if o.record.outcome == "completed" and o.train_time_s is not None
        }

    @cached_property
    def _corrected_plan(self) -> CorrectedPlan:
        return CorrectedPlan(plan=self.plan or MemoryPlan(curves={}), points=self._memory_points)

    @cached_property
    def _with_peak(self) -> list[Observation]:
        return [o for o in self.observations if o.peak_memory_mib is not None and o.record.outcome != "out_of_memory"]

    @cached_property
    def _memory_points(self) -> dict[MemoryClass, dict[float, float]]:
        """Measured peaks by memory class and micro-batch; the highest where a configuration ran more than once."""
        points: dict[MemoryClass, dict[float, float]] = {}
        for observation in self._with_peak:
            assert observation.peak_memory_mib is not None
            batch = float(observation.parameters.per_device_train_batch_size)
            by_batch = points.setdefault(observation.parameters.memory_class(), {})
            by_batch[batch] = max(by_batch.get(batch, 0.0), observation.peak_memory_mib)
        return points

    @cached_property
    def _power(self) -> PowerModel:
        return PowerModel.of((o.parameters, o.record) for o in self.observations)

    @cached_property
    def _gradients_mib(self) -> float:
        """The size of all gradients: the same in every configuration of a job."""
        probes = [o.record.attributes["probe"] for o in self.observations if "probe" in o.record.attributes]
        return max((probe["gradients_mib"] for probe in probes), default=0.0)

    @cached_property
    def _micro_step_points(self) -> dict[SpeedClass, dict[float, float]]:
        """Median micro-step times by speed class and micro-batch."""
        times: dict[SpeedClass, dict[float, list[float]]] = {}
        for observation in self.observations:
            if observation.step_times_s is not None:
                p = observation.parameters
                by_batch = times.setdefault(p.speed_class(), {})
                by_batch.setdefault(float(p.per_device_train_batch_size), []).append(observation.step_times_s[0])
        return {key: {b: statistics.median(all_s) for b, all_s in by_batch.items()} for key, by_batch in times.items()}

    @cached_property
    def _update_times_s(self) -> dict[str | None, float]:
        """An update by each optimizer: the same weights are updated whatever the batch, checkpointing and precision."""
        times_s: dict[str | None, list[float]] = {}
        for observation in self.observations:
            if observation.step_times_s is not None:
                times_s.setdefault(observation.parameters.optim, []).append(observation.step_times_s[1])
        return {optimizer: statistics.median(all_s) for optimizer, all_s in times_s.items()}

    @cached_property
    def _compile_times_s(self) -> dict[SpeedClass, float]:
        """What compiling the model took, by speed class; 0 where it is not compiled."""
        times_s = {
            key: [o.record.attributes["probe"].get("compile_time_s", 0.0) for o in probes]
            for key, probes in self._probes.items()
        }
        return {key: statistics.median(all_s) for key, all_s in times_s.items()}

    def _uncalibrated_time_s(self, parameters: TrialParameters) -> tuple[float, str] | None:
        points = self._micro_step_points.get(parameters.speed_class(), {})
        batch = float(parameters.per_device_train_batch_size)
        if batch in points:
            micro_step_s, source = points[batch], "probe"
        elif len(points) >= 2:
            micro_step_s, source = interpolate(points, batch), "model"
        else:
            return None
        schedule = Schedule.of(self.job, parameters, num_samples=self.num_train, num_devices=self.num_devices)
        compile_s = self._compile_times_s.get(parameters.speed_class(), 0.0)
        return compile_s + schedule.train_time_s(micro_step_s, self._update_times_s[parameters.optim]), source

    @cached_property
    def _estimated_and_measured(self) -> list[tuple[float, float]]:
        pairs = []
        for observation in self.observations:
            if observation.train_time_s is not None and observation.record.outcome == "completed":
                estimate = self._uncalibrated_time_s(observation.parameters)
                if estimate is not None:
                    pairs.append((estimate[0], observation.train_time_s))
        return pairs

    @cached_property
    def _calibration(self) -> float:
        """How much longer trainings took than their steps add up to: what a probe's synchronised steps leave out or add."""
        ratios = [measured / estimate for estimate, measured in self._estimated_and_measured]
        return statistics.median(ratios) if ratios else 1.0


def observe(record: TrialRecord, space: SearchSpace) -> Observation | None:
    """What a record teaches of its own configuration; None where it runs still, was skipped, or lies outside the space."""
    # What an interrupted or failed trial measured before its end is as good as any.
    if record.outcome in (None, "skipped"):
        return None
    if record.is_derived:
        if "probe" not in record.attributes:
            return None
        # It was probed for what was not known of it: that much it teaches, and no more.
        kept = ("probe", "peak_memory_mib", *MEMORY_PREDICTION)
        measured = {name: record.attributes[name] for name in kept if name in record.attributes}
        record = replace(record, outcome="probed", attributes=measured)
    parameters = space.read(record.params)
    return None if parameters is None else Observation(record=record, parameters=parameters)


def _other_accumulation(memory_class: MemoryClass) -> MemoryClass:
    return replace(memory_class, accumulates=not memory_class.accumulates)
