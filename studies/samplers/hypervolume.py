"""The hypervolume of points in the objectives of a study, and what classes are expected to add to it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tradeoff.objectives.measurements.goals import GOALS
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.gaussian_process import Array
from tradeoff.studies.samplers.metric_gp import size_of


class Volume:
    """Hypervolume of points in the study's objectives, all minimised and scaled so that the reference is 1."""

    def __init__(self, objectives: Sequence[str], reference: Mapping[str, float]) -> None:
        self.objectives = tuple(objectives)
        self._reference = reference
        # The members are kept, so that nothing else gets their identity.
        self._of_members: dict[int, tuple[object, Array]] = {}

    def scaled(self, values: Mapping[str, float]) -> list[float]:
        """Return a point scaled to 1 at the reference and 0 at the best possible value, if there is one."""
        return [self.scale(name, values[name]) for name in self.objectives]

    def members(self, candidate: Candidate, learned: Mapping[str, float]) -> Array:
        """Return the points of a class's members, given its learned objectives; of members that cost more, none."""
        points = self._costs(candidate)
        for position, name in self._learned:
            points[:, position] = self.scale(name, learned[name])
        return points

    def gains(self, candidates: Sequence[Candidate], learned: Sequence[Mapping[str, Array]], found: Array) -> Array:
        """Return the volume that each class is expected to add to that of points, with the classes that its training contains.

        Args:
            candidates: The classes.
            learned: Equally likely values of the learned objectives, each of shape (number of classes,).
            found: The points, on their front within the reference.
        """
        import moocore

        if not candidates:
            return np.zeros(0)
        place = {candidate.learning_class: position for position, candidate in enumerate(candidates)}
        # Each class to be trained, and each that is learned of by that.
        pairs = [
            (owner, place[learning_class])
            for owner, candidate in enumerate(candidates)
            for learning_class in (candidate.learning_class, *candidate.contained)
            if learning_class in place
        ]
        costs = [self._costs(candidates[source]) for _, source in pairs]
        owners, sources = np.repeat(np.array(pairs), [len(part) for part in costs], axis=0).T
        points, now = np.vstack(costs), self.of(found)
        # What adds nothing with the best of each value adds nothing with any.
        best = {name: np.max([GOALS[name].sign * each[name] for each in learned], axis=0) for _, name in self._learned}
        for position, name in self._learned:
            points[:, position] = self.scale(name, GOALS[name].sign * best[name])[sources]
        useful = self.adds(points, found)
        points, owners, sources, added = points[useful], owners[useful], sources[useful], np.zeros(len(candidates))
        for each in learned:
            for position, name in self._learned:
                points[:, position] = self.scale(name, each[name])[sources]
            adding = np.flatnonzero(self.adds(points, found))
            starts = np.flatnonzero(np.diff(owners[adding], prepend=-1))
            for part in np.split(adding, starts[1:]) if len(adding) else ():
                together = np.vstack([found, points[part]])
                added[owners[part[0]]] += moocore.hypervolume(together, ref=np.ones(points.shape[1])) - now
        return added / len(learned)

    def adds(self, points: Array, found: Array) -> NDArray[np.bool_]:
        """Return which points are within the reference and not dominated by any of the others."""
        adds: NDArray[np.bool_] = np.asarray((points < 1).all(axis=1))
        for other in found:
            places = np.flatnonzero(adds)
            adds[places] = (points[places] < other).any(axis=1)
        return adds

    @cached_property
    def _learned(self) -> list[tuple[int, str]]:
        """The learned objectives, with their positions."""
        return [(position, name) for position, name in enumerate(self.objectives) if GOALS[name].learned]

    def _costs(self, candidate: Candidate) -> Array:
        """Return points with the costs of members that no other one dominates; classes that share them do so once."""
        import moocore

        if id(candidate.members) not in self._of_members:
            costs = [name for name in self.objectives if not GOALS[name].learned]
            values = np.array([[cost.value(name) for name in costs] for _, cost in candidate.members], dtype=float)
            points = np.zeros((len(values), len(self.objectives)))
            for position, name in enumerate(self.objectives):
                if name in costs:
                    points[:, position] = self.scale(name, values[:, costs.index(name)])
            self._of_members[id(candidate.members)] = candidate.members, points[moocore.is_nondominated(points)]
        return self._of_members[id(candidate.members)][1].copy()

    def front(self, points: Array) -> Array:
        """Return the points on the front within the reference."""
        return points[self.on_front(points)]

    def on_front(self, points: Array) -> NDArray[np.bool_]:
        """Return which points are on the front within the reference, as an array of shape (number of points,)."""
        import moocore

        useful: NDArray[np.bool_] = np.asarray((points < 1).all(axis=1))
        if useful.any():
            useful[useful] = moocore.is_nondominated(points[useful])
        return useful

    def of(self, points: Array) -> float:
        """Return the hypervolume of points."""
        import moocore

        useful = points[(points < 1).all(axis=1)]
        return float(moocore.hypervolume(useful, ref=np.ones(points.shape[1]))) if len(useful) else 0.0

    @overload
    def scale(self, name: str, value: float) -> float: ...

    @overload
    def scale(self, name: str, value: Array) -> Array: ...

    def scale(self, name: str, value: float | Array) -> float | Array:
        """Return values of an objective scaled to 1 at the reference; less is better."""
        return 1 - GOALS[name].sign * (value - self._reference[name]) / self.unit(name)

    def unit(self, name: str) -> float:
        """Return the difference of an objective that is scaled to 1: from the reference to the best possible value.

        Without a best value it does not matter: it scales every hypervolume by the same factor.
        """
        reference, goal = self._reference[name], GOALS[name]
        return size_of(reference) if goal.best is None else abs(goal.best - reference) or 1.0
