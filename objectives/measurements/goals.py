"""The metrics and costs that a study can optimise, one declaration each; everything else reads what it needs from these.

A goal is either a `LearnedGoal`, which a training settles for its whole learning class, or a `CostGoal`, which is known of any
configuration by probes and models of probes. To add one, declare it in `GOALS`. The metrics of a user's own Trainer join
`GOALS` when a study that names them is validated or read; within a process a name has one meaning.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from tradeoff.objectives.measurements.outcome import Evaluation, Measurements, ProbeResult, TrainingResult

Direction = Literal["maximize", "minimize"]

# A value farther from 0 has diverged. No float is this far from others and can still be told from them, single precision, in
# which models compute, ends at 3e38, and the decisions multiply several such values.
LARGEST_COMPARABLE = 1e30
# From here on a value is shown with an exponent.
LONG = 1e9

# A value and its source: "measured" by a training, "probe", or "model".
Known = tuple[float, str]


def is_comparable(value: float) -> bool:
    """Return True if a value can be compared with others: it is a number, and not so large that it has diverged."""
    return abs(value) <= LARGEST_COMPARABLE


class Estimates(NamedTuple):
    """The estimates of a study's models for a configuration, from which its costs follow.

    Attributes:
        peak_memory_mib: By the model of memory.
        train_time_s: By the model of time.
        energy_j: By the model of power, over that time; None if no power was measured.
        num_samples: Training samples that it processes.
    """

    peak_memory_mib: Known
    train_time_s: Known
    energy_j: Known | None
    num_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """An objective of a study.

    Attributes:
        name: The measurement's name, unit included.
        direction: As Optuna names it.
        label: Its name for a person.
        short: The same where space is scarce, as the heading of a column.
        unit: The unit in which it is shown.
        digits: Decimals worth showing.
        free_scale: True if the size of its values is unknown: they are shown with four significant digits.
        best: The best possible value; None if there is none, or none worth measuring a distance from.
    """

    name: str
    direction: Direction
    label: str
    short: str
    unit: str = ""
    digits: int
    free_scale: bool = False
    best: float | None = None

    @property
    def learned(self) -> bool:
        """True if a training settles it for the whole learning class; otherwise it is a cost."""
        return isinstance(self, LearnedGoal)

    @property
    def sign(self) -> float:
        """1 or -1: the factor that makes larger values better."""
        return 1.0 if self.direction == "maximize" else -1.0

    @property
    def heading(self) -> str:
        """The label with its unit, for a column or an axis: "training time (s)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def short_heading(self) -> str:
        """The same where space is scarce: "time (s)"."""
        return f"{self.short} ({self.unit})" if self.unit else self.short

    @property
    def extreme(self) -> str:
        """The name of its best value: "highest accuracy", "lowest training time"."""
        return f"{'highest' if self.direction == 'maximize' else 'lowest'} {self.label}"

    def cost(self, value: float) -> float:
        """Return the value with the sign that makes smaller values better."""
        return -value if self.direction == "maximize" else value

    def better(self, a: float, b: float) -> bool:
        """Return True if `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b

    def show(self, value: float) -> str:
        """Return the value with the decimals worth showing."""
        return f"{value:,.4g}" if self.free_scale or abs(value) >= LONG else f"{value:,.{self.digits}f}"

    def show_spread(self, std: float) -> str:
        """Return a standard deviation with the decimals of the value, or with one digit where those would make it 0."""
        shown = self.show(std)
        return f"{std:.1g}" if std and not shown.strip("0.") else shown

    def show_with_spread(self, value: float, std: float | None) -> str:
        """Return the value with its standard deviation, if that is known: "12.34 ± 0.21"."""
        return self.show(value) + ("" if std is None else f" ± {self.show_spread(std)}")

    def show_with_unit(self, value: float) -> str:
        """Return the value with the decimals worth showing and its unit: "41.20 s"."""
        return f"{self.show(value)} {self.unit}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedGoal(Goal):
    """A metric of an evaluation, found there under its name (see `learned_value`).

    Attributes:
        baseline: Returns the value of a constant answer, from the share that each class has in the evaluation samples; None
            for a metric whose constant answer is not known.
    """

    baseline: Callable[[Sequence[float]], float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CostGoal(Goal):
    """A cost: time, memory or energy that a training takes.

    Attributes:
        measured: Returns its value in the results of a training and of the probe before it, or None.
        estimated: Returns its value for a configuration that was not run, with its source, or None.
        typical_error: The usual relative error of a value whose source is "model", on the tables of benchmarks/.
        varies_with_time: True if it is proportional to the training time or to its inverse, and so has its relative error.
        limited_by_memory: True if the worst value that counts is the study's memory limit; otherwise it is the worst of all
            configurations that fit.
        grows_with_data: True if it is proportional to the number of samples trained on.
        needs_energy: True if the device must count energy, and probes must measure power.
    """

    measured: Callable[[TrainingResult, ProbeResult | None], float | None]
    estimated: Callable[[Estimates], Known | None]
    typical_error: float
    varies_with_time: bool = False
    limited_by_memory: bool = False
    grows_with_data: bool = False
    needs_energy: bool = False


class Goals(Mapping[str, Goal]):
    """Goals by name: those that are declared here, and the metrics of users' jobs once they are met."""

    def __init__(self, *goals: Goal) -> None:
        self._by_name = {goal.name: goal for goal in goals}

    def __getitem__(self, name: str) -> Goal:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, goal: Goal) -> None:
        """Add a user's metric; adding it again changes nothing.

        Raises:
            ValueError: The name is that of another goal: fronts and plots would compare what can't be compared.
        """
        if self._by_name.setdefault(goal.name, goal) != goal:
            raise ValueError(
                f"the direction of {goal.name} must be {self._by_name[goal.name].direction}, as in another study that this"
                f" process has read, got {goal.direction}"
            )


