"""Plan the next trial of the decoupled search: a probe of the survey, a training, or a probe that checks the front.

The plan depends on one snapshot of a study: the records, the models fitted to them, and what other trials are doing. Nothing
here depends on Optuna.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from tradeoff.objectives.knowledge.knowledge import Cost, Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import SEED, last_values
from tradeoff.searchspace import LearningClass, TrialParameters
from tradeoff.studies.results.expectation import as_expected
from tradeoff.studies.results.front import feasible
from tradeoff.studies.samplers.acquisition import Decision, fitted, select_next
from tradeoff.studies.samplers.candidates import Candidate, candidates, reference, with_contained
from tradeoff.studies.samplers.checks import to_repeat, to_verify
from tradeoff.studies.samplers.features import Features
from tradeoff.studies.samplers.hypervolume import Volume
from tradeoff.studies.samplers.metric_gp import MetricGP
from tradeoff.studies.samplers.repeated_training import MIN_CLASSES, worth_of_repeats
from tradeoff.studies.samplers.survey import Depth, mean_probe_s, next_probe, remaining_s
from tradeoff.studies.samplers.untrained import (
    DOES_NOT_FIT,
    Beliefs,
    Predicted,
    Untrained,
    beliefs_of,
    predicted_front,
    untrained,
)

# By default the search ends once no class is expected to add this share of the hypervolume.
MIN_RELATIVE_GAIN = 0.002
# The expected gain that makes a training come before the next step of the survey: the first class is trained once one compute
# configuration is known, further ones before the compute configurations that look dominated.
MIN_GAINS = {Depth.FIRST: 0.2, Depth.PROMISING: 0.005}
# A training that is predicted to take so many times as long as a probe is not begun before one: of itself, where what it costs
# is uncertain, and of what is on the front by a prediction, which a user would choose now.
WORTH_A_PROBE = 5


def is_training(observation: Observation) -> bool:
    """Return True if an observation has trained its learning class."""
    return observation.record.outcome == "completed" and "training" in observation.record.attributes


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """The plan of a trial.

    Attributes:
        parameters: Its configuration.
        stages: The stages that its process runs: "probe", "train" or both.
        why: The reason, in a sentence for a person.
        seed: The seed, if a class is trained again; None for the job's own.
    """

    parameters: TrialParameters
    stages: tuple[str, ...]
    why: str
    seed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, to store."""
        plain = {"params": self.parameters.as_dict(), "stages": list(self.stages), "why": self.why}
        return plain if self.seed is None else plain | {"seed": self.seed}


