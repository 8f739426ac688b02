"""Decides whether training a class again with another seed pays more than training another class.

One training says what a class learned with one seed. Where classes are so close that noise decides which of them stands on the
front, a repeat tells them apart. What it is worth is the knowledge gradient (P. Frazier, W. Powell, S. Dayanik, "A
Knowledge-Gradient Policy for Sequential Information Collection", SIAM J. Control Optim. 47(5), 2008): the hypervolume expected
of the posterior means after it, less that of the posterior means now. A repeat that can't change what stands where is worth
nothing by it.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from tradeoff.searchspace import LearningClass
from tradeoff.studies.samplers.acquisition import Array, Candidate, MetricGP, Volume

# Classes that must have been trained before the noise of a training is told from the difference of two classes.
MIN_CLASSES = 4


def worth_of_repeats(
    trained: Sequence[Candidate],
    repeatable: Collection[LearningClass],
    processes: Sequence[MetricGP],
    learned: Sequence[str],
    volume: Volume,
    quantiles: Sequence[Sequence[float]],
) -> list[tuple[Candidate, float]]:
    """What a further seed is worth, for each class that may be repeated and stands on the front of the posterior means.

    Args:
        trained: The classes that were trained, with the members that fit.
        repeatable: Those that may be trained again.
        processes: The posterior of each learned objective.
        learned: Their names.
        volume: Measures hypervolume.
        quantiles: Standard scores to take the mean over, one for each learned objective.

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
