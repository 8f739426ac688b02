"""The choice from a study: the trials that qualify, and the one of them that is chosen.

`front` and `export` share it. Limits come first, then the front of what is left, then "within", then the choice: so the knee is
the knee of what the user can use, and not of configurations that were ruled out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.objectives.measurements.records import TrialRecord
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.results.criteria import Limit, Within, numeric_value
from tradeoff.studies.results.evidence import JudgedFront, judged_front
from tradeoff.studies.results.front import dominates, extremes, feasible, knee, pareto_front
from tradeoff.studies.results.results import OUTCOME_WORDS, StudyResults


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """A user's criteria for a choice. At most one of `trial`, `knee`, `maximize`, `minimize` and `weights` is set.

    Attributes:
        limits: Limits that every candidate must satisfy.
        within: The distance from the best that a candidate may have.
        trial: Choose this trial, on the front or not.
        knee: Choose the knee.
        maximize: Choose the largest value of this measurement.
        minimize: Choose the smallest value of this measurement.
        weights: Choose the knee with these weights of the objectives; 1 where one is not named.

    Raises:
        TradeoffError: More than one way to choose is set.
    """

    limits: tuple[Limit, ...] = ()
    within: tuple[Within, ...] = ()
    trial: int | None = None
    knee: bool = False
    maximize: str | None = None
    minimize: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ways = self.ways()
        if len(ways) > 1:
            raise TradeoffError(f"only one way to choose can be given, got {' and '.join(ways)}; keep one of them")
        if self.trial is not None and self.within:
            raise TradeoffError(
                "--within goes with a choice from the front, and --trial names the trial; leave one of them out"
            )

    def of(self, objectives: Sequence[str]) -> "Selection":
        """Return the selection with `eval_f1` for `f1`, as tables head its column, where that is an objective."""

        def full(name: str) -> str:
            return f"eval_{name}" if name not in objectives and f"eval_{name}" in objectives else name

        return replace(
            self,
            limits=tuple(replace(limit, name=full(limit.name)) for limit in self.limits),
            within=tuple(replace(within, objective=full(within.objective)) for within in self.within),
            maximize=self.maximize and full(self.maximize),
            minimize=self.minimize and full(self.minimize),
            weights={full(name): weight for name, weight in self.weights.items()},
        )

    def ways(self) -> list[str]:
        """Return the ways to choose that are set, as options of the command."""
        return [
            option
            for option, is_set in (
                ("--trial", self.trial is not None),
                ("--knee", self.knee),
                ("--maximize", self.maximize is not None),
                ("--minimize", self.minimize is not None),
                ("--weight", bool(self.weights)),
            )
            if is_set
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A chosen trial, and the reason in words."""

    record: TrialRecord
    why: str


def qualifying(results: StudyResults, selection: Selection) -> JudgedFront:
    """Return the front of the trials that satisfy the limits, with its marks; empty if nothing completed.

    Raises:
        TradeoffError: A name is unknown, or trials completed but none qualifies: the message names the limit that excludes all,
            and the nearest configuration.
    """
    candidates = results.expecting(feasible(results.records))
    _check_names(results, selection, candidates)
    kept = [record for record in candidates if all(limit.is_satisfied_by(record) for limit in selection.limits)]
    if candidates and not kept:
        raise TradeoffError(_nothing_qualifies(candidates, selection.limits, results.objectives))
    return judged_front(results, kept)


def near_the_best(front: Sequence[TrialRecord], selection: Selection) -> list[TrialRecord]:
    """Return the trials of a front that are as near to the best as a selection asks.

    Raises:
        TradeoffError: None is near the best in every objective that the selection names.
    """
    near = list(front)
    for within in selection.within if front else ():
        close = {record.number for record in within.keep(front)}
        near = [record for record in near if record.number in close]
    if front and not near:
        asked = " and ".join(str(within) for within in selection.within)
        raise TradeoffError(f"no configuration has {asked} of the best at the same time; widen one of them")
    return near


