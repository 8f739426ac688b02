"""Value training a class again with another seed, to compare it with training another class.

One training measures what a class learns with one seed. If classes are so close that noise decides which of them is on the
front, a repeat tells them apart. Its value is the knowledge gradient (P. Frazier, W. Powell, S. Dayanik, "A
Knowledge-Gradient Policy for Sequential Information Collection", SIAM J. Control Optim. 47(5), 2008): the hypervolume
expected of the posterior means after it, minus that of the posterior means now. A repeat that can't change the front is worth
nothing by it.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from tradeoff.searchspace import LearningClass
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.gaussian_process import Array
from tradeoff.studies.samplers.hypervolume import Volume
from tradeoff.studies.samplers.metric_gp import MetricGP

# Trained classes that it takes to tell the noise of a training from the difference between two classes.
MIN_CLASSES = 4


def worth_of_repeats(
    trained: Sequence[Candidate],
    repeatable: Collection[LearningClass],
    processes: Sequence[MetricGP],
    learned: Sequence[str],
    volume: Volume,
    quantiles: Sequence[Sequence[float]],
) -> list[tuple[Candidate, float]]:
    """Return the value of another seed for each class that may be repeated and is on the front of the posterior means.

    Args:
        trained: The trained classes, with their members that fit.
        repeatable: Those that may be trained again.
        processes: The posterior of each learned objective.
        learned: Their names.
        volume: The hypervolume in the study's objectives.
        quantiles: Standard scores to average over, one for each learned objective.

    Returns:
        The class and its expected gain, as a share of the hypervolume of the posterior means.
    """
    if len(trained) < MIN_CLASSES or not repeatable or not learned:
        return []
    classes = [candidate.learning_class for candidate in trained]
    posteriors = [process.posterior(classes) for process in processes]
    members: Callable[[int, Sequence[float]], Array] = lambda position, scores: volume.members(  # noqa: E731
        trained[position],
        {
            name: means[position] + score * shifts[position]
            for name, (means, shifts), score in zip(learned, posteriors, scores, strict=True)
        },
    )
    unmoved = [0.0] * len(learned)
    points = [members(position, unmoved) for position in range(len(trained))]
    owners = np.repeat(np.arange(len(trained)), [len(part) for part in points])
    everything = np.vstack(points)
    on_front = volume.on_front(everything)
    now = volume.of(everything[on_front])
    if now <= 0:
        return []
    found = []
    for position in np.unique(owners[on_front]):
        if classes[position] not in repeatable:
            continue
        others = volume.front(everything[owners != position])
        after = [volume.of(np.vstack([others, members(position, scores)])) for scores in quantiles]
        found.append((trained[position], max(0.0, float(np.mean(after)) / now - 1)))
    return found
