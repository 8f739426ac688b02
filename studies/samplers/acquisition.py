"""Decides which learning class to train next: the one expected to add most hypervolume for its cost.

Time and memory of all members of a class are known from the survey, so one training places them all at once, and the only
unknown is what they learn: the accuracy that they share, or another metric. It is modelled by a Gaussian process over the
logarithm of the effective batch, the precision and, where they are searched, the logarithm of the learning rate, the optimizer
and the grouping by length. The expected improvement is then a sum over a few quantiles of that metric, each an exact
hypervolume. Several metrics are modelled apart.

Decoupled evaluation of objectives is known from Bayesian optimisation: D. Hernandez-Lobato et al., "Predictive Entropy Search
for Multi-objective Bayesian Optimization", ICML 2016, section 3.3. The improvement is divided by a power of the cost, as in
J. Snoek et al., "Practical Bayesian Optimization of Machine Learning Algorithms", NeurIPS 2012, section 3.2.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.objectives.knowledge.knowledge import Cost
from tradeoff.objectives.measurements.goals import GOALS, Goal, learned_names
from tradeoff.searchspace import OPTIMIZERS, LearningClass, Precision, TrialParameters

# Centres of five equally likely parts of a normal distribution.
QUANTILES = (-1.2816, -0.5244, 0.0, 0.5244, 1.2816)
# Of three parts: for three metrics and more, whose quantiles are combined with each other.
COARSE_QUANTILES = (-0.9674, 0.0, 0.9674)
# Dividing by the square root of the cost rather than by the cost keeps a search from training only what is cheap; measured in
# benchmarks/search_cost.py's simulation.
COST_EXPONENT = 0.5
# Trainings from which on the Gaussian process learns its lengths and its noise: before, it would take luck for a law.
MIN_FITTED = 4
# Classes from which the Gaussian process learns its lengths and its noise, at the most.
MAX_FITTED = 100

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A learning class that could be trained next.

    Attributes:
        learning_class: The class.
        members: Its configurations that fit, with what they cost.
    """

    learning_class: LearningClass
    members: tuple[tuple[TrialParameters, Cost], ...]

    @cached_property
    def fastest(self) -> tuple[TrialParameters, Cost]:
        """The member whose training is cheapest."""
        return min(self.members, key=lambda member: member[1].train_time_s)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to train next.

    Attributes:
        candidate: The chosen class.
        relative_gain: Its expected improvement, as a share of the hypervolume so far.
        is_repeat: Whether it was trained before, and is to be trained with a further seed.
    """

    candidate: Candidate
    relative_gain: float
    is_repeat: bool = False


def import_ahead() -> None:
    """Imports what a decision needs and a command that only reads does not, which takes a second."""
    import moocore  # noqa: F401
    import sklearn.gaussian_process  # noqa: F401


def select_next(
    candidates: Sequence[Candidate],
    trained: Mapping[LearningClass, Sequence[Mapping[str, float]]],
    points: Sequence[Mapping[str, float]],
    objectives: Sequence[str],
    reference: Mapping[str, float],
    pending: Sequence[Candidate] = (),
    repeats: Callable[..., Sequence[tuple[Candidate, float]]] = lambda *_: (),
) -> Decision | None:
    """Chooses the class to train next.

    Args:
        candidates: Classes that are not trained, with at least one member that fits.
        trained: What each class has learned, with each seed: a value for each objective that is learned.
        points: Values of the objectives of everything that has completed.
        objectives: The study's objectives.
        reference: For each objective, the value that is of no use.
        pending: Classes that other workers are training: they count as done, with what they are expected to learn.
        repeats: What training a class again is worth, as a share of the hypervolume: called with the posteriors of the learned
            objectives, their names, the volume, and the standard scores to take the mean over.

    Returns:
        The class with the highest expected improvement for its cost, or None where there is no candidate.
    """
    learned = learned_names(tuple(objectives))
    if candidates and not trained and not pending and learned:
        return Decision(candidate=_first_guess(candidates), relative_gain=math.inf)
    volume = Volume(objectives, reference)
    processes = [MetricGP(_values_of(name, trained), GOALS[name], reference[name]) for name in learned]
    found = np.array([volume.scaled(point) for point in points]).reshape(-1, len(objectives))
    for candidate in pending:
        expected = [process.predict([candidate.learning_class])[0][0] for process in processes]
        found = np.vstack([found, volume.members(candidate, dict(zip(learned, expected, strict=True)))])
    found = volume.front(found)
    now = volume.of(found)
    combinations = list(itertools.product(QUANTILES if len(learned) <= 2 else COARSE_QUANTILES, repeat=len(learned)))
    gains = [(gain * now, candidate, True) for candidate, gain in repeats(processes, learned, volume, combinations)]
    predicted = [process.predict([candidate.learning_class for candidate in candidates]) for process in processes]
    for position, candidate in enumerate(candidates):
        outcomes = []
        for combination in combinations:
            values = {
                name: means[position] + z * deviations[position]
                for name, (means, deviations), z in zip(learned, predicted, combination, strict=True)
            }
            outcomes.append(volume.of(np.vstack([found, volume.members(candidate, values)])) - now)
        gains.append((float(np.mean(outcomes)), candidate, False))
    if not gains:
        return None
    gain, best, is_repeat = max(gains, key=lambda entry: entry[0] / _cost(entry[1]))
    return Decision(candidate=best, relative_gain=gain / now if now > 0 else math.inf, is_repeat=is_repeat)


def _cost(candidate: Candidate) -> float:
    """What an expected improvement is divided by."""
    return float(max(candidate.fastest[1].train_time_s, 1e-3) ** COST_EXPONENT)


def _first_guess(candidates: Sequence[Candidate]) -> Candidate:
    """Before anything is trained: an effective batch of 32, what most published fine-tunings use, by the fastest precision.

    Where a learning rate is searched, it is the one in the middle: people lay a range around what they believe in.
    """
    rates = {rate for candidate in candidates if (rate := candidate.learning_class.learning_rate) is not None}
    middle = float(np.median(np.log(sorted(rates)))) if rates else 0.0

    def distance(candidate: Candidate) -> tuple[float, float, float]:
        learning_class = candidate.learning_class
        from_32 = abs(math.log2(learning_class.effective_batch_size) - 5)
        rate = learning_class.learning_rate
        return from_32, 0.0 if rate is None else abs(math.log(rate) - middle), candidate.fastest[1].train_time_s

    return min(candidates, key=distance)


def _values_of(name: str, trained: Mapping[LearningClass, Sequence[Mapping[str, float]]]) -> list[tuple[LearningClass, float]]:
    """A learned objective of every training."""
    return [(key, values[name]) for key, trainings in trained.items() for values in trainings if name in values]


class MetricGP:
    """What a class learns, of one metric, from the classes that were trained, with its uncertainty.

    Args:
        trained: The metric of every training, with its class; a class that was trained with several seeds comes several times.
        goal: The metric; accuracy by default.
        worst: The value from which on it is of no use: that of a training that diverged. Of a metric without end, values beyond
            it are taken for it: a loss of thousands would make all others look alike.
    """

    _PRIOR_DEVIATION = 0.15  # of accuracies, before two classes have been trained; of others, as a share of their size
    _PRIOR_ACCURACY = 0.5

    def __init__(
        self, trained: Sequence[tuple[LearningClass, float]], goal: Goal = GOALS["accuracy"], worst: float = 0.0
    ) -> None:
        self._values = np.nan_to_num([value for _, value in trained], nan=worst)
        self._prior_mean, self._prior_deviation = self._PRIOR_ACCURACY, self._PRIOR_DEVIATION
        if goal.best is None:
            self._values = np.maximum(self._values * goal.sign, worst * goal.sign) * goal.sign
            size = abs(float(np.mean(self._values)) if len(self._values) else worst) or 1.0
            self._prior_deviation *= size
            self._prior_mean = worst + goal.sign * self._PRIOR_ACCURACY * size
        self._model: Any = None
        self._features = _features([learning_class for learning_class, _ in trained])
        if len(trained):
            self._fit(worst)

    def _fit(self, worst: float) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
        from threadpoolctl import threadpool_limits

        values, num = self._values, len(self._values)
        # Far from all that was tried, half-way to what is of no use is as good a guess as any. It counts as one value more, and
        # so does the prior's deviation: the mean and the spread of two or three values alone say little.
        far = (float(values.mean()) + worst) / 2
        self._center = (float(values.sum()) + far) / (num + 1)
        self._scale = math.sqrt((float(((values - self._center) ** 2).sum()) + self._prior_deviation**2) / (num + 1))
        scaled = (values - self._center) / self._scale
        kernel = ConstantKernel(1.0, (0.1, 10.0)) * RBF(1.0, (0.3, 5.0)) + WhiteKernel(1e-2, (1e-4, 0.3))
        # The matrices are small: more threads than one cost more than they save, and take cores from the trials.
        with warnings.catch_warnings(), threadpool_limits(1):
            # A length or a noise at the edge of its range is an answer, not a fault.
            warnings.simplefilter("ignore", ConvergenceWarning)
            if num >= MIN_FITTED:
                # Lengths and noise are learnt from a part of many classes: each step of that costs the cube of their number.
                part = np.unique(np.linspace(0, num - 1, min(num, MAX_FITTED)).round().astype(int))
                kernel = GaussianProcessRegressor(kernel, random_state=0).fit(self._features[part], scaled[part]).kernel_
            self._model = GaussianProcessRegressor(kernel, optimizer=None).fit(self._features, scaled)

    def posterior(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """What is known of the classes' means over seeds, and how far one more training is expected to move that.

        Returns:
            Posterior means, and the standard deviations of the posterior means after one more training of the class, each of
            shape (number of classes,). Before anything is trained, nothing moves.
        """
        means, deviations = self.predict(classes)
        if self._model is None:
            return means, np.zeros(len(classes))
        noise = self._model.kernel_.k2.noise_level * self._scale**2
        known = np.maximum(0.0, deviations**2 - noise)
        return means, known / np.sqrt(np.maximum(known + noise, 1e-12))

    def predict(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """Means and standard deviations of the classes' metric, each of shape (number of classes,)."""
        if not classes:
            return np.zeros(0), np.zeros(0)
        if self._model is None:
            return np.full(len(classes), self._prior_mean), np.full(len(classes), self._prior_deviation)
        means, deviations = self._model.predict(_features(classes), return_std=True)
        return self._center + self._scale * means, self._scale * deviations


