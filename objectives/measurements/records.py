"""Writes trials into an Optuna study and reads them back.

A trial's attributes have flat names and JSON values: the front and an export read them, and a later search learns from them.
All are stored as one user attribute, except for the few that a person reads in optuna-dashboard: every attribute is a
transaction of the storage that all workers share.
"""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from tradeoff.objectives.measurements.goals import divergence, is_comparable, measured_values
from tradeoff.objectives.measurements.outcome import (
    Completed,
    Failed,
    Interrupted,
    Measurements,
    OutOfMemory,
    TimedOut,
)
from tradeoff.searchspace import KNOBS

OutcomeKind = Literal[
    "completed", "trained", "diverged", "out_of_memory", "timed_out", "probed", "skipped", "superseded",
    "interrupted", "failed",
]  # fmt: skip

# Outcomes that count towards a study's `trials`: something was trained, or memory or time ran out.
COUNTED = frozenset({"completed", "trained", "superseded", "diverged", "out_of_memory", "timed_out"})

# Names the trial whose training settled the values of a trial that was not run.
DERIVED_FROM = "derived_from"
# Names the trial that ran the configuration itself and whose values are published.
PUBLISHES = "publishes"
# Names the parameters of a probe on which nothing depends that it measures: Optuna wants a value of each.
PLACEHOLDERS = "placeholders"
# What is said of a trial that has measured everything, while it is not complete to Optuna.
UNPUBLISHED = "measured; the search publishes it when it ends"

# The user attribute that holds all attributes but those that have one of their own, and that of the values' sources.
MEASUREMENTS = "measurements"
SOURCES = "sources"
_OWN_ATTRIBUTES = frozenset({"outcome", "reason", DERIVED_FROM, PUBLISHES})
_SOURCE = "_source"
# Where a value is from, in the words in which it is shown.
_KNOWN_SOURCE = re.compile(r"measured|probe|model|estimate|trained in trial \d+|mean of trials \d+(, \d+)* and \d+", re.ASCII)

# Predictions of a trial's peak memory: from what the study knew before it ran, with the source, and from the memory estimate.
MEMORY_PREDICTION = ("predicted_peak_memory_mib", "predicted_peak_memory_mib_source", "estimated_peak_memory_mib")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial of a study, as the rest of the code sees it.

    Attributes:
        number: The trial's number in the study; below 0 for a configuration that is derived and not published yet.
        outcome: How it ended; None while it runs or waits. A trial whose values are published as another one has
            "trained", and one in whose place is another one "superseded".
        params: The searched parameters by name.
        values: The objectives by name; empty unless the trial was trained to its end.
        sources: For each objective, where its value comes from: "measured", "probe", "trained in trial 12", ...
        reason: Why it ended as it did, in a sentence; empty for a completed one.
        stage: Where it ended.
        attributes: Every other stored measurement by name.
        num_devices: Devices that share an optimizer step.
    """

    number: int
    outcome: OutcomeKind | None
    params: Mapping[str, Any]
    values: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    stage: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    num_devices: int = 1

    @property
    def counts(self) -> bool:
        """True if it counts towards the study's `trials`: derived, published and skipped trials do not."""
        return self.outcome in COUNTED and not self.is_derived and not self.is_published

    @property
    def told_params(self) -> dict[str, Any]:
        """The parameters that it tells something about: of a probe, those that change memory or time."""
        return {name: value for name, value in self.params.items() if name not in self.attributes.get(PLACEHOLDERS, ())}

    @property
    def is_derived(self) -> bool:
        """True if its learned values come from the training of another trial."""
        return DERIVED_FROM in self.attributes

    @property
    def is_published(self) -> bool:
        """True if it shows what another trial of the same configuration has measured."""
        return PUBLISHES in self.attributes

    @property
    def shown_number(self) -> str:
        """The number for a person; a dash for what is not published yet."""
        return str(self.number) if self.number >= 0 else "-"

    @property
    def title(self) -> str:
        """The record in a sentence: "trial 12"."""
        return f"trial {self.number}" if self.number >= 0 else "not published yet"

    @property
    def origin(self) -> str:
        """The record as the subject of a sentence."""
        return self.title if self.number >= 0 else "a configuration that is not published yet"


