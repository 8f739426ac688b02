"""How long the decoupled search takes to choose its next trial, in a study that holds 2,000 trials and 500 learning classes.

    python benchmarks/decision.py [--classes 500] [--trials 2000]

Prints the median over several calls of what a worker waits for between two trials: reading the study and deciding, and
deriving what the trainings have settled.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "helpers")]

import simulated_runner as simulated  # noqa: E402

from tradeoff.objectives.knowledge.settled import derived_records  # noqa: E402
from tradeoff.searchspace import Categorical, SearchSpace  # noqa: E402


def space_of(num_classes: int) -> SearchSpace:
    """About so many learning classes: micro-batches and steps whose products seldom agree, in two precisions."""
    batches = tuple(range(1, num_classes // 4 + 1))
    return SearchSpace(
        domains={
            "per_device_train_batch_size": Categorical(batches),
            "gradient_accumulation_steps": Categorical((1, 2, 3, 5)),
            "gradient_checkpointing": Categorical((False, True)),
            "precision": Categorical(("fp32", "fp16")),
        }
    )


def median_s(function: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begin_s = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin_s)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=500)
    parser.add_argument("--trials", type=int, default=2000)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = space_of(arguments.classes)
    budget_mib = 120_000.0
    runner = simulated.SimulatedRunner(budget_mib=budget_mib)
    goal = simulated.objective(runner, space=space, memory_limit_mib=budget_mib)
    sampler = simulated.decoupled(goal)
    study = simulated.new_study(sampler)
    # Trials by another sampler, as in a study half done by it: trained, each class once, and derived.
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(goal, n_trials=arguments.trials)
    study.sampler = sampler
    snapshot = goal.snapshot(study)
    records, knowledge = snapshot.records, snapshot.knowledge
    everything = sampler.planner(goal.snapshot(study)).candidates
    print(
        f"{len(records)} trials, {len(knowledge.trainings)} trained; {space.size()} configurations,"
        f" {len(everything)} learning classes that fit",
        flush=True,
    )
    print(f"plan the next trial: {median_s(lambda: sampler.finished(study)):.3f} s", flush=True)
    print(f"fit and choose alone: {median_s(lambda: sampler.planner(goal.snapshot(study)).decision):.3f} s", flush=True)
    print(f"derive what to publish: {median_s(lambda: derived_records(knowledge)):.3f} s", flush=True)


if __name__ == "__main__":
    main()
