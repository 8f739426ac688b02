"""The time that a study has saved, and the errors of its predictions: the last lines of `tradeoff run`.

The cost of training every configuration is an estimate: each one's training and evaluation as measured or predicted, and for
one that does not fit the average cost of running out of memory. The time spent is measured.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.searchspace import KNOBS, TrialParameters
from tradeoff.searchspace.space import MAX_STRUCTURES
from tradeoff.studies.results.knowledge import stored_knowledge
from tradeoff.studies.results.results import StudyResults

# Below this the search has saved nothing worth mentioning.
MIN_RATIO = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Savings:
    """A study's configurations by how they were settled, and the cost.

    Attributes:
        num_configurations: Configurations of the space, without what `besides` names. Of a space that is too large to look at
            all of them, those that were looked at.
        is_part: Whether the space is that large, so that all counts but those of trials are the least that there can be.
        besides: Labels of parameters that change learning only, each with so many values that they are left out: then nobody
            could train all.
        num_probed: Trials that were only probed.
        num_trained: Configurations that were trained, to the end or until they were stopped.
        num_derived: Configurations whose values follow from others.
        num_out_of_memory: Configurations that ran out of memory, or need at least as much as one that did.
        num_ruled_out: Further ones that cannot fit by the memory estimate.
        spent_s: Time spent on trials.
        all_s: Time that training every configuration would take, an estimate; None while it is not known.
    """

    num_configurations: int
    num_probed: int
    num_trained: int
    num_derived: int
    num_out_of_memory: int
    spent_s: float
    all_s: float | None
    num_ruled_out: int = 0
    is_part: bool = False
    besides: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = [
            f"{self.num_probed} probed",
            f"{self.num_trained} trained",
            f"{self.num_derived} derived",
            f"{self.num_out_of_memory} out of memory",
            *([f"{self.num_ruled_out} ruled out by the memory estimate"] if self.num_ruled_out else []),
        ]
        least = "at least " * self.is_part
        each = f", each of any {', '.join(self.besides)}" if self.besides else ""
        text = f"{least}{self.num_configurations:,} configurations{each}: {', '.join(counts)}"
        if self.all_s is None or not self.spent_s or self.besides:
            return text
        ratio = self.all_s / self.spent_s
        if self.is_part and ratio < MIN_RATIO:
            return text
        saved = f"{least or 'about '}{ratio:.1f} x cheaper" if ratio >= MIN_RATIO else "no cheaper"
        return f"{text}; {saved} than training all (estimate)"


def savings(records: Sequence[TrialRecord], knowledge: Knowledge) -> Savings:
    """Count a study's configurations, and estimate the cost of training all of them."""
    space = knowledge.setup.space
    is_small = space.num_combinations() <= MAX_STRUCTURES
    grid = configurations(knowledge)
    found = settled(records, knowledge)
    trained, out_of_memory = found["trained"], found["out of memory"]
    costs = [_cost_s(p, records, knowledge) for p in grid]
    known = [cost for cost in costs if cost is not None]
    return Savings(
        num_configurations=len(grid),
        is_part=space.is_drawn,
        besides=() if is_small else tuple(KNOBS[name].label for name in KNOBS.in_order(space.learning_only)),
        num_probed=sum(record.outcome == "probed" for record in records),
        num_trained=len(trained),
        num_derived=len(found["derived"] - out_of_memory),
        num_ruled_out=len(found["ruled out"]),
        num_out_of_memory=len(out_of_memory),
        spent_s=sum(_trial_time_s(record) for record in records),
        all_s=sum(known) if trained and len(known) == len(costs) else None,
    )


def configurations(knowledge: Knowledge) -> list[TrialParameters]:
    """Return the configurations of a study's space; of one that is too large, those that were looked at."""
    space = knowledge.setup.space
    return list(space.grid()) if space.num_combinations() <= MAX_STRUCTURES else list(space.structures)


def settled(records: Sequence[TrialRecord], knowledge: Knowledge) -> dict[str, set[TrialParameters]]:
    """Return the configurations that are settled, by how: "trained", "derived", "out of memory" and "ruled out"."""
    space, limit_mib = knowledge.setup.space, knowledge.setup.memory_limit_mib
    is_small = space.num_combinations() <= MAX_STRUCTURES
    grid = configurations(knowledge)
    read = [
        (record, parameters if is_small else parameters.structure)
        for record in records
        if (parameters := space.read(record.params)) is not None
    ]
    ended = ("completed", "trained", "diverged")
    trained = {p for record, p in read if record.outcome in ended and not record.is_derived}
    derived = {p for record, p in read if record.outcome == "completed" and record.is_derived} - trained
    out_of_memory = {p for p in grid if p not in trained and knowledge.out_of_memory(p) is not None}
    ruled_out = {p for p in grid if (knowledge.memory.lower_bound_mib(p) or 0.0) > limit_mib} - out_of_memory - trained
    return {"trained": trained, "derived": derived, "out of memory": out_of_memory, "ruled out": ruled_out}


