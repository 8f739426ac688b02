"""Knowledge that a study's trials give of configurations that were not run.

There are three kinds, in decreasing order of certainty: an out-of-memory settles every configuration that needs at least as
much memory; memory and step times of a configuration follow from those of its neighbours; and a training settles the accuracy
of its whole learning class. All of it holds for one job on one device model with one memory limit, which is what a study is.

Everything is computed from the stored records, so every process that can read the study knows the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.knowledge.memory_model import MemoryModel
from tradeoff.objectives.knowledge.observations import Observation, observe
from tradeoff.objectives.knowledge.power import PowerModel
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.knowledge.time_model import TimeModel
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS, SEED
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates
from tradeoff.searchspace import LearningClass, TrialParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of a configuration.

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
        """Return the value of a cost objective; None if it is not known."""
        value: float | None = getattr(self, name)
        return value

    def source(self, name: str) -> str | None:
        """Return the source of the value of a cost objective."""
        return {"peak_memory_mib": self.memory_source, "energy_j": self.energy_source}.get(name, self.time_source)

    def knows(self, names: Iterable[str]) -> bool:
        """Return True if all of these objectives are known."""
        return all(self.value(name) is not None for name in names)

    def is_measured(self, names: Iterable[str] = ()) -> bool:
        """Return True if time, memory and these objectives were all measured, and none is predicted by a model."""
        return all(self.source(name) != "model" for name in ("train_time_s", "peak_memory_mib", *names))


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """The models fitted to a study's trials.

    Attributes:
        setup: The terms of the study.
        observations: Trials that ran; derived and skipped ones add nothing.
        memory_estimates: Memory as estimated before anything ran; None if it was not.
    """

    setup: StudySetup
    observations: tuple[Observation, ...] = ()
    memory_estimates: MemoryEstimates | None = None

    @classmethod
    def of(
        cls, records: Sequence[TrialRecord], setup: StudySetup, *, memory_estimates: MemoryEstimates | None = None
    ) -> "Knowledge":
        """Fit the models to the records of a study."""
        observations = tuple(o for record in records if (o := observe(record, setup.space)) is not None)
        return cls(setup=setup, observations=observations, memory_estimates=memory_estimates)

    def out_of_memory(self, parameters: TrialParameters) -> Observation | None:
        """Return the observation from which it follows that `parameters` cannot fit, or None.

        If there are several, the one with the nearest micro-batch is returned.
        """
        settling = [
            observation
            for observation in self._out_of_memory
            if parameters.needs_at_least_the_memory_of(observation.parameters)
        ]
        return max(settling, key=lambda o: o.parameters.per_device_train_batch_size, default=None)

    def with_observation(self, observation: Observation) -> "Knowledge":
        """Return the knowledge with one more observation."""
        return replace(self, observations=(*self.observations, observation))

    def class_of(self, parameters: TrialParameters) -> LearningClass:
        """Return the learning class of a configuration, as widely as this study shares accuracy."""
        return parameters.learning_class(self.setup.num_devices, self.setup.reuse)

    @cached_property
    def trainings(self) -> dict[LearningClass, Observation]:
        """The training that represents each learning class: the latest of those averaged over the most seeds."""
        completed = [o for o in self.observations if o.record.outcome == "completed"]
        # The sort is stable: among equal numbers of seeds the latest comes last.
        completed.sort(key=lambda o: o.record.attributes.get(NUM_SEEDS, 1))
        return {self.class_of(o.parameters): o for o in completed}

    def trained(self, parameters: TrialParameters) -> list[Observation]:
        """Return the completed trainings of exactly this configuration, the latest of each seed, by trial number."""
        by_seed = {
            o.record.attributes.get(SEED): o
            for o in self.observations
            if o.parameters == parameters and o.record.outcome == "completed" and "training" in o.record.attributes
        }
        return sorted(by_seed.values(), key=lambda o: o.record.number)

    def cost(self, parameters: TrialParameters) -> Cost | None:
        """Return the costs of a configuration, measured or predicted; None while too little is known."""
        structure = parameters.structure
        if structure not in self._costs:
            self._costs[structure] = self._cost(structure)
        return self._costs[structure]

    def _cost(self, structure: TrialParameters) -> Cost | None:
        memory, time = self.memory_mib(structure), self.time_s(structure)
        if memory is None or time is None:
            return None
        num_samples = Schedule.of(self.setup.job, structure, num_samples=self.setup.num_train).num_samples
        energy = self._power.energy_j(structure, *time)
        return Cost(
            peak_memory_mib=memory[0],
            # A value that was not measured counts as predicted, whether by a line through peaks or by the memory estimate.
            memory_source="model" if memory[1] == "plan" else memory[1],
            train_time_s=time[0],
            time_source=time[1],
            samples_per_s=num_samples / time[0] if time[0] > 0 else None,
            energy_j=None if energy is None else energy[0],
            energy_source=None if energy is None else energy[1],
        )

    def memory_mib(self, parameters: TrialParameters) -> tuple[float, str] | None:
        """Return the peak memory in MiB and its source (see `MemoryModel`); None while too little is known."""
        return self.memory.peak_memory_mib(parameters)

    def time_s(self, parameters: TrialParameters) -> tuple[float, str] | None:
        """Return the training time in seconds and its source (see `TimeModel`); None while too little is known."""
        return self.times.train_time_s(parameters)

    def is_probed(self, parameters: TrialParameters) -> bool:
        """Return True if probes measured both the micro-step time and the peak memory of this structure."""
        return self.times.micro_step_s(parameters) is not None and self.memory.measured_mib(parameters) is not None

    @cached_property
    def memory(self) -> MemoryModel:
        """The memory model."""
        return MemoryModel(observations=self.observations, estimates=self.memory_estimates)

    @cached_property
    def times(self) -> TimeModel:
        """The time model."""
        return TimeModel(setup=self.setup, observations=self.observations)

    @cached_property
    def _costs(self) -> dict[TrialParameters, Cost | None]:
        """The cache of `cost`: a decision asks for the same configurations many times."""
        return {}

    @cached_property
    def _out_of_memory(self) -> list[Observation]:
        return [observation for observation in self.observations if observation.record.outcome == "out_of_memory"]

    @cached_property
    def _power(self) -> PowerModel:
        return PowerModel.of((o.parameters, o.record) for o in self.observations)
