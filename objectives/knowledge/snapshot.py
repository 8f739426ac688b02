"""A study at one moment: what runs, what has ended, and what that settles, all from one reading of the storage.

A decision that read what runs and what has ended one after the other could miss a trial that ended in between, and every
reading costs the database, which all workers share, as much as the whole decision costs the worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import optuna
from optuna.trial import FrozenTrial, TrialState

from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation, observe
from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates
from tradeoff.searchspace import Reuse, SearchSpace


@dataclass(frozen=True, kw_only=True)
class StudySnapshot:
    """A study as it was read once.

    Attributes:
        trials: Its trials, in the order of their numbers.
        records: The same, as the rest of the code sees them.
        knowledge: What those that have ended settle.
    """

    trials: Sequence[FrozenTrial]
    records: Sequence[TrialRecord]
    knowledge: Knowledge

    @cached_property
    def running(self) -> list[FrozenTrial]:
        """The trials that run."""
        return [trial for trial in self.trials if trial.state == TrialState.RUNNING]

    @cached_property
    def is_any_waiting(self) -> bool:
        """Whether a trial is queued."""
        return any(trial.state == TrialState.WAITING for trial in self.trials)

    @cached_property
    def num_ended(self) -> int:
        """Trials that have ended."""
        return sum(trial.state.is_finished() for trial in self.trials)

    @cached_property
    def num_counted(self) -> int:
        """Trials that the study's `trials` counts."""
        return sum(record.counts for record in self.records)


@dataclass(kw_only=True)
class StudyReader:
    """Reads a study again and again, each ended trial once.

    Attributes:
        space: Where parameters are drawn from.
        job: What is trained.
        objectives: The names of the study's objectives, in its order.
        num_train: Training samples an epoch.
        num_devices: Devices that share an optimizer step.
        reuse: How far one training's accuracy speaks for other configurations.
        plan: What was predicted of memory before anything ran.
    """

    space: SearchSpace
    job: TrainingSettings
    objectives: tuple[str, ...]
    num_train: int
    num_devices: int
    reuse: Reuse
    plan: MemoryEstimates | None
    _records: dict[int, TrialRecord] = field(default_factory=dict, repr=False)
    _observations: dict[int, Observation | None] = field(default_factory=dict, repr=False)
    _knowledge: Knowledge | None = field(default=None, repr=False)

    def use_memory_estimates(self, plan: MemoryEstimates) -> None:
        """Takes a memory plan into account from now on."""
        self.plan, self._knowledge = plan, None

    def snapshot(self, study: optuna.Study) -> StudySnapshot:
        """Reads the study as it is now."""
        trials, records, num_known = study.get_trials(deepcopy=False), [], len(self._records)
        for trial in trials:
            if (record := self._records.get(trial.number)) is None:
                record = read_record(trial, self.objectives, num_devices=self.num_devices)
                if trial.state.is_finished():
                    self._records[trial.number] = record
                    self._observations[trial.number] = observe(record, self.space)
            records.append(record)
        # A trial that has ended never changes: what is known changes with their number alone.
        if self._knowledge is None or len(self._records) > num_known:
            observations = [observation for _, observation in sorted(self._observations.items()) if observation is not None]
            self._knowledge = Knowledge(
                observations=tuple(observations),
                job=self.job,
                num_train=self.num_train,
                num_devices=self.num_devices,
                reuse=self.reuse,
                plan=self.plan,
            )
        return StudySnapshot(trials=trials, records=records, knowledge=self._knowledge)
