"""Numbers the workers of a study across all machines, so that no two of them draw with the same seed.

The first is 0, and each that begins later, wherever, has the next number. So a study that one worker runs with a seed draws the
same again in a new storage, also where it is ended and gone on with at the same trials.
"""

import uuid

import optuna

from tradeoff.studies.storage.locks import study_lock

# Among a study's system attributes: how many workers have begun; where there is no lock, an entry for each of them.
COUNT_ATTRIBUTE = "tradeoff:workers"
ENTRY_PREFIX = "tradeoff:worker:"


def take_worker_number(study: optuna.Study) -> int:
    """A number that no other worker of the study has, on any machine."""
    storage, study_id = study._storage, study._study_id
    if (alone := study_lock(storage, study.study_name)) is not None:
        with alone():
            number = int(storage.get_study_system_attrs(study_id).get(COUNT_ATTRIBUTE, 0))
            storage.set_study_system_attr(study_id, COUNT_ATTRIBUTE, number + 1)
        return number
    # Each first says that it is there and then looks: of those that begin at once at most one sees nobody else.
    mark = uuid.uuid4().hex
    storage.set_study_system_attr(study_id, ENTRY_PREFIX + mark, True)
    others = [key for key in storage.get_study_system_attrs(study_id) if key.startswith(ENTRY_PREFIX) and mark not in key]
    return 1 + int(mark[:7], 16) if others else 0