@dataclass(kw_only=True)
class TrialPlanner:
    """Plans the next trial from one snapshot of a study.

    Attributes:
        baselines: The baselines (the constant answer) of the learned objectives for which they are known.
        seed: The seed of the classes that are looked at in a large space.
        max_seeds: The number of seeds that a learning class may be trained with.
        min_gain: The expected gain below which nothing more is trained, as a share of the hypervolume; 0 trains every class.
        preferred: A learned objective whose improvement alone makes a training worth it; None for the hypervolume alone.
        records: The study's trials.
        knowledge: The models fitted to them.
        running: Configurations that other trials are running, with their stages.
        finished_because: The reason why there is nothing left to do, once `next_plan` has returned None.
    """

    baselines: Mapping[str, float]
    seed: int | None
    records: Sequence[TrialRecord]
    knowledge: Knowledge
    running: Sequence[tuple[TrialParameters, tuple[str, ...]]]
    max_seeds: int = 1
    min_gain: float = MIN_RELATIVE_GAIN
    preferred: str | None = None
    finished_because: str | None = field(default=None, init=False)

    def next_plan(self) -> TrialPlan | None:
        """Return the next plan, or None if nothing is worth doing."""
        busy = [parameters for parameters, _ in self.running]
        # What looks promising is surveyed and trained first; the rest is surveyed once that has little more to give.
        for depth in Depth:
            min_gain = max(MIN_GAINS.get(depth, 0.0), self.min_gain)
            probe = next_probe(self.knowledge, busy, depth=depth)
            if probe is not None:
                return self._probe(probe, "surveys memory and time")
            plan = self._train(min_gain)
            if depth == Depth.FIRST:
                # If a training takes longer than the whole survey, find the fastest way to do it first.
                if plan is None or self._train_time_s(plan) > remaining_s(self.knowledge):
                    continue
                return plan
            if plan is None or self._train_time_s(plan) > WORTH_A_PROBE * mean_probe_s(self.knowledge) > 0:
                plan = self._verify(busy) or plan
            if plan is not None:
                return plan
        return self._time_again(busy)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The learning classes with their members that fit."""
        running = [parameters for parameters, stages in self.running if "train" in stages]
        return candidates(self.knowledge, seed=self.seed, completed=self._completed, running=running)

    @cached_property
    def decision(self) -> Decision | str:
        """The class to train next, or the reason why there is none."""
        if not self._setup.learned:
            return "probes have measured every objective of the study"
        given_up, busy = self.knowledge.failures.given_up, self._busy
        done = self._trained.keys() | given_up | busy
        left = [candidate for candidate in self.candidates if candidate.learning_class not in done]
        if not self.candidates or (not left and self.max_seeds == 1):
            return self._why_no_candidate()
        known = self._known
        decision = select_next(
            with_contained(left, self._setup),
            known,
            [record.values for record in self.records if record.outcome == "completed"],
            self._setup.objectives,
            self._learned_reference,
            [candidate for candidate in self.candidates if candidate.learning_class in busy],
            partial(
                worth_of_repeats,
                [candidate for candidate in self.candidates if candidate.learning_class in known],
                self._repeatable(known.keys() - given_up - busy),
            ),
            preferred=self.preferred,
            min_gain=self.min_gain,
            space=self._setup.space,
            num_eval=self._setup.num_eval,
        )
        return decision or self._why_no_candidate()

    @cached_property
    def _known(self) -> dict[LearningClass, list[dict[str, float]]]:
        """The learned objectives of each trained class, one mapping for each seed."""
        return {key: values for key, trainings in self._trained.items() if (values := self._values_by_seed(trainings))}

    @cached_property
    def _learned_reference(self) -> Mapping[str, float]:
        return self._reference([values for by_seed in self._known.values() for values in by_seed])

    @cached_property
    def _processes(self) -> Mapping[str, MetricGP]:
        """What each learned objective is expected to be, by all trainings; empty while nothing is trained."""
        if not isinstance(self.decision, str):
            return self.decision.processes
        if not self._known:
            return {}
        features = Features.of({*self._known, *(each.learning_class for each in self.candidates)}, self._setup.space)
        return fitted(self._known, self._setup.learned, self._learned_reference, features, self._setup.num_eval)

    @cached_property
    def expected(self) -> Mapping[LearningClass, Beliefs]:
        """What is expected of each trained class by all trainings; nothing while few are trained, or of what went wrong."""
        if len(self._known) < MIN_CLASSES:
            return {}
        beliefs, processes = beliefs_of([*self._known], self._processes), self._processes
        return {
            key: {
                name: belief
                for name, belief in beliefs[key].items()
                if not any(processes[name].is_clipped(values[name]) for values in self._known[key] if name in values)
            }
            for key in beliefs
        }

    @cached_property
    def _busy(self) -> set[LearningClass]:
        """The learning classes that other workers are training."""
        return {self.knowledge.class_of(parameters) for parameters, stages in self.running if "train" in stages}

    @cached_property
    def _trained(self) -> dict[LearningClass, list[Observation]]:
        """All trainings by learning class, in the order of their numbers; of a class that was given up, where it diverged."""
        trained: dict[LearningClass, list[Observation]] = {}
        for observation in self.knowledge.observations:
            key = self.knowledge.class_of(observation.parameters)
            has_diverged = observation.record.outcome == "diverged" and "training" in observation.record.attributes
            if is_training(observation) or (has_diverged and key in self.knowledge.failures.given_up):
                trained.setdefault(key, []).append(observation)
        return trained | {key: [shorter] for key, shorter in self.knowledge.prefixes.items() if key not in trained}

    def _repeatable(self, classes: AbstractSet[LearningClass]) -> frozenset[LearningClass]:
        """Return the classes that may be trained with another seed; none whose training ended badly."""
        return frozenset(
            key
            for key in classes
            if len(trainings := self._trained[key]) < self.max_seeds
            and key not in self.knowledge.prefixes
            and all(observation.record.outcome == "completed" for observation in trainings)
        )

    @property
    def _setup(self) -> StudySetup:
        return self.knowledge.setup

    def untrained(self) -> list[Untrained]:
        """Return the learning classes that were not trained, with why; see `untrained`."""
        return untrained(self.knowledge, {} if isinstance(self.decision, str) else self.decision.gains)

    def predicted(self) -> list[Predicted]:
        """Return the configurations of untrained classes that are expected on the front; see `predicted_front`."""
        if isinstance(self.decision, str) or not self._trained:
            return []
        beliefs = beliefs_of(tuple(self.decision.gains), self._processes)
        known = [record.values for record in self.expecting(self._completed)]
        return predicted_front(self.candidates, beliefs, known, self._volume, min_gain=MIN_RELATIVE_GAIN)

    def expecting(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return completed trials with what is expected of them in place of what they measured, where anything is."""
        classes = ((record, self._setup.space.read(record.params)) for record in records)
        return [
            as_expected(record, self.expected.get(self.knowledge.class_of(parameters), {}) if parameters else {})
            for record, parameters in classes
        ]

    def _probe(self, parameters: TrialParameters, why: str) -> TrialPlan:
        # Neither memory nor time depends on the learning rate, but Optuna wants a value from its domain.
        return TrialPlan(parameters=self._setup.space.complete(parameters), stages=("probe",), why=why)

    def _train(self, min_gain: float) -> TrialPlan | None:
        if isinstance(self.decision, str):
            self.finished_because = self.decision
            return None
        candidate, gain = self.decision.candidate, self.decision.relative_gain
        if gain < min_gain or (self.decision.is_repeat and gain < MIN_RELATIVE_GAIN):
            of_what = "the hypervolume" if self.preferred is None else f"the hypervolume or to the best {self.preferred}"
            self.finished_because = f"no training left is expected to add {min_gain:.1%} to {of_what} (the best: {gain:.2%})"
            if self.decision.is_first:
                self.finished_because = (
                    "nothing is better than the baseline, and no training left is expected to improve on that by"
                    f" {min_gain:.1%} of what is possible (the best: {gain:.2%})"
                )
            return None
        if self.decision.is_repeat:
            return self._repeat(candidate)
        parameters, cost = candidate.fastest
        probed = cost.is_measured(self._setup.costs)
        if not probed and self._is_uncertain(parameters, cost):
            return self._probe(parameters, "measures what it costs, before a training by that")
        why = f"trains effective batch {candidate.learning_class.effective_batch_size} by its fastest member"
        return TrialPlan(parameters=parameters, stages=("train",) if probed else ("probe", "train"), why=why)

    def _is_uncertain(self, parameters: TrialParameters, cost: Cost) -> bool:
        """Return True if what a training costs is predicted from other compute configurations, and a probe costs much less."""
        known = self.knowledge.memory.known(parameters), self.knowledge.times.known(parameters)
        is_predicted = any(each is not None and each[2] > 0 for each in known)
        is_being_probed = any(running.structure == parameters.structure for running, _ in self.running)
        is_worth_it = cost.train_time_s > WORTH_A_PROBE * mean_probe_s(self.knowledge)
        return is_predicted and is_worth_it and not is_being_probed

    def _repeat(self, candidate: Candidate) -> TrialPlan:
        """Return the plan to train the same configuration again: only its trials can hold the mean of both."""
        latest = self._trained[candidate.learning_class][-1]
        seed = latest.record.attributes.get(SEED, self._setup.job.seed) + 1
        why = (
            f"trains effective batch {candidate.learning_class.effective_batch_size} with another seed: the front depends on it"
        )
        return TrialPlan(parameters=latest.parameters, stages=("train",), why=why, seed=seed)

    def _train_time_s(self, plan: TrialPlan) -> float:
        cost = self.knowledge.cost(plan.parameters)
        assert cost is not None
        return cost.train_time_s

    def _why_no_candidate(self) -> str:
        classes, num_failed = {candidate.learning_class for candidate in self.candidates}, self._num_failed
        if not classes:
            return f"no configuration of the space is known to {'work' if num_failed else 'fit'}"
        if self._busy & classes:
            return "what is left to train is being trained by other workers"
        if num_failed:
            return f"every learning class that fits has been trained, except for {num_failed} that failed"
        return "every learning class that fits has been trained"

    @property
    def _num_failed(self) -> int:
        """The number of learning classes of which nothing more is tried for what has failed."""
        given_up = {key for key in self.knowledge.failures.given_up if key not in self.knowledge.trainings}
        failed = {
            each.learning_class
            for each in untrained(self.knowledge, {candidate.learning_class: 0.0 for candidate in self.candidates})
            if each.why and each.why != DOES_NOT_FIT
        }
        return len(given_up | failed)

    def _verify(self, busy: Sequence[TrialParameters]) -> TrialPlan | None:
        """Return a probe of a configuration that is on the front by a predicted value, or may be if that is off."""
        if not self.candidates:
            return None
        found = to_verify(self._completed, self.knowledge, self._volume, busy, min_gain=MIN_RELATIVE_GAIN)
        return None if found is None else TrialPlan(parameters=found[0], stages=("probe",), why=found[1])

    def _time_again(self, busy: Sequence[TrialParameters]) -> TrialPlan | None:
        """Return a probe of a configuration whose time is not known well enough to say what is on the front."""
        if not self.candidates:
            return None
        parameters = to_repeat(self._completed, self.knowledge, self._volume, busy, min_gain=MIN_RELATIVE_GAIN)
        if parameters is None:
            return None
        why = "times it again: the front rests on differences within the error of its time"
        return TrialPlan(parameters=parameters, stages=("probe",), why=why)

    @cached_property
    def _completed(self) -> list[TrialRecord]:
        return feasible(self.records)

    @cached_property
    def _volume(self) -> Volume:
        return Volume(self._setup.objectives, self._reference([record.values for record in self._completed]))

    def _reference(self, values: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        return reference(
            self.candidates,
            {name: [known[name] for known in values if name in known] for name in self._setup.learned},
            self._setup,
            baselines=self.baselines,
        )

    def _values_by_seed(self, trainings: Sequence[Observation]) -> list[dict[str, float]]:
        """Return the final values of each training."""
        return [values for o in trainings if (values := last_values(o.record.attributes, self._setup.learned))]
