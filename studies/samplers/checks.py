"""Find what a probe should check: predicted values on or near the front, and measured times whose error decides what is on it.

Two kinds of configuration deserve a first probe although their class is trained: one that is on the front by a predicted value,
and one that would be on it if the prediction were off by as much as it usually is. Either costs a probe, far less than a
training.

A machine drifts between minutes, so two configurations that were probed an hour apart can't be told apart by less than that.
What is worth it is probed again, all of it once before anything a third time: so what is compared is timed within the same
minutes. It is worth it if a place on the front would be lost or won were the time off by its error, unless both the error and
what that changes are small, and as long as all repeats together take a small share of the study's time.
"""

from collections.abc import Collection, Sequence

import numpy as np

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.goals import cost_goals
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.searchspace import MemoryClass, SpeedClass, TrialParameters
from tradeoff.studies.samplers.candidates import front_of_many
from tradeoff.studies.samplers.hypervolume import Volume

# The most probes of one compute configuration and micro-batch.
MAX_PROBES = 3
# An error that is worth making smaller wherever a place on the front hangs on it, as a share of the time.
LARGE_ERROR = 0.05
# The most of the study's time that repeated probes may take.
MAX_SHARE = 0.1

Timed = tuple[SpeedClass, int]
_FAILED = frozenset({"failed", "timed_out", "out_of_memory"})


def to_verify(
    completed: Sequence[TrialRecord],
    knowledge: Knowledge,
    volume: Volume,
    pending: Collection[TrialParameters],
    *,
    min_gain: float,
) -> tuple[TrialParameters, str] | None:
    """Return the configuration to probe, and the reason in a sentence; None if nothing needs a probe.

    Args:
        completed: The records that represent the completed configurations (`tradeoff.studies.results.front.feasible`).
        knowledge: The models fitted to the study's trials.
        volume: The hypervolume in the study's objectives.
        pending: Running configurations.
        min_gain: The share of the hypervolume that a correction must be able to add.
    """
    front = front_of_many(completed, volume.objectives)
    for record in front:
        parameters = _unmeasured(record, knowledge, pending)
        if parameters is not None:
            return parameters, "checks a predicted value of the front"
    found = np.array([volume.scaled(record.values) for record in front]).reshape(-1, len(volume.objectives))
    now = volume.of(found)
    best: tuple[float, TrialParameters] | None = None
    for record in completed:
        optimistic = np.array(volume.scaled(_optimistic(record)))
        # The cheap test first: most trials are far from the front even so.
        if (found <= optimistic).all(axis=1).any() or (optimistic >= 1).any():
            continue
        parameters = _unmeasured(record, knowledge, pending)
        if parameters is None:
            continue
        gain = (volume.of(np.vstack([found, optimistic])) - now) / (now or 1.0)
        if gain >= min_gain and (best is None or gain > best[0]):
            best = gain, parameters
    if best is None:
        return None
    return best[1], f"it would add {best[0]:.1%} to the hypervolume if its predicted values are a little too high"


def _unmeasured(record: TrialRecord, knowledge: Knowledge, pending: Collection[TrialParameters]) -> TrialParameters | None:
    """Return the configuration of a derived trial whose costs are still predicted and that nobody is probing, or None."""
    if not record.is_derived or "model" not in record.sources.values():
        return None
    parameters = knowledge.setup.space.read(record.params)
    if parameters is None or parameters in pending:
        return None
    cost = knowledge.cost(parameters)
    return parameters if cost is not None and not cost.is_measured(knowledge.setup.costs) else None


def _optimistic(record: TrialRecord) -> dict[str, float]:
    """Return a trial's values, with the predicted ones as good as they may well be."""
    return dict(record.values) | {
        name: record.values[name] + goal.sign * _error(record, name, goal.typical_error)
        for name, goal in cost_goals().items()
        if name in record.values and record.sources.get(name) == "model"
    }


def _error(record: TrialRecord, name: str, typical: float) -> float:
    """Return the error of a predicted value: the one that is stored, which is large between compute configurations."""
    error: float = record.attributes.get(spread_name(name)) or typical * abs(record.values[name])
    # No cost is below 0, whatever its error.
    return min(error, abs(record.values[name]))