def _highest_peak_mib(training: TrainingResult, probe: ProbeResult | None) -> float | None:
    # The probe runs the longest sequences: its peak is the training's, unless the training itself went higher.
    peaks = [peak for part in (probe, training) if part is not None and (peak := part.memory.peak_memory_mib) is not None]
    return max(peaks, default=None)


def _speed(estimates: Estimates) -> Known | None:
    time_s, source = estimates.train_time_s
    return (estimates.num_samples / time_s, source) if time_s > 0 else None


def _f1_of_the_majority(shares: Sequence[float]) -> float:
    # Always the most frequent class: its precision is its share, its recall 1; the F1 of the other classes that occur is 0.
    precision, num_classes = max(shares), sum(share > 0 for share in shares)
    return 2 * precision / (precision + 1) / num_classes


GOALS = Goals(
    LearnedGoal(
        name="accuracy",
        direction="maximize",
        label="accuracy",
        short="accuracy",
        digits=3,
        best=1.0,
        baseline=max,
    ),
    LearnedGoal(
        name="f1",
        direction="maximize",
        label="F1",
        short="F1",
        digits=3,
        best=1.0,
        baseline=_f1_of_the_majority,
    ),
    LearnedGoal(
        name="eval_loss",
        direction="minimize",
        label="evaluation loss",
        short="eval loss",
        digits=4,
        baseline=lambda shares: math.log(len(shares)),  # the same probability for every class
    ),
    LearnedGoal(
        name="perplexity",
        direction="minimize",
        label="perplexity",
        short="perplexity",
        digits=2,
        free_scale=True,
    ),
    LearnedGoal(
        name="token_accuracy",
        direction="maximize",
        label="token accuracy",
        short="token acc.",
        digits=3,
        best=1.0,
    ),
    LearnedGoal(
        name="bits_per_character",
        direction="minimize",
        label="bits per character",
        short="bits/char",
        digits=4,
        best=0.0,
    ),
    CostGoal(
        name="train_time_s",
        direction="minimize",
        label="training time",
        short="time",
        unit="s",
        digits=2,
        best=0.0,
        measured=lambda training, probe: training.train_time_s,
        estimated=lambda estimates: estimates.train_time_s,
        typical_error=0.1,
        varies_with_time=True,
        grows_with_data=True,
    ),
    CostGoal(
        name="peak_memory_mib",
        direction="minimize",
        label="peak memory",
        short="memory",
        unit="MiB",
        digits=0,
        best=0.0,
        measured=_highest_peak_mib,
        estimated=lambda estimates: estimates.peak_memory_mib,
        typical_error=0.02,
        limited_by_memory=True,
    ),
    CostGoal(
        name="samples_per_s",
        direction="maximize",
        label="speed",
        short="speed",
        unit="samples/s",
        digits=1,
        measured=lambda training, probe: training.samples_per_s,
        estimated=_speed,
        typical_error=0.1,
        varies_with_time=True,
    ),
    CostGoal(
        name="energy_j",
        direction="minimize",
        label="energy",
        short="energy",
        unit="J",
        digits=0,
        best=0.0,
        measured=lambda training, probe: training.energy_j,
        estimated=lambda estimates: estimates.energy_j,
        typical_error=0.1,
        varies_with_time=True,
        grows_with_data=True,
        needs_energy=True,
    ),
)
BUILT_IN = tuple(GOALS)
# What a language model is judged by besides its loss.
LANGUAGE_METRICS = ("perplexity", "token_accuracy", "bits_per_character")
# The learned goals that have the name of a key without the Trainer's prefix.
_BARE = ("accuracy", "f1", *LANGUAGE_METRICS)


