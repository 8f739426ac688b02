"""Trials as observations: the data that the models are fitted to."""

from dataclasses import dataclass, replace

from tradeoff.objectives.measurements.records import MEMORY_PREDICTION, TrialRecord
from tradeoff.objectives.prediction.time_error import TimeSample
from tradeoff.searchspace import SearchSpace, TrialParameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """A trial that ran, as far as the models use it."""

    record: TrialRecord
    parameters: TrialParameters

    @property
    def peak_memory_mib(self) -> float | None:
        """The measured peak memory; None if it was not measured."""
        return self.record.attributes.get("peak_memory_mib")

    @property
    def train_time_s(self) -> float | None:
        """The measured training time; None if nothing was trained to the end."""
        return self.record.attributes.get("train_time_s")

    @property
    def step_times_s(self) -> tuple[float, float] | None:
        """The times of a micro-step and of an update; None if the trial was not probed."""
        probe = self.record.attributes.get("probe")
        return None if probe is None else (probe["micro_step_time_s"], probe["optimizer_step_time_s"])

    @property
    def micro_step_sample(self) -> TimeSample | None:
        """The time of a micro-step with its assumed error; None if the trial was not probed."""
        if (probe := self.record.attributes.get("probe")) is None:
            return None
        return TimeSample.of(
            probe["micro_step_time_s"], spread=probe.get("micro_step_spread"), busy_share=probe.get("busy_share")
        )

    @property
    def train_time_sample(self) -> TimeSample | None:
        """The measured training time with its assumed error; None if nothing was trained to the end."""
        if self.train_time_s is None:
            return None
        return TimeSample.of(self.train_time_s, busy_share=self.record.attributes.get("training", {}).get("busy_share"))

    def under(self, space: SearchSpace) -> "Observation":
        """Return the same trial with its parameters as a space describes the knobs."""
        return replace(self, parameters=space.parameters(self.parameters))


def observe(record: TrialRecord, space: SearchSpace) -> Observation | None:
    """Return a record as an observation; None if it still runs, was skipped, or lies outside the space."""
    # Measurements of an interrupted or failed trial are as good as any.
    if record.outcome in (None, "skipped") or record.is_published:
        return None
    if record.outcome in ("trained", "superseded"):
        record = replace(record, outcome="completed")
    if record.is_derived:
        if "probe" not in record.attributes:
            return None
        # It was probed for the costs that were not known: only those are its own.
        kept = ("probe", "peak_memory_mib", *MEMORY_PREDICTION)
        measured = {name: record.attributes[name] for name in kept if name in record.attributes}
        record = replace(record, outcome="probed", attributes=measured)
    parameters = space.read(record.params)
    return None if parameters is None else Observation(record=record, parameters=parameters)