def to_repeat(
    completed: Sequence[TrialRecord],
    knowledge: Knowledge,
    volume: Volume,
    pending: Collection[TrialParameters],
    *,
    min_gain: float,
) -> TrialParameters | None:
    """Return the configuration to probe again; None if that is not worth it.

    Args:
        completed: The records that represent the completed configurations (`tradeoff.studies.results.front.feasible`).
        knowledge: The models fitted to the study's trials.
        volume: The hypervolume in the study's objectives.
        pending: Running configurations.
        min_gain: The share of the hypervolume that a small error must be able to add or to take away.
    """
    timed = [name for name in volume.objectives if name in cost_goals() and cost_goals()[name].varies_with_time]
    if not timed or not _has_time_left(knowledge):
        return None
    # A repeat that failed, for whatever reason, is not tried again.
    failed = {_timed_as(o.parameters) for o in knowledge.observations if o.step_times_s is None and o.record.outcome in _FAILED}
    left_out = failed | {_timed_as(parameters) for parameters in pending}
    found = [(record, parameters) for record in completed if (parameters := knowledge.setup.space.read(record.params))]
    points = np.array([volume.scaled(_values(*each, timed, knowledge)) for each in found]).reshape(-1, len(volume.objectives))
    on_front = volume.on_front(points)
    front = points[on_front]
    if (now := volume.of(front)) <= 0:
        return None
    worth: dict[Timed, tuple[float, TrialParameters]] = {}
    for position, (record, parameters) in enumerate(found):
        key = _timed_as(parameters)
        if key in left_out or not 0 < knowledge.times.num_probes(parameters) < MAX_PROBES:
            continue
        sign = 1.0 if on_front[position] else -1.0
        moved = np.array(volume.scaled(_values(record, parameters, timed, knowledge, worse_by=sign)))
        if on_front[position]:
            others = np.delete(points, position, axis=0)
            # It keeps its place although it is slower: nothing hangs on its error.
            if not (others <= moved).all(axis=1).any():
                continue
            change = now - volume.of(volume.front(np.vstack([others, moved])))
        else:
            # The cheap test first: most configurations are far from the front even so.
            if (front <= moved).all(axis=1).any() or (moved >= 1).any():
                continue
            change = volume.of(np.vstack([front, moved])) - now
        is_large = knowledge.times.probing_error(parameters) >= LARGE_ERROR
        if (is_large or change >= min_gain * now) and (key not in worth or change > worth[key][0]):
            worth[key] = change, parameters
    best = min(worth.values(), key=lambda each: (knowledge.times.num_probes(each[1]), -each[0]), default=None)
    return None if best is None else best[1]


def _timed_as(parameters: TrialParameters) -> Timed:
    return parameters.speed_class(), parameters.per_device_train_batch_size


def _values(
    record: TrialRecord, parameters: TrialParameters, timed: Sequence[str], knowledge: Knowledge, *, worse_by: float = 0.0
) -> dict[str, float]:
    """Return a record's values, with the timed ones as probes know them now, worse by a multiple of the probes' error."""
    cost, values = knowledge.cost(parameters), dict(record.values)
    for name in timed:
        if cost is not None and cost.source(name) == "probe" and (value := cost.value(name)) is not None:
            error = knowledge.times.probing_error(parameters)
            values[name] = value * (1 - cost_goals()[name].sign * worse_by * error)
    return values


def _has_time_left(knowledge: Knowledge) -> bool:
    """Return True if one more repeat keeps all of them within their share of the study's time."""
    seen: set[tuple[MemoryClass, Timed]] = set()
    total_s, repeats_s, probes_s = 0.0, 0.0, []
    for observation in knowledge.observations:
        time_s = observation.record.attributes.get("trial_time_s", 0.0)
        total_s += time_s
        if observation.step_times_s is None:
            continue
        key = observation.parameters.memory_class(), _timed_as(observation.parameters)
        if observation.record.outcome == "probed":
            probes_s.append(time_s)
            # The survey measures each memory class and micro-batch once.
            repeats_s += time_s if key in seen else 0.0
        seen.add(key)
    next_s = sum(probes_s) / len(probes_s) if probes_s else 0.0
    return repeats_s + next_s <= MAX_SHARE * total_s
