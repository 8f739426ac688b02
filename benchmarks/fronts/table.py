"""A job as a table: what every configuration costs and reaches, and an ask-and-tell interface on it for any method.

A table is a JSON file:

    name, about, source, licence      what was measured, by whom, and under which terms it may be used
    knobs                             the values of each parameter; every combination that has a row may be asked for
    learned                           the learned objective, by its name in the product: "accuracy" or "eval_loss";
                                      time and memory are the others
    baseline                          what a constant answer, or the model before training, gets of it
    num_train, num_eval               samples of an epoch, and of an evaluation
    num_packed                        sequences of an epoch where texts are packed, by the name of their data
    memory_limit_mib                  what needs more runs out of memory
    gradients_mib                     the size of all gradients, which a probe tells: accumulation holds them
    job                               the job, as a study file has it; only a method that knows what a schedule means needs it:
                                      with "constant" a training of three epochs is the beginning of a longer one
    curves                            by learning class: for each seed, the learned objective after each epoch
    rows                              one for each configuration: its parameters, its class, and what it costs

A row's `micro_step_s` holds one figure for each time that it was measured. Where there is one only, `time_noise` says by how
much a measurement scatters (a relative standard deviation).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tradeoff.objectives.measurements.goals import GOALS

# Parameters as a key of mappings: their names and values, in the order of their names.
Key = tuple[tuple[str, Any], ...]


def key_of(parameters: Mapping[str, Any]) -> Key:
    """Return parameters in a form that can be a key."""
    return tuple(sorted(parameters.items()))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration.

    Attributes:
        parameters: Its parameters, `num_train_epochs` among them if the table searches epochs.
        learning_class: The name of its curves.
        num_epochs: The epochs of its training.
        micro_step_s: Times of a forward and backward pass, one for each measurement.
        update_s: The time of an optimizer's update.
        num_micro_steps, num_updates: How often a training does each.
        eval_s: The time of the evaluations of a training.
        peak_memory_mib: What it needs.
        start_s: What a trial costs before its first step.
        probe_s: What a probe costs, besides the start; of what runs out of memory, until it does.
        num_rows: What an epoch reads, where it is not the samples: sequences into which texts are packed.
    """

    parameters: Mapping[str, Any]
    learning_class: str
    num_epochs: int
    micro_step_s: tuple[float, ...]
    update_s: float
    num_micro_steps: float
    num_updates: int
    eval_s: float
    peak_memory_mib: float
    start_s: float
    probe_s: float
    num_rows: int | None = None

    def train_time_s(self, micro_step_s: float) -> float:
        """The training time at this speed."""
        return self.num_micro_steps * micro_step_s + self.num_updates * self.update_s


@dataclass(frozen=True, kw_only=True)
class Table:
    """One job; see the head of this file."""

    name: str
    about: str
    source: str
    licence: str
    knobs: Mapping[str, list[Any]]
    baseline: float
    num_train: int
    num_eval: int
    memory_limit_mib: float
    gradients_mib: float
    time_noise: float
    job: Mapping[str, Any]
    curves: Mapping[str, list[list[float]]]
    rows: Mapping[Key, Row]
    learned: str = "accuracy"
    num_packed: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Table":
        """Read a table."""
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row | {"micro_step_s": tuple(row["micro_step_s"])}) for row in data.pop("rows")]
        return cls(**data, rows={key_of(row.parameters): row for row in rows})

    def fits(self, row: Row) -> bool:
        """Return True if a configuration does not run out of memory."""
        return row.peak_memory_mib <= self.memory_limit_mib

    def height(self, learned: float) -> float:
        """The learned objective so that more is better."""
        return GOALS[self.learned].sign * learned

    @cached_property
    def truth(self) -> Mapping[Key, "Values"]:
        """The true values of all that fits: means over seeds and measurements."""
        return {
            key: Values(
                learned=self.height(float(np.mean([curve[row.num_epochs - 1] for curve in self.curves[row.learning_class]]))),
                train_time_s=row.train_time_s(float(np.median(row.micro_step_s))),
                peak_memory_mib=row.peak_memory_mib,
            )
            for key, row in self.rows.items()
            if self.fits(row)
        }


