"""`tradeoff confirm`: trains for real what a study has derived, and sets the measured values beside the claimed ones.

A confirmation is a trial of the study of its own. The front takes what a configuration's own run measured before what was
derived, so a confirmed configuration stands there with its measured values, and one that turns out not to fit is off it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.knowledge.other_workers import TRIAL_PLAN
from tradeoff.objectives.measurements.records import DERIVED_FROM, TrialRecord, read_record
from tradeoff.objectives.objective import Objective
from tradeoff.studies.config.stored import NO_CODE, AllowedCode, stored_config
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import OtherDeviceError, TradeoffError
from tradeoff.studies.execution.display import Display, describe_outcome
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.preparation import Preparation, prepare
from tradeoff.studies.execution.recovery import FaultTolerantStudy
from tradeoff.studies.reporting.annotate import Annotator, artifact_folder
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.results import BASELINES, OUTCOME_WORDS, StudyResults
from tradeoff.studies.results.tables import short_configuration
from tradeoff.studies.samplers.build import build_sampler
from tradeoff.studies.samplers.decoupled import DecoupledSampler
from tradeoff.studies.samplers.publishing import name_superseded, store_outlook
from tradeoff.studies.storage.retry_policy import RetryPolicy
from tradeoff.studies.storage.stored_study import StoredStudy
from tradeoff.studies.storage.study import check_contents
from tradeoff.studies.tracking.tracking import Tracking

# Names the trial whose values a confirmation checks; if it is not published yet, the one that it is derived from.
CONFIRMS = "confirms"
# Outcomes that speak for a configuration.
MEASURED = ("completed", "out_of_memory")


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """A configuration as it was claimed and as it was measured.

    Attributes:
        claimed: The derived trial.
        measured: The trial that ran it; one that has not completed has no values.
    """

    claimed: TrialRecord
    measured: TrialRecord

    @property
    def confirmed(self) -> bool:
        """True if the configuration trained to its end within its limits."""
        return self.measured.outcome == "completed"

    def difference(self, objective: str) -> float | None:
        """Return measured minus claimed, in the objective's own unit; None where nothing was measured."""
        if objective not in self.measured.values:
            return None
        return self.measured.values[objective] - self.claimed.values[objective]

    def as_dict(self, objectives: Sequence[str]) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "trial": self.claimed.number if self.claimed.number >= 0 else None,
            "confirmed_by": self.measured.number,
            "outcome": self.measured.outcome,
            "reason": self.measured.reason,
            "params": dict(self.claimed.params),
            "claimed": dict(self.claimed.values),
            "measured": dict(self.measured.values),
            "difference": {name: self.difference(name) for name in objectives},
        }


def to_confirm(results: StudyResults, trial: int | None = None) -> list[TrialRecord]:
    """The derived records of the front, or the one that was asked for; empty where there is nothing to confirm.

    Raises:
        TradeoffError: There is no such trial, or it holds no values.
    """
    if trial is None:
        stored = {record.number: record for record in results.records}
        return [stored[record.number] for record in judged_front(results).records if record.is_derived]
    record = results.trial(trial)
    if trial in results.stands_for:
        return to_confirm(results, results.stands_for[trial].number)
    if record.outcome != "completed":
        raise TradeoffError(
            f"a trial must have completed to be confirmed, and trial {trial} is {OUTCOME_WORDS[record.outcome]}; "
            "choose another one"
        )
    return [record] if record.is_derived and measured_by(results, record) is None else []


def measured_by(results: StudyResults, record: TrialRecord) -> TrialRecord | None:
    """The latest trial that ran the configuration of `record` to an end that speaks for it, or None."""
    own = [
        other
        for other in results.records
        if other.params == record.params and other.outcome in MEASURED and not other.is_derived
    ]
    return max(own, key=lambda other: other.number, default=None)