def _features(classes: Sequence[LearningClass]) -> Array:
    """Classes as points: three doublings of the batch, three times the learning rate, or two optimizers are a unit apart.

    A learning rate counts beside the square root of the batch, with which the best one grows (S. Malladi et al., "On the SDEs
    and Scaling Rules for Adaptive Gradient Algorithms", NeurIPS 2022): so what is learned at one batch tells of the others.

    Each optimizer is a coordinate of its own, since there is no order between them; grouping by length is half a unit from
    shuffling, as the precisions are. These coordinates are there only where they are searched.
    """
    order = list(Precision)
    features = np.array(
        [
            [
                math.log2(c.effective_batch_size) / 3,
                0.0 if c.precision == order[0] else 0.5,
                math.log(c.learning_rate / math.sqrt(c.effective_batch_size), 3) if c.learning_rate is not None else 0.0,
            ]
            for c in classes
        ]
    ).reshape(-1, 3)
    if any(c.optimizer is not None for c in classes):
        features = np.hstack([features, [[(c.optimizer == name) / math.sqrt(2) for name in OPTIMIZERS] for c in classes]])
    if any(c.train_sampling_strategy is not None for c in classes):
        features = np.hstack([features, [[0.5 * (c.train_sampling_strategy == "group_by_length")] for c in classes]])
    return features


