"""Find predicted values on or near the front that a probe should check.

Two kinds of configuration deserve a probe although their class is trained: one that is on the front by a predicted value, and
one that would be on it if the prediction were off by as much as it usually is. Either costs a probe, far less than a training.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.goals import cost_goals
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.searchspace import TrialParameters
from tradeoff.studies.samplers.acquisition import Volume
from tradeoff.studies.samplers.candidates import front_of_many

Array = NDArray[np.float64]


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