def read_record(trial: FrozenTrial, objectives: tuple[str, ...], *, num_devices: int = 1) -> TrialRecord:
    """Read a trial of a study whose objectives are `objectives`, in the study's order."""
    attributes = read_attributes(trial.user_attrs)
    # They are written one by one: they are complete only once the trial has ended.
    outcome = attributes.pop("outcome", None)
    if outcome == "completed" and trial.state == TrialState.FAIL:
        outcome = "failed"  # it was measured, and another program has ended it
    values: dict[str, float] = {}
    if trial.state == TrialState.COMPLETE:
        values = dict(zip(objectives, trial.values, strict=True))
    elif trial.state == TrialState.PRUNED and outcome == "completed":
        values = {name: float(attributes[name]) for name in objectives}
    reason = " ".join(str(attributes.pop("reason", "")).split())  # as an error of anybody's code
    if endless := [name for name, value in values.items() if not is_comparable(value)]:
        # Stored by a version that took every number for a value.
        outcome, reason, values = "diverged", divergence(endless[0], values[endless[0]]), {}
    return TrialRecord(
        number=trial.number,
        outcome=outcome if trial.state.is_finished() else None,
        params=in_order(trial.params),
        values=values,
        sources={name: attributes.pop(f"{name}_source") for name in objectives if f"{name}_source" in attributes},
        reason=reason,
        stage=attributes.pop("stage", None),
        attributes=attributes,
        num_devices=num_devices,
    )


def check_sources(sources: Mapping[str, Any]) -> None:
    """Refuse a source of a trial's values that there is not: whoever can write to a storage may have written any text.

    Raises:
        ValueError: There is one; the sentence names it.
    """
    for name, source in sources.items():
        if not (isinstance(source, str) and _KNOWN_SOURCE.fullmatch(source)):
            raise ValueError(
                f"{name}{_SOURCE} must be measured, probe, model, estimate, trained in trial N, or mean of trials N and N,"
                f" got {reprlib.repr(source)}"
            )


def in_order(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in the order of the knobs: a gRPC proxy passes them on in none."""
    return {name: params[name] for name in KNOBS.in_order(params)}


def stored_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user attributes that hold a trial's attributes; those that are None are left out."""
    known = {name: value for name, value in attributes.items() if value is not None}
    stored = {name: value for name, value in known.items() if name in _OWN_ATTRIBUTES}
    sources = {name.removesuffix(_SOURCE): value for name, value in known.items() if name.endswith(_SOURCE)}
    rest = {name: value for name, value in known.items() if name not in _OWN_ATTRIBUTES and not name.endswith(_SOURCE)}
    return stored | {name: value for name, value in ((SOURCES, sources), (MEASUREMENTS, rest)) if value}


def read_attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a trial's user attributes hold, those that others have set included."""
    own = {name: value for name, value in stored.items() if name not in (MEASUREMENTS, SOURCES)}
    if own.get("outcome") == "stopped_early":
        own["outcome"] = "probed"  # by a version that stopped trainings: it has measured memory and time alone
    sources = {f"{name}{_SOURCE}": source for name, source in stored.get(SOURCES, {}).items()}
    return {**stored.get(MEASUREMENTS, {}), **sources, **own}


def store_attributes(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
    """Store attributes of a trial that runs, besides those that it has."""
    before = trial.user_attrs
    held = read_attributes({name: before[name] for name in (MEASUREMENTS, SOURCES) if name in before})
    for name, value in stored_attributes({**held, **attributes}).items():
        trial.set_user_attr(name, value)


def outcome_attributes(outcome: Completed | OutOfMemory | TimedOut | Failed | Interrupted) -> dict[str, Any]:
    """Return the attributes of a trial that ended with an outcome."""
    attributes: dict[str, Any] = {"outcome": outcome.kind}
    if isinstance(outcome, Completed) and outcome.measurements.training is None:
        attributes |= {"outcome": "probed", "reason": "probed for its memory and step times; nothing was trained"}
    if not isinstance(outcome, Completed):
        attributes |= {"stage": outcome.stage, "reason": outcome.reason}
    if isinstance(outcome, OutOfMemory):
        attributes |= {
            "memory_shortfall_mib": outcome.shortfall_mib,
            "requested_mib": outcome.requested_mib,
            "free_mib": outcome.free_mib,
        }
    if isinstance(outcome, Failed) and outcome.traceback:
        attributes["traceback"] = outcome.traceback
    attributes |= measurement_attributes(outcome.measurements)
    return {name: value for name, value in attributes.items() if value is not None}


def measurement_attributes(measurements: Measurements) -> dict[str, Any]:
    """Return the measurements by name: those that a person compares at the top, the details of each stage in one mapping."""
    attributes: dict[str, Any] = {
        "trial_time_s": measurements.trial_time_s,
        "first_step_time_s": measurements.first_step_time_s,
        "memory_by_stage_mib": measurements.memory_by_stage_mib or None,
    }
    probe, training = measurements.probe, measurements.training
    if probe is not None:
        attributes |= asdict(probe.memory)
        attributes["probe"] = asdict(probe)
    if training is not None:
        # Of two peaks the higher one is the trial's; what only the probe measures stays its own.
        for name, peak in asdict(training.memory).items():
            attributes[name] = max((value for value in (attributes.get(name), peak) if value is not None), default=None)
        attributes["training"] = asdict(training)
    attributes |= measured_values(measurements)
    return {name: value for name, value in attributes.items() if value is not None}