class Volume:
    """Hypervolume of points in the study's objectives, all minimised and scaled so that the reference is 1."""

    def __init__(self, objectives: Sequence[str], reference: Mapping[str, float]) -> None:
        self.objectives = tuple(objectives)
        self._reference = reference

    def scaled(self, values: Mapping[str, float]) -> list[float]:
        """A point with 1 for the reference and less for what is better: 0 for the best there can be, where there is one."""
        return [self._scale(name, values[name]) for name in self.objectives]

    def members(self, candidate: Candidate, learned: Mapping[str, float]) -> Array:
        """The points that a class adds if it learns this."""
        costs = [name for name in self.objectives if name not in learned]
        return np.array(
            [
                self.scaled({**learned, **{name: value for name in costs if (value := cost.value(name)) is not None}})
                for _, cost in candidate.members
            ]
        )

    def front(self, points: Array) -> Array:
        """The points that count."""
        return points[self.on_front(points)]

    def on_front(self, points: Array) -> NDArray[np.bool_]:
        """Which of the points count, as an array of shape (number of points,)."""
        import moocore

        useful: NDArray[np.bool_] = np.asarray((points < 1).all(axis=1))
        if useful.any():
            useful[useful] = moocore.is_nondominated(points[useful])
        return useful

    def of(self, points: Array) -> float:
        """The hypervolume."""
        import moocore

        useful = points[(points < 1).all(axis=1)]
        return float(moocore.hypervolume(useful, ref=np.ones(points.shape[1]))) if len(useful) else 0.0

    def _scale(self, name: str, value: float) -> float:
        reference, goal = self._reference[name], GOALS[name]
        if goal.best is not None:
            return (goal.best - value) / (goal.best - reference)
        # Without a best value there is no 0. The unit does not matter: it scales every hypervolume by the same factor.
        return 1 - goal.sign * (value - reference) / (abs(reference) or 1.0)
