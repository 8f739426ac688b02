"""How a study has ended: why nothing completed, and what was left untrained."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import OutcomeKind, TrialRecord
from tradeoff.objectives.measurements.seeds import spread_name
from tradeoff.studies.results.front import feasible
from tradeoff.studies.results.results import StudyResults
from tradeoff.studies.results.tables import short_class, short_configuration, with_spread

# Classes that are listed by name.
MAX_LISTED = 5

# How trials end without a value: in words, and what helps.
_CAUSES: dict[OutcomeKind | None, tuple[str, str]] = {
    "failed": ("failed", "the job is at fault rather than a configuration: mend it, and rerun the same command"),
    "out_of_memory": ("ran out of memory", "add smaller batches or gradient checkpointing to the space, or shorten its texts"),
    "timed_out": ("ran out of time", "raise limits.trial_time_s, or train on fewer samples or epochs"),
    "diverged": ("diverged", "lower the learning rate, or add fp32 to the space"),
    "interrupted": ("was interrupted", "rerun the same command to resume"),
}


def nothing_completed(results: StudyResults) -> str | None:
    """Return why no trial of a study has completed, by the most frequent cause, in a sentence; None if one has."""
    if feasible(results.records):
        return None
    causes = Counter(record.outcome for record in results.records if record.outcome in _CAUSES)
    if not causes:
        return f"nothing has completed ({results.summary()}); raise trials or --timeout, and rerun the same command to resume"
    cause = causes.most_common(1)[0][0]
    words, remedy = _CAUSES[cause]
    latest = [record for record in results.records if record.outcome == cause][-1]
    reason = f": {latest.reason}" if latest.reason else ""
    return f"nothing has completed ({results.summary()}); the last trial that {words} is {latest.number}{reason}; {remedy}"


def untrained_lines(results: StudyResults) -> list[str]:
    """Return the learning classes that the search left untrained, with why: the first ones by name, the rest counted."""
    left = results.untrained
    if not left:
        return []
    one = len(left) == 1
    lines = [f"not trained: {len(left)} learning {'class' if one else 'classes'}"]
    lines += [f"  {short_class(each['learning_class'])}: {_why(each)}" for each in left[:MAX_LISTED]]
    if (rest := left[MAX_LISTED:]) and (counted := Counter(_kind(each) for each in rest)):
        lines.append(f"  and {', '.join(f'{count} {kind}' for kind, count in counted.items())}")
    if any(each["gain"] is not None for each in left):
        lines.append("  --train-all trains what fits, --set prefer=OBJECTIVE what may raise that objective's best value")
    return lines


def predicted_lines(results: StudyResults) -> list[str]:
    """Return the configurations that nobody has trained and that are expected on the front, with what is expected."""
    lines = []
    for each in results.predicted[:MAX_LISTED]:
        spreads = {spread_name(name): error for name, error in each["errors"].items() if error}
        record = TrialRecord(number=-1, outcome=None, params=each["params"], values=each["values"], attributes=spreads)
        values = (f"{GOALS[name].label} {with_spread(record, name, unit=True)}" for name in results.objectives)
        lines.append(f"  {short_configuration(record.params)}: {', '.join(values)}")
    return ["predicted, and not trained: expected on the front", *lines] if lines else []


def _why(each: Mapping[str, Any]) -> str:
    if each["gain"] is not None:
        return f"expected to add {each['gain']:.2%}"
    return each["why"] or "its time or memory is not known yet"


def _kind(each: Mapping[str, Any]) -> str:
    if each["gain"] is not None:
        return "that are expected to add less"
    return "that can't be trained" if each["why"] else "that are not known yet"
