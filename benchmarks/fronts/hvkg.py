"""The hypervolume knowledge gradient with the product's own knowledge: `--methods decoupled fronts.hvkg:hvkg`.

It needs `pip install botorch`. S. Daulton, M. Balandat, E. Bakshy, "Hypervolume Knowledge Gradient: A Lookahead Approach for
Multi-Objective Bayesian Optimization with Partial Information", ICML 2023: evaluate what raises the hypervolume of the
posterior means most for its cost, where objectives are evaluated apart. Everything else is the product's: its probes, its
frontier, its learning classes, its predictions of time and memory, its rule of recommendation. So the two differ in one
decision alone: which class is trained next, and whether with another seed.

The authors optimize over a continuous space by gradients through samples. Here the space is finite, so the same quantity is
worked out for each class, over five quantiles of what its training may show. The Gaussian process is BoTorch's `SingleTaskGP`
with its defaults. The search has no end of its own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Normalize, Standardize
from gpytorch.mlls import ExactMarginalLogLikelihood
from numpy.typing import NDArray

from fronts.methods import decoupled
from fronts.table import Bench
from tradeoff.objectives.measurements.goals import learned_names
from tradeoff.searchspace import LearningClass
from tradeoff.studies.samplers import acquisition, trial_planner
from tradeoff.studies.samplers.acquisition import QUANTILES, Decision, fitted
from tradeoff.studies.samplers.candidates import Candidate
from tradeoff.studies.samplers.features import Features
from tradeoff.studies.samplers.hypervolume import Volume

Array = NDArray[np.float64]
# Numbers that span a decade are on a logarithmic axis.
DECADE = 10.0


def hvkg(bench: Bench, seed: int, horizon_s: float) -> None:
    """Run the product's search with this decision in place of its own."""
    torch.manual_seed(seed)
    with patch.object(trial_planner, "select_next", select_next):
        decoupled(bench, seed, horizon_s)


def select_next(
    candidates: Sequence[Candidate],
    trained: Mapping[LearningClass, Sequence[Mapping[str, float]]],
    points: Sequence[Mapping[str, float]],
    objectives: Sequence[str],
    reference: Mapping[str, float],
    pending: Sequence[Candidate] = (),
    repeats: Any = None,
    **options: Any,
) -> Decision | None:
    """Select the class whose training raises the hypervolume of the posterior means most for its cost."""
    (name,) = learned_names(tuple(objectives))
    known, repeatable = repeats.args
    everything = [*candidates, *known]
    if not trained or not everything:
        return acquisition.select_next(candidates, trained, points, objectives, reference, pending, repeats, **options)
    rows = [(key, values[name]) for key, by_seed in trained.items() for values in by_seed]
    encoded = _encoded([*(key for key, _ in rows), *(each.learning_class for each in everything)])
    model = SingleTaskGP(
        torch.tensor(encoded[: len(rows)]),
        torch.tensor([[value] for _, value in rows], dtype=torch.float64),
        input_transform=Normalize(encoded.shape[1]),
        outcome_transform=Standardize(1) if len(rows) > 1 else None,
    )
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    with torch.no_grad():
        belief = model.posterior(torch.tensor(encoded[len(rows) :]))
        noisy = model.posterior(torch.tensor(encoded[len(rows) :]), observation_noise=True)
        means, covariance = belief.mean[:, 0].numpy(), belief.distribution.covariance_matrix.numpy()
        observed = np.sqrt(noisy.variance[:, 0].numpy())
    volume = Volume(objectives, reference)
    now = _volume_of(volume, everything, name, means)
    best: tuple[float, float, int] | None = None
    gains: dict[LearningClass, float] = {}
    for place, candidate in enumerate(everything):
        if place >= len(candidates) and candidate.learning_class not in repeatable:
            continue
        shifts = covariance[:, place] / observed[place]
        after = np.mean([_volume_of(volume, everything, name, means + score * shifts) for score in QUANTILES])
        gain = float(after - now) / (now or 1.0)
        gains[candidate.learning_class] = gain
        entry = gain / max(candidate.train_time_s, 1e-3), gain, place
        best = entry if best is None else max(best, entry)
    if best is None:
        return None
    place = best[2]
    features = Features.of({*trained, *(each.learning_class for each in everything)}, options["space"])
    return Decision(
        candidate=everything[place],
        relative_gain=math.inf,
        is_repeat=place >= len(candidates),
        gains={each.learning_class: gains[each.learning_class] for each in candidates},
        processes=fitted(trained, [name], reference, features, options["num_eval"]),
    )


def _volume_of(volume: Volume, candidates: Sequence[Candidate], name: str, values: Array) -> float:
    """The hypervolume of all members of classes with these learned values."""
    points = np.vstack([volume.members(each, {name: float(value)}) for each, value in zip(candidates, values, strict=True)])
    return volume.of(points)


def _encoded(classes: Sequence[LearningClass]) -> Array:
    """Classes as points: numbers, on a logarithmic axis where they span a decade, and a coordinate for each word."""
    columns: list[list[float]] = []
    for name in dict.fromkeys(name for each in classes for name in each):
        values = [each.get(name) for each in classes]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            numbers = [float(value) for value in values]
            is_log = min(numbers) > 0 and max(numbers) / min(numbers) >= DECADE
            columns.append([math.log(number) for number in numbers] if is_log else numbers)
        else:
            columns += [[float(value == word) for value in values] for word in dict.fromkeys(map(str, values))]
    kept = [column for column in columns if len(set(column)) > 1]
    return np.array(kept, dtype=float).T
