"""The objective: an Optuna trial in, its values out, with everything that was measured stored on the trial.

This is the only file of the package that drives Optuna. It works under `study.optimize` with any sampler.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.objectives.knowledge.derivation import derived_attributes, measured_errors, predicted_attributes
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.knowledge.other_workers import PROBED_ALONE, TRAINS_ATTRIBUTE, TRIAL_PLAN, settled_soon
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.knowledge.snapshot import StudyReader, StudySnapshot
from tradeoff.objectives.measurements.goals import divergence, energy_names, is_comparable
from tradeoff.objectives.measurements.outcome import (
    Completed,
    Failed,
    Interrupted,
    Measurements,
    Outcome,
    OutOfMemory,
    TimedOut,
)
from tradeoff.objectives.measurements.records import (
    PLACEHOLDERS,
    UNPUBLISHED,
    TrialRecord,
    measurement_attributes,
    outcome_attributes,
    store_attributes,
)
from tradeoff.objectives.measurements.seeds import averaged_attributes
from tradeoff.searchspace import TrialParameters

# The older form of a constraint, which optuna-dashboard still reads: a trial with a positive entry is infeasible there too.
DASHBOARD_CONSTRAINTS = "constraints"


# The constraint of a trial whose configuration another one has measured: no sampler takes it for a new one.
REPEATED = "repeated"

# A queued trial with one of these was put there by a worker, not by the user: it holds what that one could not do.
RETRY_OF = "retry_of"
QUEUED_BY_A_WORKER = frozenset({RETRY_OF, "deferred_until"})
# Unless it says that what it tries again was the user's.
ASKED_FOR = "asked_for"


class TrialFailed(RuntimeError):
    """A trial ended with a real error; the study continues."""


class TrialRefused(TrialFailed):
    """A trial that somebody has enqueued can't be run as it is."""


class TrialDeferred(TrialFailed):
    """Another trial is about to measure what this one would: it is to be tried again after that.

    Attributes:
        until: The other trial's number.
    """

    def __init__(self, reason: str, until: int) -> None:
        super().__init__(reason)
        self.until = until


class TrialInterrupted(KeyboardInterrupt):
    """The user ended the study while a trial ran, and what is stored of the trial says so."""


