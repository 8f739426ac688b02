"""How long the decoupled search takes to choose its next trial, in a study that holds 2,000 trials and 500 learning classes.

    python benchmarks/decision.py [--classes 500] [--trials 2000] [--wide]

Prints the median over several calls, in seconds of one core, of what a worker waits for between two trials: reading the study
and deciding, and deriving what the trainings have settled. `--wide` is a space of ten knobs, most of them ranges, with as many
trainings as `--classes` says in place of its trials; it also prints the most memory that the process held.
"""

import argparse
import resource
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
from tradeoff.searchspace import Categorical, FloatRange, PowersOfTwo, SearchSpace  # noqa: E402


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


def wide_space() -> SearchSpace:
    """Ten knobs: words, numbers, ranges, one of the user's own, and one that is set with a value of another alone."""
    return SearchSpace(
        domains={
            "per_device_train_batch_size": PowersOfTwo(low=1, high=64),
            "gradient_accumulation_steps": Categorical((1, 2, 4, 8)),
            "gradient_checkpointing": Categorical((False, True)),
            "precision": Categorical(("fp32", "fp16")),
            "optim": Categorical(("adamw_torch", "adafactor", "sgd")),
            "learning_rate": FloatRange(1e-5, 1e-3, True),
            "weight_decay": FloatRange(0.0, 0.1),
            "warmup_ratio": FloatRange(0.0, 0.2),
            "adam_beta2": FloatRange(0.9, 0.999),
            "num_train_epochs": Categorical((1.0, 2.0, 3.0)),
        },
        only_with={"adam_beta2": {"optim": ("adamw_torch",)}},
    )


def median_s(function: Callable[[], Any], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begin_s = time.process_time()
        function()
        times.append(time.process_time() - begin_s)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=500)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--wide", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = wide_space() if arguments.wide else space_of(arguments.classes)
    num_trials = arguments.classes if arguments.wide else arguments.trials
    budget_mib = 120_000.0
    runner = simulated.SimulatedRunner(budget_mib=budget_mib)
    goal = simulated.objective(runner, space=space, memory_limit_mib=budget_mib)
    sampler = simulated.decoupled(goal)
    study = simulated.new_study(sampler)
    # Trials by another sampler, as in a study half done by it: trained, each class once, and derived.
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(goal, n_trials=num_trials)
    study.sampler = sampler
    snapshot = goal.snapshot(study)
    records, knowledge = snapshot.records, snapshot.knowledge
    everything = sampler.planner(goal.snapshot(study)).candidates
    print(
        f"{len(records)} trials, {len(knowledge.trainings)} trained; {space.num_combinations():,} configurations,"
        f" {len(everything)} learning classes that fit are looked at",
        flush=True,
    )
    print(f"plan the next trial: {median_s(lambda: sampler.finished(study)):.3f} s", flush=True)
    print(f"fit and choose alone: {median_s(lambda: sampler.planner(goal.snapshot(study)).decision):.3f} s", flush=True)
    if arguments.wide:
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
        print(f"most memory held: {peak_mib:.0f} MiB", flush=True)
    planner = sampler.planner(goal.snapshot(study))
    print(f"predict what is untrained, at the end: {median_s(planner.predicted, repeats=3):.3f} s", flush=True)
    print(f"derive what to publish: {median_s(lambda: derived_records(knowledge)):.3f} s", flush=True)


if __name__ == "__main__":
    main()
