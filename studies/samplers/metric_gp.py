"""What a learned metric is expected to be of a class: a Gaussian process over the classes' features, in the metric's unit."""

import math
from collections.abc import Sequence

import numpy as np

from tradeoff.objectives.measurements.goals import GOALS, LARGEST_COMPARABLE, Goal, is_comparable
from tradeoff.searchspace import LearningClass
from tradeoff.studies.samplers.features import Features
from tradeoff.studies.samplers.gaussian_process import Array, GaussianProcess, Noise

# The luck of a training where nothing is known of an evaluation, and how well it is known where something is.
UNKNOWN_NOISE = Noise(variance=0.04, spread=2.0)
KNOWN_SPREAD = 1.0


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
            size = size_of(float(np.mean(values)) if len(values) else worst)
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


def size_of(value: float) -> float:
    """Return the size of a value as a unit; 1 where it is too small to divide by."""
    return abs(value) if abs(value) > 1 / LARGEST_COMPARABLE else 1.0
