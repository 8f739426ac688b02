"""Select the learning class to train next: the one expected to add most hypervolume for its cost.

Time and memory of all members of a class are known from the survey, so one training places them all at once, and the only
unknown is the accuracy, or another metric, that they share. It is modelled by a Gaussian process over the logarithm of the
effective batch and the coordinates of the knobs that change learning. The expected improvement is then a sum over a few
quantiles of that metric, each an exact hypervolume. Several metrics are modelled independently.

Decoupled evaluation of objectives is known from Bayesian optimisation: D. Hernandez-Lobato et al., "Predictive Entropy Search
for Multi-objective Bayesian Optimization", ICML 2016, section 3.3. The improvement is divided by a power of the cost, as in
J. Snoek et al., "Practical Bayesian Optimization of Machine Learning Algorithms", NeurIPS 2012, section 3.2.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tradeoff.objectives.knowledge.knowledge import Cost
from tradeoff.objectives.measurements.goals import GOALS, LARGEST_COMPARABLE, Goal, is_comparable, learned_names
from tradeoff.searchspace import KNOBS, LearningClass, SearchSpace, TrialParameters
from tradeoff.studies.samplers.features import Features
from tradeoff.studies.samplers.gaussian_process import Array, GaussianProcess, Noise

# Medians of five equally likely parts of a normal distribution.
QUANTILES = (-1.2816, -0.5244, 0.0, 0.5244, 1.2816)
# The same for three parts, used from three metrics on, whose quantiles are combined.
COARSE_QUANTILES = (-0.9674, 0.0, 0.9674)
# Dividing by the square root of the cost rather than by the cost keeps a search from training only what is cheap; measured in
# benchmarks/search_cost.py's simulation.
COST_EXPONENT = 0.5
# The luck of a training where nothing is known of an evaluation, and how well it is known where something is.
UNKNOWN_NOISE = Noise(variance=0.04, spread=2.0)
KNOWN_SPREAD = 1.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A learning class that may be trained next.

    Attributes:
        learning_class: The class.
        members: Its configurations that fit, with their costs.
    """

    learning_class: LearningClass
    members: tuple[tuple[TrialParameters, Cost], ...]

    @cached_property
    def fastest(self) -> tuple[TrialParameters, Cost]:
        """The member whose training is cheapest."""
        return min(self.members, key=lambda member: member[1].train_time_s)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The class to train next.

    Attributes:
        candidate: The class.
        relative_gain: Its expected improvement, as a share of the hypervolume so far.
        is_repeat: True if it was trained before, and is to be trained with another seed.
        gains: The expected gain of every class that is not trained.
    """

    candidate: Candidate
    relative_gain: float
    is_repeat: bool = False
    gains: Mapping[LearningClass, float] = field(default_factory=dict)


def import_ahead() -> None:
    """Import the libraries that a decision needs and a command that only reads does not; that takes about a second."""
    import moocore  # noqa: F401
    import scipy.linalg
    import scipy.optimize  # noqa: F401


def select_next(
    candidates: Sequence[Candidate],
    trained: Mapping[LearningClass, Sequence[Mapping[str, float]]],
    points: Sequence[Mapping[str, float]],
    objectives: Sequence[str],
    reference: Mapping[str, float],
    pending: Sequence[Candidate] = (),
    repeats: Callable[..., Sequence[tuple[Candidate, float]]] = lambda *_: (),
    *,
    preferred: str | None = None,
    space: SearchSpace | None = None,
    num_eval: int | None = None,
    variances: Mapping[LearningClass, Sequence[Mapping[str, float]]] = MappingProxyType({}),
) -> Decision | None:
    """Select the class to train next.

    Args:
        candidates: Classes that are not trained, with at least one member that fits.
        trained: The learned objectives of each trained class, one mapping per seed.
        points: The objectives of everything that has completed.
        objectives: The study's objectives.
        reference: The reference point of the hypervolume, by objective.
        pending: Classes that other workers are training: they count as trained, with their expected metrics.
        repeats: Returns the expected gain of training a class again, as a share of the hypervolume; called with the posteriors
            of the learned objectives, their names, the volume, and the standard scores to average over.
        preferred: A learned objective that comes first: a class is also worth what it is expected to add to the best value (its
            expected improvement), as a share of the distance between that and the reference.
        space: The space of the classes.
        num_eval: The samples of an evaluation; None if they are not known.
        variances: For the trainings of some classes, one mapping each, the variances of learned objectives that were not
            measured but foretold; 0 where nothing is said.

    Returns:
        The class with the highest expected improvement for its cost, or None if there is no candidate.
    """
    learned = learned_names(tuple(objectives))
    if candidates and not trained and not pending and learned:
        return Decision(candidate=_first_guess(candidates), relative_gain=math.inf)
    volume = Volume(objectives, reference)
    features = Features.of({*trained, *(each.learning_class for each in (*candidates, *pending))}, space)
    processes = [
        MetricGP(
            _values_of(name, trained),
            GOALS[name],
            reference[name],
            features=features,
            variances=_variances_of(name, trained, variances),
            num_eval=num_eval,
        )
        for name in learned
    ]
    found = np.array([volume.scaled(point) for point in points]).reshape(-1, len(objectives))
    for candidate in pending:
        expected = [process.predict([candidate.learning_class])[0][0] for process in processes]
        found = np.vstack([found, volume.members(candidate, dict(zip(learned, expected, strict=True)))])
    found = volume.front(found)
    now = volume.of(found)
    combinations = list(itertools.product(QUANTILES if len(learned) <= 2 else COARSE_QUANTILES, repeat=len(learned)))
    unit = now or 1.0  # nothing may be better than the reference yet
    shares = [(gain, candidate, True) for candidate, gain in repeats(processes, learned, volume, combinations)]
    improvement = _improvement(preferred, trained, reference)
    predicted = [process.predict([candidate.learning_class for candidate in candidates]) for process in processes]
    for position, candidate in enumerate(candidates):
        volumes, improvements = [], []
        for combination in combinations:
            values = {
                name: means[position] + z * deviations[position]
                for name, (means, deviations), z in zip(learned, predicted, combination, strict=True)
            }
            volumes.append(volume.of(np.vstack([found, volume.members(candidate, values)])))
            improvements.append(improvement(values))
        gain = max((float(np.mean(volumes)) - now) / unit, float(np.mean(improvements)))
        shares.append((gain, candidate, False))
    if not shares:
        return None
    gain, chosen, is_repeat = max(shares, key=lambda entry: entry[0] / _cost(entry[1]))
    gains = {candidate.learning_class: share for share, candidate, repeat in shares if not repeat}
    return Decision(candidate=chosen, relative_gain=gain if now > 0 else math.inf, is_repeat=is_repeat, gains=gains)


def _improvement(
    preferred: str | None, trained: Mapping[LearningClass, Sequence[Mapping[str, float]]], reference: Mapping[str, float]
) -> Callable[[Mapping[str, float]], float]:
    """Return a function of a class's learned values: what they add to the best one of the preferred objective."""
    if preferred is None:
        return lambda _: 0.0
    heights = [GOALS[preferred].sign * value for _, value in _values_of(preferred, trained) if is_comparable(value)]
    best = max(heights, default=GOALS[preferred].sign * reference[preferred])
    scale = max(best - GOALS[preferred].sign * reference[preferred], 1e-9)
    return lambda values: max(0.0, GOALS[preferred].sign * values[preferred] - best) / scale


