"""`tradeoff.Objective`: real trials under Optuna's own loop, with any sampler."""

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import optuna

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.knowledge.other_workers import TRIAL_PLAN
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import store_attributes
from tradeoff.objectives.objective import Objective as TrialObjective
from tradeoff.objectives.objective import storage_number
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import Preparation, prepare
from tradeoff.studies.python.configuration import Build, configured
from tradeoff.studies.python.progress import progress_display
from tradeoff.studies.samplers.decoupled import DecoupledSampler as PlanningSampler
from tradeoff.studies.samplers.publishing import publish


class Objective:
    """An objective for `study.optimize`: it suggests the parameters of its space, runs the trial in a process of its own, and
    returns the values of the objectives.

    What the study knows is used: a trial whose learning class was trained takes its accuracy and is only probed, and a
    configuration that needs at least as much memory as one that ran out is pruned at once. The first call prepares the job.
    Trials are run one at a time, or they would disturb each other's measurements.

    Example:
        >>> objective = tradeoff.Objective(
        ...     stars.build,
        ...     job={"metric": "rmse", "direction": "minimize", "epochs": 1, "kwargs": {"train_samples": 128}},
        ...     space={"per_device_train_batch_size": [16, 32], "precision": "fp32", "gradient_checkpointing": False},
        ... )
        >>> objective.metric_names, objective.directions
        (['eval_rmse', 'train_time_s', 'peak_memory_mib'], ['minimize', 'minimize', 'minimize'])
        >>> study = optuna.create_study(directions=objective.directions, sampler=optuna.samplers.TPESampler(seed=0))
        >>> study.optimize(objective, n_trials=2, catch=(tradeoff.TrialFailed,))
        >>> objective.close()

    Args:
        build: As for `tradeoff.search`, and so are the others.
        space: The values of each parameter.
        limits: `peak_memory_mib`, `effective_batch_size` and `trial_time_s`.
        objectives: Two or more.
        job: What a study file's `job` says.
        progress: Show what is prepared, and lines about the device.
        settings: Other keys of a study file that concern trials: `reuse`, `devices_per_trial`.

    Raises:
        TradeoffError: Something is not as it must be.
    """

    def __init__(
        self,
        build: Build | None = None,
        *,
        space: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        objectives: Sequence[str] | None = None,
        job: Mapping[str, Any] | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> None:
        self._config, function = configured(
            build,
            job=job,
            space=space,
            where="tradeoff.Objective",
            limits=limits,
            objectives=objectives,
            sampler="random",  # Optuna's loop has its own, and each trial is complete when it ends
            **settings,
        )
        self._server = TrialServer()
        self._server.function = function
        self._display = progress_display(progress)
        self._one_at_a_time = threading.Lock()
        self._preparing = threading.Lock()
        self._end = weakref.finalize(self, self._server.close)

    @property
    def metric_names(self) -> list[str]:
        """The names of the objectives, for `study.set_metric_names`."""
        return list(self._config.objectives)

    @property
    def directions(self) -> list[str]:
        """Their directions, for `optuna.create_study`."""
        return [GOALS[name].direction for name in self._config.objectives]

    @cached_property
    def _ready(self) -> Preparation:
        return prepare(self._config, self._server, Interrupts(exits=False), display=self._display, measures_baselines=True)

    @cached_property
    def _trials(self) -> TrialObjective:
        return self._ready.objective(self._display)

    def prepared(self) -> Preparation:
        """Return the prepared job: the device, the space without what it lacks, and the data."""
        with self._preparing:
            return self._ready

    def prepared_trials(self) -> TrialObjective:
        """Return what runs the trials of the prepared job."""
        self.prepared()
        return self._trials

    def __call__(self, trial: optuna.Trial) -> tuple[float, ...]:
        """Run a trial.

        Returns:
            The values of the objectives.

        Raises:
            optuna.TrialPruned: It ran out of memory or time, was only to be probed, or is settled already; its user attributes
                and constraints say so.
            TrialFailed: A real error, for `catch`.
            TradeoffError: The job can't run as it is written.
            KeyboardInterrupt: The user stopped it; its configuration waits to be tried again.
        """
        theirs = [direction.name.lower() for direction in trial.study.directions]
        if theirs != self.directions:
            raise TradeoffError(
                f"the study must have a direction for each of {', '.join(self.metric_names)}, {self.directions}, got {theirs};"
                " create it with directions=objective.directions"
            )
        sampler = trial.study.sampler
        if isinstance(sampler, DecoupledSampler):
            if (plan := sampler.plan_of(trial)) is not None:
                trial.storage.set_trial_system_attr(storage_number(trial), TRIAL_PLAN, plan)
            elif "fixed_params" not in trial.storage.get_trial(storage_number(trial)).system_attrs:
                why = sampler.finished_because or "nothing is left to do"
                store_attributes(trial, {"outcome": "skipped", "reason": why})
                trial.study.stop()
                raise optuna.TrialPruned(why)
        trials = self.prepared_trials()
        with self._one_at_a_time:
            return trials(trial)

    def publish(self, study: optuna.Study) -> int:
        """Add what trainings have settled without a run of its own as trials: the other members of their learning classes.

        Called after `study.optimize`, it completes `study.best_trials`. Calling it again adds only what is known better.

        Returns:
            The number of added trials.
        """
        return publish(study, replace(self.prepared().setup, publishes_at_end=True))

    def close(self) -> None:
        """End the process that trials start from; it ends with the program too."""
        self._end()


class DecoupledSampler(PlanningSampler):
    """The sampler of `tradeoff run` for Optuna's loop: it probes memory and time first, and trains what adds most.

    It proposes configurations of its objective's space, and is made for that objective alone. A trial that is only to be probed
    ends as pruned. When nothing is worth doing any more, it stops the study.

    Example:
        >>> objective = tradeoff.Objective(
        ...     stars.build,
        ...     job={"metric": "rmse", "direction": "minimize", "epochs": 1, "kwargs": {"train_samples": 128}},
        ...     space={"per_device_train_batch_size": [16, 32], "precision": "fp32", "gradient_checkpointing": False},
        ... )
        >>> sampler = tradeoff.DecoupledSampler(objective, seed=0)
        >>> study = optuna.create_study(directions=objective.directions, sampler=sampler)
        >>> study.optimize(objective, n_trials=5)
        >>> num_added = objective.publish(study)
        >>> objective.close()

    Args:
        objective: The objective that the study is to optimize; it is prepared now.
        seed: The seed of what is drawn in a large space.
        seeds_per_class: The most seeds that a learning class is trained with.
        stop_below_gain: The share of the hypervolume that a training must be expected to add.
        prefer: An objective that comes first, such as accuracy.

    Raises:
        TradeoffError: The job can't run as it is written.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        seed: int | None = None,
        seeds_per_class: int = 3,
        stop_below_gain: float = 0.002,
        prefer: str | None = None,
    ) -> None:
        if not isinstance(objective, Objective):
            raise TradeoffError(f"tradeoff.DecoupledSampler is made for a tradeoff.Objective, got {objective!r}; give it one")
        ready, trials = objective.prepared(), objective.prepared_trials()
        super().__init__(
            setup=ready.setup,
            snapshot=trials.snapshot,
            baselines=ready.data["baselines"],
            seed=seed,
            max_seeds=seeds_per_class,
            min_gain=stop_below_gain,
            preferred=prefer,
        )
        self._plans: dict[int, Mapping[str, Any]] = {}

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Plan the trial."""
        super().before_trial(study, trial)
        if (plan := trial.system_attrs.get(TRIAL_PLAN)) is not None:
            self._plans[trial.number] = plan

    def plan_of(self, trial: optuna.Trial) -> Mapping[str, Any] | None:
        """Return the plan of a trial, once; None if it has none."""
        return self._plans.pop(trial.number, None)