def metric_name(key: str) -> str:
    """Return the goal's name for a key of an evaluation: `eval_loss` for `loss`, but `accuracy` without a prefix."""
    base = key.removeprefix("eval_")
    return base if base in _BARE else f"eval_{base}"


def metric_goal(key: str, direction: Direction | None) -> Goal:
    """Return the goal for a key of an evaluation.

    Args:
        key: The key, with or without the Trainer's `eval_`.
        direction: Its direction; None for accuracy, F1 and losses, whose direction is known.

    Raises:
        ValueError: The direction is missing, or contradicts the known one.
    """
    name = metric_name(key)
    if name in BUILT_IN:
        if direction not in (None, GOALS[name].direction):
            raise ValueError(f"direction must be {GOALS[name].direction} for the metric {name}, got {direction}")
        return GOALS[name]
    if direction is None and not name.endswith("loss"):
        raise ValueError(f"direction must say whether to minimize or to maximize the metric {name}")
    label = name.removeprefix("eval_").replace("_", " ")
    return LearnedGoal(name=name, direction=direction or "minimize", label=label, short=label, digits=4, free_scale=True)


def divergence(name: str, value: float) -> str:
    """Return in a sentence that a training has diverged."""
    return f"the training diverged: its {GOALS[name].label} is {value}"


def learned_names(objectives: tuple[str, ...]) -> tuple[str, ...]:
    """Return the objectives that only a training measures."""
    return tuple(name for name in objectives if GOALS[name].learned)


def cost_names(objectives: tuple[str, ...]) -> tuple[str, ...]:
    """Return the objectives that probes measure, or models of probes predict."""
    return tuple(name for name in objectives if not GOALS[name].learned)


def energy_names(objectives: tuple[str, ...]) -> tuple[str, ...]:
    """Return the objectives for which the device must count energy."""
    return tuple(name for name, goal in cost_goals().items() if goal.needs_energy and name in objectives)


def learned_goals() -> dict[str, LearnedGoal]:
    """Return all learned goals by name, those of users' jobs included."""
    return {name: goal for name, goal in GOALS.items() if isinstance(goal, LearnedGoal)}


def cost_goals() -> dict[str, CostGoal]:
    """Return all costs by name."""
    return {name: goal for name, goal in GOALS.items() if isinstance(goal, CostGoal)}


def learned_value(evaluation: Evaluation | Mapping[str, Any], name: str) -> float | None:
    """Return the value of a learned goal in an evaluation, measured or stored; None if it has none."""
    point = asdict(evaluation) if isinstance(evaluation, Evaluation) else evaluation
    if (value := point.get(name)) is not None:
        return float(value)
    metrics = point.get("metrics") or {}
    base = name.removeprefix("eval_")
    return next((float(metrics[key]) for key in (f"eval_{base}", base) if key in metrics), None)


def learning_curve(training: Mapping[str, Any], name: str) -> list[tuple[int, float]]:
    """Return the training samples and the value of a learned goal at each evaluation of a stored training, where it is one."""
    points = [(point["num_samples"], learned_value(point, name)) for point in training.get("curve") or ()]
    return [(num_samples, value) for num_samples, value in points if value is not None and is_comparable(value)]


def measured_values(measurements: Measurements) -> dict[str, float]:
    """Return the value of every goal that was measured by training, by name."""
    training = measurements.training
    if training is None:
        return {}
    last = training.curve[-1] if training.curve else None
    values = {name: goal.measured(training, measurements.probe) for name, goal in cost_goals().items()}
    values |= {name: learned_value(last, name) for name in learned_goals() if last is not None}
    return {name: value for name, value in values.items() if value is not None}
