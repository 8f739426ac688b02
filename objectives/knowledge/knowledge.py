"""Knowledge that a study's trials give of configurations that were not run.

There are three kinds, in decreasing order of certainty: an out-of-memory settles every configuration that needs at least as
much memory; memory and step times of a configuration follow from those of its neighbours; and a training settles the accuracy
of its whole learning class. All of it holds for one job on one device model with one memory limit, which is what a study is.

Everything is computed from the stored records, so every process that can read the study knows the same.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from tradeoff.objectives.job.schedule import Schedule
from tradeoff.objectives.knowledge.failures import Failures
from tradeoff.objectives.knowledge.found_changes import Found, found_changes, refined
from tradeoff.objectives.knowledge.memory_model import MemoryModel
from tradeoff.objectives.knowledge.observations import Observation, observe
from tradeoff.objectives.knowledge.power import PowerModel
from tradeoff.objectives.knowledge.prefixes import prefixes
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.knowledge.time_model import TimeModel
from tradeoff.objectives.measurements.goals import Estimates, Known, cost_goals
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS, SEED
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates
from tradeoff.searchspace import LearningClass, Precision, TrialParameters, Values


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The costs of a configuration; its peak memory and training time are always known.

    Attributes:
        known: The value of each known cost by name, with its source: "measured", "probe" or "model".
        errors: The standard deviations of those values, in their units.
    """

    known: Mapping[str, Known]
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def peak_memory_mib(self) -> float:
        """The configuration's peak memory."""
        return self.known["peak_memory_mib"][0]

    @property
    def train_time_s(self) -> float:
        """The time of its training."""
        return self.known["train_time_s"][0]

    def value(self, name: str) -> float | None:
        """Return the value of a cost objective; None if it is not known."""
        return self.known[name][0] if name in self.known else None

    def source(self, name: str) -> str | None:
        """Return the source of the value of a cost objective; None if it is not known."""
        return self.known[name][1] if name in self.known else None

    def error(self, name: str) -> float:
        """Return the standard deviation of the value of a cost objective, in its unit; 0 if none is known."""
        return self.errors.get(name, 0.0)

    def knows(self, names: Iterable[str]) -> bool:
        """Return True if all of these objectives are known."""
        return all(name in self.known for name in names)

    def is_measured(self, names: Iterable[str] = ()) -> bool:
        """Return True if time, memory and these objectives were all measured, and none is predicted by a model."""
        return all(self.source(name) != "model" for name in ("train_time_s", "peak_memory_mib", *names))


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """The models fitted to a study's trials.

    Attributes:
        setup: The terms of the study, with what was found out about its knobs.
        observations: Trials that ran; derived and skipped ones add nothing.
        memory_estimates: Memory as estimated before anything ran; None if it was not.
        found: What was found out about knobs.
    """

    setup: StudySetup
    observations: tuple[Observation, ...] = ()
    memory_estimates: MemoryEstimates | None = None
    found: tuple[Found, ...] = ()

    @classmethod
    def of(
        cls, records: Sequence[TrialRecord], setup: StudySetup, *, memory_estimates: MemoryEstimates | None = None
    ) -> "Knowledge":
        """Fit the models to the records of a study."""
        observations = [o for record in records if (o := observe(record, setup.space)) is not None]
        return cls.fitted(observations, setup, memory_estimates=memory_estimates)

    @classmethod
    def fitted(
        cls,
        observations: Sequence[Observation],
        setup: StudySetup,
        *,
        memory_estimates: MemoryEstimates | None = None,
        before: "Knowledge | None" = None,
    ) -> "Knowledge":
        """Fit the models to observations under the terms that the study file says.

        Args:
            observations: The trials that ran.
            setup: The terms.
            memory_estimates: Memory as estimated before anything ran.
            before: The knowledge from fewer of these trials: what it keeps of the terms stays as long as nothing new is found
                out about a knob.
        """
        found = tuple(found_changes(observations, setup.space))
        terms, known = refined(setup, found), {}
        if before is not None and before.setup.space.knobs == terms.space.knobs:
            terms, known = before.setup, {o.record.number: o for o in before.observations}
        if terms is not setup:
            observations = [known.get(o.record.number) or o.under(terms.space) for o in observations]
        return cls(setup=terms, observations=tuple(observations), memory_estimates=memory_estimates, found=found)

    def out_of_memory(self, parameters: TrialParameters) -> Observation | None:
        """Return the observation from which it follows that `parameters` cannot fit, or None.

        If there are several, the one with the nearest micro-batch is returned.
        """
        alike = self._out_of_memory.get(parameters.memory_kind, ())
        settling = [o for o in alike if parameters.needs_at_least_the_memory_of(o.parameters)]
        return max(settling, key=lambda o: o.parameters.per_device_train_batch_size, default=None)

    def ruled_out(self, parameters: TrialParameters) -> str | None:
        """Return why a configuration is not worth a trial after what has failed, in a sentence; None if it is."""
        failures = self.failures
        if not failures.hopeless and not failures.lost_trainings and not failures.left_out:
            return None  # as in most studies, and a decision asks for each of its candidates
        if (blamed := failures.blamed(parameters)) is not None:
            return blamed.why
        if parameters.structure in failures.hopeless:
            return "its probe failed or ran out of time"
        if not failures.lost_trainings:
            return None
        lost = [] if self.trained(parameters) else failures.lost_trainings.get(self.class_of(parameters), [])
        if any(o.parameters == parameters for o in lost):
            return "its training failed, diverged or ran out of time"
        if parameters.precision != Precision.FP32 and any(o.record.outcome == "diverged" for o in lost):
            return "its learning class diverged in half precision"
        cost = None if self._too_long_s is None else self.cost(parameters)
        if cost is not None and self._too_long_s is not None and cost.train_time_s >= self._too_long_s:
            return "it is predicted to take as long as a training that ran out of time"
        return None

    @cached_property
    def failures(self) -> Failures:
        """What failed trials have in common."""
        return Failures(setup=self.setup, observations=self.observations)

    @cached_property
    def _too_long_s(self) -> float | None:
        """The shortest predicted time of a training that ran out of time."""
        timed_out = [o for lost in self.failures.lost_trainings.values() for o in lost if o.record.outcome == "timed_out"]
        costs = [cost for o in timed_out if (cost := self.cost(o.parameters)) is not None]
        return min((cost.train_time_s for cost in costs), default=None)

    def with_observation(self, observation: Observation) -> "Knowledge":
        """Return the knowledge with one more observation."""
        return replace(self, observations=(*self.observations, observation))

    def class_of(self, parameters: TrialParameters) -> LearningClass:
        """Return the learning class of a configuration, as widely as this study shares accuracy."""
        return self.setup.class_of(parameters)

    @cached_property
    def trainings(self) -> dict[LearningClass, Observation]:
        """The training that represents each learning class: the latest of those averaged over the most seeds."""
        completed = [o for o in self.observations if o.record.outcome == "completed"]
        # The sort is stable: among equal numbers of seeds the latest comes last.
        completed.sort(key=lambda o: o.record.attributes.get(NUM_SEEDS, 1))
        return self.prefixes | {self.class_of(o.parameters): o for o in completed}

    @cached_property
    def prefixes(self) -> dict[LearningClass, Observation]:
        """The shorter trainings that completed ones contain, of classes of which none was trained itself."""
        completed = [o for o in self.observations if o.record.outcome == "completed" and "training" in o.record.attributes]
        trained = {self.class_of(o.parameters) for o in completed}
        contained = (shorter for training in completed for shorter in prefixes(training, self.setup))
        return {key: shorter for shorter in contained if (key := self.class_of(shorter.parameters)) not in trained}

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
        if (memory := self.memory.known(structure)) is None or (time := self.times.known(structure)) is None:
            return None
        num_samples = Schedule.of(self.setup.job, structure, num_samples=self.setup.num_train).num_samples
        estimates = Estimates(
            # A value that was not measured counts as predicted, whether by a line through peaks or by the memory estimate.
            peak_memory_mib=(memory[0], "model" if memory[1] == "estimate" else memory[1]),
            train_time_s=time[:2],
            energy_j=self._power.energy_j(structure, *time[:2]),
            num_samples=num_samples,
        )
        time_error, known, errors = self.times.relative_error(structure), {}, {}
        for name, goal in cost_goals().items():
            if (estimated := goal.estimated(estimates)) is not None:
                from_other_classes = time[2] if goal.varies_with_time else memory[2]
                predicted = max(goal.typical_error, from_other_classes) if estimated[1] == "model" else 0.0
                known[name] = estimated
                errors[name] = abs(estimated[0]) * math.hypot(time_error if goal.varies_with_time else 0.0, predicted)
        return Cost(known=known, errors=errors)

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
        return MemoryModel(
            observations=self.observations,
            estimates=self.memory_estimates,
            classes=self.setup.memory_classes if self.setup.lines.are_many else (),
        )

    @cached_property
    def times(self) -> TimeModel:
        """The time model."""
        return TimeModel(setup=self.setup, observations=self.observations)

    @cached_property
    def _costs(self) -> dict[TrialParameters, Cost | None]:
        """The cache of `cost`: a decision asks for the same configurations many times."""
        return {}

    @cached_property
    def _out_of_memory(self) -> dict[Values, list[Observation]]:
        """The trials that ran out of memory, grouped so that only those of one group can settle each other."""
        found: dict[Values, list[Observation]] = {}
        for observation in self.observations:
            if observation.record.outcome == "out_of_memory":
                found.setdefault(observation.parameters.memory_kind, []).append(observation)
        return found

    @cached_property
    def _power(self) -> PowerModel:
        return PowerModel.of((o.parameters, o.record) for o in self.observations)
