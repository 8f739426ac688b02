"""What the rows of a front rest on: which are no better than a constant answer, or there by a difference within the error.

The front itself is the strict Pareto front, the trials that Optuna calls the best ones. Its rows are judged here: a marked row
is neither the knee nor an extreme, and is chosen only by its number.
"""

import math
import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tradeoff.objectives.measurements.goals import GOALS, CostGoal
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.objectives.measurements.seeds import NUM_SEEDS, spread_name
from tradeoff.studies.results.expectation import MEASURED
from tradeoff.studies.results.front import extremes, feasible, knee, pareto_front
from tradeoff.studies.results.results import StudyResults

WHAT_HELPS = "more epochs, a higher learning rate, more samples, or a model whose weights are neither frozen nor random"


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The marks of a row of a front.

    Attributes:
        not_better_than_constant: Whether it beats the baseline (the constant answer) of no learned objective by more than its
            error.
        baseline_name: What that baseline is.
        within_error_of: The trial of the front that is better by more than the error in some objective, and not worse by more
            than it in any other: the row is on the front by a difference within the error. None if there is none.
        equal_within_error: Trials that the row keeps off the front by differences within the error alone.
    """

    not_better_than_constant: bool = False
    baseline_name: str = "a constant answer"
    within_error_of: int | None = None
    equal_within_error: tuple[int, ...] = ()

    @property
    def is_marked(self) -> bool:
        """True if the row is not recommended."""
        return self.not_better_than_constant or self.within_error_of is not None

    def words(self) -> list[str]:
        """Return the marks in words."""
        words = [f"no better than {self.baseline_name}"] if self.not_better_than_constant else []
        if self.within_error_of is not None:
            other = f"trial {self.within_error_of}" if self.within_error_of >= 0 else "what is not published yet"
            words.append(f"within the error of {other}")
        published = [str(number) for number in self.equal_within_error if number >= 0]
        numbers, many = ", ".join(published), "s" if len(published) > 1 else ""
        return words + ([f"equal within the error: trial{many} {numbers}"] if numbers else [])

    def as_dict(self) -> dict[str, Any]:
        """Return the marks as plain values, for JSON."""
        return {
            "not_better_than_constant": self.not_better_than_constant,
            "within_error_of": self.within_error_of,
            "equal_within_error": list(self.equal_within_error),
        }


@dataclass(frozen=True, kw_only=True)
class JudgedFront:
    """A Pareto front whose rows are judged by their errors and by the constant answer.

    Attributes:
        records: The front, as `pareto_front` returns it.
        candidates: The configurations that it is the front of.
        objectives: The objectives' names.
        baselines: The baselines of the learned objectives for which they are known.
        baseline_name: What has these values: the most frequent answer, or a language model before training.
        pooled_std: The standard deviation over seeds of a learned objective, for a configuration trained with one seed; an
            objective for which it is not known is left out.
    """

    records: tuple[TrialRecord, ...]
    candidates: tuple[TrialRecord, ...]
    objectives: tuple[str, ...]
    baselines: Mapping[str, float] = field(default_factory=dict)
    baseline_name: str = "a constant answer"
    pooled_std: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def standings(self) -> dict[int, Standing]:
        """The marks of each row, by the trial's number."""
        plain = {record.number: self._not_better_than_constant(record) for record in self.records}
        # A row that is no better than a constant answer takes no other row's place.
        sound = [record for record in self.records if not plain[record.number]]
        return {
            record.number: Standing(
                not_better_than_constant=plain[record.number],
                baseline_name=self.baseline_name,
                within_error_of=next((other.number for other in sound if self._is_clearly_ahead(other, record)), None),
                equal_within_error=self._equal(record),
            )
            for record in self.records
        }

    def ahead_of(self, record: TrialRecord) -> list[TrialRecord]:
        """Return the rows that are better than a row of the front by more than the error, and no worse than it elsewhere."""
        return [other for other in self.records if self._is_clearly_ahead(other, record)]

    @cached_property
    def recommended(self) -> tuple[TrialRecord, ...]:
        """The rows without a mark; empty if nothing is better than a constant answer."""
        sound = [record for record in self.records if not self.standings[record.number].not_better_than_constant]
        # Differences within the error need not be transitive: three rows may mark each other in a circle.
        return tuple(record for record in sound if not self.standings[record.number].is_marked) or tuple(sound)

    @property
    def knee(self) -> TrialRecord | None:
        """The knee of what is recommended."""
        return knee(self.recommended, self.objectives) if self.recommended else None

    @property
    def extremes(self) -> dict[str, TrialRecord]:
        """The best row of each objective among what is recommended; empty if nothing is."""
        return extremes(self.recommended, self.objectives) if self.recommended else {}

    @property
    def baseline(self) -> str | None:
        """The baseline in words; None if its values are not known."""
        return f"{self.baseline_name}: {self._baseline_values}" if self.known_baselines else None

    @property
    def warning(self) -> str | None:
        """A sentence for a front that has nothing better than a constant answer; None if it has, or is empty."""
        if not self.records or self.recommended:
            return None
        constant = f"{self.baseline_name} ({self._baseline_values})"
        return f"no configuration is clearly better than {constant}; what usually helps: {WHAT_HELPS}"

    @property
    def _baseline_values(self) -> str:
        return ", ".join(f"{GOALS[name].label} {GOALS[name].show(value)}" for name, value in self.known_baselines.items())

    def error(self, record: TrialRecord, objective: str) -> float:
        """Return the standard error of a value of a record; 0 if none is known."""
        goal, std = GOALS[objective], record.attributes.get(spread_name(objective))
        if goal.learned and objective in record.attributes.get(MEASURED, {}):
            return float(std or 0.0)
        if goal.learned:
            std = self.pooled_std.get(objective, 0.0) if std is None else std
            return float(std) / math.sqrt(record.attributes.get(NUM_SEEDS, 1))
        if std is None and isinstance(goal, CostGoal) and record.sources.get(objective) == "model":
            return goal.typical_error * abs(record.values[objective])
        return float(std or 0.0)

    @cached_property
    def known_baselines(self) -> dict[str, float]:
        """The baselines of the objectives, in their order, without those that are not known."""
        return {name: self.baselines[name] for name in self.objectives if name in self.baselines}

    def _not_better_than_constant(self, record: TrialRecord) -> bool:
        leads = [
            GOALS[name].sign * (record.values[name] - baseline) - self.error(record, name)
            for name, baseline in self.known_baselines.items()
        ]
        return bool(leads) and max(leads) <= 0

    def _leads(self, a: TrialRecord, b: TrialRecord) -> list[tuple[float, float]]:
        """Return by how much `a` is better than `b` in each objective, and the error of the difference."""
        return [
            (
                GOALS[name].sign * (a.values[name] - b.values[name]),
                math.hypot(self.error(a, name), self.error(b, name)),
            )
            for name in self.objectives
        ]

    def _is_clearly_ahead(self, a: TrialRecord, b: TrialRecord) -> bool:
        """Return True if `a` is better by more than the error in some objective, and not worse by more than it in any.

        What counts against `b` is its own error: that `a` was measured badly does not make it as good.
        """
        leads = self._leads(a, b)
        own = [math.sqrt(2) * self.error(b, name) for name in self.objectives]
        return any(lead > error for lead, error in leads) and all(
            lead >= -min(error, allowed) for (lead, error), allowed in zip(leads, own, strict=True)
        )

    @cached_property
    def _beaten(self) -> list[tuple[TrialRecord, tuple[float, ...]]]:
        """What is not on the front, with its costs."""
        on_front = {record.number for record in self.records}
        return [(each, self._costs(each)) for each in self.candidates if each.number not in on_front]

    def _costs(self, record: TrialRecord) -> tuple[float, ...]:
        return tuple(GOALS[name].cost(record.values[name]) for name in self.objectives)

    def _equal(self, record: TrialRecord) -> tuple[int, ...]:
        costs = self._costs(record)
        return tuple(
            other.number
            for other, others in self._beaten
            if costs != others
            and all(map(operator.le, costs, others))
            and all(lead <= error for lead, error in self._leads(record, other))
        )


