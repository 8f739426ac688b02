"""What a learned metric is expected to be of a class: a Gaussian process over the classes' features, in the metric's unit."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from tradeoff.objectives.measurements.goals import GOALS, LARGEST_COMPARABLE, Goal, is_comparable
from tradeoff.searchspace import LearningClass
from tradeoff.studies.samplers.features import Features
from tradeoff.studies.samplers.gaussian_process import Array, GaussianProcess, Noise

# The luck of a training where nothing is known of an evaluation, and how well it is known where something is.
UNKNOWN_NOISE = Noise(variance=0.04, spread=2.0)
KNOWN_SPREAD = 1.0
# So many trainings better than the reference tell how much classes differ, as do others that are far apart.
MIN_USEFUL = 3
# How far beyond the worst value the reference is, as a share of the range, if there is no other measure.
RANGE_MARGIN = 0.1
# A learned value counts up to this many times the distance between best and median, once there are so many values.
FENCE = 4.0
MIN_FOR_FENCE = 5


class MetricGP:
    """A Gaussian process for one learned metric over learning classes.

    Args:
        trained: The metric of every training, with its class; a class trained with several seeds is listed several times.
        goal: The metric; accuracy by default.
        worst: The reference value, also used for a training that diverged. An unbounded metric is clipped there, or, if nothing
            is better, where the better half of the trainings ends: a loss of thousands would make all others look alike.
        features: The places of the classes; by default those of the trained classes.
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
        num_eval: int | None = None,
    ) -> None:
        self._goal = goal
        values = np.array([value if is_comparable(value) else worst for _, value in trained])
        is_useful = values * goal.sign > worst * goal.sign
        self._least: float | None = None
        self._center, self._scale = self._PRIOR_ACCURACY, self._PRIOR_DEVIATION
        if goal.best is None:
            least = worst if is_useful.any() or not trained else worst_that_counts(goal, values)
            values = np.maximum(values * goal.sign, least * goal.sign) * goal.sign
            self._least = least
            size = size_of(float(np.mean(values)) if len(values) else worst)
            self._scale *= size
            self._center = worst + goal.sign * self._PRIOR_ACCURACY * size
        self._process: GaussianProcess | None = None
        classes = [learning_class for learning_class, _ in trained]
        self._features = features or Features.of(classes)
        if not trained:
            return
        # Far from everything that was tried, halfway to the reference is as good a guess as any. It counts as one more value,
        # and so does the prior's deviation: mean and spread of two or three values alone say little. Trainings that learned
        # nothing are alike, however much classes differ that learn something: they say nothing of the spread, nor of lengths.
        num, prior = len(values), self._scale
        far = (float(values.mean()) + worst) / 2
        self._center = (float(values.sum()) + far) / (num + 1)
        squares = (values - self._center) ** 2
        squares = np.where(is_useful, squares, np.maximum(squares, prior**2))
        self._scale = math.sqrt((float(squares.sum()) + prior**2) / (num + 1))
        noise = UNKNOWN_NOISE
        if num_eval and goal.best is not None:
            share = min(max(self._center, 0.05), 0.95)
            noise = Noise(variance=share * (1 - share) / num_eval / self._scale**2, spread=KNOWN_SPREAD)
        self._process = GaussianProcess(
            self._features.inputs(classes),
            (values - self._center) / self._scale,
            noise=noise,
            trust=min(1.0, max(int(is_useful.sum()) / MIN_USEFUL, float(np.ptp(values)) / (2 * prior))),
        )

    def posterior(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """Return the posterior means of the classes over seeds, and how far one more training is expected to move them.

        Returns:
            The posterior means, and the standard deviations of the posterior means after one more training of the class, each
            of shape (number of classes,). Before anything is trained the latter are 0.
        """
        means, deviations = self.of_classes(classes)
        if self._process is None:
            return means, np.zeros(len(classes))
        return means, deviations**2 / np.sqrt(deviations**2 + self._process.noise * self._scale**2)

    def predict(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """Return means and standard deviations of what a training of the classes reaches, of shape (number of classes,)."""
        means, deviations = self.of_classes(classes)
        if self._process is None:
            return means, deviations
        return means, np.sqrt(deviations**2 + self._process.noise * self._scale**2)

    def is_clipped(self, value: float) -> bool:
        """Return True if a training's value counts as a better one: it diverged, or is far worse than the others."""
        sign = self._goal.sign
        return not is_comparable(value) or (self._least is not None and sign * value < sign * self._least)

    def of_classes(self, classes: Sequence[LearningClass]) -> tuple[Array, Array]:
        """Return means and standard deviations of the classes' metric over seeds."""
        if self._process is None or not classes:
            return np.full(len(classes), self._center), np.full(len(classes), self._scale)
        means, deviations = self._process.predict(self._features.inputs(classes))
        return self._center + self._scale * means, self._scale * deviations


def worst_that_counts(goal: Goal, values: Collection[float]) -> float:
    """Return the reference value of a learned objective without a baseline: better values count.

    A loss is unbounded, and one training that diverged can be a thousand times worse than the others. So it is just beyond the
    worst value, but no farther from the best than `FENCE` times the median is: measured by the better half of the trainings, a
    few that went wrong don't make all others look alike.

    Args:
        goal: The objective.
        values: The values that trainings reached; what has diverged is ignored.
    """
    heights = sorted((goal.sign * value for value in values if is_comparable(value)), reverse=True)
    if not heights:
        return -goal.sign
    best, worst = heights[0], heights[-1]
    if len(heights) >= MIN_FOR_FENCE:
        worst = max(worst, best - FENCE * (best - heights[(len(heights) - 1) // 2]))
    return goal.sign * (worst - RANGE_MARGIN * ((best - worst) or abs(best) or 1.0))


def size_of(value: float) -> float:
    """Return the size of a value as a unit; 1 where it is too small to divide by."""
    return abs(value) if abs(value) > 1 / LARGEST_COMPARABLE else 1.0
