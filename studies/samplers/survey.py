"""Select the next probe, until memory and time of every configuration are known or can be interpolated.

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
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from enum import IntEnum

from tradeoff.objectives.knowledge.knowledge import Cost, Knowledge
from tradeoff.searchspace import KNOBS, Learning, LearningClass, MemoryClass, SearchSpace, SpeedClass, TrialParameters

# A batch predicted to exceed the limit by up to this share may still fit, and is probed.
BOUNDARY_MARGIN = 0.05

# Peaks that differ by up to this share count as equal.
MEMORY_TOLERANCE = 0.05

# Probes per line, on average: used to estimate what is left of a survey.
PROBES_A_LINE = 2

Line = dict[int, TrialParameters]
# Costs of configurations that can replace each other: by learning class, without regard to precision.
Known = dict[LearningClass, list[tuple[SpeedClass, Cost]]]


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
    hopeless = failures.hopeless
    if failures.nothing_works:
        # One thing may be wrong with all of them: what differs most from what has failed tells soonest.
        left = [p for p in sorted(knowledge.setup.space.structures, key=_cheapest_first) if p not in busy and p not in hopeless]
        return min(left, key=failures.suspicion, default=None)
    postponed = []
    families = _families(knowledge.setup.space)
    if failures.failed:
        # Of one that shares an option with a failure and has not worked, more is known once the others are surveyed.
        families = dict(sorted(families.items(), key=lambda family: _suspicion(family[1], knowledge)))
    num_of_memory = Counter(_memory_class(lines) for lines in families.values())
    known = _known_costs(knowledge) if depth == Depth.PROMISING else {}
    for position, (speed_class, lines) in enumerate(families.items()):
        if depth == Depth.FIRST and position > 0:
            break
        if depth == Depth.PROMISING and _looks_dominated(speed_class, known):
            continue
        siblings = [other for key, other in families.items() if _are_siblings(speed_class, key)]
        shares_memory = num_of_memory[_memory_class(lines)] > 1
        for accumulates in sorted(lines, reverse=True):
            line = _Line(knowledge, lines, accumulates, hopeless, siblings, shares_memory=shares_memory)
            if (probe := line.next()) is None:
                continue
            if probe not in busy:
                return probe
            postponed.append((lines, accumulates, shares_memory))
    # The next probe of such a line depends on the running one. With nothing else to survey its neighbours are probed, so that
    # a worker that died blocks no line.
    for lines, accumulates, shares_memory in postponed:
        line = _Line(knowledge, lines, accumulates, hopeless | busy, shares_memory=shares_memory)
        if (probe := line.next()) is not None:
            return probe
    return None


def _families(space: SearchSpace) -> dict[SpeedClass, dict[bool, Line]]:
    """Return, for each speed class, with and without accumulation, a configuration per micro-batch, with the fewest steps."""
    families: dict[SpeedClass, dict[bool, Line]] = {}
    for parameters in sorted(space.structures, key=_cheapest_first):
        line = families.setdefault(parameters.speed_class(), {}).setdefault(parameters.gradient_accumulation_steps > 1, {})
        line.setdefault(parameters.per_device_train_batch_size, parameters)
    return families


def _suspicion(lines: dict[bool, Line], knowledge: Knowledge) -> int:
    """Return the suspicion of the least suspicious configuration of a family."""
    return min(knowledge.failures.suspicion(parameters) for line in lines.values() for parameters in line.values())


def _memory_class(lines: dict[bool, Line]) -> MemoryClass:
    """Return the memory class of a compute configuration, without regard to accumulation."""
    line = next(iter(lines.values()))
    return next(iter(line.values())).memory_class().replace(accumulates=False)


def _are_siblings(a: SpeedClass, b: SpeedClass) -> bool:
    """Return True if they differ only in one knob that changes the arithmetic, so that one batch is enough to compare them."""
    different = [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]
    return len(different) == 1 and KNOBS[different[0]].learning >= Learning.ROUNDING


def _known_costs(knowledge: Knowledge) -> Known:
    """Return the known costs of configurations, grouped by what can replace each other.

    A slower optimizer is not dominated by one that learns less: only the same one at the same effective batch counts.
    """
    known: Known = defaultdict(list)
    for parameters in knowledge.setup.space.structures:
        if (cost := knowledge.cost(parameters)) is not None:
            learning = parameters.learning_class(knowledge.setup.num_devices)
            method = {name: value for name, value in learning.items() if _is_method(name)}
            known[LearningClass(**method)].append((parameters.speed_class(), cost))
    return known


def _is_method(name: str) -> bool:
    return name not in KNOBS or KNOBS[name].learning is Learning.METHOD


def _looks_dominated(speed_class: SpeedClass, known: Known) -> bool:
    """Return True if most configurations with known costs are slower than one of another class that needs no more memory."""
    verdicts = [
        any(
            other != speed_class
            and theirs.train_time_s < ours.train_time_s
            and theirs.peak_memory_mib <= ours.peak_memory_mib * (1 + MEMORY_TOLERANCE)
            for other, theirs in alternatives
        )
        for alternatives in known.values()
        for own, ours in alternatives
        if own == speed_class
    ]
    return sum(verdicts) > len(verdicts) / 2


def remaining_s(knowledge: Knowledge) -> float:
    """Estimate the time to survey the lines without a probe, in seconds; 0 before the first probe."""
    times_s = [
        float(o.record.attributes["trial_time_s"])
        for o in knowledge.observations
        if o.record.outcome == "probed" and "trial_time_s" in o.record.attributes
    ]
    if not times_s:
        return 0.0
    touched = {(o.parameters.speed_class(), o.parameters.gradient_accumulation_steps > 1) for o in knowledge.observations}
    lines = {
        (speed_class, accumulates) for speed_class, both in _families(knowledge.setup.space).items() for accumulates in both
    }
    return len(lines - touched) * PROBES_A_LINE * sum(times_s) / len(times_s)


def _cheapest_first(parameters: TrialParameters) -> tuple[int, int]:
    return parameters.per_device_train_batch_size, parameters.gradient_accumulation_steps


class _Line:
    """The micro-batches of one compute configuration, and what is known of them."""

    def __init__(
        self,
        knowledge: Knowledge,
        lines: dict[bool, Line],
        accumulates: bool,
        left_out: Collection[TrialParameters],
        siblings: Sequence[dict[bool, Line]] = (),
        *,
        shares_memory: bool,
    ) -> None:
        self._knowledge = knowledge
        # Another compute configuration (more loader workers, for one) may need the same memory: measured, but not timed.
        self._shares_memory = shares_memory
        self._line = lines[accumulates]
        self._limit_mib = knowledge.setup.memory_limit_mib
        self._live = [
            batch
            for batch, parameters in self._line.items()
            if knowledge.out_of_memory(parameters) is None
            and parameters not in left_out
            and (knowledge.memory.lower_bound_mib(parameters) or 0.0) <= self._limit_mib
        ]
        self._is_estimated = all(knowledge.memory.estimated_mib(parameters) is not None for parameters in self._line.values())
        # A miss shows that the estimate is off here: from then on the line is probed as without one.
        self._has_missed = any(knowledge.out_of_memory(parameters) is not None for parameters in self._line.values())
        self._measured = self._measured_of(self._line)
        # What was measured with accumulation stands for the same batch without: the difference is the size of the gradients.
        with_accumulation = [] if accumulates or True not in lines else self._measured_of(lines[True])
        self._known = sorted({*self._measured, *with_accumulation}) if len(with_accumulation) >= 2 else self._measured
        self._measured_of_siblings = max(
            (self._measured_of(sibling[accumulates]) for sibling in siblings if accumulates in sibling), key=len, default=[]
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