def choose(results: StudyResults, selection: Selection) -> Choice:
    """Choose one trial, of those without a mark unless it is asked for by number.

    By default it is the knee; with `within` alone, the best in the first of the objectives that `within` does not name ("the
    fastest within half a point of the best").

    Raises:
        TradeoffError: Nothing completed, nothing qualifies or is better than a constant answer, or the trial asked for does
            not exist or did not complete.
    """
    if selection.trial is not None:
        return _one_trial(results, selection.trial, selection.limits)
    judged = qualifying(results, selection)
    if judged.warning is not None:
        raise TradeoffError(f"{judged.warning}; --trial N chooses one nevertheless")
    front = near_the_best(judged.recommended, selection)
    if not front:
        raise TradeoffError(
            f"a choice needs a completed trial, and the study {results.name!r} has none ({results.summary()}); run more trials"
        )
    objectives = results.objectives
    if name := selection.maximize or selection.minimize:
        sign = -1.0 if selection.maximize else 1.0
        known = [(sign * value, record) for record in front if (value := numeric_value(record, name)) is not None]
        if not known:
            raise TradeoffError(f"no configuration of the front has a value of {name}; choose by another measurement")
        best, chosen = min(known, key=lambda pair: pair[0])
        passed = [
            f"trial {other.number} ({', '.join(judged.standings[other.number].words())})"
            for other in near_the_best(judged.records, selection)
            if other not in front and (value := numeric_value(other, name)) is not None and sign * value < best
        ]
        word = "largest" if selection.maximize else "smallest"
        but = f", but for {' and '.join(passed)}" if passed else ""
        return Choice(record=chosen, why=f"the {word} {name} on the front{but}")
    if selection.weights:
        weights = ", ".join(f"{name} {weight:g}" for name, weight in selection.weights.items())
        return Choice(record=knee(front, objectives, selection.weights), why=f"the knee with weights {weights}")
    others = [name for name in objectives if name not in {within.objective for within in selection.within}]
    if selection.within and others and not selection.knee:
        near = " and ".join(str(within) for within in selection.within)
        return Choice(
            record=extremes(front, others)[others[0]], why=f"the best {GOALS[others[0]].label} with {near} of the best"
        )
    return Choice(record=knee(front, objectives), why="the knee of the front")


def _one_trial(results: StudyResults, number: int, limits: Sequence[Limit]) -> Choice:
    if (current := results.stands_for.get(number)) is not None and current.number >= 0:
        choice = _one_trial(results, current.number, limits)
        return Choice(record=choice.record, why=f"{choice.why}: trial {number} is {results.trial(number).reason}")
    record = results.expecting([results.trial(number)])[0]
    if record.outcome != "completed":
        reason = f" ({record.reason})" if record.reason else ""
        raise TradeoffError(
            f"a chosen trial must have completed, and trial {number} is {OUTCOME_WORDS[record.outcome]}{reason}; choose another"
        )
    for limit in limits:
        if not limit.is_satisfied_by(record):
            raise TradeoffError(f"trial {number} does not satisfy {limit}: {_has(record, limit)}; choose another")
    better = [
        other.number for other in results.expecting(feasible(results.records)) if dominates(other, record, results.objectives)
    ]
    notes = ["asked for by number"] + ([f"trial {better[0]} is at least as good in every objective"] if better else [])
    standing = judged_front(results).standings.get(number)
    return Choice(record=record, why="; ".join(notes + (standing.words() if standing is not None else [])))


def _check_names(results: StudyResults, selection: Selection, candidates: Sequence[TrialRecord]) -> None:
    for name in (*(within.objective for within in selection.within), *selection.weights):
        if name not in results.objectives:
            raise TradeoffError(
                f"{name} is not an objective of the study {results.name!r}; choose one of {', '.join(results.objectives)}"
            )
    asked = [limit.name for limit in selection.limits] + [name for name in (selection.maximize, selection.minimize) if name]
    for name in asked if candidates else ():
        if all(numeric_value(record, name) is None for record in candidates):
            names = {key for record in candidates for key in (*record.values, *record.attributes, *record.params)}
            known = sorted(key for key in names if any(numeric_value(record, key) is not None for record in candidates))
            others = [key for key in (*known, "effective_batch_size") if key not in results.objectives]
            raise TradeoffError(
                f"{name} is not a measurement of any trial; choose one of {', '.join((*results.objectives, *others))}"
            )


def _nothing_qualifies(candidates: Sequence[TrialRecord], limits: Sequence[Limit], objectives: Sequence[str]) -> str:
    excluding = [limit for limit in limits if not any(limit.is_satisfied_by(record) for record in candidates)]
    if excluding:
        subject = f"no configuration satisfies {' or '.join(str(limit) for limit in excluding)}"
    else:
        subject = f"no configuration satisfies {' and '.join(str(limit) for limit in limits)} at the same time"
    front = pareto_front(candidates, objectives)
    nearest = min(candidates, key=lambda record: (sum(limit.excess(record) for limit in limits), record not in front))
    broken = [limit for limit in excluding or limits if not limit.is_satisfied_by(nearest)]
    return f"{subject}; the nearest is trial {nearest.number}, whose {', '.join(_has(nearest, limit) for limit in broken)}"


def _has(record: TrialRecord, limit: Limit) -> str:
    value = numeric_value(record, limit.name)
    return f"{limit.name} is {'unknown' if value is None else f'{value:.6g}'}"