class Runner(Protocol):
    """Runs one trial's request to an outcome: `tradeoff.objectives.isolation.trial_server.TrialServer`, or several of them."""

    def run_trial(
        self, request: Mapping[str, Any], *, time_limit_s: float | None, on_progress: Callable[[Mapping[str, Any]], None] | None
    ) -> Outcome:
        """Run the request to its outcome."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Runs a trial in a process of its own and returns the values of the study's objectives.

    Example:
        >>> study.optimize(objective, n_trials=20, catch=(TrialFailed,))  # doctest: +SKIP

    Attributes:
        setup: The terms of the study.
        data_folders: The prepared data of each model and length, as `TrialServer.prepare` gives it.
        runner: Runs the request.
        time_limit_s: The longest that a trial may take, or None.
        on_start: Called with a trial's number and configuration when something is run for it.
        on_progress: Called with a trial's stages and steps.
        decision_lock: Held while it is decided whether a trial is run, so that of two workers one sees what the other does;
            None if the study has no such lock (see `tradeoff.studies.storage.locks`).
        on_outcome: Called with an outcome before the storage is: to write it down where nothing can keep it from being written.
    """

    setup: StudySetup
    data_folders: Mapping[str, str]
    runner: Runner
    time_limit_s: float | None = None
    on_start: Callable[[int, TrialParameters], None] | None = None
    on_progress: Callable[[Mapping[str, Any]], None] | None = None
    decision_lock: Callable[[], AbstractContextManager[None]] | None = None
    on_outcome: Callable[[optuna.Trial, TrialParameters, Outcome], None] | None = None

    @cached_property
    def _reader(self) -> StudyReader:
        return StudyReader(setup=self.setup)

    def __call__(self, trial: optuna.Trial) -> tuple[float, ...]:
        """Run the trial, as far as earlier ones have not settled it.

        Returns:
            The objectives' values, in the study's order.

        Raises:
            optuna.TrialPruned: Memory or time ran out, a rule of the space is broken, or nothing was trained; constraints say
                by how much a limit was missed.
            TrialDeferred: Another worker's trial is about to settle this one.
            TrialRefused: The trial was enqueued with a value outside the space.
            TrialFailed: A real error.
            KeyboardInterrupt: The user ended the study.
        """
        trial_id = storage_number(trial)
        begun = trial.storage.get_trial(trial_id)
        if (why := self._refusal(trial.study, begun.system_attrs.get("fixed_params", {}))) is not None:
            store_attributes(trial, {"outcome": "skipped", "reason": why})
            raise TrialRefused(why)
        parameters = self.setup.space.suggest(trial)
        if (violation := self.setup.space.violation(parameters)) is not None:
            self._skip(trial, violation.reason, violation.name, violation.amount)
        plan = begun.system_attrs.get(TRIAL_PLAN)
        # What the user has asked for by name is trained, whatever is known.
        is_asked_for = _is_asked_for(begun)
        with self.decision_lock() if self.decision_lock is not None and plan is None else nullcontext():
            snapshot = self.snapshot(trial.study)
            knowledge = snapshot.knowledge
            parameters = knowledge.setup.space.parameters(parameters)
            if (settled := knowledge.out_of_memory(parameters)) is not None:
                reason = f"needs at least as much memory as trial {settled.record.number}, which ran out of memory"
                self._skip(trial, reason, "memory_shortfall_mib", settled.record.attributes["memory_shortfall_mib"])
            if not is_asked_for and (blamed := knowledge.failures.blamed(parameters)) is not None:
                self._skip(trial, blamed.why, "left_out", 1.0)
            needed_mib = knowledge.memory.lower_bound_mib(parameters)
            limit_mib = self.setup.memory_limit_mib
            if plan is None and not is_asked_for and needed_mib is not None and needed_mib > limit_mib:
                reason = f"needs at least {needed_mib:,.0f} MiB by the memory estimate, more than the limit of {limit_mib:,.0f}"
                self._skip(trial, reason, "memory_shortfall_mib", needed_mib - limit_mib)
            if plan is None and not is_asked_for and (before := _measured_before(snapshot.records, trial.params)) is not None:
                self._skip(trial, f"trial {before.number} has measured it", REPEATED, 1.0)
            training = knowledge.trainings.get(knowledge.class_of(parameters))
            is_derived = plan is None and training is not None and not is_asked_for
            if plan is None:
                runs: bool | str = True
                if is_derived:
                    runs = False if self._is_measured(parameters, knowledge) else PROBED_ALONE
                if runs and not is_asked_for:
                    self._defer_to_others(trial, parameters, snapshot, trains=not is_derived)
                if runs:
                    trial.storage.set_trial_system_attr(trial_id, TRAINS_ATTRIBUTE, runs)
        if is_derived and training is not None:
            return self._derive(trial, parameters, training, knowledge)
        stages = ("probe", "train") if plan is None else tuple(plan["stages"])
        return self.measure(trial, parameters, self._request(trial, parameters, stages, _seed_of(begun)))

    def measure(self, trial: optuna.Trial, parameters: TrialParameters, request: Mapping[str, Any]) -> tuple[float, ...]:
        """Run a configuration, whatever is known of it, and store what came of it; raises as `conclude` does.

        Args:
            trial: The trial.
            parameters: Its configuration.
            request: What its process is asked to do, as `request` gives it.
        """
        outcome = self._run(trial, parameters, request)
        if self.on_outcome is not None:
            self.on_outcome(trial, parameters, outcome)
        return self.conclude(trial, parameters, outcome)

    def snapshot(self, study: optuna.Study) -> StudySnapshot:
        """Read the study as it is now."""
        return self._reader.snapshot(study)

    def _request(
        self, trial: optuna.Trial, parameters: TrialParameters, stages: tuple[str, ...], seed: int | None
    ) -> dict[str, Any]:
        """As `request`, with the seed that the trial's plan names."""
        request = self.request(parameters, stages)
        if seed is not None:
            request["job"] = {**request["job"], "seed": seed}
        return request

    def _run(self, trial: optuna.Trial, parameters: TrialParameters, request: Mapping[str, Any]) -> Outcome:
        if self.on_start is not None:
            self.on_start(trial.number, parameters if "train" in request["stages"] else parameters.structure)
        return self.runner.run_trial(request, time_limit_s=self.time_limit_s, on_progress=self.on_progress)

    def _skip(self, trial: optuna.Trial, reason: str, constraint: str, amount: float) -> NoReturn:
        store_attributes(trial, {"outcome": "skipped", "reason": reason})
        constrain(trial, constraint, amount)
        raise optuna.TrialPruned(reason)

    def _refusal(self, study: optuna.Study, enqueued: Mapping[str, Any]) -> str | None:
        """Say why a trial with these enqueued values can't be run; None if it can."""
        missing = sorted(self.setup.space.domains.keys() - enqueued.keys())
        if enqueued and missing and isinstance(study.sampler, optuna.samplers.GridSampler):
            return f"a grid needs a value of every parameter, and {', '.join(missing)} is missing; enqueue it too"
        return self.setup.space.foreign(enqueued)

    def _defer_to_others(
        self, trial: optuna.Trial, parameters: TrialParameters, snapshot: StudySnapshot, *, trains: bool
    ) -> None:
        """End a trial that another one is about to settle.

        Raises:
            TrialDeferred: There is such a trial.
        """
        if not (others := [other for other in snapshot.running if other.number != trial.number]):
            return
        soon = settled_soon(parameters, others, snapshot.knowledge, trains=trains)
        if soon is not None:
            reason = f"put off: trial {soon[0]} {soon[1]}"
            store_attributes(trial, {"outcome": "skipped", "reason": reason})
            raise TrialDeferred(reason, soon[0])

    def _is_measured(self, parameters: TrialParameters, knowledge: Knowledge) -> bool:
        """Return True if a trial whose class is settled needs no probe."""
        cost = knowledge.cost(parameters)
        return cost is not None and cost.is_measured(self.setup.costs)

    def _derive(
        self, trial: optuna.Trial, parameters: TrialParameters, training: Observation, knowledge: Knowledge
    ) -> tuple[float, ...]:
        """Take what the trial's class has learned, and probe what the trial costs unless that was measured."""
        if self.setup.publishes_at_end and self._is_measured(parameters, knowledge):
            self._skip(trial, f"trial {training.record.number} has settled it; {UNPUBLISHED}", REPEATED, 1.0)
        if self.setup.publishes_at_end:
            return self.conclude(trial, parameters, self._run(trial, parameters, self.request(parameters, ("probe",))))
        if not self._is_measured(parameters, knowledge):
            outcome = self._run(trial, parameters, self.request(parameters, ("probe",)))
            if not isinstance(outcome, Completed):
                return self.conclude(trial, parameters, outcome)
            measured = measurement_attributes(outcome.measurements)
            measured |= predicted_attributes(parameters, {"outcome": "probed"} | measured, knowledge)
            probed = TrialRecord(number=trial.number, outcome="probed", params=trial.params, attributes=measured)
            knowledge = knowledge.with_observation(Observation(record=probed, parameters=parameters))
            store_attributes(trial, probed.attributes)
        attributes = derived_attributes(parameters, training, knowledge)
        if missing := [name for name in self.setup.objectives if attributes[name] is None]:
            reason = f"no trial has measured the trial's {' and '.join(missing)}"
            return self.conclude(trial, parameters, Failed(stage="end", reason=reason))
        store_attributes(trial, attributes)
        return tuple(float(attributes[name]) for name in self.setup.objectives)

    def request(self, parameters: TrialParameters, stages: tuple[str, ...] = ("probe", "train")) -> dict[str, Any]:
        """Return the request for a trial's process, as plain data."""
        return {
            "job": self.setup.job.model_dump(),
            "parameters": parameters.as_dict(),
            "data_folders": self.data_folders,
            "stages": list(stages),
            "memory_limit_mib": self.setup.memory_limit_mib if self.setup.enforces_memory_limit else None,
            "measures_power": bool(energy_names(self.setup.objectives)),
            "num_ranks": self.setup.num_devices,
        }

    def conclude(self, trial: optuna.Trial, parameters: TrialParameters, outcome: Outcome) -> tuple[float, ...]:
        """Store an outcome on its trial and end the trial as Optuna's samplers understand it."""
        attributes = outcome_attributes(outcome)
        snapshot = self.snapshot(trial.study)
        knowledge, stored = snapshot.knowledge, snapshot.trials[trial.number]
        parameters = knowledge.setup.space.parameters(parameters)
        attributes |= predicted_attributes(parameters, attributes, knowledge)
        if attributes["outcome"] == "probed" and (untold := parameters.learning_only):
            attributes[PLACEHOLDERS] = [*untold]
        if attributes["outcome"] == "completed":
            attributes |= {f"{name}_source": "measured" for name in self.setup.objectives}
            measured = TrialRecord(number=trial.number, outcome="completed", params=trial.params, attributes=attributes)
            attributes |= measured_errors(measured, parameters, knowledge)
            if "peak_memory_mib" not in attributes and (known := knowledge.memory_mib(parameters)) is not None:
                # Only a probe measures it on a CPU, and an earlier one did.
                attributes |= {"peak_memory_mib": known[0], "peak_memory_mib_source": known[1]}
            if missing := [name for name in self.setup.objectives if name not in attributes]:
                reason = f"the trial measured no {' and no '.join(missing)}{_evaluated(outcome.measurements)}"
                outcome = Failed(stage="end", reason=reason, measurements=outcome.measurements)
                attributes = outcome_attributes(outcome)
            elif endless := [name for name in self.setup.objectives if not is_comparable(attributes[name])]:
                attributes |= {"outcome": "diverged", "reason": divergence(endless[0], attributes[endless[0]])}
            elif (seed := _seed_of(stored)) is not None and (earlier := knowledge.trained(parameters)):
                names = self.setup.learned
                records = [observation.record for observation in earlier]
                attributes |= averaged_attributes(attributes, records, names, number=trial.number, seed=seed)
            if attributes["outcome"] == "completed" and self.setup.publishes_at_end:
                attributes["reason"] = UNPUBLISHED
        store_attributes(trial, attributes)
        match outcome:
            case Completed() if attributes["outcome"] == "diverged":
                # Optuna takes no value that is not a number. The constraint keeps samplers from taking it for a good one.
                constrain(trial, "diverged", 1.0)
                raise optuna.TrialPruned(attributes["reason"])
            case Completed() if attributes["outcome"] != "completed":
                raise optuna.TrialPruned(attributes["reason"])
            case Completed() if self.setup.publishes_at_end:
                raise optuna.TrialPruned(UNPUBLISHED)
            case Completed():
                return tuple(float(attributes[name]) for name in self.setup.objectives)
            case OutOfMemory():
                constrain(trial, "memory_shortfall_mib", outcome.shortfall_mib)
                raise optuna.TrialPruned(outcome.reason)
            case TimedOut():
                # How long it would have taken is not known; one limit's length too long orders it behind what ended in time.
                constrain(trial, "time_excess_s", outcome.limit_s)
                raise optuna.TrialPruned(outcome.reason)
            case Interrupted():
                # First in line when the study goes on: what was asked for is not lost. A sampler that plans asks by itself.
                # Queued before the trial ends: whoever finds it if this process is killed on the way does not queue it twice.
                if TRIAL_PLAN not in stored.system_attrs and not stored.state.is_finished():
                    trial.study.add_trial(successor(trial.params, retry_attributes(stored)))
                raise TrialInterrupted
            case _:
                raise TrialFailed(outcome.reason)


