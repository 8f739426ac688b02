"""Select the learning class to train next: the one expected to add most hypervolume for its cost.

Time and memory of all members of a class are known from the survey, so one training places them all at once, and the only
unknown is the accuracy, or another metric, that they share. It is modelled by a Gaussian process over the logarithm of the
effective batch and the coordinates of the knobs that change learning. The expected improvement is then a sum over a few
quantiles of that metric, each an exact hypervolume. Several metrics are modelled independently. While nothing is better than
the baseline there is no hypervolume to add to: then a class is worth its expected improvement over the baseline alone.

Decoupled evaluation of objectives is known from Bayesian optimisation: D. Hernandez-Lobato et al., "Predictive Entropy Search
for Multi-objective Bayesian Optimization", ICML 2016, section 3.3. The improvement is divided by a power of the cost, as in
J. Snoek et al., "Practical Bayesian Optimization of Machine Learning Algorithms", NeurIPS 2012, section 3.2.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tradeoff.objectives.measurements.goals import GOALS, is_comparable, learned_names
from tradeoff.searchspace import KNOBS, LearningClass, SearchSpace
from tradeoff.searchspace.domains import is_number
from tradeoff.searchspace.knobs import Knobs
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.features import BATCH, Features
from tradeoff.studies.samplers.gaussian_process import Array
from tradeoff.studies.samplers.hypervolume import Volume
from tradeoff.studies.samplers.metric_gp import MetricGP

# Medians of five equally likely parts of a normal distribution.
QUANTILES = (-1.2816, -0.5244, 0.0, 0.5244, 1.2816)
# The same for three parts, used from three metrics on, whose quantiles are combined.
COARSE_QUANTILES = (-0.9674, 0.0, 0.9674)
# Dividing by the square root of the cost rather than by the cost keeps a search from training only what is cheap. On the tables
# of benchmarks/fronts/ either is as good.
COST_EXPONENT = 0.5


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The class to train next.

    Attributes:
        candidate: The class.
        relative_gain: Its expected improvement, as a share of the hypervolume so far; while nothing is better than the
            baseline, as a share of the best possible improvement over that.
        is_repeat: True if it was trained before, and is to be trained with another seed.
        is_first: True if nothing is better than the baseline yet.
        gains: The expected gain of every class that is not trained.
        processes: What they are expected to learn, by learned objective.
    """

    candidate: Candidate
    relative_gain: float
    is_repeat: bool = False
    is_first: bool = False
    gains: Mapping[LearningClass, float] = field(default_factory=dict)
    processes: Mapping[str, MetricGP] = field(default_factory=dict)


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
    min_gain: float = 0.0,
    space: SearchSpace | None = None,
    num_eval: int | None = None,
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
        min_gain: The expected improvement that is worth a training, as a share of the hypervolume: what adds less is not
            trained before what adds more, however cheap it is.
        space: The space of the classes.
        num_eval: The samples of an evaluation; None if they are not known.

    Returns:
        The class with the highest expected improvement for its cost, or None if there is no candidate.
    """
    learned = learned_names(tuple(objectives))
    features = Features.of({*trained, *(each.learning_class for each in (*candidates, *pending))}, space)
    if candidates and not trained and not pending and learned:
        return Decision(candidate=_first_guess(candidates, features, space.knobs if space else KNOBS), relative_gain=math.inf)
    volume = Volume(objectives, reference)
    by_name = fitted(trained, learned, reference, features, num_eval)
    processes = [*by_name.values()]
    found = np.array([volume.scaled(point) for point in points]).reshape(-1, len(objectives))
    for candidate in pending:
        expected = [process.predict([candidate.learning_class])[0][0] for process in processes]
        found = np.vstack([found, volume.members(candidate, dict(zip(learned, expected, strict=True)))])
    found = volume.front(found)
    now = volume.of(found)
    if trained and not now:
        return _first_improvement(candidates, learned, processes, volume, min_gain)
    combinations = list(itertools.product(QUANTILES if len(learned) <= 2 else COARSE_QUANTILES, repeat=len(learned)))
    unit = now or 1.0  # nothing may be trained yet, but for what is pending
    shares = [(gain, candidate, True) for candidate, gain in repeats(processes, learned, volume, combinations)]
    predicted = [process.predict([candidate.learning_class for candidate in candidates]) for process in processes]
    values: list[dict[str, Array]] = [
        {name: means + z * deviations for name, (means, deviations), z in zip(learned, predicted, scores, strict=True)}
        for scores in combinations
    ]
    worth = np.maximum(volume.gains(candidates, values, found) / unit, _improvements(preferred, trained, reference, values))
    shares += [(float(gain), candidate, False) for gain, candidate in zip(worth, candidates, strict=True)]
    if not shares:
        return None
    gain, chosen, is_repeat = _best(shares, min_gain)
    gains = {candidate.learning_class: share for share, candidate, repeat in shares if not repeat}
    return Decision(
        candidate=chosen,
        relative_gain=gain if now else math.inf,
        is_repeat=is_repeat,
        gains=gains,
        processes=by_name,
    )


def fitted(
    trained: Mapping[LearningClass, Sequence[Mapping[str, float]]],
    learned: Sequence[str],
    reference: Mapping[str, float],
    features: Features,
    num_eval: int | None,
) -> dict[str, MetricGP]:
    """Return what each learned objective is expected to be, by all trainings; see `select_next` for the arguments."""
    return {
        name: MetricGP(_values_of(name, trained), GOALS[name], reference[name], features=features, num_eval=num_eval)
        for name in learned
    }


# The gain of each class, and whether it is a repeat.
Shares = Sequence[tuple[float, Candidate, bool]]


def _best(shares: Shares, min_gain: float) -> tuple[float, Candidate, bool]:
    """Return what gains most for its cost, of what gains enough if there is any."""
    return max(shares, key=lambda entry: (entry[0] >= min_gain, entry[0] / _cost(entry[1])))


def _first_improvement(
    candidates: Sequence[Candidate], learned: Sequence[str], processes: Sequence[MetricGP], volume: Volume, min_gain: float
) -> Decision | None:
    """Select the class that is expected to improve most over the baseline for its cost, where nothing is better than that yet.

    The expected improvement is exact (D. R. Jones, M. Schonlau, W. J. Welch, "Efficient Global Optimization of Expensive
    Black-Box Functions", Journal of Global Optimization 13, 1998): quantiles end where what is unlikely is all there is to hope
    for. It is one of the mean over seeds: the luck of a seed is no improvement.
    """
    from scipy.special import ndtr

    if not candidates:
        return None
    worth = np.ones(len(candidates))
    for name, process in zip(learned, processes, strict=True):
        means, deviations = process.posterior([candidate.learning_class for candidate in candidates])
        deviations = np.maximum(deviations / volume.unit(name), 1e-12)
        lead = 1 - volume.scale(name, means)
        scores = lead / deviations
        worth *= lead * ndtr(scores) + deviations * np.exp(-(scores**2) / 2) / math.sqrt(2 * math.pi)
    gain, chosen, _ = _best(
        [(float(gain), candidate, False) for gain, candidate in zip(worth, candidates, strict=True)], min_gain
    )
    gains = {candidate.learning_class: float(gain) for gain, candidate in zip(worth, candidates, strict=True)}
    return Decision(candidate=chosen, relative_gain=gain, is_first=True, gains=gains)


def _improvements(
    preferred: str | None,
    trained: Mapping[LearningClass, Sequence[Mapping[str, float]]],
    reference: Mapping[str, float],
    values: Sequence[Mapping[str, Array]],
) -> Array | float:
    """Return what each class is expected to add to the best value of the preferred objective; 0 if there is none."""
    if preferred is None:
        return 0.0
    sign = GOALS[preferred].sign
    heights = [sign * value for _, value in _values_of(preferred, trained) if is_comparable(value)]
    best = max(heights, default=sign * reference[preferred])
    scale = max(best - sign * reference[preferred], 1e-9)
    added: Array = np.mean([np.maximum(0.0, sign * each[preferred] - best) for each in values], axis=0)
    return added / scale


def _cost(candidate: Candidate) -> float:
    """Return the divisor of an expected improvement."""
    return float(max(candidate.train_time_s, 1e-3) ** COST_EXPONENT)


def _first_guess(candidates: Sequence[Candidate], features: Features, knobs: Knobs) -> Candidate:
    """Return the class to train first: the fastest one with effective batch 32, which most published fine-tunings use.

    Of what changes learning only, such as the learning rate, the middle is taken: people choose a range around what they
    believe in.
    """
    axes = [axis for axis in features.axes if axis.name != BATCH and knobs[axis.name].changes_learning_only]

    def distance(candidate: Candidate) -> tuple[float, float, float]:
        learning_class = candidate.learning_class
        from_32 = abs(math.log2(learning_class.effective_batch_size) - 5)
        numbers = [(axis, value) for axis in axes if is_number(value := learning_class.get(axis.name))]
        from_middle = sum(abs(axis.number(value)) / axis.unit for axis, value in numbers)
        return from_32, from_middle, candidate.train_time_s

    return min(candidates, key=distance)


def _values_of(name: str, trained: Mapping[LearningClass, Sequence[Mapping[str, float]]]) -> list[tuple[LearningClass, float]]:
    """Return a learned objective of every training, with its class."""
    return [(key, values[name]) for key, trainings in trained.items() for values in trainings if name in values]
