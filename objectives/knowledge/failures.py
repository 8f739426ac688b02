"""What failed trials say of configurations that were not run.

A failure is blamed on an option, which is one value of a knob, or two that were tried together, if it failed wherever it was
tried, at least twice, and everything else in one of these trials has worked in another. What is blamed is left out of the rest
of the search; its siblings are not. A trial that ran out of time says that what is predicted to take as long would too. A
learning class is given up only for its trainings: what a probe could not do, another member's may.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from tradeoff.objectives.knowledge.observations import Observation
from tradeoff.objectives.knowledge.setup import StudySetup
from tradeoff.searchspace import LearningClass, Precision, TrialParameters

# Trials that must have failed with an option before it is blamed, and trainings before their class is given up.
MIN_FAILURES = 2

Option = frozenset[tuple[str, Any]]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An option that is left out of a search.

    Attributes:
        option: One value of a knob, or one of each of two.
        numbers: The trials that failed with it.
        reason: The error of the latest.
    """

    option: Option
    numbers: tuple[int, ...]
    reason: str

    @property
    def name(self) -> str:
        """The option as a user would set it."""
        return " with ".join(f"{name}={value}" for name, value in sorted(self.option))

    @property
    def why(self) -> str:
        """The reason why a configuration with it is not run."""
        return f"{self.name} failed wherever it was tried"

    def __str__(self) -> str:
        return (
            f"{self.name} is left out from now on: it failed wherever it was tried, in trials"
            f" {', '.join(map(str, self.numbers))}; the last one: {self.reason}"
        )


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The failed trials of a study, and what they have in common.

    Attributes:
        setup: The terms of the study.
        observations: Its trials that ran.
    """

    setup: StudySetup
    observations: Sequence[Observation]

    @cached_property
    def failed(self) -> list[Observation]:
        """The trials that ended with an error."""
        return [o for o in self.observations if o.record.outcome == "failed"]

    @cached_property
    def hopeless(self) -> frozenset[TrialParameters]:
        """The structures that failed or ran out of time before they were probed, and would again; see `blamed` for others."""
        lost = [o for o in self.observations if o.record.outcome in ("failed", "timed_out") and not _depth(o)]
        # What changes learning only may be to blame, which the structure lacks.
        return frozenset(
            o.parameters.structure for o in lost if o.record.outcome == "timed_out" or self.blamed(o.parameters) is None
        )

    def is_hopeless(self, parameters: TrialParameters) -> bool:
        """Return True if a configuration has failed before it was probed, or a part of it is blamed."""
        return parameters.structure in self.hopeless or self.blamed(parameters) is not None

    @cached_property
    def lost_trainings(self) -> dict[LearningClass, list[Observation]]:
        """The trainings that came to no value, because they failed, ran out of time or diverged, by learning class."""
        lost: dict[LearningClass, list[Observation]] = {}
        for o in self.observations:
            if o.record.outcome == "diverged" or (o.record.outcome in ("failed", "timed_out") and _depth(o) > 0):
                lost.setdefault(self.setup.class_of(o.parameters), []).append(o)
        return lost

    @cached_property
    def given_up(self) -> frozenset[LearningClass]:
        """The learning classes whose trainings failed, so that another member is not worth an attempt."""
        return frozenset(
            key for key, lost in self.lost_trainings.items() if len(lost) >= MIN_FAILURES or any(map(_diverged_for_good, lost))
        )

    @property
    def nothing_works(self) -> bool:
        """True if trials have failed, and not one has got as far as a probe."""
        return bool(self.failed) and not any(map(_depth, self.observations))

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """The options that are blamed: single values first, then pairs for what these do not explain."""
        found: list[LeftOut] = []
        for size in (1, 2):
            unexplained = [o for o in self.failed if not any(each.option <= self._options(o.parameters) for each in found)]
            found += self._blamed(unexplained, size)
        return found

    def blamed(self, parameters: TrialParameters) -> LeftOut | None:
        """Return what is left out of the search and is part of a configuration; None if nothing is."""
        if not self.left_out:
            return None
        options = self._options(parameters)
        return next((each for each in self.left_out if each.option <= options), None)

    def suspicion(self, parameters: TrialParameters) -> int:
        """Return the number of failures that share an option with a configuration, counted for each that has not worked."""
        unproven = self._options(parameters).difference(*self._worked[1, 1])
        return sum(len(unproven & self._options(o.parameters)) for o in self.failed) if unproven else 0

    def common_options(self, observations: Iterable[Observation]) -> Option:
        """Return the options that all these trials share, and for which the space has another value."""
        shared = [self._options(o.parameters) for o in observations]
        return frozenset.intersection(*shared) if shared else frozenset()

    def _options(self, parameters: TrialParameters) -> Option:
        return frozenset((name, parameters[name]) for name in self._chosen if name in parameters)

    @cached_property
    def _chosen(self) -> list[str]:
        """The knobs whose values can be blamed: those with several, from a list."""
        return [name for name, domain in self.setup.space.domains.items() if len(domain.values() or ()) > 1]

    @cached_property
    def _worked(self) -> dict[tuple[int, int], set[Option]]:
        """The options that have worked, by their size, and by where: 1 in a probe, 2 in a training."""
        worked: dict[tuple[int, int], set[Option]] = {(size, depth): set() for size in (1, 2) for depth in (1, 2)}
        for o in self.observations:
            for size in (1, 2):
                for depth in range(1, _depth(o) + 1):
                    worked[size, depth].update(self._subsets(o.parameters, size))
        return worked

    def _subsets(self, parameters: TrialParameters, size: int) -> Iterator[Option]:
        return map(frozenset, combinations(sorted(self._options(parameters), key=str), size))

    def _blamed(self, failed: Sequence[Observation], size: int) -> list[LeftOut]:
        """Return the options of a size that failed wherever they were tried, and that alone can be at fault in one trial."""
        suspects: dict[tuple[Option, int], list[Observation]] = {}
        for o in failed:
            depth = _depth(o) + 1  # where it ended
            if depth > 2:
                continue
            for option in self._subsets(o.parameters, size):
                if option not in self._worked[size, depth]:
                    suspects.setdefault((option, depth), []).append(o)
        found = {}
        for (option, depth), trials in suspects.items():
            is_alone = any(self._is_alone(option, o, size, depth) for o in trials)
            if is_alone and len({o.parameters for o in trials}) >= MIN_FAILURES:
                latest = max(trials, key=lambda o: o.record.number)
                numbers = tuple(sorted(o.record.number for o in trials))
                found[option] = LeftOut(option=option, numbers=numbers, reason=latest.record.reason)
        return list(found.values())

    def _is_alone(self, option: Option, o: Observation, size: int, depth: int) -> bool:
        """Return True if everything else in a failed trial has worked."""
        return all(other == option or other in self._worked[size, depth] for other in self._subsets(o.parameters, size))


def _depth(o: Observation) -> int:
    """Return how far a trial got: 0 not even through its probe, 1 through the probe, 2 through a training."""
    if "training" in o.record.attributes and o.record.outcome in ("completed", "diverged"):
        return 2
    return 1 if o.step_times_s is not None or o.record.stage in ("train", "end") else 0


def _diverged_for_good(o: Observation) -> bool:
    """Return True if a training diverged, and not for the rounding of half precision, which another member may not share."""
    return o.record.outcome == "diverged" and o.parameters.precision == Precision.FP32
