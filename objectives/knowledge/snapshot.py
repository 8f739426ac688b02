"""A study at one moment: its running and finished trials, and the models fitted to them, from one read of the storage.

A decision that read running and finished trials one after the other could miss a trial that ended in between, and each read
costs the database, which all workers share, as much as the whole decision costs the worker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

import optuna
from optuna.trial import FrozenTrial, TrialState

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation, observe
from tradeoff.objectives.knowledge.settled import derived_records
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates, stored_memory_estimates


@dataclass(frozen=True, kw_only=True)
class StudySnapshot:
    """A study as of one read of its storage.

    Attributes:
        trials: Its trials, in the order of their numbers.
        records: The same trials as records.
        knowledge: The models fitted to the finished ones.
        derive: Returns the derived records (see `derived_records`), computed once for the same knowledge.
    """

    trials: Sequence[FrozenTrial]
    records: Sequence[TrialRecord]
    knowledge: Knowledge
    derive: Callable[[], Sequence[TrialRecord]]

    @cached_property
    def settled(self) -> Sequence[TrialRecord]:
        """The records with what is known now of every settled configuration, in place of what was published earlier."""
        if not self.knowledge.setup.publishes_at_end:
            return self.records
        return [*(r for r in self.records if not (r.is_derived or r.is_published)), *self.derive()]

    @cached_property
    def running(self) -> list[FrozenTrial]:
        """The running trials."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    @cached_property
    def is_any_waiting(self) -> bool:
        """True if a trial is queued."""
        return any(trial.state == TrialState.WAITING for trial in self.trials)

    @cached_property
    def num_ended(self) -> int:
        """The number of finished trials."""
        return sum(trial.state.is_finished() for trial in self.trials)

    @cached_property
    def num_counted(self) -> int:
        """The number of trials that count towards the study's `trials`."""
        return sum(record.counts for record in self.records)


@dataclass(kw_only=True)
class StudyReader:
    """Reads a study again and again, each finished trial once.

    Attributes:
        setup: The terms of the study, as its file says them.
    """

    setup: StudySetup
    _estimates: MemoryEstimates | None = field(default=None, init=False, repr=False)
    _records: dict[int, TrialRecord] = field(default_factory=dict, init=False, repr=False)
    _observations: dict[int, Observation | None] = field(default_factory=dict, init=False, repr=False)
    _knowledge: Knowledge | None = field(default=None, init=False, repr=False)
    _derive: Callable[[], Sequence[TrialRecord]] = field(default=lambda: (), init=False, repr=False)

    def snapshot(self, study: optuna.Study) -> StudySnapshot:
        """Read the study as it is now."""
        trials, records, num_known = study.get_trials(deepcopy=False), [], len(self._records)
        for trial in trials:
            if (record := self._records.get(trial.number)) is None:
                record = read_record(trial, self.setup.objectives, num_devices=self.setup.num_devices)
                if trial.state.is_finished():
                    self._records[trial.number] = record
                    self._observations[trial.number] = observe(record, self.setup.space)
            records.append(record)
        if self.setup.uses_memory_estimates and self._estimates is None:
            self._estimates = stored_memory_estimates(study.user_attrs)
        # A finished trial never changes: what is known changes with their number, and once with the estimates.
        has_more = len(self._records) > num_known
        if self._knowledge is None or has_more or self._knowledge.memory_estimates is not self._estimates:
            ran = [o for _, o in sorted(self._observations.items()) if o is not None]
            self._knowledge = Knowledge.fitted(ran, self.setup, memory_estimates=self._estimates, before=self._knowledge)
            self._derive = cache(partial(derived_records, self._knowledge))
        return StudySnapshot(trials=trials, records=records, knowledge=self._knowledge, derive=self._derive)
