"""One worker's part of a study: ask, measure and tell until all trials that the workers share are done.

What counts against `trials` are trials that were trained or ran out of memory or time. A worker begins a trial only if those
that have counted and those that run, which may yet count, leave room for it: so the study ends with exactly the number that was
asked for, however many workers there are. The last worker to end publishes what the study has settled. Failures don't count.
What they have in common is left out, and five in a row that nothing explains end the study: something is wrong with the job,
and more trials would not mend it.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import optuna

from tradeoff.objectives.knowledge.failures import Option
from tradeoff.objectives.knowledge.found_changes import FOUND_CHANGES, Found
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.knowledge.snapshot import StudySnapshot
from tradeoff.objectives.measurements.records import DERIVED_FROM, TrialRecord, read_record
from tradeoff.objectives.objective import Objective, TrialDeferred, TrialRefused
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import StudyFailed
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.interrupts import Interrupts
from tradeoff.studies.execution.memory_estimate import MemoryEstimation
from tradeoff.studies.execution.preparation import InterruptibleRunner, Preparation
from tradeoff.studies.execution.recovery import FaultTolerantStudy
from tradeoff.studies.execution.worker_number import take_worker_number
from tradeoff.studies.results.results import BASELINES
from tradeoff.studies.samplers.build import build_sampler
from tradeoff.studies.samplers.decoupled import DecoupledSampler
from tradeoff.studies.samplers.publishing import publish, store_outlook
from tradeoff.studies.storage.stored_study import StoredStudy

MAX_FAILURES_IN_A_ROW = 5
# The same where nothing has worked yet, but everything that failed shares an option that has an alternative.
MAX_ALIKE_FAILURES_IN_A_ROW = 15
# Trials that need no training, one after the other, after which a space counts as exhausted.
MAX_FREE_IN_A_ROW = 200
# Configurations in a row that other workers are busy with, after which a worker waits for them instead of drawing more.
MAX_DEFERRED_IN_A_ROW = 3
# How often a worker with nothing to do looks whether another one has ended a trial: soon at first, then less often.
FIRST_LOOK_S = 0.1
LONGEST_LOOK_S = 2.0


class TrialListener(Protocol):
    """Hears of each trial that has ended here, to write it down where people look."""

    def trial_ended(self, record: TrialRecord, *, log: str | None = None) -> None:
        """A trial has ended."""


def search(
    study: StoredStudy,
    ready: Preparation,
    *,
    display: Display,
    interrupts: Interrupts,
    listeners: Sequence[TrialListener],
    deadline_s: float | None,
) -> None:
    """Do a worker's part of a study; see `Search.run` for what it raises.

    Args:
        study: The study.
        ready: What was prepared to run it here.
        display: Where progress is shown.
        interrupts: What the user has asked for.
        listeners: Hear of each trial that has ended here.
        deadline_s: The moment of `time.monotonic` after which no trial is started.
    """
    objective = ready.objective(display)
    if study.user_attrs.get(BASELINES) != ready.data["baselines"]:
        study.set_user_attr(BASELINES, ready.data["baselines"])
    display.baselines(ready.data["baselines"])
    study.sampler = build_sampler(
        ready.config,
        objective,
        baselines=ready.data["baselines"],
        num_trials=len(study.get_trials(deepcopy=False)),
        worker=0 if ready.config.sampler_seed is None else take_worker_number(study),
    )
    estimation = ready.estimation  # of several workers on a machine, one estimates memory for all
    try:
        if estimation is not None:
            estimation.begin(study, objective)
        loop = Search(study, ready.config, objective, ready.runner, display, interrupts, listeners, estimation)
        loop.run(deadline_s)
        loop.store_untrained()
    finally:
        if estimation is not None:
            estimation.cancel()


@dataclass
class Search:
    """The loop over trials, and the rules by which it ends.

    Attributes:
        study: The study, with its sampler.
        config: How it is searched.
        objective: Runs a trial.
        runner: Where the objective runs it, for the log.
        display: Where progress is shown.
        interrupts: What the user has asked for.
        listeners: Hear of each trial that has ended here.
        estimation: The memory estimates in the making, polled between trials; None if there are none.
    """

    study: StoredStudy
    config: StudyConfig
    objective: Objective
    runner: InterruptibleRunner
    display: Display
    interrupts: Interrupts
    listeners: Sequence[TrialListener]
    estimation: MemoryEstimation | None = None
    free: int = field(default=0, init=False)
    # Configurations that are settled once a trial of another worker has ended: its number, and theirs.
    _deferred: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list, init=False)
    _deferred_in_a_row: int = field(default=0, init=False)
    _fault_tolerant: FaultTolerantStudy = field(init=False)
    _known_before: set[int] = field(default_factory=set, init=False)
    _said_left_out: set[Option] = field(default_factory=set, init=False)
    _said_found: tuple[Found, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        objective = replace(self.objective, decision_lock=self.study.lock)
        self._fault_tolerant = FaultTolerantStudy.of(self.study, objective, self.display.message)
        self.objective = self._fault_tolerant.objective

    def run(self, deadline_s: float | None) -> None:
        """Run trials until the study is complete, nothing is left to do, or the time is up.

        Args:
            deadline_s: The moment of `time.monotonic` after which no trial is started.

        Raises:
            StudyFailed: Five trials in a row failed.
            KeyboardInterrupt: The user ended it.
        """
        snapshot = self._now()
        self._known_before = {trial.number for trial in snapshot.trials if trial.state.is_finished()}
        self.display.trials(snapshot.settled)
        try:
            self._until_the_end(snapshot, deadline_s)
        except (StudyFailed, KeyboardInterrupt):
            self._publish()
            raise
        self._publish()

    def _until_the_end(self, snapshot: StudySnapshot, deadline_s: float | None) -> None:
        try:
            while snapshot.num_counted < self.config.trials:
                if self.interrupts.requested:
                    raise KeyboardInterrupt
                self._say_left_out(snapshot.knowledge)
                self._say_found(snapshot.knowledge)
                if (why := self._must_end(snapshot, deadline_s)) is not None:
                    self.display.message(why)
                    return
                trial, why = self._begin(snapshot)
                if trial is not None:
                    self._run(trial)
                elif why is not None:
                    self.display.message(why)
                    return
                snapshot = self._now()
                self.display.trials(snapshot.settled)
        finally:
            if self._deferred and self._snapshot().num_counted < self.config.trials:
                self._enqueue_deferred()

    def store_untrained(self) -> None:
        """Store what the search has left untrained, and what it expects."""
        sampler = self.study.sampler
        if isinstance(sampler, DecoupledSampler) and self.objective.setup.learned:
            store_outlook(self.study, sampler.planner(self._snapshot()))

    def _publish(self) -> None:
        self._fault_tolerant.recover()
        publish(self.study, self.objective.setup)
        self.display.trials(self._snapshot().settled)

    def _now(self) -> StudySnapshot:
        """Return the study as it is now, once what dead workers have left is ended and what was put off is queued."""
        if self.estimation is not None:
            self.estimation.poll(self.study, self.objective)
        snapshot = self._snapshot()
        if self._fault_tolerant.recover(snapshot.running):
            snapshot = self._snapshot()
        return self._snapshot() if self._enqueue_deferred(snapshot) else snapshot

    def _must_end(self, snapshot: StudySnapshot, deadline_s: float | None) -> str | None:
        if deadline_s is not None and time.monotonic() >= deadline_s:
            return "the time is up; rerun the same command to resume"
        failures, knowledge = self._failures_in_a_row(snapshot), snapshot.knowledge.failures
        alike = knowledge.nothing_works and knowledge.common_options(failures)
        if len(failures) >= (MAX_ALIKE_FAILURES_IN_A_ROW if alike else MAX_FAILURES_IN_A_ROW):
            raise StudyFailed(f"{len(failures)} trials in a row failed; the last one: {failures[-1].record.reason}")
        if self.free >= MAX_FREE_IN_A_ROW:
            return f"the sampler proposed {self.free} configurations in a row that need no trial: the space is exhausted"
        return None

    def _begin(self, snapshot: StudySnapshot) -> tuple[optuna.Trial | None, str | None]:
        """The next trial, or why there will be none, in a sentence; neither where what is left depends on other workers."""
        why = self._finished(snapshot)
        if why is not None and not snapshot.is_any_waiting:
            if not snapshot.running and not self._deferred:
                return None, why
            self._wait_for_others(snapshot)
            return None, None
        if self._deferred_in_a_row >= MAX_DEFERRED_IN_A_ROW:
            self._wait_for_others(snapshot)
            self._deferred_in_a_row = 0
            return None, None
        with self.study.lock():
            snapshot = self._snapshot()
            is_room = len(snapshot.running) + snapshot.num_counted < self.config.trials
            if is_room and (why is not None or self._still_stands(snapshot)):
                return self.study.ask(), None
        if is_room:
            with self.interrupts.waiting():
                # Another worker was quicker: once it has begun, there is something else to do. Not all look at the same moment.
                time.sleep(random.uniform(0.5, 1.5) * FIRST_LOOK_S)
        else:
            self._wait_for_others(snapshot)
        return None, None

    def _run(self, trial: optuna.Trial) -> None:
        num_deferred = 0
        self.runner.log = ""  # that of another trial, unless this one runs

        def run(trial: optuna.Trial) -> tuple[float, ...]:
            nonlocal num_deferred
            try:
                return self.objective(trial)
            except TrialRefused as why:
                self.display.message(f"trial {trial.number} was enqueued with a value outside the space and is not run: {why}")
                raise
            except TrialDeferred as deferred:
                self._deferred.append((deferred.until, trial.params))
                num_deferred = self._deferred_in_a_row + 1
                raise

        told = self._fault_tolerant.run(trial, run)
        self._deferred_in_a_row = num_deferred
        self._ended(told)

    def _ended(self, trial: optuna.trial.FrozenTrial) -> None:
        record = read_record(trial, self.config.objectives, num_devices=self.config.devices_per_trial)
        # A probe is work too, though it does not count: a survey of a large space is long.
        is_free = record.outcome == "skipped" or (record.is_derived and "probe" not in record.attributes)
        self.free = self.free + 1 if is_free else 0
        self.display.trial_ended(record)
        for listener in self.listeners:
            listener.trial_ended(record, log=self.runner.log)

    def _finished(self, snapshot: StudySnapshot) -> str | None:
        """Return the reason why the sampler has nothing left to propose, or None."""
        sampler = self.study.sampler
        if isinstance(sampler, optuna.samplers.GridSampler) and sampler.is_exhausted(self.study):
            return "every configuration of the grid has been tried"
        return sampler.finished(self.study, snapshot) if isinstance(sampler, DecoupledSampler) else None

    def _still_stands(self, snapshot: StudySnapshot) -> bool:
        sampler = self.study.sampler
        return not isinstance(sampler, DecoupledSampler) or sampler.plan_stands(snapshot)

    def _wait_for_others(self, snapshot: StudySnapshot) -> None:
        """Wait until a trial of another worker has ended since the snapshot, or none runs any more."""
        pause_s = FIRST_LOOK_S
        # One round of looks only: whatever ends a study is checked between two.
        while pause_s <= LONGEST_LOOK_S:
            with self.interrupts.waiting():
                time.sleep(random.uniform(0.75, 1.25) * pause_s)
            now = self._snapshot()
            if now.num_ended != snapshot.num_ended or not now.running:
                return
            pause_s *= 2

    def _enqueue_deferred(self, snapshot: StudySnapshot | None = None) -> bool:
        """Queue what was deferred until a trial that has ended; without a snapshot all of it, for other workers.

        Returns:
            Whether anything was queued.
        """
        running = set() if snapshot is None else {trial.number for trial in snapshot.running}
        settled = [(until, params) for until, params in self._deferred if until not in running]
        for until, params in settled:
            self.study.enqueue_trial(dict(params), user_attrs={"deferred_until": until})
        self._deferred = [(until, params) for until, params in self._deferred if until in running]
        return bool(settled)

    def _failures_in_a_row(self, snapshot: StudySnapshot) -> list[Observation]:
        """The trials that failed one after the other, on whichever worker, since this one began, for no option left out."""
        ended = [t for t in snapshot.trials if t.state.is_finished() and t.number not in self._known_before]
        failed = {o.record.number: o for o in snapshot.knowledge.failures.failed}
        explained = {number for each in snapshot.knowledge.failures.left_out for number in each.numbers}
        failures: list[Observation] = []
        for trial in sorted(ended, key=lambda trial: (trial.datetime_complete, trial.number), reverse=True):
            outcome = trial.user_attrs.get("outcome")
            if trial.number in failed and trial.number not in explained:
                failures.insert(0, failed[trial.number])
            elif outcome not in ("failed", "skipped", "interrupted", None) and DERIVED_FROM not in trial.user_attrs:
                break  # what was not run, or not to its end, says nothing of the job
        return failures

    def _say_left_out(self, knowledge: Knowledge) -> None:
        for each in knowledge.failures.left_out:
            if each.option not in self._said_left_out:
                self.display.message(str(each))
                self._said_left_out.add(each.option)

    def _say_found(self, knowledge: Knowledge) -> None:
        """Say and store what was found out about knobs; each worker finds the same."""
        if knowledge.found == self._said_found:
            return
        for each in knowledge.found:
            if each.changes not in [said.changes for said in self._said_found if said.name == each.name]:
                self.display.message(str(each))
        self._said_found = knowledge.found
        found = {each.name: each.as_dict() for each in knowledge.found}
        if found != self.study.user_attrs.get(FOUND_CHANGES, {}):
            self.study.set_user_attr(FOUND_CHANGES, found)

    def _snapshot(self) -> StudySnapshot:
        return self.objective.snapshot(self.study)
