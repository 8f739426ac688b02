"""What is published of a study: the configurations that wait for it, and which trial stands for each of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tradeoff.objectives.measurements.records import PUBLISHES, UNPUBLISHED, TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS
from tradeoff.studies.results.front import Configuration, configuration, replaced


def as_they_stand(records: Sequence[TrialRecord]) -> tuple[list[TrialRecord], dict[int, TrialRecord]]:
    """Return the records of a study with what has become of them, and the one that stands for each that no longer does.

    A trial that was published as another one has "trained", and lends it the details of its training. A complete one in whose
    place is another one is "superseded".
    """
    instead, by_number = replaced(records), {record.number: record for record in records}
    found: dict[int, TrialRecord] = {}
    for record in records:
        if record.is_published and (own := by_number.get(record.attributes[PUBLISHES])) is not None:
            details = {name: value for name, value in own.attributes.items() if isinstance(value, dict | list)}
            record = replace(record, attributes=details | dict(record.attributes))
        if (current := instead.get(record.number)) is not None:
            if record.reason == UNPUBLISHED:
                how = "published as" if current.is_published else "measured again:"
                record = replace(record, outcome="trained", reason=f"{how} {current.title}")
            else:
                reason = f"in its place: {current.title}" if current.number >= 0 else UNPUBLISHED
                record = replace(record, outcome="superseded", reason=reason)
        found[record.number] = record
    return list(found.values()), {number: found[current.number] for number, current in instead.items()}


def unpublished(records: Sequence[TrialRecord], derived: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
    """Yield what is to be published: settled configurations that no complete trial shows as they are known now.

    Args:
        records: The study's trials.
        derived: What is known of configurations that were not trained themselves.
    """
    own: dict[Configuration, TrialRecord] = {}
    shown: dict[Configuration, TrialRecord] = {}
    for record in records:
        key = configuration(record)
        if record.outcome in ("completed", "out_of_memory") and not (record.is_derived or record.is_published):
            own[key] = record
        if record.outcome == "completed" and record.reason != UNPUBLISHED:
            shown[key] = record
    for key, record in own.items():
        if record.reason == UNPUBLISHED and ((before := shown.get(key)) is None or _ran_after(record, before)):
            yield record
    for record in derived:
        key = configuration(record)
        if key not in own and ((before := shown.get(key)) is None or _is_better_known(record, before)):
            yield record


def _ran_after(record: TrialRecord, before: TrialRecord) -> bool:
    return before.is_derived or record.number > before.attributes.get(PUBLISHES, before.number)


def _is_better_known(record: TrialRecord, before: TrialRecord) -> bool:
    """Return True if a predicted value was measured since, or the class was trained with another seed."""
    if record.attributes.get(NUM_SEEDS, 1) > before.attributes.get(NUM_SEEDS, 1):
        return True
    return any(source == "model" and record.sources.get(name) != "model" for name, source in before.sources.items())
