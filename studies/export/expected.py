"""The measurements of a training beside those of the study."""

from collections.abc import Mapping
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS, cost_goals, learned_goals
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.studies.export.export import MEMORY_MEASUREMENTS


def expected_measurements(exported: Mapping[str, Any], *, num_train: int) -> dict[str, float]:
    """Return the study's measurements of an exported configuration, time and energy scaled to the training samples.

    A value whose spread is known has its standard deviation beside it, as `<name>_std`.
    """
    values = {name: value["value"] for name, value in exported["values"].items()}
    found = _numbers({**exported["measured"], **exported["memory_mib"], **values}, *MEMORY_MEASUREMENTS)
    found |= {spread_name(name): value["std"] for name, value in exported["values"].items() if "std" in value}
    job = exported["job"]
    # The samples that the trial processed; for a trial that was not trained itself, those that its job asks for.
    epochs = exported.get("parameters", {}).get("num_train_epochs", job["epochs"])
    num_samples = exported["measured"].get("num_samples") or (job.get("train_samples") or num_train) * epochs
    for name, goal in cost_goals().items():
        for key in (name, spread_name(name)):
            if goal.grows_with_data and key in found:
                found[key] *= num_train * epochs / num_samples
    return found


def training_measurements(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the measurements of a training under the same names, and its number of steps."""
    return _numbers({**attributes.get("training", {}), **attributes}, *MEMORY_MEASUREMENTS, "num_steps")


def comparison_lines(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each measurement with its expected value, and a line if the two come from different devices.

    Args:
        results: The content of `results.json`.
    """
    lines = []
    for name in _compared():
        if name not in results["measured"]:
            continue
        goal, expected = GOALS[name], results["expected"].get(name)
        line = f"{goal.label} {goal.show_with_unit(results['measured'][name])}"
        if expected is not None:
            line += f" (expected {goal.show_with_spread(expected, results['expected'].get(spread_name(name)))})"
        lines.append(line)
    if (ours := results["device"]["name"]) != (theirs := results["expected_device"]):
        lines.append(f"the expected time and memory are of {theirs}, and the measured ones of {ours}")
    return lines


def _compared() -> tuple[str, ...]:
    return (*learned_goals(), *cost_goals())


def _numbers(measurements: Mapping[str, Any], *further: str) -> dict[str, float]:
    return {name: float(measurements[name]) for name in (*_compared(), *further) if measurements.get(name) is not None}
