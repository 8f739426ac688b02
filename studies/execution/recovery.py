"""What workers that died have left behind: outcomes on disk that were not told, and trials that nobody runs any more.

An outcome is told first, so that a trial that was measured is not run again. Then the trials of dead workers are ended, each
with a reason, and their configurations are tried once more; one that loses its worker twice is taken for the cause.
A sampler that plans chooses by itself what to do again.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.objectives.knowledge.other_workers import TRIAL_PLAN
from tradeoff.objectives.measurements.outcome import Interrupted
from tradeoff.objectives.objective import QUEUED_AGAIN, RETRY_OF, Objective, TrialInterrupted, retry_attributes, successor
from tradeoff.studies.execution.trial import LOST_WORKER, TrialGivenUp, run_trial
from tradeoff.studies.reporting.annotate import artifact_folder
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE, Owner
from tradeoff.studies.storage.pending_outcomes import Kept, Spool, mark_of

if TYPE_CHECKING:
    from tradeoff.studies.storage.proxy import ProxyStorage
    from tradeoff.studies.storage.retrying import PatientStorage

# Among a trial's user attributes: the trial whose outcome it holds.
MEASURED_IN = "measured_in"
# Where outcomes are until they are told, in the folder of a storage's artifacts.
UNTOLD_FOLDER = "untold"


@dataclass(kw_only=True)
class FaultTolerantStudy:
    """A study whose trials outlive their workers and the database's absence.

    Attributes:
        study: The study.
        objective: Runs a trial, and writes its outcome down before it is told.
        spool: Where outcomes are until they are told.
    """

    study: optuna.Study
    objective: Objective
    spool: Spool

    @classmethod
    def of(cls, study: optuna.Study, objective: Objective, say: Callable[[str], None]) -> Self:
        """A study with its untold outcomes beside its artifacts."""
        folder = artifact_folder(study._storage) / UNTOLD_FOLDER
        spool = Spool(folder=folder, study=study.study_name, say=say)
        return cls(study=study, objective=replace(objective, on_outcome=spool.keep), spool=spool)

    def run(self, trial: optuna.Trial, run: Callable[[optuna.Trial], tuple[float, ...]] | None = None) -> FrozenTrial:
        """Runs a trial that was asked for, and tells what became of it.

        Args:
            trial: The trial.
            run: Calls the objective, which is the default.

        Returns:
            The trial as it is stored, or the one that holds its outcome.

        Raises:
            KeyboardInterrupt: The user ended the study.
        """
        try:
            told = run_trial(self.study, trial, run or self.objective)
        except TrialInterrupted:
            raise
        except KeyboardInterrupt:
            # Where the storage is still away, the trial ends as one whose worker was killed: the next one sees to it.
            with contextlib.suppress(KeyboardInterrupt, TrialGivenUp):
                self._interrupt(trial)
            raise
        except TrialGivenUp:
            told = self.study._storage.get_trial(trial._trial_id)
            for kept in self.spool.kept():
                if kept.mark == mark_of(trial):
                    told = self._tell_instead(kept) or told
        self.spool.told(trial)
        return told

    def _interrupt(self, trial: optuna.Trial) -> None:
        """Ends a trial at the wish of a user who did not wait for the storage; an outcome is left to the next worker."""
        parameters = self.objective.setup.space.read(trial.params)
        if parameters is not None and not any(kept.mark == mark_of(trial) for kept in self.spool.kept()):
            interrupted = Interrupted(stage="start")
            run_trial(self.study, trial, lambda trial: self.objective.conclude(trial, parameters, interrupted))

    def recover(self) -> None:
        """Tells what dead workers measured, and ends what they were running."""
        storage = self._storage
        if storage is None:
            return
        for kept in self.spool.kept():
            if kept.owner.is_gone(one_machine=storage.is_sqlite):
                self._tell(kept)
        for trial_id in storage._get_stale_trial_ids(self.study._study_id):
            self._give_up(storage, self.study._storage.get_trial(trial_id))

    @property
    def _storage(self) -> "PatientStorage | ProxyStorage | None":
        # Optuna wraps a database in a cache once a study is loaded from it.
        backend = getattr(self.study._storage, "_backend", self.study._storage)
        # Both of ours can give up a trial. The proxy's can't be imported where its package is not installed.
        return cast("PatientStorage | ProxyStorage", backend) if hasattr(backend, "give_up") else None

    def _tell(self, kept: Kept) -> None:
        """Tells an outcome to the trial that it was measured for, unless that has ended."""
        try:
            trial_id = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, kept.trial)
        except KeyError:
            return  # of another study of this name
        frozen = self.study._storage.get_trial(trial_id)
        if frozen.system_attrs.get(OWNER_ATTRIBUTE, {}).get("mark") != kept.mark:
            return
        if frozen.state == TrialState.RUNNING:
            self._conclude(trial_id, kept)
            self.spool.say(f"trial {kept.trial}: told what {kept.owner} had measured")
        elif LOST_WORKER in frozen.user_attrs:
            self._tell_instead(kept)
        kept.path.unlink(missing_ok=True)

    def _tell_instead(self, kept: Kept) -> FrozenTrial | None:
        """Tells the outcome of a trial that was given up to the one in its place, if that has not begun.

        Returns:
            The trial that holds it, or None.
        """
        trials = self.study.get_trials(deepcopy=False)
        lost, storage = trials[kept.trial], self.study._storage
        waiting = _in_its_place(trials, kept.trial)
        if waiting is None:
            template = create_trial(state=TrialState.RUNNING, system_attrs=_plan_of(lost))
            trial_id = storage.create_new_trial(self.study._study_id, template)
        else:
            trial_id = waiting._trial_id
            if waiting.state != TrialState.WAITING or not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                self.spool.say(f"trial {kept.trial} was taken for lost, and its configuration is tried again already")
                return None
        storage.set_trial_user_attr(trial_id, MEASURED_IN, kept.trial)
        told = self._conclude(trial_id, kept)
        self.spool.say(f"trial {told.number}: told what was measured as trial {kept.trial}, which had been taken for lost")
        return told

    def _conclude(self, trial_id: int, kept: Kept) -> FrozenTrial:
        # Nothing is drawn, and no plan of the study's own sampler is disturbed.
        study = optuna.Study(self.study.study_name, self.study._storage, sampler=optuna.samplers.RandomSampler())
        trial = optuna.Trial(study, trial_id)
        trial._fixed_params = self.objective.setup.space.stored(kept.parameters)
        self.objective.setup.space.suggest(trial)
        return run_trial(study, trial, lambda trial: self.objective.conclude(trial, kept.parameters, kept.outcome))

    def _give_up(self, storage: "PatientStorage | ProxyStorage", trial: FrozenTrial) -> None:
        plain = trial.system_attrs.get(OWNER_ATTRIBUTE)
        worker = "a worker that left no name" if plain is None else str(Owner.read(plain))
        params, trials = self._params(trial), self.study.get_trials(deepcopy=False)
        before = [
            other.number for other in trials if LOST_WORKER in other.user_attrs and params and self._params(other) == params
        ]
        attributes: dict[str, Any] = {LOST_WORKER: worker}
        again = None
        if before:
            reason = f"its worker, {worker}, died, as that of trial {before[-1]} with the same configuration did"
            attributes |= {"outcome": "failed", "reason": f"{reason}: it is not tried again"}
        else:
            attributes |= {"outcome": "interrupted", "reason": f"its worker, {worker}, died or was not heard of any more"}
            # Its worker may have queued it, and died before it could end the trial.
            if params and TRIAL_PLAN not in trial.system_attrs and _in_its_place(trials, trial.number) is None:
                again = successor(params, retry_attributes(trial))
        if storage.give_up(trial._trial_id, attributes, again):
            so = ": it is tried again" if not before and params else ""
            self.spool.say(f"trial {trial.number}: {attributes['reason']}{so}")

    def _params(self, trial: FrozenTrial) -> dict[str, Any]:
        """The configuration of a trial, as far as it was chosen; empty where its worker died while it was drawn."""
        if self.objective.setup.space.read(trial.params) is not None:
            return dict(trial.params)
        plan = trial.system_attrs.get(TRIAL_PLAN)
        chosen = trial.system_attrs.get("fixed_params") if plan is None else plan["params"]
        return dict(chosen or {})


def _in_its_place(trials: Sequence[FrozenTrial], number: int) -> FrozenTrial | None:
    """The trial that tries the configuration of the trial `number` again, or None."""
    return next(
        (trial for trial in trials if number in (trial.user_attrs.get(RETRY_OF), trial.user_attrs.get(QUEUED_AGAIN))), None
    )


def _plan_of(trial: FrozenTrial) -> dict[str, Any]:
    plan = trial.system_attrs.get(TRIAL_PLAN)
    return {} if plan is None else {TRIAL_PLAN: plan}
