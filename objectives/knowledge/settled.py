"""Configurations that are settled without a run of their own, as records: each member of a trained learning class.

A derived record holds the accuracy of the training, its own time and memory, and the source of each. If no objective is
learned, probes settle everything, and every configuration that fits has one. They are computed from what the trials have
measured, and become trials once the search publishes them: until then their numbers are below 0.
"""

from collections.abc import Iterator

from tradeoff.objectives.knowledge.derivation import derived_attributes
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
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
        for structure in knowledge.setup.members_of(training.parameters):
            yield knowledge.setup.space.parameters({**structure, **training.parameters.learning_only}), training


def _of_probes(knowledge: Knowledge) -> Iterator[tuple[TrialParameters, Observation]]:
    """Yield every configuration, with the nearest probe."""
    for structure in knowledge.setup.space.structures:
        if (probe := knowledge.times.nearest_probe(structure)) is not None:
            yield knowledge.setup.space.complete(structure), probe
