"""What a stored study knows, for whoever reads it without running it: the models that its search fitted to its trials."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from tradeoff.objectives.job.settings import TrainingSettings
from tradeoff.objectives.knowledge.knowledge import Knowledge
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates
from tradeoff.studies.config.availability import available_space
from tradeoff.studies.config.study import StudyConfig


def stored_knowledge(
    config: Mapping[str, Any],
    device: Mapping[str, Any],
    records: Sequence[TrialRecord],
    memory_estimates: MemoryEstimates | None,
    distributions: Mapping[str, BaseDistribution] | None = None,
) -> Knowledge | None:
    """Return the knowledge of a study; None while the number of its training samples is not known.

    Args:
        config: The study file as plain data.
        device: The device that it was measured on.
        records: Its trials.
        memory_estimates: Memory as estimated before anything ran; None if it was not.
        distributions: Those of its trials: the search may have left out what does not run there.
    """
    study = StudyConfig.model_validate(config)
    num_train = _num_train(records, study.job)
    if num_train is None:
        return None
    space, _ = available_space(study, device)
    for name, distribution in (distributions or {}).items():
        if name in space.domains and isinstance(distribution, CategoricalDistribution):
            space = space.without(name, set(space.domains[name].values() or ()) - set(distribution.choices))
    setup = study.setup(space, device, num_train=num_train)
    return Knowledge.of(records, setup, memory_estimates=memory_estimates)


def _num_train(records: Sequence[TrialRecord], job: TrainingSettings) -> int | None:
    """Return the training samples per epoch, as a training counted them; before the first one, as many as the job asks for."""
    for record in records:
        if record.outcome in ("completed", "trained") and "training" in record.attributes:
            epochs = record.params.get("num_train_epochs", job.epochs)
            return round(int(record.attributes["training"]["num_samples"]) / float(epochs))
    return job.num_train_asked
