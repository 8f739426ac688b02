"""Numbers the workers of a study across all machines, so that no two of them draw with the same seed.

The first is 0, and each that begins later, wherever, has the next number. So a study that one worker runs with a seed draws the
same again in a new storage, also if it is stopped and resumed at the same trials.
"""

from tradeoff.studies.storage.stored_study import StoredStudy

# Among a study's system attributes: how many workers have begun.
COUNT_ATTRIBUTE = "tradeoff:workers"


def take_worker_number(study: StoredStudy) -> int:
    """Return a number that no other worker of the study has, on any machine."""
    with study.lock():
        number = int(study.storage.get_study_system_attrs(study.study_id).get(COUNT_ATTRIBUTE, 0))
        study.storage.set_study_system_attr(study.study_id, COUNT_ATTRIBUTE, number + 1)
    return number
