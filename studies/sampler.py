"""The decoupled search, as an Optuna sampler: survey, decide, train, publish.

Each trial it proposes carries a plan among its system attributes: to probe a configuration, or to train a learning class by its
fastest member. Everything it knows it reads from the study, so it goes on from a study half done, by itself or by another
sampler, and several workers share what each of them finds.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from objectives.knowledge import Knowledge
from objectives.objective import PLAN_ATTRIBUTE
from objectives.records import TrialRecord
from searchspace import LearningClass, SearchSpace, TrialParameters
from studies.candidates import candidates, reference
from studies.decision import Candidate, Volume, decide
from studies.front import feasible
from studies.publishing import publish, unpublished
from studies.survey import Depth, next_probe, remaining_s
from studies.verification import to_verify

# The search ends when no class is expected to add this share of the hypervolume.
MIN_RELATIVE_GAIN = 0.002
# What a class must be expected to add for its training to come before the next step of the survey: the first class as soon as
# one way to compute is known, further ones before the ways that look beaten.
MIN_GAINS = {Depth.FIRST: 0.2, Depth.PROMISING: 0.005, Depth.EVERYTHING: MIN_RELATIVE_GAIN}
# A class whose worker died before it published is published by another one after this long.
PUBLISH_GRACE_S = 60.0

# What a trial ended as when its class is not worth another attempt.
_SETTLED = frozenset({"completed", "stopped_early", "timed_out", "failed"})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a trial is to do.

    Attributes:
        parameters: Its configuration.
        stages: What its process runs: "probe", "train" or both.
        why: In a sentence, for a person.
    """

    parameters: TrialParameters
    stages: tuple[str, ...]
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, to store."""
        return {"params": self.parameters.as_dict(), "stages": list(self.stages), "why": self.why}


@dataclass
class DecoupledSampler(optuna.samplers.BaseSampler):
    """Chooses what to probe and what to train.

    Attributes:
        space: The space, without what the device lacks.
        objectives: The study's objectives.
        learn: Reads the study into records and knowledge.
        budget_mib: What a configuration may need.
        baseline_accuracy: What a constant answer reaches: an accuracy of no use.
        seed: Of the learning rates that are drawn.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    learn: Callable[[optuna.Study], tuple[list[TrialRecord], Knowledge]]
    budget_mib: float
    baseline_accuracy: float
    seed: int | None = None
    finished_because: str | None = field(default=None, init=False)
    _plan: Plan | None = field(default=None, init=False)
    _own: set[int] = field(default_factory=set, init=False)
    _random: optuna.samplers.RandomSampler = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = optuna.samplers.RandomSampler(seed=self.seed)

    def finished(self, study: optuna.Study) -> str | None:
        """Why the search has ended, in a sentence; None while there is something worth doing."""
        self._plan = self._next_plan(study)
        return None if self._plan is not None else self.finished_because

    def publish(self, study: optuna.Study, *, ended: int | None = None) -> int:
        """Publishes what trainings have settled.

        Args:
            study: The study.
            ended: The trial that has just ended here. What other workers' trials settle is theirs to publish; only after a
                grace period is it taken over.

        Returns:
            The number of trials added.
        """
        if ended is not None:
            self._own.add(ended)
        records, knowledge = self.learn(study)
        trials = study.get_trials(deepcopy=False)
        count = 0
        waiting = unpublished(records, knowledge, self.space, budget_mib=self.budget_mib)
        for parameters, training in waiting:
            completed = trials[training.record.number].datetime_complete
            age_s = time.time() - completed.timestamp() if completed is not None else 0.0
            if training.record.number in self._own or age_s >= PUBLISH_GRACE_S:
                publish(study, parameters, training, knowledge, self.space, self.objectives)
                count += 1
        return count

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Plans the trial; one that the user has enqueued is run in full."""
        if "fixed_params" in trial.system_attrs:
            return
        plan, self._plan = self._plan, None
        if plan is None or self._is_taken(plan, study, trial):
            plan = self._next_plan(study, trial)
        while plan is not None:
            study._storage.set_trial_system_attr(trial._trial_id, PLAN_ATTRIBUTE, plan.as_dict())
            trial.system_attrs[PLAN_ATTRIBUTE] = plan.as_dict()
            # Of two workers that chose the same at the same time, the one with the later trial chooses again.
            if not self._is_taken(plan, study, trial, before=trial.number):
                return
            plan = self._next_plan(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space: parameters are chosen together."""
        return self.space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The planned configuration."""
        plan = trial.system_attrs.get(PLAN_ATTRIBUTE)
        if plan is None:
            return {}
        return {name: plan["params"][name] for name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What is not planned (the search has ended, or the user fixed other parameters) is drawn at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _running(self, study: optuna.Study, own: FrozenTrial | None) -> list[tuple[int, TrialParameters, tuple[str, ...]]]:
        """What other trials are doing: number, configuration and stages. One with no plan is trained in full."""
        running = []
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            plan = trial.system_attrs.get(PLAN_ATTRIBUTE, {"params": trial.params, "stages": ("probe", "train")})
            parameters = self.space.read(plan["params"])
            if parameters is not None and (own is None or trial.number != own.number):
                running.append((trial.number, parameters, tuple(plan["stages"])))
        return running

    def _is_taken(self, plan: Plan, study: optuna.Study, own: FrozenTrial, before: int | None = None) -> bool:
        """Whether another trial (with a number below `before`) does the same."""
        _, knowledge = self.learn(study)
        learning_class = knowledge.class_of(plan.parameters)
        return any(
            plan.parameters == parameters
            or ("train" in plan.stages and "train" in stages and knowledge.class_of(parameters) == learning_class)
            for number, parameters, stages in self._running(study, own)
            if before is None or number < before
        )

    def _next_plan(self, study: optuna.Study, own: FrozenTrial | None = None) -> Plan | None:
        records, knowledge = self.learn(study)
        pending = [(parameters, stages) for _, parameters, stages in self._running(study, own)]
        busy = [parameters for parameters, _ in pending]
        training = [parameters for parameters, stages in pending if "train" in stages]
        # First what looks promising is surveyed and trained; the rest is surveyed once that has little more to give.
        for depth, min_gain in MIN_GAINS.items():
            probe = next_probe(knowledge, self.space, self.budget_mib, busy, depth=depth)
            if probe is not None:
                return self._probe(probe, "surveys memory and time")
            plan = self._train(records, knowledge, training, min_gain)
            if depth == Depth.FIRST:
                # Where a training takes longer than the whole survey, it is worth knowing first how it is done fastest.
                if plan is None or self._train_time_s(plan, knowledge) > remaining_s(knowledge, self.space):
                    continue
                return plan
            plan = plan or self._verify(records, knowledge, busy)
            if plan is not None:
                return plan
        return None

    def _train_time_s(self, plan: Plan, knowledge: Knowledge) -> float:
        cost = knowledge.cost(plan.parameters)
        assert cost is not None
        return cost.train_time_s

    def _probe(self, parameters: TrialParameters, why: str) -> Plan:
        if (domain := self.space.domains.get("learning_rate")) is not None and parameters.learning_rate is None:
            # Neither memory nor time depends on it; Optuna wants a value of the domain.
            values = domain.values()
            parameters = parameters.with_learning_rate(values[0] if values else getattr(domain, "low", None))
        return Plan(parameters=parameters, stages=("probe",), why=why)

    def _train(
        self,
        records: Sequence[TrialRecord],
        knowledge: Knowledge,
        pending: Sequence[TrialParameters],
        min_gain: float = MIN_RELATIVE_GAIN,
    ) -> Plan | None:
        everything = self._candidates(knowledge, len(records))
        settled = {
            knowledge.class_of(observation.parameters): observation
            for observation in knowledge.observations
            if observation.record.outcome in _SETTLED and "training" in observation.record.attributes
        }
        failed = {
            knowledge.class_of(o.parameters) for o in knowledge.observations if o.record.outcome in {"failed", "timed_out"}
        }
        busy = {knowledge.class_of(parameters) for parameters in pending}
        left = [c for c in everything if c.learning_class not in settled.keys() | failed | busy]
        if not left:
            self.finished_because = self._why_no_candidate(everything, busy, failed)
            return None
        trained = {
            learning_class: accuracy
            for learning_class, observation in settled.items()
            if (accuracy := _last_accuracy(observation.record)) is not None
        }
        decision = decide(
            left,
            trained,
            [record.values for record in records if record.outcome == "completed"],
            self.objectives,
            self._reference(everything, trained.values()),
            [candidate for candidate in everything if candidate.learning_class in busy],
        )
        if decision is None or decision.relative_gain < min_gain:
            gain = 0.0 if decision is None else decision.relative_gain
            self.finished_because = (
                f"no training left is expected to add {min_gain:.1%} to the hypervolume (the best: {gain:.2%})"
            )
            return None
        parameters, cost = decision.candidate.fastest
        probed = "model" not in (cost.memory_source, cost.time_source)
        why = f"trains effective batch {decision.candidate.learning_class.effective_batch_size} by its fastest member"
        return Plan(parameters=parameters, stages=("train",) if probed else ("probe", "train"), why=why)

    def _why_no_candidate(self, everything: Sequence[Candidate], busy: Set[LearningClass], failed: Set[LearningClass]) -> str:
        classes = {candidate.learning_class for candidate in everything}
        if not classes:
            return "no configuration of the space is known to fit"
        if busy & classes:
            return "what is left to train is being trained by other workers"
        if failed & classes:
            return f"every learning class that fits has been trained, except for {len(failed & classes)} that failed"
        return "every learning class that fits has been trained"

    def _verify(self, records: Sequence[TrialRecord], knowledge: Knowledge, pending: Sequence[TrialParameters]) -> Plan | None:
        """Probes what stands on the front by a model's word, or would stand there if the model were a little off."""
        everything = self._candidates(knowledge, len(records))
        if not everything:
            return None
        accuracies = [record.values["accuracy"] for record in feasible(records)] if "accuracy" in self.objectives else []
        volume = Volume(self.objectives, self._reference(everything, accuracies))
        found = to_verify(records, knowledge, self.space, volume, pending, min_gain=MIN_RELATIVE_GAIN)
        return None if found is None else Plan(parameters=found[0], stages=("probe",), why=found[1])

    def _candidates(self, knowledge: Knowledge, num_trials: int) -> list[Candidate]:
        return candidates(knowledge, self.space, budget_mib=self.budget_mib, seed=self.seed, num_trials=num_trials)

    def _reference(self, everything: Sequence[Candidate], accuracies: Collection[float]) -> Mapping[str, float]:
        return reference(everything, accuracies, budget_mib=self.budget_mib, baseline_accuracy=self.baseline_accuracy)


def _last_accuracy(record: TrialRecord) -> float | None:
    curve = record.attributes["training"]["curve"]
    return curve[-1]["accuracy"] if curve else None
