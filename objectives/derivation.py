"""What a trial stores that was not measured by it: a derived one's values and where they are from, and what was predicted."""

from collections.abc import Mapping
from typing import Any

from objectives.knowledge import Knowledge, Observation
from objectives.records import DERIVED_FROM
from searchspace import TrialParameters


def derived_attributes(parameters: TrialParameters, settling: Observation, knowledge: Knowledge) -> dict[str, Any]:
    """What a derived trial stores.

    Args:
        parameters: Its configuration.
        settling: The training of its learning class, or, where nothing that is learned counts, a probe.
        knowledge: What the study's trials settle.
    """
    cost = knowledge.cost(parameters)
    assert cost is not None
    attributes = {
        "outcome": "completed",
        DERIVED_FROM: settling.record.number,
        "train_time_s": cost.train_time_s,
        "peak_memory_mib": cost.peak_memory_mib,
        "train_time_s_source": cost.time_source,
        "peak_memory_mib_source": cost.memory_source,
    }
    if settling.record.outcome == "completed":
        attributes |= {
            "accuracy": settling.record.attributes.get("accuracy"),
            "accuracy_source": f"trained in trial {settling.record.number}",
        }
    return attributes


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
