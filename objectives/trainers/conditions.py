"""Configurations that meet the conditions of their parameters, for what is found out before a study."""

from collections.abc import Mapping, Sequence
from typing import Any

from tradeoff.searchspace import TrialParameters

# For each parameter, the values that others must have for it to be set; those of a parameter after what it depends on.
Conditions = Mapping[str, Mapping[str, Sequence[Any]]]


def set_parameters(parameters: TrialParameters, conditions: Conditions) -> TrialParameters:
    """Return a configuration without the parameters that their conditions leave unset."""
    unset: set[str] = set()
    for name, needed in conditions.items():
        held = parameters.without(unset)
        if any(other not in held or held[other] not in allowed for other, allowed in needed.items()):
            unset.add(name)
    return parameters.without(unset)


def with_conditions(values: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return some values, and one of each parameter that must have it for them to be set."""
    found = dict(values)
    for name in reversed([*conditions]):
        if name in found:
            found |= {other: allowed[0] for other, allowed in conditions[name].items() if found.get(other) not in allowed}
    return found
