"""Find out what a knob changes of which nothing is known: what two probes measure alike does not depend on it.

A knob of which the study file tells nothing is taken to change everything, and each of its values has to be measured beside
those of all others. So the survey compares its values first, at one batch and with everything else equal. What is found follows
from the stored trials alone: every worker finds the same. What the user tells of a knob is held against the same measurements,
and these win.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tradeoff.objectives.knowledge.lines import compared
from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.objectives.prediction.time_error import TimeSample, combine, error_factor
from tradeoff.searchspace import Knobs, SearchSpace, TrialParameters, Values
from tradeoff.searchspace.domains import is_same
from tradeoff.searchspace.knob import CHANGES

# The study's user attribute that holds what was found out, by knob, as `Found.as_dict` gives it.
FOUND_CHANGES = "found_changes"

# Peaks that differ by up to this share are the same: the same configuration differs by less from one process to the next ...
SAME_PEAK = 0.01
# ... or by up to as much as this, which is a few pages of a CPU's memory: 0.25 MiB of 6 were seen between two such probes.
SAME_PEAK_MIB = 1.0
# Times that differ by up to this share, or by up to two standard deviations, are the same ...
SAME_TIME = 0.05
# ... unless these are too large to tell anything.
TELLING = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What was found out about a knob.

    Attributes:
        name: The knob.
        changes: What it changes, of `CHANGES`.
        told: What the study file says; None if it says nothing.
        numbers: The trials that were compared.
        unclear: Of that, what was measured with too large an error to tell: it is taken to depend on the knob.
    """

    name: str
    changes: frozenset[str]
    told: frozenset[str] | None
    numbers: tuple[int, ...]
    unclear: frozenset[str] = frozenset()

    @property
    def contradicts(self) -> bool:
        """True if it is not as the study file says."""
        return self.told is not None and self.changes != self.told

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, to store."""
        told = None if self.told is None else sorted(self.told)
        return {
            "changes": sorted(self.changes),
            "told": told,
            "trials": list(self.numbers),
            "unclear": sorted(self.unclear),
        }

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> "Found":
        """Read what `as_dict` returned."""
        told = None if values["told"] is None else frozenset(values["told"])
        return cls(
            name=name,
            changes=frozenset(values["changes"]),
            told=told,
            numbers=tuple(values["trials"]),
            unclear=frozenset(values["unclear"]),
        )

    def __str__(self) -> str:
        trials = f"(trials {', '.join(map(str, self.numbers[:-1]))} and {self.numbers[-1]})"
        costs = [what for what in CHANGES if what != "learning"]
        if self.told is not None and not self.contradicts:
            return f"{self.name}: no measurement contradicts its `changes` {trials}"
        if self.told is not None:
            found = " and ".join(what for what in costs if what in self.changes - self.told)
            verb = "depend" if " and " in found else "depends"
            return (
                f"{self.name}: {found} {verb} on it {trials}, unlike its `changes` say"
                f" ({', '.join(sorted(self.told)) or 'nothing'}); it is searched as measured"
            )
        if not self.changes & set(costs):
            return f"{self.name}: neither memory nor time depends on it {trials}"
        if self.changes >= set(costs) and not self.unclear:
            return f"{self.name}: memory and time depend on it {trials}"
        return f"{self.name}: {', '.join(f'{what} {self._verdict(what)}' for what in costs)} {trials}"

    def _verdict(self, what: str) -> str:
        if what in self.unclear:
            return "is too uncertain here to tell, and taken to depend on it"
        return "depends on it" if what in self.changes else "does not depend on it"


def compared_values(space: SearchSpace, name: str) -> list[Any]:
    """Return the values of an open knob that are compared with its first one: of what the user tells, one is enough."""
    first, *others = compared(space.domains[name])
    return [value for value in others if value != first][-1 if name in space.knobs.changes else 0 :]


def to_find_out(space: SearchSpace) -> list[str]:
    """Return the knobs of which nothing is known, or of which the user tells that memory or time does not depend on them.

    What decides whether others are set is left as it is: memory and time may depend on it through them.
    """
    decides = {other for conditions in space.only_with.values() for other in conditions}
    return [
        name
        for name, domain in space.domains.items()
        if space.knobs[name].is_open
        and name not in decides
        and len(domain.examples()) > 1
        and not {"memory", "time"} <= space.knobs.changes.get(name, frozenset())
    ]


def found_changes(observations: Sequence[Observation], space: SearchSpace) -> list[Found]:
    """Return what the trials say of open knobs, as far as all values were compared.

    Args:
        observations: Trials that ran, with their parameters as the study file describes the knobs.
        space: The space, likewise.
    """
    names = to_find_out(space)
    if not names:
        return []
    probed = [o for o in observations if o.record.outcome == "out_of_memory" or o.micro_step_sample is not None]
    factor = error_factor(_repeats(probed))
    found = []
    for name in names:
        pairs = {value: list(_pairs(probed, space, name, value)) for value in compared_values(space, name)}
        if not pairs or not all(pairs.values()):
            continue
        told = space.knobs.changes.get(name)
        differs = {
            "memory": _any(_memory_differs(*pair) for of_value in pairs.values() for pair in of_value),
            "time": _any(_time_differs(of_value, factor) for of_value in pairs.values()),
        }
        unclear = frozenset(what for what, does in differs.items() if does is None)
        if told is None:
            changes = frozenset(what for what in CHANGES if differs.get(what) is not False)
        else:
            changes = told | {what for what, does in differs.items() if does}
        numbers = sorted({o.record.number for of_value in pairs.values() for pair in of_value for o in pair})
        found.append(Found(name=name, changes=changes, told=told, numbers=tuple(numbers), unclear=unclear))
    return found


def refined(setup: StudySetup, found: Iterable[Found]) -> StudySetup:
    """Return the terms of a study with what was found out about its knobs."""
    changes = {each.name: each.changes for each in found if each.told is None or each.contradicts}
    if not changes:
        return setup
    knobs = Knobs({**setup.space.knobs.changes, **changes})
    return replace(setup, space=replace(setup.space, knobs=knobs))


def is_compared(observations: Sequence[Observation], space: SearchSpace, name: str, value: Any) -> bool:
    """Return True if trials tell what a value of an open knob changes, as against the first one."""
    return next(_pairs(observations, space, name, value), None) is not None


def _pairs(
    observations: Sequence[Observation], space: SearchSpace, name: str, value: Any
) -> Iterator[tuple[Observation, Observation]]:
    """Yield trials with the first value of a knob and with another one, where everything else that costs depend on is equal."""
    first, by_rest = space.domains[name].examples()[0], {}
    for o in observations:
        if name in o.parameters and is_same(o.parameters[name], first) and o.peak_memory_mib is not None:
            by_rest[_rest(o.parameters, name)] = o
    for o in observations:
        is_other = name in o.parameters and is_same(o.parameters[name], value)
        if is_other and (with_first := by_rest.get(_rest(o.parameters, name))) is not None:
            yield with_first, o


def _rest(parameters: TrialParameters, name: str | None = None) -> Values:
    """Return what the costs of a probe may depend on, whatever the user tells, without one knob or with all."""
    knobs = {other: parameters.knobs[other] for other in parameters if other != name}
    may_matter = (other for other, k in knobs.items() if k.is_open or not (k.changes_learning_only or k.changes_length))
    return Values(**{other: parameters[other] for other in may_matter})


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    """Return True if one is, False if all are, and None if some can't tell."""
    found = set(verdicts)
    return True if True in found else None if None in found else False