@dataclass(frozen=True, slots=True)
class Values:
    """The objectives of a configuration; `learned` is to be maximized (a loss has its sign turned), the others minimized."""

    learned: float
    train_time_s: float
    peak_memory_mib: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a trial measured.

    Attributes:
        row: Its configuration.
        kind: How it ended.
        micro_step_s: The time of a micro-step as it was measured in this trial.
        curve: The learned objective after each epoch, as it was measured; None of a probe.
        height: The last of it so that more is better; None of a probe.
    """

    row: Row
    kind: Literal["completed", "out_of_memory"]
    micro_step_s: float
    curve: list[float] | None = None
    height: float | None = None

    @property
    def values(self) -> Values:
        """The objectives, of a training that has completed."""
        assert self.height is not None
        return Values(self.height, self.row.train_time_s(self.micro_step_s), self.row.peak_memory_mib)


@dataclass
class Bench:
    """One run of a method on a table: it asks, and what it claims is recorded with what it has spent.

    Two runs of one configuration differ as they do in life: by the seed of the training, and by the time of a step.

    Attributes:
        table: The job.
        seed: The seed of what varies.
        slow_share: The share of measurements that another program makes slower, by 20 to 100%.
        spent_s: Seconds of everything asked for, and of the method's own decisions.
        num_trainings, num_samples: Trainings, and the samples that they went through.
        num_out_of_memory: Trials that ran out of memory.
        claims: What the method would recommend, each time that it said so, after so many seconds.
    """

    table: Table
    seed: int
    slow_share: float = 0.0
    spent_s: float = 0.0
    num_trainings: int = 0
    num_samples: int = 0
    num_out_of_memory: int = 0
    claims: list[tuple[float, Mapping[Key, Values]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = np.random.default_rng([self.seed, 20])
        # Which seeds of a class are shown first.
        self._orders: dict[str, NDArray[np.int64]] = {}

    def probe(self, parameters: Mapping[str, Any]) -> Answer:
        """Measure memory and the time of a step."""
        return self._run(parameters, probes=True)

    def train(self, parameters: Mapping[str, Any], *, repeat: int = 0, probes: bool = False) -> Answer:
        """Train to the end; `repeat` counts the seeds from 0, and `probes` says that the trial measures a probe as well."""
        answer = self._run(parameters, probes=probes)
        if answer.kind != "completed":
            return answer
        row = answer.row
        self.spent_s += row.train_time_s(answer.micro_step_s) + row.eval_s
        self.num_trainings += 1
        self.num_samples += self.table.num_train * row.num_epochs
        curve = self._curve(row, repeat)
        return replace(answer, curve=curve, height=self.table.height(curve[-1]))

    def epochs(self, parameters: Mapping[str, Any], *, repeat: int = 0) -> Iterator[Answer]:
        """Train one epoch after another, and pay for each when it is asked for: a method may stop in the middle.

        Each answer has the curve so far, and its values have the time of the whole training.
        """
        answer = self._run(parameters, probes=False)
        if answer.kind != "completed":
            yield answer
            return
        row, curve = answer.row, self._curve(answer.row, repeat)
        self.num_trainings += 1
        for done in range(1, row.num_epochs + 1):
            self.spent_s += (row.train_time_s(answer.micro_step_s) + row.eval_s) / row.num_epochs
            self.num_samples += self.table.num_train
            yield replace(answer, curve=curve[:done], height=self.table.height(curve[done - 1]))

    def claim(self, front: Mapping[Key, Values]) -> None:
        """Record what the method would recommend now: configurations with the values that it believes."""
        self.claims.append((self.spent_s, dict(front)))

    def _curve(self, row: Row, repeat: int) -> list[float]:
        """The learning curve of a seed: which one comes first is drawn."""
        seeds = self.table.curves[row.learning_class]
        order = self._orders.setdefault(row.learning_class, self._draw.permutation(len(seeds)))
        return seeds[order[repeat % len(seeds)]][: row.num_epochs]

    def _run(self, parameters: Mapping[str, Any], *, probes: bool) -> Answer:
        row = self.table.rows[key_of(parameters)]
        self.spent_s += row.start_s
        fits = self.table.fits(row)
        self.num_out_of_memory += not fits
        if probes or not fits:
            self.spent_s += row.probe_s
        return Answer(row=row, kind="completed" if fits else "out_of_memory", micro_step_s=self._timed(row))

    def _timed(self, row: Row) -> float:
        measured = float(self._draw.choice(row.micro_step_s))
        if len(row.micro_step_s) == 1:
            measured *= float(np.exp(self._draw.normal(0.0, self.table.time_noise)))
        if self._draw.random() < self.slow_share:
            measured *= float(self._draw.uniform(1.2, 2.0))
        return measured
