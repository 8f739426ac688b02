"""A stored study as values: its trials, its configuration, its device and its library versions.

Whatever shows, chooses or exports works on a `StudyResults`; only this file reads an Optuna study for them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tradeoff.objectives.device.registry import device_class
from tradeoff.objectives.job.jobs import JOBS, kind_of_job, objective_names
from tradeoff.objectives.knowledge.found_changes import FOUND_CHANGES, Found
from tradeoff.objectives.knowledge.settled import derived_records
from tradeoff.objectives.measurements.records import OutcomeKind, TrialRecord, read_record
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates, stored_memory_estimates
from tradeoff.studies.config.study import memory_limit_mib
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.expectation import EXPECTED, Expectation, as_expected, expected_of
from tradeoff.studies.results.knowledge import stored_knowledge
from tradeoff.studies.results.publication import as_they_stand, unpublished

if TYPE_CHECKING:
    from tradeoff.studies.storage.stored_study import StoredStudy

# The study's user attribute that holds the baselines of its learned objectives, as its data was prepared.
BASELINES = "baselines"
# And the one that holds what the search has left untrained: `tradeoff.studies.samplers.untrained` as plain data.
UNTRAINED = "untrained"
# And what it expects of some of that: `Predicted` there, as plain data.
PREDICTED = "predicted"

# Each outcome in words, in the order in which they are counted.
OUTCOME_WORDS: dict[OutcomeKind | None, str] = {
    "completed": "completed",
    "trained": "trained",
    "out_of_memory": "out of memory",
    "timed_out": "over the time limit",
    "diverged": "diverged",
    "probed": "probed",
    "failed": "failed",
    "interrupted": "interrupted",
    "skipped": "skipped",
    "superseded": "superseded",
    None: "running or waiting",
}


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study, read once.

    Attributes:
        name: The study's name.
        objectives: Its objectives, in its own order.
        records: Its trials by number, and what is derived from them and not published yet, with numbers below 0. A trial whose
            values are published as another one has the outcome "trained", and one that no longer stands for its
            configuration "superseded"; `stands_for` names the one that does.
        config: The study file as plain data.
        device: The device that the trials ran on: kind, name, total_memory_mib, ...
        versions: Library versions by package.
        tradeoff_version: The version that made the study.
        storage: Where it is kept, without a password.
        memory_estimates: Memory as estimated before anything ran; None if it was not.
        stands_for: The trial that stands for the configuration of a trained or superseded one, by number.
        baselines: The baselines (the constant answer) of the learned objectives for which they are known.
        untrained: The learning classes that the search had left untrained when it last ended.
        predicted: Configurations that nobody has trained and that were expected on the front then, the most promising first.
        expected: What is expected of the learned values of trials, by number; empty until a search has ended.
        found: What was found out about knobs.
    """

    name: str
    objectives: tuple[str, ...]
    records: tuple[TrialRecord, ...]
    config: Mapping[str, Any]
    device: Mapping[str, Any]
    versions: Mapping[str, str]
    tradeoff_version: str
    storage: str
    memory_estimates: MemoryEstimates | None = None
    stands_for: Mapping[int, TrialRecord] = field(default_factory=dict)
    baselines: Mapping[str, float] = field(default_factory=dict)
    untrained: Sequence[Mapping[str, Any]] = ()
    predicted: Sequence[Mapping[str, Any]] = ()
    expected: Mapping[int, Expectation] = field(default_factory=dict)
    found: Sequence[Found] = ()

    @property
    def num_devices(self) -> int:
        """Devices that train a configuration together."""
        return int(self.config.get("devices_per_trial", 1))

    @property
    def baseline_name(self) -> str:
        """What has the values of `baselines`: a constant answer, or a language model before training."""
        return JOBS[kind_of_job(self.config.get("job", {}))].BASELINE

    @property
    def memory_limit_mib(self) -> float | None:
        """The most memory that a configuration may need; None for a CPU without a limit, whose memory no trial comes near."""
        limit_mib = self.config.get("limits", {}).get("peak_memory_mib")
        if limit_mib is None and device_class(self.device).uses_host_memory:
            return None
        return memory_limit_mib(limit_mib, self.device)

    def expecting(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return trials with what is expected of them in place of what they measured, where anything is."""
        return [as_expected(record, self.expected.get(record.number, {})) for record in records]

    def counts(self) -> dict[str, int]:
        """Return the number of trials by outcome, in words, in a fixed order, without zeros."""
        counted = Counter(record.outcome for record in self.records if record.number >= 0)
        return {words: counted[outcome] for outcome, words in OUTCOME_WORDS.items() if counted[outcome]}

    def summary(self) -> str:
        """Return the counts in a sentence's part: "9 trials: 7 completed, 2 out of memory"."""
        total = sum(record.number >= 0 for record in self.records)
        if not total:
            return "no trial yet"
        parts = ", ".join(f"{count} {words}" for words, count in self.counts().items())
        return f"{total} {'trial' if total == 1 else 'trials'}: {parts}"

    def trial(self, number: int) -> TrialRecord:
        """Return the trial of that number.

        Raises:
            TradeoffError: The study has no such trial.
        """
        for record in self.records:
            if record.number == number:
                return record
        raise TradeoffError(f"the study {self.name!r} has no trial {number} ({self.summary()}); name another one")


def read_results(study: "StoredStudy") -> StudyResults:
    """Read a study that `tradeoff` made.

    A trial that completed but breaks a constraint has the constraints it breaks, by name, under the attribute `violated`.

    Raises:
        TradeoffError: A trial is not as `tradeoff` stores it.
        KeyError: The study was not made by `tradeoff`; `tradeoff.studies.storage.opening.load_study` refuses such a study.
    """
    attributes = study.user_attrs
    objectives = objective_names(attributes)
    records, trials = [], study.get_trials(deepcopy=False)
    for trial in trials:
        record = read_record(trial, objectives, num_devices=attributes["config"].get("devices_per_trial", 1))
        violated = {name: amount for name, amount in trial.constraints.items() if amount > 0}
        if record.outcome == "completed" and violated:
            record = replace(record, attributes={**record.attributes, "violated": violated})
        records.append(record)
    estimates = stored_memory_estimates(attributes)
    expected: Mapping[int, Expectation] = {}
    if attributes["config"].get("sampler") == "decoupled":
        # One trial does not hold what its conditions leave unset.
        distributions = {name: domain for trial in trials for name, domain in trial.distributions.items()}
        knowledge = stored_knowledge(attributes["config"], attributes["device"], records, estimates, distributions)
        derived = [] if knowledge is None else derived_records(knowledge)
        records += [record for record in unpublished(records, derived) if record.number < 0]
        if knowledge is not None:
            expected = expected_of(attributes.get(EXPECTED, ()), records, knowledge)
    records, stands_for = as_they_stand(records)
    return StudyResults(
        name=study.study_name,
        objectives=objectives,
        records=tuple(records),
        config=attributes["config"],
        device=attributes.get("device", {}),
        versions=attributes.get("versions", {}),
        tradeoff_version=attributes.get("tradeoff_version", "unknown"),
        storage=study.storage.place,
        memory_estimates=estimates,
        stands_for=stands_for,
        baselines=attributes.get(BASELINES, {}),
        untrained=attributes.get(UNTRAINED, ()),
        predicted=attributes.get(PREDICTED, ()),
        expected=expected,
        found=[Found.from_dict(name, values) for name, values in attributes.get(FOUND_CHANGES, {}).items()],
    )