def _cost(candidate: Candidate) -> float:
    """Return the divisor of an expected improvement."""
    return float(max(candidate.fastest[1].train_time_s, 1e-3) ** COST_EXPONENT)


def _first_guess(candidates: Sequence[Candidate]) -> Candidate:
    """Return the class to train first: the fastest one with effective batch 32, which most published fine-tunings use.

    Of what changes learning only, such as the learning rate, the middle is taken: people choose a range around what they
    believe in.
    """
    places = {candidate.learning_class: _place(candidate.learning_class) for candidate in candidates}
    middle = np.median(sorted(set(places.values())), axis=0)

    def distance(candidate: Candidate) -> tuple[float, float, float]:
        learning_class = candidate.learning_class
        from_32 = abs(math.log2(learning_class.effective_batch_size) - 5)
        from_middle = float(np.abs(np.subtract(places[learning_class], middle)).sum())
        return from_32, from_middle, candidate.fastest[1].train_time_s

    return min(candidates, key=distance)


def _place(learning_class: LearningClass) -> tuple[float, ...]:
    """Return the coordinates of what changes learning only, without regard to the batch."""
    return tuple(
        coordinate
        for name, knob in KNOBS.items()
        if knob.changes_learning_only and knob.coordinates is not None and name in learning_class
        for coordinate in knob.coordinates(learning_class[name], 1)
    )


def _values_of(name: str, trained: Mapping[LearningClass, Sequence[Mapping[str, float]]]) -> list[tuple[LearningClass, float]]:
    """Return a learned objective of every training, with its class."""
    return [(key, values[name]) for key, trainings in trained.items() for values in trainings if name in values]


def _variances_of(
    name: str,
    trained: Mapping[LearningClass, Sequence[Mapping[str, float]]],
    variances: Mapping[LearningClass, Sequence[Mapping[str, float]]],
) -> list[float]:
    """Return the variance of each of those values, as far as it was foretold."""
    pairs = [zip(trainings, variances.get(key) or [{}] * len(trainings), strict=True) for key, trainings in trained.items()]
    return [of_each.get(name, 0.0) for pair in pairs for values, of_each in pair if name in values]


