"""Optuna's Gaussian process sampler, extended to learn from trials that ran out of memory.

`optuna.samplers.GPSampler` models constraints, but reads completed trials only: a trial that ran out of memory, which ends as
pruned, teaches it nothing, and it proposes the same corner of the space again and again. Here such trials are presented to it
as completed ones that break a constraint. Their objectives are unknown: each counts as the worst completed value. These values
never reach the storage.
"""

from collections.abc import Container, Mapping, Sequence
from copy import copy
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tradeoff.objectives.measurements.records import read_attributes
from tradeoff.objectives.objective import DASHBOARD_CONSTRAINTS, REPEATED

MEMORY = "memory_shortfall_mib"
_PREFIX = "constraints:"  # under which `Trial.set_constraint` stores an amount


class ConstrainedGPSampler(optuna.samplers.GPSampler):
    """A `GPSampler` that learns from out-of-memory.

    Args:
        memory_limit_mib: The memory limit: how far a completed trial stayed below it is part of the constraint.
        seed: The seed of its draws.
        n_startup_trials: The number of trials that are drawn at random before the model is used.
    """

    def __init__(self, *, memory_limit_mib: float, seed: int | None = None, n_startup_trials: int = 10) -> None:
        super().__init__(seed=seed, n_startup_trials=n_startup_trials)
        self._memory_limit_mib = memory_limit_mib

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the configuration with the largest expected improvement that is likely to fit."""
        seen: Any = _WithInfeasible(study, self._memory_limit_mib)
        return super().sample_relative(seen, trial, search_space)


class _WithInfeasible:
    """A study whose infeasible trials are listed as completed."""

    def __init__(self, study: optuna.Study, memory_limit_mib: float) -> None:
        self._study = study
        self._memory_limit_mib = memory_limit_mib

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy=False, states=None, use_cache=use_cache)
        completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        infeasible = {t.number: b for t in trials if t.state == TrialState.PRUNED and (b := _broken(t))}
        names = sorted({name for broken in infeasible.values() for name in broken})
        if completed and infeasible:
            worst = _worst(completed, self._study.directions)
            trials = [self._constrained(trial, worst, names, infeasible) for trial in trials]
        return [trial for trial in trials if states is None or trial.state in states]

    def _constrained(
        self, trial: FrozenTrial, worst: Sequence[float], names: Sequence[str], infeasible: Mapping[int, Mapping[str, float]]
    ) -> FrozenTrial:
        """Return the trial with an amount for every constraint that any trial broke, and as completed if it broke one."""
        if trial.number not in infeasible and trial.state != TrialState.COMPLETE:
            return trial
        shown = copy(trial)
        amounts = {f"{_PREFIX}{name}": infeasible.get(trial.number, {}).get(name, self._kept(trial, name)) for name in names}
        # Without the list that the dashboard reads, which holds the same under another name.
        shown.system_attrs = {key: value for key, value in trial.system_attrs.items() if key != DASHBOARD_CONSTRAINTS} | amounts
        if trial.number in infeasible:
            shown.state, shown.values = TrialState.COMPLETE, list(worst)
        return shown

    def _kept(self, trial: FrozenTrial, name: str) -> float:
        """Return by how much a trial stayed within a limit, as a value of at most 0; 0 if it was not measured."""
        peak_mib = read_attributes(trial.user_attrs).get("peak_memory_mib")
        return min(0.0, peak_mib - self._memory_limit_mib) if name == MEMORY and peak_mib is not None else 0.0


def _broken(trial: FrozenTrial) -> dict[str, float]:
    """Return the amounts of the constraints that a trial breaks, by name."""
    stored = {key.removeprefix(_PREFIX): amount for key, amount in trial.system_attrs.items() if key.startswith(_PREFIX)}
    # That a configuration was tried before says nothing of its neighbours.
    return {name: amount for name, amount in stored.items() if amount > 0 and name != REPEATED}


def _worst(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[float]:
    """Return the worst value of each objective."""
    columns = zip(*(trial.values for trial in trials), strict=True)
    return [
        min(column) if direction == StudyDirection.MAXIMIZE else max(column)
        for column, direction in zip(columns, directions, strict=True)
    ]
