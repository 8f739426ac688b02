"""PriMO as its authors have it, as a method: `compare_fronts.py --methods decoupled fronts.primo:primo`.

It needs `pip install neural-pipeline-search 'botorch==0.12'`. PriMO (arXiv 2511.08371) begins with multi-objective successive
halving and goes on with Bayesian optimization of a random weighting of the objectives, in which a user's beliefs about the best
configuration of each objective have a part that fades. Here with the authors' defaults. The beliefs are those of a user who
knows what the knobs do: an effective batch of 32 learns best, the largest batch without checkpointing is the fastest, and the
smallest with it needs the least memory. Its weights mean something only between objectives of one scale, so each is told as a
place within the table's true range. What runs out of memory is told as the worst.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from neps import AskAndTell
from neps.optimizers.algorithms import primo as make_primo
from neps.space import HPOCategorical, HPOInteger, SearchSpace

from fronts.methods import COSTS, EPOCHS, reached, thinking
from fronts.table import Answer, Bench, Key, Table, Values, key_of

# The default of the authors' prior sampler.
CONFIDENCE = 0.25
FAVOURED_BATCH = 32


def primo(bench: Bench, seed: int, horizon_s: float) -> None:
    """Run PriMO."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    table = bench.table
    longest = max(row.num_epochs for row in table.rows.values())
    searched = {name: values for name, values in table.knobs.items() if len(values) > 1 and name != EPOCHS}
    fixed = {name: values[0] for name, values in table.knobs.items() if len(values) == 1}
    scale = _scale(table)
    with thinking(bench):
        optimizer = AskAndTell(_optimizer(searched, longest, table))
    trainings: dict[str, Iterator[Answer]] = {}
    found: dict[Key, Values] = {}
    while bench.spent_s < horizon_s:
        with thinking(bench):
            trial = optimizer.ask()
        drawn = fixed | {name: values[int(trial.config[name])] for name, values in searched.items()}
        if EPOCHS in table.knobs:
            drawn[EPOCHS] = longest
        told = (1.0, 1.0, 1.0)
        if key_of(drawn) in table.rows:  # of two values that no row combines nothing would run
            name = trial.id.partition("_")[0]
            training = trainings.setdefault(name, bench.epochs(drawn, repeat=len(trainings)))
            answer = _advance(training, round(trial.config[EPOCHS]))
            if answer is not None:
                told = scale(answer.values)
                found |= reached(answer, drawn, longest)
        with thinking(bench):
            optimizer.tell(trial, {"objective_to_minimize": list(told)})
        bench.claim(found)


def _advance(training: Iterator[Answer], num_epochs: int) -> Answer | None:
    """Train on to so many epochs; return None if it does not fit."""
    for answer in training:
        if answer.curve is None:
            return None
        if len(answer.curve) >= num_epochs:
            return answer
    return None


def _optimizer(searched: Mapping[str, list[Any]], longest: int, table: Table) -> Any:
    """The authors' optimizer: numbers are places in their order, words are choices."""
    parameters: dict[str, Any] = {EPOCHS: HPOInteger(1, longest, is_fidelity=True)}
    for name, values in searched.items():
        is_ordered = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        parameters[name] = HPOInteger(0, len(values) - 1) if is_ordered else HPOCategorical(list(range(len(values))))
    beliefs = {
        table.learned: {"per_device_train_batch_size": FAVOURED_BATCH, "gradient_accumulation_steps": 1},
        COSTS[0]: {"per_device_train_batch_size": np.inf, "gradient_accumulation_steps": 1},
        COSTS[1]: {"per_device_train_batch_size": 1, "gradient_accumulation_steps": np.inf, "gradient_checkpointing": True},
    }
    centers = {
        objective: {name: _nearest(values, believed.get(name, values[0])) for name, values in searched.items()}
        for objective, believed in beliefs.items()
    }
    confidences = {objective: dict.fromkeys(searched, CONFIDENCE) for objective in beliefs}
    return make_primo(SearchSpace(parameters), prior_centers=centers, prior_confidences=confidences)


def _nearest(values: list[Any], wanted: Any) -> int:
    """The place of the value that is nearest to what is believed in."""
    if wanted in values:
        return values.index(wanted)
    return int(np.argmin([abs(value - min(wanted, max(values))) for value in values]))


def _scale(table: Table) -> Any:
    """Return a function that tells values as places within the range of all that fits: 0 is best, 1 is worst."""
    costs = np.array([(-each.learned, each.train_time_s, each.peak_memory_mib) for each in table.truth.values()])
    least, most = costs.min(axis=0), costs.max(axis=0)

    def scale(values: Values) -> tuple[float, ...]:
        own = np.array([-values.learned, values.train_time_s, values.peak_memory_mib])
        return tuple(((own - least) / (most - least)).tolist())

    return scale
