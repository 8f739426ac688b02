"""MO-ASHA as Syne Tune has it, as a method: `compare_fronts.py --methods decoupled fronts.moasha:moasha`.

It needs `pip install syne-tune`. R. Schmucker, M. Donini, M. B. Zafar, D. Salinas, C. Archambeau, "Multi-objective Asynchronous
Successive Halving", 2021 (arXiv 2106.12639): configurations are drawn at random, and a training goes on after 1, 3, 9, ...
epochs only if it is among the best third of those that came so far, by non-dominated sorting. Here with the authors' defaults
and one worker. Where the space has epochs, the longest trainings are drawn; with a schedule that does not fall each stop is
then a training of so many epochs, and is claimed as that.
"""

import random
from datetime import datetime

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

from fronts.methods import EPOCHS, reached, thinking
from fronts.table import Answer, Bench, Key, Values

METRICS = ["loss", "train_time_s", "peak_memory_mib"]


def moasha(bench: Bench, seed: int, horizon_s: float) -> None:
    """Run MO-ASHA."""
    random.seed(seed)
    np.random.seed(seed)  # it draws its bracket from there
    table, draw = bench.table, np.random.default_rng(seed)
    longest = max(row.num_epochs for row in table.rows.values())
    keys = [key for key in table.rows if dict(key).get(EPOCHS, longest) == longest]
    scheduler = MOASHA(config_space={}, metrics=METRICS, time_attr="epoch", max_t=longest, random_seed=seed)
    found: dict[Key, Values] = {}
    number = 0
    while bench.spent_s < horizon_s:
        drawn = dict(keys[draw.integers(len(keys))])
        trial, number = Trial(trial_id=number, config=drawn, creation_time=datetime(2020, 1, 1)), number + 1
        scheduler.on_trial_add(trial)
        for answer in bench.epochs(drawn, repeat=number):
            if answer.kind != "completed":
                scheduler.on_trial_remove(trial)
                break
            with thinking(bench):
                decision = scheduler.on_trial_result(trial, _result(answer))
                found |= reached(answer, drawn, longest)
            if decision == SchedulerDecision.STOP:
                break
        bench.claim(found)


def _result(answer: Answer) -> dict[str, float]:
    values = answer.values
    assert answer.curve is not None
    costs = {"train_time_s": values.train_time_s, "peak_memory_mib": values.peak_memory_mib}
    return {"epoch": len(answer.curve), "loss": -values.learned, **costs}
