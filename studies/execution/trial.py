"""Runs one trial and records how it ended, as `study.optimize` does, but for three things.

A trial is recorded while its heartbeat still beats, because the database may be away for long just then. A trial that was given
up meanwhile, since its worker was silent for too long, is reported as such: its outcome belongs somewhere else. And none ends
without a reason: if the user stops the study while the database is waited for, there may be an outcome to record.
"""

from collections.abc import Callable

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tradeoff.objectives.objective import TrialFailed, TrialInterrupted
from tradeoff.studies.storage.heartbeat import Heartbeat
from tradeoff.studies.storage.retry_policy import StudyGoneError
from tradeoff.studies.storage.stored_study import StoredStudy

# Among a trial's user attributes: the worker that ran it when it was given up.
LOST_WORKER = "lost_worker"


class TrialGivenUp(RuntimeError):
    """The trial was given up as lost and ended by another worker while it ran here."""


def run_trial(
    study: StoredStudy,
    trial: optuna.Trial,
    objective: Callable[[optuna.Trial], tuple[float, ...]],
    heartbeat: Heartbeat | None = None,
) -> FrozenTrial:
    """Run a trial and end it.

    Args:
        study: The study.
        trial: One of its trials, running.
        objective: Runs it to its values, or raises as `tradeoff.objectives.objective.Objective` does.
        heartbeat: Entered while the trial runs; by default a new one.

    Returns:
        The trial as it is stored.

    Raises:
        TrialGivenUp: It was ended by another worker.
        TrialInterrupted: The user stopped the study, and the trial with it.
        KeyboardInterrupt: The user stopped the study while its storage was waited for; the trial has not ended.
    """
    values: tuple[float, ...] | None = None
    state: TrialState | None = TrialState.FAIL
    try:
        with heartbeat or Heartbeat(study, study.trial_id(trial.number)):
            try:
                values, state = objective(trial), None
            except optuna.TrialPruned:
                state = TrialState.PRUNED
            except TrialFailed:
                pass  # the error is stored already
            except TrialInterrupted:
                study.tell(trial, state=state, skip_if_finished=True)
                raise
            except (UpdateFinishedTrialError, StudyGoneError):
                raise
            except Exception as error:
                trial.set_user_attr("outcome", "failed")
                trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
                study.tell(trial, state=state, skip_if_finished=True)
                raise
            told = study.tell(trial, values, state, skip_if_finished=True)
    except UpdateFinishedTrialError as error:
        raise TrialGivenUp from error
    finally:
        study.storage.remove_session()
    if LOST_WORKER in told.user_attrs:
        raise TrialGivenUp
    return told
