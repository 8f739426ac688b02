"""A training of several epochs as the trainings of fewer that it contains.

With a schedule that does not depend on the number of epochs, such as a constant learning rate, the first epoch of three is a
training of one: the same steps on the same samples. So the evaluation after it is worth that training. A schedule that falls to
0 at the end, as the default does, leaves a longer training elsewhere after as many epochs, and nothing follows.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from tradeoff.objectives.job.settings import BuiltInJob
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.measurements.goals import is_comparable, learned_value
from tradeoff.searchspace import TrialParameters

EPOCHS = "num_train_epochs"
# Schedules that depend on the steps that were done, and not on those that are left.
ENDLESS_SCHEDULES = frozenset({"constant", "constant_with_warmup", "inverse_sqrt"})


def prefixes(training: Observation, setup: StudySetup) -> Iterator[Observation]:
    """Yield the shorter trainings of the space that a completed training contains.

    Args:
        training: The training, with its learning curve.
        setup: The terms of the study.
    """
    parameters, domain = training.parameters, setup.space.domains.get(EPOCHS)
    if domain is None or parameters.get(EPOCHS) is None or not is_endless(parameters, setup):
        return
    own = training.record.attributes["training"]
    for position, point in enumerate(own["curve"][:-1]):
        shorter = next((epochs for epochs in domain.values() or () if math.isclose(epochs, point["epoch"])), None)
        learned = {name: learned_value(point, name) for name in setup.learned}
        if shorter is None or any(value is None or not is_comparable(value) for value in learned.values()):
            continue
        kept = {name: value for name, value in training.record.attributes.items() if name in ("peak_memory_mib", "seed")}
        attributes = kept | learned | {"training": own | {"curve": own["curve"][: position + 1]}}
        record = replace(training.record, attributes=attributes)
        yield Observation(record=record, parameters=parameters.replace(**{EPOCHS: shorter}))


def is_endless(parameters: TrialParameters, setup: StudySetup) -> bool:
    """Return True if the steps of a training do not depend on how many epochs follow."""
    job = setup.job
    if not isinstance(job, BuiltInJob):  # a function of the user's own may read the number of epochs
        return False
    schedule = parameters.get("lr_scheduler_type") or job.lr_scheduler_type
    warmup = parameters.get("warmup_ratio") or parameters.get("warmup_steps") or job.warmup_steps
    return schedule in ENDLESS_SCHEDULES and not 0 < warmup < 1 and not parameters.get("max_steps")
