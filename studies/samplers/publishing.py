"""Publish configurations that are settled without a run: each member of a trained learning class becomes a trial of the study.

If no objective is learned, probes settle everything, and every configuration that fits is published.

A derived trial holds the accuracy of the training, its own time and memory, and the source of each. It is published again,
under a new number, when a probe has replaced a predicted value, or a mean over several seeds the value of one. Publishing the
same knowledge twice changes nothing.
"""

from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import TrialState, create_trial

from tradeoff.objectives.knowledge.derivation import derived_attributes
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.measurements.records import TrialRecord, stored_attributes
from tradeoff.objectives.measurements.seeds import NUM_SEEDS
from tradeoff.searchspace import LearningClass, TrialParameters


def unpublished(records: Sequence[TrialRecord], knowledge: Knowledge) -> list[tuple[TrialParameters, Observation]]:
    """Return the settled configurations that no trial shows yet, each with the trial that settles it.

    Where no objective is learned, a probe settles a configuration.

    Args:
        records: The study's trials.
        knowledge: The models fitted to them.
    """
    setup = knowledge.setup
    latest: dict[TrialParameters, TrialRecord] = {}
    for record in records:
        parameters = setup.space.read(record.params) if record.outcome == "completed" else None
        # A configuration's own training is never replaced.
        if parameters is not None and (parameters not in latest or latest[parameters].is_derived):
            latest[parameters] = record
    found = []
    for parameters, settling in _settled(knowledge) if setup.learned else _probed(knowledge):
        known = latest.get(parameters)
        if known is not None and not (known.is_derived and _is_better_known(known, settling, knowledge, parameters)):
            continue
        cost = knowledge.cost(parameters)
        if (
            any(settling.record.attributes.get(name) is None for name in setup.learned)
            or cost is None
            or not cost.knows(setup.costs)
        ):
            continue
        fits = cost.peak_memory_mib <= setup.memory_limit_mib and knowledge.out_of_memory(parameters) is None
        if fits and knowledge.ruled_out(parameters) is None:
            found.append((parameters, settling))
    return found


def _settled(knowledge: Knowledge) -> Iterator[tuple[TrialParameters, Observation]]:
    """Yield every member of a trained class, with the training."""
    structures: dict[LearningClass, list[TrialParameters]] = {}
    for structure in knowledge.setup.space.structures:
        structures.setdefault(knowledge.class_of(structure), []).append(structure)
    for training in knowledge.trainings.values():
        for structure in structures[knowledge.class_of(training.parameters.structure)]:
            yield structure.replace(**training.parameters.learning_only), training


def _probed(knowledge: Knowledge) -> Iterator[tuple[TrialParameters, Observation]]:
    """Yield every configuration, with the nearest probe."""
    for structure in knowledge.setup.space.structures:
        if (probe := knowledge.times.nearest_probe(structure)) is not None:
            yield knowledge.setup.space.complete(structure), probe


def publish(
    study: optuna.Study,
    parameters: TrialParameters,
    settling: Observation,
    knowledge: Knowledge,
) -> None:
    """Add a derived trial to the study."""
    attributes = derived_attributes(parameters, settling, knowledge)
    setup = knowledge.setup
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            params=setup.space.stored(parameters),
            distributions=setup.space.distributions(),
            values=[attributes[name] for name in setup.objectives],
            user_attrs=stored_attributes(attributes),
        )
    )


def _is_better_known(record: TrialRecord, settling: Observation, knowledge: Knowledge, parameters: TrialParameters) -> bool:
    """Return True if a predicted value of the record was measured since, or its class was trained with another seed."""
    if settling.record.attributes.get(NUM_SEEDS, 1) > record.attributes.get(NUM_SEEDS, 1):
        return True
    cost = knowledge.cost(parameters)
    if cost is None:
        return False
    return any(record.sources.get(name) == "model" and cost.source(name) != "model" for name in knowledge.setup.costs)
