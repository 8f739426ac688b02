"""Recovery after dead workers: their pending outcomes, and trials that nobody runs.

An outcome is recorded first, so that a trial that was measured is not run again. Then the trials of dead workers are ended,
each with a reason, and their configurations are tried again: that a time limit ended them or the machine was switched off says
nothing of what happened to run. Only a configuration of which two trials lost their worker while the kernel killed for lack of
memory is taken for the cause. A sampler that plans decides by itself what to repeat.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.objectives.knowledge.other_workers import TRIAL_PLAN
from tradeoff.objectives.measurements.outcome import Interrupted, Outcome
from tradeoff.objectives.objective import RETRY_OF, Objective, TrialInterrupted, retry_attributes, successor
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.execution.trial import LOST_WORKER, TrialGivenUp, run_trial
from tradeoff.studies.reporting.annotate import artifact_folder
from tradeoff.studies.storage.heartbeat import Heartbeat, SilenceWatch, owner_of
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner, was_killed_for_memory
from tradeoff.studies.storage.pending_outcomes import PendingOutcome, PendingOutcomes
from tradeoff.studies.storage.retry_policy import RetryPolicy, StorageError, StudyGoneError
from tradeoff.studies.storage.stored_study import StoredStudy

# Among a trial's user attributes: the trial whose outcome it holds.
MEASURED_IN = "measured_in"
# Among the user attributes of a trial that lost its worker: whether the kernel killed for lack of memory while it ran.
KILLED_FOR_MEMORY = "lost_while_killed_for_memory"
# The pending outcomes' directory, among a storage's artifacts.
PENDING_DIRECTORY = "pending-outcomes"


@dataclass(kw_only=True)
class FaultTolerantStudy:
    """A study whose trials outlive their workers and the database's absence.

    Attributes:
        study: The study.
        objective: Runs a trial.
        pending: Outcomes until they are recorded.
    """

    study: StoredStudy
    objective: Objective
    pending: PendingOutcomes
    _silence: SilenceWatch = field(init=False)
    _heartbeat: Heartbeat | None = field(default=None, init=False)

    @classmethod
    def of(cls, study: StoredStudy, objective: Objective, say: Callable[[str], None]) -> Self:
        """Return a study with its pending outcomes beside its artifacts, whose storage waits for its database."""
        if study.storage.retry is None:
            study.storage.retry = RetryPolicy(say=say)
        directory = artifact_folder(study.storage) / PENDING_DIRECTORY
        pending = PendingOutcomes(directory=directory, study=study.study_name, say=say)
        return cls(study=study, objective=objective, pending=pending)

    def __post_init__(self) -> None:
        self._silence = SilenceWatch(self.study)
        self.objective = replace(self.objective, on_outcome=self._keep)

    def _keep(self, trial: optuna.Trial, parameters: TrialParameters, outcome: Outcome) -> None:
        self.pending.keep(trial, parameters, outcome)
        # Of another study of this name, created since ours was deleted, a trial may have the same number.
        if self.study.storage.get_trial(self.study.trial_id(trial.number)).datetime_start != trial.datetime_start:
            raise StudyGoneError(self.study.storage.place)
        if self._heartbeat is not None:
            self._heartbeat.claim()

    def run(self, trial: optuna.Trial, run: Callable[[optuna.Trial], tuple[float, ...]] | None = None) -> FrozenTrial:
        """Run a trial that was asked for, and record how it ended.

        Args:
            trial: The trial.
            run: Calls the objective; by default the objective itself.

        Returns:
            The trial as it is stored, or the one that holds its outcome.

        Raises:
            KeyboardInterrupt: The user stopped the study.
        """
        self._heartbeat = Heartbeat(self.study, self.study.trial_id(trial.number))
        try:
            told = run_trial(self.study, trial, run or self.objective, self._heartbeat)
        except TrialInterrupted:
            raise
        except KeyboardInterrupt:
            # If the storage is still away, the trial ends as one whose worker was killed: the next worker sees to it.
            with contextlib.suppress(KeyboardInterrupt, TrialGivenUp):
                self._interrupt(trial)
            raise
        except StudyGoneError:
            self.pending.recorded(trial)  # it is of no use to another study of this name
            raise
        except StorageError:
            if any(pending.is_of(trial) for pending in self.pending.all()):
                self.pending.say(
                    f"the outcome of trial {trial.number} is kept in {self.pending.directory} until the study is resumed"
                )
            raise
        except TrialGivenUp:
            told = self.study.storage.get_trial(self.study.trial_id(trial.number))
            for pending in self.pending.all():
                if pending.is_of(trial):
                    told = self._record_instead(pending) or told
        finally:
            self._heartbeat = None
        self.pending.recorded(trial)
        return told

    def _interrupt(self, trial: optuna.Trial) -> None:
        """End a trial of a user who did not wait for the storage; an outcome is left to the next worker."""
        parameters = self.objective.setup.space.read(trial.params)
        if parameters is not None and not any(pending.is_of(trial) for pending in self.pending.all()):
            interrupted = Interrupted(stage="start")
            run_trial(self.study, trial, lambda trial: self.objective.conclude(trial, parameters, interrupted))

    def recover(self, running: Sequence[FrozenTrial] | None = None) -> bool:
        """Record what dead workers measured, and end what they were running.

        Args:
            running: The trials that run, if they were read just now.

        Returns:
            Whether there was anything to do.
        """
        orphaned = [pending for pending in self.pending.all() if self._is_gone(pending.owner)]
        for pending in orphaned:
            self._record(pending)
        if running is None or orphaned:
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        lost = self._silence.lost(running)
        for trial in lost:
            self._give_up(trial)
        return bool(orphaned or lost)

    def _is_gone(self, owner: Owner | None) -> bool:
        return owner is not None and owner.is_gone(one_machine=self.study.storage.database.is_local_file) is True

    def _record(self, pending: PendingOutcome) -> None:
        """Record an outcome on the trial that it was measured for, unless that has ended."""
        with self.study.lock():
            trials = self.study.get_trials(deepcopy=False)
            if pending.trial >= len(trials) or not pending.is_of(trial := trials[pending.trial]):
                return  # of another study of this name
            if trial.state == TrialState.RUNNING:
                if (owner := owner_of(trial)) != Owner.here() and not self._is_gone(owner):
                    return  # another worker is recording it
                trial_id = self.study.trial_id(trial.number)
                self.study.storage.set_trial_system_attr(trial_id, OWNER_ATTRIBUTE, Owner.here().as_dict())
        if trial.state == TrialState.RUNNING:
            self._conclude(trial_id, pending)
            self.pending.say(f"trial {pending.trial}: recorded what {pending.owner} had measured")
        elif LOST_WORKER in trial.user_attrs:
            self._record_instead(pending)
        pending.path.unlink(missing_ok=True)

    def _record_instead(self, pending: PendingOutcome) -> FrozenTrial | None:
        """Record the outcome of a trial that was given up on the one in its place, if that has not begun.

        Returns:
            The trial that holds it, or None.
        """
        with self.study.lock():
            trials, storage = self.study.get_trials(deepcopy=False), self.study.storage
            lost, waiting = trials[pending.trial], _in_its_place(trials, pending.trial)
            if waiting is None:
                fixed = {"fixed_params": self.objective.setup.space.stored(pending.parameters)}
                template = create_trial(state=TrialState.RUNNING, system_attrs=fixed | _plan_of(lost))
                trial_id = storage.create_new_trial(self.study.study_id, template)
            else:
                trial_id = self.study.trial_id(waiting.number)
                if waiting.state != TrialState.WAITING or not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    self.pending.say(f"trial {pending.trial} was given up as lost, and its configuration is being tried again")
                    return None
            storage.set_trial_user_attr(trial_id, MEASURED_IN, pending.trial)
        told = self._conclude(trial_id, pending)
        self.pending.say(
            f"trial {told.number}: recorded what was measured as trial {pending.trial}, which had been given up as lost"
        )
        return told

    def _conclude(self, trial_id: int, pending: PendingOutcome) -> FrozenTrial:
        # Nothing is drawn, and no plan of the study's own sampler is disturbed.
        study = StoredStudy(self.study.study_name, self.study.storage, optuna.samplers.RandomSampler())
        trial = optuna.Trial(study, trial_id)
        self.objective.setup.space.suggest(trial)
        return run_trial(study, trial, lambda trial: self.objective.conclude(trial, pending.parameters, pending.outcome))

    def _give_up(self, found: FrozenTrial) -> None:
        """End a trial that has lost its worker, and queue its configuration again."""
        with self.study.lock():
            trials = self.study.get_trials(deepcopy=False)
            trial = trials[found.number]
            if trial.state != TrialState.RUNNING or trial.system_attrs != found.system_attrs:
                return  # its worker was heard again, or another one was quicker
            worker = owner_of(trial) or "an unknown worker"
            params = self._params(trial)
            is_killed = was_killed_for_memory(trial.system_attrs.get(OWNER_ATTRIBUTE, {}))
            before = [
                other.number
                for other in (trials if is_killed and params else ())
                if other.user_attrs.get(KILLED_FOR_MEMORY) and self._params(other) == params
            ]
            attributes: dict[str, Any] = {LOST_WORKER: str(worker), KILLED_FOR_MEMORY: is_killed}
            if before:
                reason = f"its worker, {worker}, died while the kernel killed for lack of memory, as that of trial {before[-1]}"
                attributes |= {
                    "outcome": "failed",
                    "reason": f"{reason} with the same configuration did: it is not tried again",
                }
            else:
                attributes |= {"outcome": "interrupted", "reason": f"its worker, {worker}, died or went silent"}
            # Queued first: whoever finds the trial if this process is killed now does not queue it twice.
            if params and not before and TRIAL_PLAN not in trial.system_attrs and _in_its_place(trials, trial.number) is None:
                self.study.add_trial(successor(params, retry_attributes(trial)))
            trial_id = self.study.trial_id(trial.number)
            with contextlib.suppress(UpdateFinishedTrialError):
                for name, value in attributes.items():
                    self.study.storage.set_trial_user_attr(trial_id, name, value)
                self.study.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        so = ": it is tried again" if not before and params else ""
        self.pending.say(f"trial {trial.number}: {attributes['reason']}{so}")

    def _params(self, trial: FrozenTrial) -> dict[str, Any]:
        """The configuration of a trial, as far as it was chosen; empty if its worker died while it was drawn."""
        if self.objective.setup.space.read(trial.params) is not None:
            return dict(trial.params)
        plan = trial.system_attrs.get(TRIAL_PLAN)
        chosen = trial.system_attrs.get("fixed_params") if plan is None else plan["params"]
        return dict(chosen or {})


def _in_its_place(trials: Sequence[FrozenTrial], number: int) -> FrozenTrial | None:
    """The trial that tries the configuration of the trial `number` again, or None."""
    return next((trial for trial in trials if trial.user_attrs.get(RETRY_OF) == number), None)


def _plan_of(trial: FrozenTrial) -> dict[str, Any]:
    plan = trial.system_attrs.get(TRIAL_PLAN)
    return {} if plan is None else {TRIAL_PLAN: plan}