def predicted_against_measured(records: Sequence[TrialRecord], knowledge: Knowledge) -> dict[str, list[float]]:
    """Return the relative errors of predicted memory and time, by what was predicted and how.

    Predictions that were stored before their trial ran come first; without any, each measurement is predicted from the others.
    """
    return {
        "peak memory": stored_errors(records, "peak_memory_mib", source="model") or knowledge.memory.errors(),
        "peak memory by the memory estimate": stored_errors(records, "peak_memory_mib", source="estimate"),
        # A correction learnt from the same trainings would make these look better than they are: only stored ones count.
        "training time": stored_errors(records, "train_time_s"),
    }


def prediction_errors(records: Sequence[TrialRecord], knowledge: Knowledge) -> str:
    """Return the errors of predicted memory and time in a sentence; see `predicted_against_measured`."""
    memory, estimated, time = predicted_against_measured(records, knowledge).values()
    by_estimate = f", by the memory estimate {_median_and_worst(estimated)}" if estimated else ""
    return f"prediction errors: peak memory {_median_and_worst(memory)}{by_estimate}; training time {_median_and_worst(time)}"


def stored_errors(records: Sequence[TrialRecord], name: str, *, source: str | None = None) -> list[float]:
    """Return the relative errors of an objective's predictions that were stored beside the trial's own measured value.

    Args:
        records: The trials.
        name: The objective.
        source: "estimate" for those of the memory estimate, "model" for all others; None for both.
    """
    errors = []
    for record in records:
        predicted, measured = record.attributes.get(f"predicted_{name}"), record.attributes.get(name)
        # After memory ran out only a part of the peak is known.
        has_measured = bool(measured) and not record.is_derived and record.outcome != "out_of_memory"
        is_asked = source is None or (record.attributes.get(f"predicted_{name}_source") == "estimate") == (source == "estimate")
        if predicted is not None and has_measured and is_asked:
            errors.append(predicted / measured - 1)
    return errors


def lines(results: StudyResults) -> list[str]:
    """Return the last lines of `tradeoff run`; none while the number of training samples is not known."""
    knowledge = stored_knowledge(results.config, results.device, results.records, results.memory_estimates)
    if knowledge is None:
        return []
    return [str(savings(results.records, knowledge)), prediction_errors(results.records, knowledge)]


def _cost_s(parameters: TrialParameters, records: Sequence[TrialRecord], knowledge: Knowledge) -> float | None:
    """Return the cost of training a configuration with its evaluations, or of running out of memory in the attempt."""
    memory = knowledge.memory_mib(parameters)
    if knowledge.out_of_memory(parameters) is not None or (memory is not None and memory[0] > knowledge.setup.memory_limit_mib):
        return _out_of_memory_s(records)
    time = knowledge.time_s(parameters)
    return None if memory is None or time is None else time[0] + _eval_time_s(records)


def _out_of_memory_s(records: Sequence[TrialRecord]) -> float:
    """Return the average cost of a trial that ran out of memory; 0 where none did."""
    times = [_trial_time_s(record) for record in records if record.outcome == "out_of_memory"]
    return statistics.mean(times) if times else 0.0


def _eval_time_s(records: Sequence[TrialRecord]) -> float:
    """Return the time of a training's evaluations, which is the same for all configurations."""
    times = [
        record.attributes["training"]["eval_time_s"]
        for record in records
        if record.outcome in ("completed", "trained") and "training" in record.attributes
    ]
    return statistics.median(times) if times else 0.0


def _trial_time_s(record: TrialRecord) -> float:
    return float(record.attributes.get("trial_time_s") or 0.0)


def _median_and_worst(errors: Sequence[float]) -> str:
    if not errors:
        return "not known yet"
    sizes = [abs(error) for error in errors]
    num_trials = f"{len(sizes)} {'trial' if len(sizes) == 1 else 'trials'}"
    return f"{statistics.median(sizes):.1%} median, {max(sizes):.1%} worst ({num_trials})"