def _memory_differs(with_first: Observation, with_other: Observation) -> bool | None:
    """Return True if peaks differ by more than their error; None if one is missing."""
    if with_other.record.outcome == "out_of_memory":
        return True
    first_mib, other_mib = with_first.peak_memory_mib, with_other.peak_memory_mib
    if not first_mib or not other_mib:
        return None
    return abs(math.log(other_mib / first_mib)) > SAME_PEAK and abs(other_mib - first_mib) > SAME_PEAK_MIB


def _time_differs(pairs: Sequence[tuple[Observation, Observation]], factor: float) -> bool | None:
    """Return True if times differ by more than their error; None if that is too large to tell."""
    samples = [(a.micro_step_sample, b.micro_step_sample) for a, b in pairs]
    timed = [(a, b) for a, b in samples if a is not None and b is not None and min(a.time_s, b.time_s) > 0]
    if not timed:
        return None
    ratios = [
        TimeSample(time_s=b.time_s / a.time_s, relative_std=factor * math.hypot(a.relative_std, b.relative_std))
        for a, b in timed
    ]
    together = combine(ratios)
    tolerance = max(SAME_TIME, 2 * together.relative_std)
    if abs(math.log(together.time_s)) > tolerance:
        return True
    return None if tolerance > TELLING else False


def _repeats(observations: Iterable[Observation]) -> list[list[TimeSample]]:
    samples: dict[Values, list[TimeSample]] = {}
    for o in observations:
        if (sample := o.micro_step_sample) is not None:
            samples.setdefault(_rest(o.parameters), []).append(sample)
    return list(samples.values())
