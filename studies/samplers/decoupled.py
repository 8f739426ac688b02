"""The decoupled search, as an Optuna sampler: survey, decide, train.

Each trial that it proposes carries a plan: to probe a configuration, or to train a learning class by its fastest member.
Everything it knows is read from the study, so it can continue a study that another sampler began, and several workers share
what each of them finds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.other_workers import TRIAL_PLAN
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.knowledge.snapshot import StudySnapshot
from tradeoff.objectives.measurements.seeds import SEED
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.samplers.trial_planner import MIN_RELATIVE_GAIN, TrialPlan, TrialPlanner, is_training
from tradeoff.studies.storage.stored_study import StoredStudy


@dataclass
class DecoupledSampler(optuna.samplers.BaseSampler):
    """An Optuna sampler that selects what to probe and what to train.

    Attributes:
        setup: The terms of the study.
        snapshot: Reads the study.
        baselines: The baselines (the constant answer) of the learned objectives for which they are known.
        seed: The seed of the classes that are looked at in a large space.
        max_seeds: The number of seeds that a learning class may be trained with.
        min_gain: The expected gain below which nothing more is trained; see `TrialPlanner`.
        preferred: A learned objective whose improvement alone makes a training worth it; None for the hypervolume alone.
    """

    setup: StudySetup
    snapshot: Callable[[optuna.Study], StudySnapshot]
    baselines: Mapping[str, float]
    seed: int | None = None
    max_seeds: int = 1
    min_gain: float = MIN_RELATIVE_GAIN
    preferred: str | None = None
    finished_because: str | None = field(default=None, init=False)
    _plan: TrialPlan | None = field(default=None, init=False)
    _planned_with: Knowledge | None = field(default=None, init=False, repr=False)
    _random: optuna.samplers.RandomSampler = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = optuna.samplers.RandomSampler(seed=self.seed)

    def finished(self, study: optuna.Study, snapshot: StudySnapshot | None = None) -> str | None:
        """Return the reason why the search has ended, in a sentence; None while there is something worth doing.

        Args:
            study: The study.
            snapshot: The study as it is now; None to read it.
        """
        self._plan = self._next_plan(snapshot or self.snapshot(study))
        return None if self._plan is not None else self.finished_because

    def plan_stands(self, snapshot: StudySnapshot) -> bool:
        """Return True if the plan made by `finished` is still worth doing: no other worker has begun or settled it."""
        return self._plan is not None and self._stands(self._plan, snapshot)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Plan the trial; one that the user enqueued is run in full."""
        if "fixed_params" in trial.system_attrs:
            return
        plan, self._plan = self._plan or self._next_plan(self.snapshot(study), trial), None
        if plan is None:
            return
        trial.system_attrs[TRIAL_PLAN] = plan.as_dict()
        if isinstance(study, StoredStudy):
            study.storage.set_trial_system_attr(study.trial_id(trial.number), TRIAL_PLAN, plan.as_dict())

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: parameters are chosen jointly."""
        return self.setup.space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the planned configuration."""
        plan = trial.system_attrs.get(TRIAL_PLAN)
        if plan is None:
            return {}
        return {name: plan["params"][name] for name in search_space if name in plan["params"]}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw at random what is not planned: after the end of the search, or if the user fixed other parameters."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _running(self, snapshot: StudySnapshot, own: FrozenTrial | None) -> list[tuple[TrialParameters, tuple[str, ...]]]:
        """Return the configurations and stages of other running trials. One without a plan is trained in full."""
        running = []
        for trial in snapshot.running:
            plan = trial.system_attrs.get(TRIAL_PLAN, {"params": trial.params, "stages": ("probe", "train")})
            parameters = snapshot.knowledge.setup.space.read(plan["params"])
            if parameters is not None and (own is None or trial.number != own.number):
                running.append((parameters, tuple(plan["stages"])))
        return running

    def _stands(self, plan: TrialPlan, snapshot: StudySnapshot) -> bool:
        knowledge = snapshot.knowledge
        if self._is_taken(plan, snapshot):
            return False
        if knowledge is self._planned_with:
            return True
        parameters = knowledge.setup.space.parameters(plan.parameters)
        if knowledge.out_of_memory(parameters) is not None or knowledge.ruled_out(parameters) is not None:
            return False
        if plan.seed is not None:
            seeds = [o.record.attributes.get(SEED, self.setup.job.seed) for o in knowledge.trained(parameters)]
            return all(seed < plan.seed for seed in seeds)
        if "train" in plan.stages:
            learning_class = knowledge.class_of(parameters)
            trained = (knowledge.class_of(o.parameters) for o in knowledge.observations if is_training(o))
            return learning_class not in knowledge.failures.given_up and learning_class not in trained
        return not knowledge.is_probed(parameters)

    def _is_taken(self, plan: TrialPlan, snapshot: StudySnapshot) -> bool:
        """Return True if another trial does the same."""
        class_of = snapshot.knowledge.class_of
        learning_class = class_of(plan.parameters)
        return any(
            plan.parameters == parameters
            or ("train" in plan.stages and "train" in stages and class_of(parameters) == learning_class)
            for parameters, stages in self._running(snapshot, None)
        )

    def planner(self, snapshot: StudySnapshot, own: FrozenTrial | None = None) -> TrialPlanner:
        """Return the planner for a snapshot, for a trial that may have begun already."""
        return TrialPlanner(
            baselines=self.baselines,
            seed=self.seed,
            max_seeds=self.max_seeds,
            min_gain=self.min_gain,
            preferred=self.preferred,
            records=snapshot.settled,
            knowledge=snapshot.knowledge,
            running=self._running(snapshot, own),
        )

    def _next_plan(self, snapshot: StudySnapshot, own: FrozenTrial | None = None) -> TrialPlan | None:
        planner = self.planner(snapshot, own)
        self._planned_with = planner.knowledge
        plan = planner.next_plan()
        self.finished_because = planner.finished_because
        return plan
