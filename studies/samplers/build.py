"""Build the sampler that a study names."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tradeoff.objectives.objective import Objective
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.samplers.constrained_gp import ConstrainedGPSampler
from tradeoff.studies.samplers.decoupled import DecoupledSampler

# The distance between the seeds of two workers: larger than the number of trials of any study.
SEED_STRIDE = 1_000_003


class Grid(optuna.samplers.GridSampler):
    """Optuna's grid for a search that asks whether it is exhausted, and need not be stopped."""

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Leave the end to the search: Optuna's own grid ends `study.optimize` here."""


def build_sampler(
    config: StudyConfig,
    objective: Objective,
    *,
    baselines: Mapping[str, float],
    num_trials: int,
    worker: int = 0,
) -> optuna.samplers.BaseSampler:
    """Return the sampler of a study.

    Args:
        config: The study, which names the sampler.
        objective: The study's objective.
        baselines: The baselines (the constant answer) of the learned objectives for which they are known.
        num_trials: The number of trials of the study: a seeded sampler continues there instead of repeating its first draws.
        worker: The worker's number: several workers must not draw the same.
    """
    seed = None if config.sampler_seed is None else (config.sampler_seed + num_trials + worker * SEED_STRIDE) % 2**32
    if config.sampler == "decoupled":
        return DecoupledSampler(
            setup=objective.setup,
            snapshot=objective.snapshot,
            baselines=baselines,
            seed=config.sampler_seed,
            max_seeds=config.seeds_per_class,
            min_gain=config.stop_below_gain,
            preferred=config.prefer,
        )
    if config.sampler == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            # Workers that run at the same time must not draw next to each other's running trials.
            constant_liar=True,
        )
    if config.sampler == "nsga2":
        # One generation must end well before the study does.
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, config.trials // 4)))
    if config.sampler == "gp":
        return ConstrainedGPSampler(memory_limit_mib=objective.setup.memory_limit_mib, seed=seed)
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    values: dict[str, Any] = {name: domain.values() for name, domain in objective.setup.space.domains.items()}
    # All workers must number the points of the grid in the same way.
    return Grid(values, seed=config.sampler_seed or 0)
