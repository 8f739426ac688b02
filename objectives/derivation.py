"""What a trial stores that was not measured by it: a derived one's values and where they are from, and what was predicted."""

from collections.abc import Mapping
from typing import Any

from objectives.knowledge import Knowledge, Observation
from objectives.records import DERIVED_FROM
from searchspace import TrialParameters


def derived_attributes(parameters: TrialParameters, training: Observation, knowledge: Knowledge) -> dict[str, Any]:
    """What a derived trial stores."""
    cost = knowledge.cost(parameters)
    assert cost is not None
    return {
        "outcome": "completed",
        DERIVED_FROM: training.record.number,
        "accuracy": training.record.attributes.get("accuracy"),
        "train_time_s": cost.train_time_s,
        "peak_memory_mib": cost.peak_memory_mib,
        "accuracy_source": f"trained in trial {training.record.number}",
        "train_time_s_source": cost.time_source,
        "peak_memory_mib_source": cost.memory_source,
    }


def predicted_attributes(parameters: TrialParameters, measured: Mapping[str, Any], knowledge: Knowledge) -> dict[str, float]:
    """What earlier trials said of a trial's time and memory, for each of them that the trial has measured itself.

    Args:
        parameters: The trial's configuration.
        measured: The attributes that the trial stores.
        knowledge: What was known without the trial.
    """
    predicted = {}
    # A training that was stopped says nothing of the time of a whole one.
    if measured["outcome"] == "completed" and "train_time_s" in measured and (time := knowledge.time_s(parameters)) is not None:
        predicted["predicted_train_time_s"] = time[0]
    has_run = measured["outcome"] in ("completed", "stopped_early", "probed")
    if has_run and "peak_memory_mib" in measured and (memory := knowledge.memory_mib(parameters)) is not None:
        predicted["predicted_peak_memory_mib"] = memory[0]
    return predicted
