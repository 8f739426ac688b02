"""Publish what a search has settled, each configuration once, when the search ends.

While it goes on, trials end as pruned with everything that they have measured: a complete trial can't be changed, and a mean
over more seeds or a measured time may still replace what is known. Then each configuration becomes one complete trial of the
study, with the accuracy of its training, its own time and memory, and the source of each. So `study.best_trials` is the front.

A search that goes on after its end may learn more. What is known better is published again, under a new number, and the study
says which trial is superseded by which. Publishing the same knowledge twice changes nothing.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.knowledge.snapshot import StudyReader
from tradeoff.objectives.measurements.records import PUBLISHES, UNPUBLISHED, TrialRecord, stored_attributes
from tradeoff.studies.results.expectation import EXPECTED, stored
from tradeoff.studies.results.front import replaced
from tradeoff.studies.results.publication import unpublished
from tradeoff.studies.results.results import PREDICTED, UNTRAINED
from tradeoff.studies.samplers.trial_planner import TrialPlanner
from tradeoff.studies.storage.stored_study import StoredStudy

# The study's user attribute that names, for each complete trial that no longer stands, the one in its place.
SUPERSEDED = "superseded"
# Trials that are published under one lock: a holder is thrown out after a minute.
BATCH = 50
# Predicted configurations that a study holds.
MAX_PREDICTED = 20
# A trial's own measurements that its published one does not repeat: what it cost, and what was predicted of it.
_ITS_OWN = ("trial_time_s", "first_step_time_s", "seed", "predicted_", "estimated_")


def publish(study: optuna.Study, setup: StudySetup) -> int:
    """Publish what is settled, unless another worker still runs a trial: the last one to end publishes.

    Args:
        study: The study.
        setup: Its terms.

    Returns:
        The number of added trials.
    """
    reader, count = StudyReader(setup=setup), 0
    while True:
        with study.lock() if isinstance(study, StoredStudy) else nullcontext():
            snapshot = reader.snapshot(study)
            if snapshot.running:
                return count
            derived = snapshot.derive() if setup.publishes_at_end else ()
            batch = list(islice(unpublished(snapshot.records, derived), BATCH))
            for record in batch:
                study.add_trial(_published(record, setup))
            if not batch:
                name_superseded(study, snapshot.records)
                return count
        count += len(batch)


def name_superseded(study: optuna.Study, records: Sequence[TrialRecord]) -> None:
    """Store which complete trials no longer stand for their configuration, and which one does."""
    complete = {record.number for record in records if record.reason != UNPUBLISHED}
    found = {str(number): current.number for number, current in replaced(records).items() if number in complete}
    if found != study.user_attrs.get(SUPERSEDED, {}):
        study.set_user_attr(SUPERSEDED, found)


def store_outlook(study: StoredStudy, planner: TrialPlanner) -> None:
    """Store what is expected of each trained class, which ones were left untrained and why, and what is predicted of some."""
    study.set_user_attr(EXPECTED, stored(planner.expected))
    study.set_user_attr(UNTRAINED, [each.as_dict() for each in planner.untrained()])
    study.set_user_attr(PREDICTED, [each.as_dict() for each in planner.predicted()[:MAX_PREDICTED]])


def _published(record: TrialRecord, setup: StudySetup) -> FrozenTrial:
    attributes = {
        name: value
        for name, value in record.attributes.items()
        if record.is_derived or (isinstance(value, int | float) and not name.startswith(_ITS_OWN))
    }
    if not record.is_derived:
        attributes[PUBLISHES] = record.number
    attributes |= {"outcome": "completed"} | {f"{name}_source": source for name, source in record.sources.items()}
    return create_trial(
        state=TrialState.COMPLETE,
        params={name: value for name, value in record.params.items() if name in setup.space.domains},
        distributions=setup.space.distributions(name for name in record.params if name in setup.space.domains),
        values=[record.values[name] for name in setup.objectives],
        user_attrs=stored_attributes(attributes),
    )
