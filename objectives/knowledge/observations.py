"""Trials as observations: what a study learns from."""

from dataclasses import dataclass, replace

from tradeoff.objectives.measurements.records import MEMORY_PREDICTION, TrialRecord
from tradeoff.searchspace import SearchSpace, TrialParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """A trial that ran, as far as later trials learn from it."""

    record: TrialRecord
    parameters: TrialParameters

    @property
    def peak_memory_mib(self) -> float | None:
        """The peak that was measured."""
        return self.record.attributes.get("peak_memory_mib")

    @property
    def train_time_s(self) -> float | None:
        """The training time that was measured."""
        return self.record.attributes.get("train_time_s")

    @property
    def step_times_s(self) -> tuple[float, float] | None:
        """A micro-step and an update, where the trial was probed."""
        probe = self.record.attributes.get("probe")
        return None if probe is None else (probe["micro_step_time_s"], probe["optimizer_step_time_s"])


def observe(record: TrialRecord, space: SearchSpace) -> Observation | None:
    """What a record teaches of its own configuration; None where it runs still, was skipped, or lies outside the space."""
    # What an interrupted or failed trial measured before its end is as good as any.
    if record.outcome in (None, "skipped"):
        return None
    if record.is_derived:
        if "probe" not in record.attributes:
            return None
        # It was probed for what was not known of it: that much it teaches, and no more.
        kept = ("probe", "peak_memory_mib", *MEMORY_PREDICTION)
        measured = {name: record.attributes[name] for name in kept if name in record.attributes}
        record = replace(record, outcome="probed", attributes=measured)
    parameters = space.read(record.params)
    return None if parameters is None else Observation(record=record, parameters=parameters)