def judged_front(results: StudyResults, records: Sequence[TrialRecord] | None = None) -> JudgedFront:
    """Return the front of a study with its marks.

    Args:
        results: The study.
        records: The trials that qualify, of which the front is taken; None for all of the study.
    """
    candidates = results.expecting(feasible(results.records)) if records is None else records
    return judged(results.records, results.objectives, results.baselines, results.baseline_name, qualifying=candidates)


def judged(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    baselines: Mapping[str, float],
    baseline_name: str,
    *,
    qualifying: Sequence[TrialRecord] | None = None,
) -> JudgedFront:
    """Return the front of the trials `records`, or of those that are `qualifying`, with its marks; see `JudgedFront`."""
    candidates = feasible(records if qualifying is None else qualifying)
    return JudgedFront(
        records=tuple(pareto_front(candidates, objectives)),
        candidates=tuple(candidates),
        objectives=tuple(objectives),
        baselines=baselines,
        baseline_name=baseline_name,
        pooled_std=_pooled_std(feasible(records), objectives),
    )


def _pooled_std(records: Sequence[TrialRecord], objectives: Sequence[str]) -> dict[str, float]:
    """Return the standard deviation over seeds of each learned objective, pooled over what was trained with several."""
    found = {}
    for name in objectives:
        # Of the configurations that share a training one counts.
        by_source = {record.sources.get(name): record.attributes for record in records if NUM_SEEDS in record.attributes}
        spreads = [(each[NUM_SEEDS] - 1, each[spread_name(name)]) for each in by_source.values() if spread_name(name) in each]
        if GOALS[name].learned and spreads:
            found[name] = math.sqrt(statistics.fmean((std**2 for _, std in spreads), weights=[weight for weight, _ in spreads]))
    return found
