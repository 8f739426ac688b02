"""Conditions between parameters: what others must be for a parameter to be set at all."""

from collections.abc import Mapping, Sequence
from typing import Any

# For each parameter, the values that others must have for it to be set; those of a parameter after what it depends on.
Conditions = Mapping[str, Mapping[str, Sequence[Any]]]


def is_set(name: str, values: Mapping[str, Any], conditions: Conditions) -> bool:
    """Return True if a parameter has a value beside some others, which are set themselves."""
    return all(other in values and values[other] in allowed for other, allowed in conditions[name].items())


def set_values(values: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return some values without those that their conditions leave unset."""
    held = {name: value for name, value in values.items() if name not in conditions}
    for name in conditions:
        if name in values and is_set(name, held, conditions):
            held[name] = values[name]
    return held


def with_conditions(values: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return some values, and one of each parameter that must have it for them to be set."""
    found = dict(values)
    for name in reversed([*conditions]):
        if name in found:
            found |= {other: allowed[0] for other, allowed in conditions[name].items() if found.get(other) not in allowed}
    return found
