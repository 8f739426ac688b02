"""What a study can optimise: each objective's name, direction and unit, and where a trial's measurements hold it.

A goal is either *learned*, settled by a training for its whole learning class, or a cost, which probes tell of any
configuration. The metrics of a user's own Trainer join `GOALS` when a study that names them is validated or read; within a
process a name means one thing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tradeoff.objectives.measurements.outcome import Evaluation, Measurements

Direction = Literal["maximize", "minimize"]


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
        free_scale: Whether nobody knows how large its values are: they are shown with four significant digits.
        learned: Whether a training settles it for the whole learning class; else it is a cost, known from probes.
        best: The value that nothing can beat; None where there is none, or none worth measuring a distance from.
    """

    name: str
    direction: Direction
    label: str
    short: str
    unit: str = ""
    digits: int
    free_scale: bool = False
    learned: bool = False
    best: float | None = None

    @property
    def sign(self) -> float:
        """What turns a value into one of which more is better: 1 or -1."""
        return 1.0 if self.direction == "maximize" else -1.0

    @property
    def heading(self) -> str:
        """The label with its unit, as it stands above a column or beside an axis: "training time (s)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def short_heading(self) -> str:
        """The same where room is scarce: "time (s)"."""
        return f"{self.short} ({self.unit})" if self.unit else self.short

    @property
    def extreme(self) -> str:
        """What its best value is called: "highest accuracy", "lowest training time"."""
        return f"{'highest' if self.direction == 'maximize' else 'lowest'} {self.label}"

    def cost(self, value: float) -> float:
        """Return the value with the sign that makes less better."""
        return -value if self.direction == "maximize" else value

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b

    def show(self, value: float) -> str:
        """The value with the decimals worth showing."""
        return f"{value:,.4g}" if self.free_scale else f"{value:,.{self.digits}f}"

    def show_with_unit(self, value: float) -> str:
        """Return the value with the decimals worth showing and its unit: "41.20 s"."""
        return f"{self.show(value)} {self.unit}".rstrip()


class Goals(Mapping[str, Goal]):
    """Goals by name: those that every study knows, and the metrics of users' jobs as they are met."""

    def __init__(self, *goals: Goal) -> None:
        self._by_name = {goal.name: goal for goal in goals}

    def __getitem__(self, name: str) -> Goal:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, goal: Goal) -> None:
        """Adds a user's metric; one that is there already changes nothing.

        Raises:
            ValueError: The name is that of another goal: fronts and plots would compare what can't be compared.
        """
        if self._by_name.setdefault(goal.name, goal) != goal:
            raise ValueError(
                f"{goal.name} can't be to {goal.direction}: it is to {self._by_name[goal.name].direction} in"
                " another study that this process has read"
            )


GOALS = Goals(
    Goal(name="accuracy", direction="maximize", label="accuracy", short="accuracy", digits=3, learned=True, best=1.0),
    Goal(name="eval_loss", direction="minimize", label="evaluation loss", short="eval loss", digits=4, learned=True),
    Goal(name="train_time_s", direction="minimize", label="training time", short="time", unit="s", digits=2, best=0.0),
    Goal(name="peak_memory_mib", direction="minimize", label="peak memory", short="memory", unit="MiB", digits=0, best=0.0),
    Goal(name="samples_per_s", direction="maximize", label="speed", short="speed", unit="samples/s", digits=1),
    Goal(name="energy_j", direction="minimize", label="energy", short="energy", unit="J", digits=0, best=0.0),
)
BUILT_IN = tuple(GOALS)


def metric_name(key: str) -> str:
    """The name of the goal that a key of an evaluation stands for: `eval_loss` for `loss`, but `accuracy` without a prefix."""
    base = key.removeprefix("eval_")
    return base if base == "accuracy" else f"eval_{base}"


def metric_goal(key: str, direction: Direction | None) -> Goal:
    """The goal of a key of an evaluation.

    Args:
        key: With or without the Trainer's `eval_`.
        direction: None for the one that is known: that of accuracy, and that a loss is to be small.

    Raises:
        ValueError: The direction is needed and missing, or is the wrong one.
    """
    name = metric_name(key)
    if name in BUILT_IN:
        if direction not in (None, GOALS[name].direction):
            raise ValueError(f"direction must be {GOALS[name].direction} for the metric {name}, got {direction}")
        return GOALS[name]
    if direction is None and not name.endswith("loss"):
        raise ValueError(f"direction must say whether to minimize or to maximize the metric {name}")
    label = name.removeprefix("eval_").replace("_", " ")
    return Goal(name=name, direction=direction or "minimize", label=label, short=label, digits=4, free_scale=True, learned=True)


def learned_names(objectives: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the objectives that only a training tells."""
    return tuple(name for name in objectives if GOALS[name].learned)


def cost_names(objectives: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the objectives that probes tell."""
    return tuple(name for name in objectives if not GOALS[name].learned)


def learned_value(evaluation: Evaluation | Mapping[str, Any], name: str) -> float | None:
    """The value of a learned goal in an evaluation, as it was measured or as it was stored; None where it has none."""
    point = asdict(evaluation) if isinstance(evaluation, Evaluation) else evaluation
    if (value := point.get(name)) is not None:
        return float(value)
    metrics = point.get("metrics") or {}
    base = name.removeprefix("eval_")
    return next((float(metrics[key]) for key in (f"eval_{base}", base) if key in metrics), None)


def learning_curve(training: Mapping[str, Any], name: str) -> list[tuple[int, float]]:
    """The training samples and the value of a learned goal at each evaluation of a stored training that has a finite one."""
    points = [(point["num_samples"], learned_value(point, name)) for point in training.get("curve") or ()]
    return [(num_samples, value) for num_samples, value in points if value is not None and math.isfinite(value)]


def measured_values(measurements: Measurements) -> dict[str, float]:
    """The value of every goal that was measured by training, by name."""
    training = measurements.training
    if training is None:
        return {}
    values = {"train_time_s": training.train_time_s, "samples_per_s": training.samples_per_s}
    if training.energy_j is not None:
        values["energy_j"] = training.energy_j
    # The probe runs the longest sequences first: its peak is the run's, unless the run itself went higher.
    peaks = [part.memory.peak_memory_mib for part in (measurements.probe, training) if part is not None]
    if measured := [peak for peak in peaks if peak is not None]:
        values["peak_memory_mib"] = max(measured)
    if training.curve:
        learned = {name: learned_value(training.curve[-1], name) for name, goal in GOALS.items() if goal.learned}
        values |= {name: value for name, value in learned.items() if value is not None}
    return values
