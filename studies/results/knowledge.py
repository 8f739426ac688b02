"""What a stored study knows, for whoever reads it without running it: the models that its search fitted to its trials."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from tradeoff.objectives.job.arguments import job_of, name_of_data
from tradeoff.objectives.job.jobs import AnyJob, CausalLMJob
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
    num_train, num_packed = _num_rows(records, study.job)
    if num_train is None:
        return None
    space, _ = available_space(study, device)
    for name, distribution in (distributions or {}).items():
        if name in space.domains and isinstance(distribution, CategoricalDistribution):
            space = space.without(name, set(space.domains[name].values() or ()) - set(distribution.choices))
    setup = study.setup(space, device, num_train=num_train, num_packed=num_packed)
    return Knowledge.of(records, setup, memory_estimates=memory_estimates)


def _num_rows(records: Sequence[TrialRecord], job: AnyJob) -> tuple[int | None, dict[str, int]]:
    """Return the training samples per epoch, and the sequences of packed texts by their data's name, as trials counted them.

    Before the first training there are as many samples as the job asks for.
    """
    num_train, num_packed = None, {}
    for record in records:
        of_trial = job_of(job, record.params)
        if isinstance(of_trial, CausalLMJob) and of_trial.packing:
            if (rows := (record.attributes.get("probe") or {}).get("num_rows")) is not None:
                num_packed[name_of_data(of_trial)] = int(rows)
        elif record.outcome in ("completed", "trained") and "training" in record.attributes:
            epochs = record.params.get("num_train_epochs", job.epochs)
            num_train = num_train or round(int(record.attributes["training"]["num_samples"]) / float(epochs))
    return num_train or job.num_train_asked, num_packed
