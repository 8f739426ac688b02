"""Attributes that a trial stores without having measured them: derived values with their sources, and predictions."""

from collections.abc import Mapping
from typing import Any

from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.measurements.goals import GOALS, cost_goals
from tradeoff.objectives.measurements.records import DERIVED_FROM, MEMORY_PREDICTION, TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS, spread_name
from tradeoff.searchspace import TrialParameters


def derived_attributes(parameters: TrialParameters, settling: Observation, knowledge: Knowledge) -> dict[str, Any]:
    """Return what a derived trial stores.

    Args:
        parameters: Its configuration.
        settling: The training of its learning class, or a probe if the study has no learned objective.
        knowledge: The models fitted to the study's trials.

    Returns:
        The attributes by name; None for an objective that nothing settles.
    """
    cost = knowledge.cost(parameters)
    assert cost is not None
    attributes: dict[str, Any] = {"outcome": "completed", DERIVED_FROM: settling.record.number}
    # Time and memory are stored for every configuration, whether or not they are objectives.
    for name in dict.fromkeys(("train_time_s", "peak_memory_mib", *knowledge.setup.objectives)):
        if not GOALS[name].learned:
            attributes |= {name: cost.value(name), f"{name}_source": cost.source(name)}
            attributes[spread_name(name)] = cost.error(name) or None
        elif settling.record.outcome == "completed":
            settled = settling.record.attributes
            attributes |= {name: settled.get(name), f"{name}_source": f"trained in trial {settling.record.number}"}
            if NUM_SEEDS in settled:
                attributes |= {key: settled[key] for key in (NUM_SEEDS, spread_name(name))}
                attributes[f"{name}_source"] = settling.record.sources[name]
    if (source := knowledge.memory.measured_by(parameters)) is not None:
        # The prediction made before the trial that measured the peak.
        attributes |= {name: source.record.attributes[name] for name in MEMORY_PREDICTION if name in source.record.attributes}
    return attributes


def measured_errors(record: TrialRecord, parameters: TrialParameters, knowledge: Knowledge) -> dict[str, float]:
    """Return the standard deviations of the costs that a training has measured itself, by attribute.

    Args:
        record: The training's record, as far as it is known.
        parameters: Its configuration.
        knowledge: The models fitted to the study's trials.
    """
    if (sample := Observation(record=record, parameters=parameters).train_time_sample) is None:
        return {}
    relative = knowledge.times.training_error([sample])
    return {
        spread_name(name): relative * abs(record.attributes[name])
        for name, goal in cost_goals().items()
        if goal.varies_with_time and name in record.attributes
    }


def predicted_attributes(parameters: TrialParameters, measured: Mapping[str, Any], knowledge: Knowledge) -> dict[str, Any]:
    """Return the time and memory that were predicted before a trial ran, for each of them that the trial has measured itself.

    The memory's source is stored beside it: "model" for a line through measured peaks, "estimate" for the memory estimate as
    corrected by measured peaks. `estimated_peak_memory_mib` is the estimate alone. If there is one, a trial that ran out of
    memory has them too.

    Args:
        parameters: The trial's configuration.
        measured: The attributes that the trial stores.
        knowledge: The models without the trial.
    """
    predicted: dict[str, Any] = {}
    if measured["outcome"] == "completed" and "train_time_s" in measured and (time := knowledge.time_s(parameters)) is not None:
        predicted["predicted_train_time_s"] = time[0]
    has_run = measured["outcome"] in ("completed", "diverged", "probed")
    estimated = knowledge.memory.estimated_mib(parameters)
    is_asked = (has_run and "peak_memory_mib" in measured) or (estimated is not None and measured["outcome"] == "out_of_memory")
    if is_asked and (memory := knowledge.memory_mib(parameters)) is not None:
        predicted |= {"predicted_peak_memory_mib": memory[0], "predicted_peak_memory_mib_source": memory[1]}
    if is_asked and estimated is not None:
        predicted["estimated_peak_memory_mib"] = estimated
    return predicted
