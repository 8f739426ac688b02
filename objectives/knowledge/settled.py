"""Configurations that are settled without a run of their own, as records: each member of a trained learning class.

A derived record holds the accuracy of the training, its own time and memory, and the source of each. If no objective is
learned, probes settle everything, and every configuration that fits has one. They are computed from what the trials have
measured, and become trials once the search publishes them: until then their numbers are below 0.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tradeoff.objectives.knowledge.derivation import derived_attributes
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord, in_order
from tradeoff.searchspace import TrialParameters


def derived_records(knowledge: Knowledge) -> list[TrialRecord]:
    """Return a record for each settled configuration that was not trained itself, with everything known now.

    Args:
        knowledge: The models fitted to a study's trials.
    """
    setup = knowledge.setup
    found: list[TrialRecord] = []
    trained = {o.parameters for o in knowledge.observations if o.record.outcome == "completed"}
    for parameters, settling in _of_classes(knowledge) if setup.learned else _of_probes(knowledge):
        cost = knowledge.cost(parameters)
        if parameters in trained or cost is None or not cost.knows(setup.costs):
            continue
        if any(settling.record.attributes.get(name) is None for name in setup.learned):
            continue
        if cost.peak_memory_mib > setup.memory_limit_mib or knowledge.out_of_memory(parameters) is not None:
            continue
        if knowledge.ruled_out(parameters) is not None:
            continue
        attributes = derived_attributes(parameters, settling, knowledge)
        outcome = attributes.pop("outcome")
        sources = {name: attributes.pop(f"{name}_source") for name in setup.objectives}
        found.append(
            TrialRecord(
                number=-1 - len(found),
                outcome=outcome,
                params=in_order(setup.space.stored(parameters)),
                values={name: float(attributes[name]) for name in setup.objectives},
                sources=sources,
                attributes={name: value for name, value in attributes.items() if value is not None},
                num_devices=setup.num_devices,
            )
        )
    return found


def _of_classes(knowledge: Knowledge) -> Iterator[tuple[TrialParameters, Observation]]:
    """Yield every member of a trained class, with the training."""
    for training in knowledge.trainings.values():
        members = knowledge.setup.members_of(training.parameters)
        # Of a large space, what may be on the front: its trials are as many as one can look at.
        for structure in _not_dominated(members, knowledge) if knowledge.setup.space.is_drawn else members:
            yield knowledge.setup.space.parameters({**structure, **training.parameters.learning_only}), training


def _not_dominated(members: Sequence[TrialParameters], knowledge: Knowledge) -> list[TrialParameters]:
    """Return the members of a class that fit and that no other one beats in all costs, were theirs lower by their errors."""
    names, limit_mib = knowledge.setup.costs, knowledge.setup.memory_limit_mib
    known = [
        (member, cost)
        for member in members
        if (cost := knowledge.cost(member)) is not None
        and cost.knows(names)
        and cost.peak_memory_mib <= limit_mib
        and knowledge.out_of_memory(member) is None
    ]
    if not names or not known:
        return [member for member, _ in known]
    costs = np.array([[GOALS[name].cost(cost.value(name) or 0.0) for name in names] for _, cost in known])
    errors = np.array([[cost.error(name) for name in names] for _, cost in known])
    optimistic = costs - errors
    no_worse = (costs[:, None] <= optimistic[None]).all(axis=2)
    better = (costs[:, None] < optimistic[None]).any(axis=2)
    is_dominated = (no_worse & better).any(axis=0)
    return [member for (member, _), dominated in zip(known, is_dominated, strict=True) if not dominated]


def _of_probes(knowledge: Knowledge) -> Iterator[tuple[TrialParameters, Observation]]:
    """Yield every configuration, with the nearest probe."""
    for structure in knowledge.setup.space.structures:
        if (probe := knowledge.times.nearest_probe(structure)) is not None:
            yield knowledge.setup.space.complete(structure), probe