def _is_asked_for(trial: FrozenTrial) -> bool:
    """Return True if the user enqueued the trial, or the one that it retries."""
    is_the_users = ASKED_FOR in trial.user_attrs or not QUEUED_BY_A_WORKER & trial.user_attrs.keys()
    return "fixed_params" in trial.system_attrs and is_the_users


def retry_attributes(trial: FrozenTrial) -> dict[str, Any]:
    """The user attributes of the trial that tries this one's configuration again."""
    return {RETRY_OF: trial.number} | ({ASKED_FOR: True} if _is_asked_for(trial) else {})


def successor(params: Mapping[str, Any], attributes: Mapping[str, Any]) -> FrozenTrial:
    """A trial that waits in the queue, to be tried in the place of another one."""
    return create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(params)}, user_attrs=dict(attributes))


def _measured_before(records: Sequence[TrialRecord], params: Mapping[str, Any]) -> TrialRecord | None:
    """Return the latest record of a configuration whose values were all measured; None if there is none."""
    measured = [r for r in records if r.outcome == "completed" and "model" not in r.sources.values() and r.params == params]
    return measured[-1] if measured else None


def _seed_of(trial: FrozenTrial) -> int | None:
    """The seed that the trial's plan names: that of a repeat (see `measurements/seeds.py`); None for the job's own."""
    plan: Mapping[str, Any] = trial.system_attrs.get(TRIAL_PLAN, {})
    return plan.get("seed")


def constrain(trial: optuna.Trial, name: str, amount: float) -> None:
    """Mark a trial as infeasible, by `amount`, for Optuna's samplers and for optuna-dashboard alike."""
    trial.set_constraint(name, amount)
    trial.storage.set_trial_system_attr(storage_number(trial), DASHBOARD_CONSTRAINTS, [amount])


def storage_number(trial: optuna.Trial) -> int:
    """Return the storage's number of a trial."""
    study_id = trial.storage.get_study_id_from_name(trial.study.study_name)
    return trial.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)


def _evaluated(measurements: Measurements) -> str:
    """Return the keys of the last evaluation, for an error message."""
    curve = measurements.training.curve if measurements.training is not None else []
    return f"; its evaluation returned {', '.join(sorted(curve[-1].metrics)) or 'nothing'}" if curve else ""
