"""What a study can optimise: each objective's name, direction and unit, and where a trial's measurements hold it."""

from dataclasses import dataclass
from typing import Literal

from objectives.outcome import Measurements


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """An objective of a study.

    Attributes:
        name: The measurement's name, unit included.
        direction: As Optuna names it.
        label: How a person reads it.
        short: The same where room is scarce, as the head of a column.
        unit: The unit in which `label` is shown.
        digits: Decimals worth showing.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    label: str
    short: str
    unit: str
    digits: int

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b

    def show(self, value: float) -> str:
        """The value with the decimals worth showing."""
        return f"{value:,.{self.digits}f}"


GOALS = {
    goal.name: goal
    for goal in (
        Goal(name="accuracy", direction="maximize", label="accuracy", short="accuracy", unit="", digits=3),
        Goal(name="train_time_s", direction="minimize", label="training time", short="time", unit="s", digits=2),
        Goal(name="peak_memory_mib", direction="minimize", label="peak memory", short="memory", unit="MiB", digits=0),
    )
}


def measured_values(measurements: Measurements) -> dict[str, float]:
    """The value of every goal that was measured by training, by name."""
    training = measurements.training
    if training is None:
        return {}
    values = {"train_time_s": training.train_time_s}
    # The probe runs the longest sequences first: its peak is the run's, unless the run itself went higher.
    peaks = [part.memory.peak_memory_mib for part in (measurements.probe, training) if part is not None]
    if measured := [peak for peak in peaks if peak is not None]:
        values["peak_memory_mib"] = max(measured)
    if training.curve and training.curve[-1].accuracy is not None:
        values["accuracy"] = training.curve[-1].accuracy
    return values
