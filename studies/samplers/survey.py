"""Select the next probe, until memory and time of every configuration are known or can be predicted.

For each compute configuration (checkpointing, precision, optimizer, attention, data loading and so on) a line of micro-batches
is probed: the smallest, a middle one, and then the largest that should fit, where the line through the measured ones meets the
memory limit. So nearly all probes fit, and the few that do not mark the boundary. Lines with held gradients come first: what
fits there also fits without.

With a memory estimate the largest batch comes right after the smallest, since the estimate locates the boundary, and a batch
that cannot fit is never probed.

A compute configuration is postponed if most of its known members are dominated, in time and memory, by others of the same
effective batch and optimizer: it can only reach the front by learning better. A precision, or another implementation of the
same arithmetic, is compared at a batch where the other one was measured, so that a single probe is enough. The survey returns
to what it postponed once the rest is exhausted.

What a knob changes of which nothing is known is found out beside the first line (see
`tradeoff.objectives.knowledge.found_changes`). Where there are many compute configurations, one of them has its line, and each
value of a knob is probed beside it at two of the batches that were measured there. The effects of the knobs tell of the others
(see `tradeoff.objectives.prediction.effects`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from enum import IntEnum

from tradeoff.objectives.knowledge.found_changes import compared_values, is_compared, to_find_out
from tradeoff.objectives.knowledge.knowledge import Cost, Knowledge
from tradeoff.objectives.knowledge.lines import Family, Line, cheapest_first, compute_values
from tradeoff.searchspace import Knobs, Learning, LearningClass, TrialParameters, Values

# A batch predicted to exceed the limit by up to this share may still fit, and is probed.
BOUNDARY_MARGIN = 0.05

# Peaks that differ by up to this share count as equal.
MEMORY_TOLERANCE = 0.05

# Values of a knob are compared where no more than this share of the limit is needed, so that one that needs more fits as well.
COMPARED_SHARE = 0.8

# Probes per line, on average: used to estimate what is left of a survey.
PROBES_A_LINE = 2

# Costs of configurations that can replace each other: by learning class, without regard to precision.
Known = dict[LearningClass, list[tuple[Values, Cost]]]


class Depth(IntEnum):
    """The extent of the survey: one compute configuration, all that are not dominated so far, or everything."""

    FIRST = 0
    PROMISING = 1
    EVERYTHING = 2


def next_probe(
    knowledge: Knowledge,
    pending: Collection[TrialParameters] = (),
    *,
    depth: Depth = Depth.EVERYTHING,
) -> TrialParameters | None:
    """Return the configuration to probe next, or None if the survey is complete.

    Args:
        knowledge: The models fitted to the study's trials.
        pending: Configurations that another worker is running, or was running when it died.
        depth: The extent of the survey.
    """
    busy = {parameters.structure for parameters in pending}
    failures = knowledge.failures
    if failures.nothing_works:
        # One thing may be wrong with all of them: what differs most from what has failed tells soonest.
        left = [
            p
            for p in sorted(knowledge.setup.space.structures, key=cheapest_first)
            if p not in busy and not failures.is_hopeless(p)
        ]
        return min(left, key=failures.suspicion, default=None)
    if not (families := _surveyed(knowledge)):
        return None
    if (probe := _next_of_lines(knowledge, families, busy, depth, most=1)) is not None:
        return probe
    if (probe := _next_to_find_out(knowledge, families[0], pending)) is not None or depth == Depth.FIRST:
        return probe
    if knowledge.setup.lines.are_many:
        return _next_of_values(knowledge, families, busy)
    return _next_of_lines(knowledge, families, busy, depth)


def _surveyed(knowledge: Knowledge) -> Sequence[Family]:
    """Return the families to survey, the one with which others are compared first."""
    lines = knowledge.setup.lines
    families = lines.families
    if lines.are_many and not any(_live(line, knowledge) for line in families[0].lines.values()):
        # If nothing of it fits or works, one that differs little and does takes its place.
        working = next((each for each in families[1:] if any(_probed(line, knowledge) for line in each.lines.values())), None)
        families = families if working is None else lines.around(working)
    if not knowledge.failures.failed:
        return families
    # Of one that shares an option with a failure and has not worked, more is known once the others are surveyed.
    return sorted(families, key=lambda family: min(map(knowledge.failures.suspicion, family.members)))


def _next_of_lines(
    knowledge: Knowledge,
    families: Sequence[Family],
    busy: Collection[TrialParameters],
    depth: Depth,
    *,
    most: int | None = None,
) -> TrialParameters | None:
    """Return the next probe of the lines of families, of the first ones or of all."""
    postponed, knobs = [], knowledge.setup.space.knobs
    num_of_memory = Counter(family.memory_class for family in families)
    known = _known_costs(knowledge) if depth == Depth.PROMISING and most is None else {}
    for family in families[:most]:
        if known and _looks_dominated(family.values, known):
            continue
        siblings = [other for other in families if _are_siblings(family.values, other.values, knobs)]
        shares_memory = num_of_memory[family.memory_class] > 1
        for accumulates in sorted(family.lines, reverse=True):
            line = _Line(knowledge, family, accumulates, siblings=siblings, shares_memory=shares_memory)
            if (probe := line.next()) is None:
                continue
            if probe not in busy:
                return probe
            postponed.append((family, accumulates, shares_memory))
    # The next probe of such a line depends on the running one. With nothing else to survey its neighbours are probed, so that
    # a worker that died blocks no line.
    for family, accumulates, shares_memory in postponed:
        line = _Line(knowledge, family, accumulates, busy, shares_memory=shares_memory)
        if (probe := line.next()) is not None:
            return probe
    return None


def _next_to_find_out(knowledge: Knowledge, family: Family, pending: Collection[TrialParameters]) -> TrialParameters | None:
    """Return the next probe that tells what a knob changes of which nothing is known: beside the values of a family."""
    space, known = knowledge.setup.space, {found.name for found in knowledge.found}
    names = [name for name in to_find_out(space) if name not in known]
    if not names:
        return None
    limit_mib = knowledge.setup.memory_limit_mib
    line = family.lines[max(family.lines)]
    measured = [
        parameters
        for _, parameters in sorted(line.items())
        if (peak_mib := knowledge.memory.measured_mib(parameters)) is not None
        and peak_mib <= COMPARED_SHARE * limit_mib
        and knowledge.times.micro_step_s(parameters) is not None
    ]
    # The largest one shows most of what a value changes for each sample.
    for beside in measured[-1:]:
        for name in names:
            for value in compared_values(space, name):
                if name not in space.complete(beside) or is_compared(knowledge.observations, space, name, value):
                    continue
                probe = space.complete(space.parameters({**beside, name: value}))
                if knowledge.ruled_out(probe) is None and space.violation(probe) is None and probe not in pending:
                    return probe
    return None


def _next_of_values(
    knowledge: Knowledge, families: Sequence[Family], busy: Collection[TrialParameters]
) -> TrialParameters | None:
    """Return the next probe of one value beside the first family, gradients not held among them.

    It is probed at a batch where the first family was, if it fits there.
    """
    first, *others = (family.lines for family in families)
    compared = _probed(first[max(first)], knowledge)
    lines = [*([first[False]] if len(first) > 1 else []), *(each[max(each)] for each in others)]
    for most in range(1, PROBES_A_LINE + 1):
        # A value that another worker is probing waits, unless there is nothing else.
        for left_out in ((), busy):
            for line in lines:
                probed = _probed(line, knowledge)
                left = [batch for batch in _live(line, knowledge, left_out) if batch not in probed]
                if len(probed) >= most or not left:
                    continue
                fitting = [batch for batch in left if _fits(line[batch], knowledge)] or left[:1]
                beside = [batch for batch in compared[:PROBES_A_LINE] if batch in fitting] or fitting[:1]
                # The larger one tells more of most configurations, the smaller one of what does not depend on the batch.
                if (probe := line[beside[-1] if most == 1 else beside[0]]) not in busy:
                    return probe
    return None


def _live(line: Line, knowledge: Knowledge, left_out: Collection[TrialParameters] = ()) -> list[int]:
    """Return the micro-batches of a line that may fit and work."""
    limit_mib, failures = knowledge.setup.memory_limit_mib, knowledge.failures
    return [
        batch
        for batch, parameters in line.items()
        if knowledge.out_of_memory(parameters) is None
        and parameters not in left_out
        and not failures.is_hopeless(parameters)
        and (knowledge.memory.lower_bound_mib(parameters) or 0.0) <= limit_mib
    ]


def _probed(line: Line, knowledge: Knowledge) -> list[int]:
    """Return the micro-batches of a line whose memory and time were measured, ascending."""
    return sorted(batch for batch, parameters in line.items() if knowledge.is_probed(parameters))


def _fits(parameters: TrialParameters, knowledge: Knowledge) -> bool:
    """Return True unless a configuration is predicted not to fit."""
    known = knowledge.memory_mib(parameters)
    return known is None or known[0] <= knowledge.setup.memory_limit_mib


def _are_siblings(a: Values, b: Values, knobs: Knobs) -> bool:
    """Return True if they differ only in one knob that changes the arithmetic, so that one batch is enough to compare them."""
    different = [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]
    return len(different) == 1 and knobs[different[0]].learning >= Learning.ROUNDING


def _known_costs(knowledge: Knowledge) -> Known:
    """Return the known costs of configurations, grouped by what can replace each other.

    A slower optimizer is not dominated by one that learns less: only the same one at the same effective batch counts.
    """
    known: Known = defaultdict(list)
    # What is no knob, the effective batch, is a part of the method as well.
    knobs = knowledge.setup.space.knobs
    for parameters in knowledge.setup.space.structures:
        if (cost := knowledge.cost(parameters)) is not None:
            learning = parameters.learning_class(knowledge.setup.num_devices)
            method = {name: value for name, value in learning.items() if knobs[name].learning is Learning.METHOD}
            known[LearningClass(**method)].append((compute_values(parameters), cost))
    return known


def _looks_dominated(values: Values, known: Known) -> bool:
    """Return True if most configurations with known costs are slower than one of another family that needs no more memory."""
    verdicts = [
        any(
            other != values
            and theirs.train_time_s < ours.train_time_s
            and theirs.peak_memory_mib <= ours.peak_memory_mib * (1 + MEMORY_TOLERANCE)
            for other, theirs in alternatives
        )
        for alternatives in known.values()
        for own, ours in alternatives
        if own == values
    ]
    return sum(verdicts) > len(verdicts) / 2


def remaining_s(knowledge: Knowledge) -> float:
    """Estimate the time to survey the lines without a probe, in seconds; 0 before the first probe."""
    touched = {(compute_values(o.parameters), o.parameters.gradient_accumulation_steps > 1) for o in knowledge.observations}
    lines = {
        (family.values, accumulates)
        for position, family in enumerate(_surveyed(knowledge))
        for accumulates in ((max(family.lines),) if knowledge.setup.lines.are_many and position else family.lines)
    }
    return len(lines - touched) * PROBES_A_LINE * mean_probe_s(knowledge)


def mean_probe_s(knowledge: Knowledge) -> float:
    """Return the mean time of a probe, in seconds; 0 before the first one."""
    times_s = [
        float(o.record.attributes["trial_time_s"])
        for o in knowledge.observations
        if o.record.outcome == "probed" and "trial_time_s" in o.record.attributes
    ]
    return sum(times_s) / len(times_s) if times_s else 0.0


class _Line:
    """The micro-batches of one compute configuration, and what is known of them."""

    def __init__(
        self,
        knowledge: Knowledge,
        family: Family,
        accumulates: bool,
        left_out: Collection[TrialParameters] = (),
        *,
        siblings: Sequence[Family] = (),
        shares_memory: bool,
    ) -> None:
        self._knowledge = knowledge
        # Another compute configuration (more loader workers, for one) may need the same memory: measured, but not timed.
        self._shares_memory = shares_memory
        self._line = family.lines[accumulates]
        self._limit_mib = knowledge.setup.memory_limit_mib
        self._live = _live(self._line, knowledge, left_out)
        self._is_estimated = all(knowledge.memory.estimated_mib(parameters) is not None for parameters in self._line.values())
        # A miss shows that the estimate is off here: from then on the line is probed as without one.
        self._has_missed = any(knowledge.out_of_memory(parameters) is not None for parameters in self._line.values())
        self._measured = self._measured_of(self._line)
        # What was measured with accumulation stands for the same batch without: the difference is the size of the gradients.
        with_accumulation = [] if accumulates or True not in family.lines else self._measured_of(family.lines[True])
        self._known = sorted({*self._measured, *with_accumulation}) if len(with_accumulation) >= 2 else self._measured
        self._measured_of_siblings = max(
            (self._measured_of(sibling.lines[accumulates]) for sibling in siblings if accumulates in sibling.lines),
            key=len,
            default=[],
        )

    def _measured_of(self, line: Line) -> list[int]:
        memory_class = next(iter(line.values())).memory_class()
        measured = [batch for batch in self._knowledge.memory.measured_batches(memory_class) if batch in self._line]
        if not self._shares_memory:
            return measured
        return [batch for batch in measured if batch in line and self._knowledge.is_probed(line[batch])]

    def next(self) -> TrialParameters | None:
        """Return the smallest batch, then a middle one, then the boundary; the middle one first if a sibling has it."""
        others = [batch for batch in self._live if batch not in self._measured]
        if not others:
            return None
        if not self._known:
            compared = [batch for batch in self._measured_of_siblings[1:2] if batch in others]
            return self._line[(compared or others)[0]]
        if len(self._known) == 1 and self._is_estimated and not self._has_missed and self._known[0] < others[0]:
            return self._at_the_boundary(others)
        if len(self._known) == 1:
            smallest_is_known = self._known[0] < others[0]
            return self._line[others[len(others) // 2] if smallest_is_known else others[0]]
        return self._at_the_boundary(others)

    def _at_the_boundary(self, others: list[int]) -> TrialParameters | None:
        """Return the largest batch that should fit; once it does, those above it that are predicted to miss by little."""
        above = [batch for batch in others if batch > self._known[-1]]
        fitting = [batch for batch in above if self._predicted(batch) <= self._limit_mib]
        if fitting:
            return self._line[fitting[-1]]
        close = [batch for batch in above if self._predicted(batch) <= self._limit_mib * (1 + BOUNDARY_MARGIN)]
        return self._line[close[(len(close) - 1) // 2]] if close else None

    def _predicted(self, batch: int) -> float:
        memory = self._knowledge.memory_mib(self._line[batch])
        assert memory is not None  # two batches are known
        return memory[0]