class MetricGP:
    """A Gaussian process for one learned metric over learning classes.

    Args:
        trained: The metric of every training, with its class; a class trained with several seeds is listed several times.
        goal: The metric; accuracy by default.
        worst: The reference value, also used for a training that diverged. An unbounded metric is clipped there: a loss of
            thousands would make all others look alike.
        features: The places of the classes; by default those of the trained classes.
        variances: For each training, how far its value is known to be off beside the seed's luck, as a variance: that of a
            training which was not carried to its end, whose last value is foretold.
        num_eval: The samples of an evaluation, where they are known; they tell how much an accuracy varies by chance.
    """

    _PRIOR_DEVIATION = 0.15  # of accuracies, before two classes have been trained; of other metrics, as a share of their size
    _PRIOR_ACCURACY = 0.5

    def __init__(
        self,
        trained: Sequence[tuple[LearningClass, float]],
        goal: Goal = GOALS["accuracy"],
        worst: float = 0.0,
        *,
        features: Features | None = None,
        variances: Sequence[float] = (),
        num_eval: int | None = None,
    ) -> None:
        values = np.array([value if is_comparable(value) else worst for _, value in trained])
        self._center, self._scale = self._PRIOR_ACCURACY, self._PRIOR_DEVIATION
        if goal.best is None:
            values = np.maximum(values * goal.sign, worst * goal.sign) * goal.sign
            size = _size(float(np.mean(values)) if len(values) else worst)
            self._scale *= size
            self._center = worst + goal.sign * self._PRIOR_ACCURACY * size
        self._process: GaussianProcess | None = None
        classes = [learning_class for learning_class, _ in trained]
        self._features = features or Features.of(classes)
        if not trained:
            return
        # Far from everything that was tried, halfway to the reference is as good a guess as any. It counts as one more value,
        # and so does the prior's deviation: mean and spread of two or three values alone say little.
        num, prior = len(values), self._scale
        far = (float(values.mean()) + worst) / 2
        self._center = (float(values.sum()) + far) / (num + 1)
        self._scale = math.sqrt((float(((values - self._center) ** 2).sum()) + prior**2) / (num + 1))
        noise = UNKNOWN_NOISE
        if num_eval and goal.best is not None:
            share = min(max(self._center, 0.05), 0.95)
            noise = Noise(variance=share * (1 - share) / num_eval / self._scale**2, spread=KNOWN_SPREAD)
        self._process = GaussianProcess(
            self._features.inputs(classes),
            (values - self._center) / self._scale,
            noise=noise,
            extra=np.array(variances or np.zeros(num)) / self._scale**2,
        )

    def posterior(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """Return the posterior means of the classes over seeds, and how far one more training is expected to move them.

        Returns:
            The posterior means, and the standard deviations of the posterior means after one more training of the class, each
            of shape (number of classes,). Before anything is trained the latter are 0.
        """
        means, deviations = self._learned(classes)
        if self._process is None:
            return means, np.zeros(len(classes))
        return means, deviations**2 / np.sqrt(deviations**2 + self._process.noise * self._scale**2)

    def predict(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """Return means and standard deviations of what a training of the classes reaches, of shape (number of classes,)."""
        means, deviations = self._learned(classes)
        if self._process is None:
            return means, deviations
        return means, np.sqrt(deviations**2 + self._process.noise * self._scale**2)

    def _learned(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """Return means and standard deviations of the classes' metric over seeds."""
        if self._process is None or not classes:
            return np.full(len(classes), self._center), np.full(len(classes), self._scale)
        means, deviations = self._process.predict(self._features.inputs(classes))
        return self._center + self._scale * means, self._scale * deviations


def _size(value: float) -> float:
    """Return the size of a value as a unit; 1 where it is too small to divide by."""
    return abs(value) if abs(value) > 1 / LARGEST_COMPARABLE else 1.0


class Volume:
    """Hypervolume of points in the study's objectives, all minimised and scaled so that the reference is 1."""

    def __init__(self, objectives: Sequence[str], reference: Mapping[str, float]) -> None:
        self.objectives = tuple(objectives)
        self._reference = reference

    def scaled(self, values: Mapping[str, float]) -> list[float]:
        """Return a point scaled to 1 at the reference and 0 at the best possible value, if there is one."""
        return [self._scale(name, values[name]) for name in self.objectives]

    def members(self, candidate: Candidate, learned: Mapping[str, float]) -> Array:
        """Return the points of a class's members, given its learned objectives."""
        costs = [name for name in self.objectives if name not in learned]
        return np.array(
            [
                self.scaled({**learned, **{name: value for name in costs if (value := cost.value(name)) is not None}})
                for _, cost in candidate.members
            ]
        )

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

    def _scale(self, name: str, value: float) -> float:
        reference, goal = self._reference[name], GOALS[name]
        if goal.best is not None:
            return (goal.best - value) / ((goal.best - reference) or 1.0)
        # Without a best value there is no 0. The unit does not matter: it scales every hypervolume by the same factor.
        return 1 - goal.sign * (value - reference) / _size(reference)
