"""Measure what memory estimates save a search: `python benchmarks/estimate_in_search.py TABLE.json [--seeds 10]`.

On a table of `search_cost.py measure`, each arm runs with the plan that the product makes for the table's study, and without:
the share of the trials that ran which ran out of memory, and what it cost to reach 95% and 99% of the reference hypervolume;
the decoupled search to its own end as well. What making the plan took is printed apart: with its traces to make, and with them
at hand.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
from search_cost import ARMS, Point, Truth, reach, replay_arm

from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates
from tradeoff.objectives.memory_estimator.job import estimate_for_search
from tradeoff.studies.config.availability import available_space
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.memory_estimate import planned_configurations

SAMPLERS = ("tpe", "decoupled")


def plan_of(table: dict[str, Any], cache_folder: Path) -> tuple[MemoryEstimates, float]:
    """The plan for a table's study, and the processor time that it took in seconds."""
    begin_s = time.process_time()
    config = StudyConfig.model_validate(table["config"])
    space, _ = available_space(config, table["device"])
    plan = estimate_for_search(
        config.job,
        planned_configurations(space),
        device=table["device"],
        memory_limit_mib=config.memory_limit_mib(table["device"]),
        cache_folder=cache_folder,
    )
    return plan, time.process_time() - begin_s


def describe(name: str, runs: list[list[Point]]) -> str:
    """A line with the medians over the seeds."""
    ends = [points[-1] for points in runs]
    out = [point.out_of_memory for point in ends]
    share = sum(out) / sum(point.num_run for point in ends)
    texts = [f"{name:46} {statistics.mean(out):5.1f} of {statistics.mean(p.num_run for p in ends):5.1f} trials ({share:.0%})"]
    for wanted in (0.95, 0.99):
        reached = [point.wall_s for points in runs if (point := reach(points, wanted)) is not None]
        text = "not reached" if len(reached) <= len(runs) / 2 else f"{statistics.median(reached):.0f} s"
        texts.append(f"{wanted:.0%} after {text}")
    return ", ".join(texts)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    table = json.loads(arguments.table.read_text(encoding="utf-8"))
    truth = Truth.of(table)
    with tempfile.TemporaryDirectory() as folder:
        plan, first_s = plan_of(table, Path(folder))
        _, again_s = plan_of(table, Path(folder))
    print(f"the plan took {first_s:.1f} s of a processor, {again_s:.1f} s with its traces at hand")
    for arm in ARMS:
        if arm.sampler not in SAMPLERS or arm.plain or arm.early_stopping:
            continue
        for to_its_end in (False, True) if arm.sampler == "decoupled" else (False,):
            for name, used in (("without", None), ("with", plan)):
                runs = [
                    replay_arm(arm, table, truth, seed, to_its_end=to_its_end, plan=used)[0] for seed in range(arguments.seeds)
                ]
                title = f"{arm.name}{' to its end' if to_its_end else ''}, {name} the plan"
                print(describe(title, runs), flush=True)


if __name__ == "__main__":
    main()