def confirm(
    study: StoredStudy,
    objective: Objective,
    claims: Sequence[TrialRecord],
    *,
    on_end: Callable[[Confirmation], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Confirmation]:
    """Run configurations of a study, each probed and trained to its last epoch whatever is known of it.

    What an earlier confirmation had measured, and had not recorded when it was killed, is recorded first and not repeated.

    Args:
        study: The study.
        objective: As the study was made with.
        claims: Completed trials, or what is derived and not published yet.
        on_end: Called with each confirmation.
        say: Shows a line to the user.

    Returns:
        A confirmation for each claim.

    Raises:
        KeyboardInterrupt: The user ended it; the confirmations so far are stored.
    """
    # The search has ended: what is measured now is complete at once.
    objective = replace(objective, setup=replace(objective.setup, publishes_at_end=False))
    fault_tolerant = FaultTolerantStudy.of(study, objective, say)
    ended_before = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    fault_tolerant.recover()
    confirmations = []
    for claimed in claims:
        trials = study.get_trials(deepcopy=False)
        ended_since = [trial for trial in trials if trial.state.is_finished() and trial.number not in ended_before]
        measured = _confirmed_by(ended_since, objective, claimed) or _run(fault_tolerant, claimed)
        name_superseded(study, objective.snapshot(study).records)
        confirmations.append(Confirmation(claimed=claimed, measured=measured))
        if on_end is not None:
            on_end(confirmations[-1])
    return confirmations


def confirm_stored(
    study: StoredStudy,
    claims: Sequence[TrialRecord],
    *,
    display: Display | None = None,
    cache: Path | None = None,
    on_end: Callable[[Confirmation], None] | None = None,
    allowed: AllowedCode = NO_CODE,
) -> list[Confirmation]:
    """Prepare the job of a stored study, and confirm trials of it.

    Args:
        study: A study that `tradeoff` made.
        claims: Completed trials, or what is derived and not published yet.
        display: Where progress is shown; nowhere by default.
        cache: Where prepared data is kept; see `tradeoff.studies.execution.preparation.cache_folder`.
        on_end: Called with each confirmation.
        allowed: The code that the stored study may run.

    Raises:
        OtherDeviceError: The study was measured on another device.
        TradeoffError: The study can't be run here, it would run code that is not allowed, or its data has changed.
        KeyboardInterrupt: The user ended it.
    """
    display = display or Display()
    interrupts = Interrupts()
    attributes = study.user_attrs
    config = stored_config(attributes, name=study.study_name, place=study.storage.place, allowed=allowed)
    device = attributes["device"]
    if (name := device_class(device).name_without_starting()) not in (None, device["name"]):
        # Known without the seconds that starting the server takes.
        raise OtherDeviceError(f"the study {config.name!r} was measured on {device['name']}, and this machine has {name}")
    study.storage.check_writable()
    study.storage.retry = RetryPolicy(say=display.message, stop=lambda: interrupts.requested)
    with interrupts.handled(), TrialServer() as server:
        ready = prepare(config, server, interrupts, display=display, cache=cache, measured_on=device)
        check_contents(study, config, ready.data["contents"])
        # Nothing is drawn; the default sampler would read the whole study to no end.
        study.sampler = optuna.samplers.RandomSampler()
        annotator = Annotator(study=study, artifacts=artifact_folder(study.storage))
        tracking = Tracking(study=study, config=config, device=device["name"], say=display.message)

        def ended(confirmation: Confirmation) -> None:
            claimed, measured = confirmation.claimed, confirmation.measured
            display.message(f"{claimed.title}  {short_configuration(claimed.params)}  {describe_outcome(measured)}")
            annotator.trial_ended(confirmation.measured, log=ready.runner.log)
            if on_end is not None:
                on_end(confirmation)

        try:
            return confirm(study, ready.objective(display), claims, on_end=ended, say=display.message)
        finally:
            _expect_anew(study, config, ready)
            annotator.finish()
            tracking.finish()


def _expect_anew(study: StoredStudy, config: StudyConfig, ready: Preparation) -> None:
    """Store what is expected now: what was confirmed counts too."""
    objective = ready.objective(Display())
    sampler = build_sampler(config, objective, baselines=study.user_attrs.get(BASELINES, {}), num_trials=0)
    if isinstance(sampler, DecoupledSampler) and objective.setup.learned:
        store_outlook(study, sampler.planner(objective.snapshot(study)))


def _confirmed_by(trials: Sequence[FrozenTrial], objective: Objective, claimed: TrialRecord) -> TrialRecord | None:
    """Return the record of the trial that confirmed a claim, or None."""
    records = [
        read_record(trial, objective.setup.objectives, num_devices=objective.setup.num_devices)
        for trial in trials
        if CONFIRMS in trial.user_attrs and trial.params == claimed.params
    ]
    return next((record for record in records if record.outcome in MEASURED), None)


def _run(fault_tolerant: FaultTolerantStudy, claimed: TrialRecord) -> TrialRecord:
    """Run a configuration as a trial of the study, as its search would."""
    study, objective = fault_tolerant.study, fault_tolerant.objective
    # Made here and not enqueued: a queue may hold what somebody else asked for, and `ask` would hand that out first.
    trial_id = study.storage.create_new_trial(study.study_id, _template(objective, claimed))

    def run(trial: optuna.Trial) -> tuple[float, ...]:
        parameters = objective.setup.space.suggest(trial)
        return objective.measure(trial, parameters, objective.request(parameters))

    told = fault_tolerant.run(optuna.Trial(study, trial_id), run)
    return read_record(told, objective.setup.objectives, num_devices=objective.setup.num_devices)


def _template(objective: Objective, claimed: TrialRecord) -> FrozenTrial:
    # Without what its conditions leave unset.
    params = {name: claimed.params[name] for name in objective.setup.space.domains if name in claimed.params}
    # The plan is for other workers, who take what runs for trained, and for an interruption, after which nobody but the user
    # decides whether it is tried again.
    plan: Mapping[str, Any] = {
        "params": params,
        "stages": ["probe", "train"],
        "why": f"confirms {short_configuration(claimed.params)}",
    }
    return create_trial(
        state=TrialState.RUNNING,
        user_attrs={CONFIRMS: claimed.number if claimed.number >= 0 else claimed.attributes[DERIVED_FROM]},
        system_attrs={"fixed_params": params, TRIAL_PLAN: plan},
    )
