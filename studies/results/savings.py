"""What a study has saved: a line at its end, computed from its trials.

What training every configuration would have cost is an estimate: each one's training and evaluation as measured or predicted,
and for one that does not fit what running out of memory cost in the mean. What was spent is measured.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.config.availability import available_space
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.results.results import StudyResults

# Below this the search has saved nothing worth saying.
MIN_RATIO = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Savings:
    """A study's configurations by what was done for them, and what that cost.

    Attributes:
        num_configurations: Configurations of the space; with a learning rate out of a range, those without it.
        num_probed: Probes that were run for themselves.
        num_trained: Configurations that were trained, to the end or until they were stopped.
        num_derived: Configurations whose values follow from others.
        num_out_of_memory: Configurations that ran out of memory, or need at least as much as one that did.
        num_ruled_out: Further ones that the memory plan says surely do not fit.
        spent_s: Time of everything that was run.
        all_s: Time that training every configuration would take (an estimate); None while that can't be told.
    """

    num_configurations: int
    num_probed: int
    num_trained: int
    num_derived: int
    num_out_of_memory: int
    spent_s: float
    all_s: float | None
    num_ruled_out: int = 0

    def __str__(self) -> str:
        counts = [
            f"{self.num_probed} probed",
            f"{self.num_trained} trained",
            f"{self.num_derived} derived",
            f"{self.num_out_of_memory} out of memory",
            *([f"{self.num_ruled_out} ruled out by the memory plan"] if self.num_ruled_out else []),
        ]
        text = f"{self.num_configurations} configurations: {', '.join(counts)}"
        if self.all_s is None or not self.spent_s:
            return text
        ratio = self.all_s / self.spent_s
        saved = f"about {ratio:.1f} x cheaper" if ratio >= MIN_RATIO else "no cheaper"
        return f"{text}; {saved} than training all (estimate)"


def savings(records: Sequence[TrialRecord], knowledge: Knowledge) -> Savings:
    """Counts what was done, and estimates what training everything would cost.

    Args:
        records: The trials of a study.
        knowledge: What they settle.
    """
    space, limit_mib = knowledge.setup.space, knowledge.setup.memory_limit_mib
    is_finite = space.size() is not None
    grid = list(space.grid()) if is_finite else list(space.structures)
    read = [
        (record, parameters if is_finite else parameters.structure)
        for record in records
        if (parameters := space.read(record.params)) is not None
    ]
    ended = ("completed", "stopped_early", "diverged")
    trained = {p for record, p in read if record.outcome in ended and not record.is_derived}
    derived = {p for record, p in read if record.outcome == "completed" and record.is_derived} - trained
    out_of_memory = {p for p in grid if p not in trained and knowledge.out_of_memory(p) is not None}
    ruled_out = {p for p in grid if (knowledge.memory.lower_bound_mib(p) or 0.0) > limit_mib} - out_of_memory - trained
    costs = [_cost_s(p, records, knowledge) for p in grid]
    known = [cost for cost in costs if cost is not None]
    return Savings(
        num_configurations=len(grid),
        num_probed=sum(record.outcome == "probed" for record in records),
        num_trained=len(trained),
        num_derived=len(derived - out_of_memory),
        num_ruled_out=len(ruled_out),
        num_out_of_memory=len(out_of_memory),
        spent_s=sum(_trial_time_s(record) for record in records),
        all_s=sum(known) if trained and len(known) == len(costs) else None,
    )


def how_far_off(records: Sequence[TrialRecord], knowledge: Knowledge) -> str:
    """How far predicted memory and time were from measured ones, in a sentence.

    Predictions that were stored before their trial ran count first; without any, each measurement is predicted from the others.
    """
    memory = stored_errors(records, "peak_memory_mib", source="model") or knowledge.memory.errors()
    planned = stored_errors(records, "peak_memory_mib", source="plan")
    # A correction learnt from the same trainings would make these look better than they are: only stored ones count.
    time = stored_errors(records, "train_time_s")
    by_plan = f", by the memory plan {_median_and_worst(planned)}" if planned else ""
    return (
        f"predicted against measured: peak memory {_median_and_worst(memory)}{by_plan}; training time {_median_and_worst(time)}"
    )


def stored_errors(records: Sequence[TrialRecord], name: str, *, source: str | None = None) -> list[float]:
    """Relative errors of the predictions of an objective that were stored beside a measured value of the trial's own.

    Args:
        records: The trials.
        name: The objective.
        source: Whose predictions: "plan" or "model"; None for all. One that names no source is a model's.
    """
    errors = []
    for record in records:
        predicted, measured = record.attributes.get(f"predicted_{name}"), record.attributes.get(name)
        # What is known of a peak after memory ran out is a part of it.
        has_measured = bool(measured) and not record.is_derived and record.outcome != "out_of_memory"
        is_asked = source is None or (record.attributes.get(f"predicted_{name}_source") == "plan") == (source == "plan")
        if predicted is not None and has_measured and is_asked:
            errors.append(predicted / measured - 1)
    return errors


def lines(results: StudyResults) -> list[str]:
    """What `tradeoff run` says at the end of a study."""
    config = StudyConfig.model_validate(results.config)
    num_train = _num_train(results, config.job)
    if num_train is None:
        return []
    space, _ = available_space(config, results.device)
    setup = config.setup(space, results.device, num_train=num_train)
    knowledge = Knowledge.of(results.records, setup, memory_estimates=results.memory_estimates)
    return [str(savings(results.records, knowledge)), how_far_off(results.records, knowledge)]


def _cost_s(parameters: TrialParameters, records: Sequence[TrialRecord], knowledge: Knowledge) -> float | None:
    """What training a configuration costs, its evaluations included, or running out of memory in the attempt."""
    memory = knowledge.memory_mib(parameters)
    if knowledge.out_of_memory(parameters) is not None or (memory is not None and memory[0] > knowledge.setup.memory_limit_mib):
        return _out_of_memory_s(records)
    time = knowledge.time_s(parameters)
    return None if memory is None or time is None else time[0] + _eval_time_s(records)


def _out_of_memory_s(records: Sequence[TrialRecord]) -> float:
    """The mean cost of a trial that ran out of memory; nothing where none has."""
    times = [_trial_time_s(record) for record in records if record.outcome == "out_of_memory"]
    return statistics.mean(times) if times else 0.0


def _eval_time_s(records: Sequence[TrialRecord]) -> float:
    """All evaluations of a training; they take as long whatever is trained."""
    times = [
        record.attributes["training"]["eval_time_s"]
        for record in records
        if record.outcome == "completed" and "training" in record.attributes
    ]
    return statistics.median(times) if times else 0.0


def _trial_time_s(record: TrialRecord) -> float:
    return float(record.attributes.get("trial_time_s") or 0.0)


def _num_train(results: StudyResults, job: TrainingSettings) -> int | None:
    """Training samples an epoch, as a training counted them; before one has, as many as the job asks for."""
    for record in results.records:
        if record.outcome == "completed" and "training" in record.attributes:
            return round(int(record.attributes["training"]["num_samples"]) / job.epochs)
    return job.num_train_asked


def _median_and_worst(errors: Sequence[float]) -> str:
    if not errors:
        return "not enough to tell"
    sizes = [abs(error) for error in errors]
    return f"{statistics.median(sizes):.1%} off in the median, {max(sizes):.1%} at worst, of {len(sizes)}"
