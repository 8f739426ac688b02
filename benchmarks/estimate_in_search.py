"""Measure what memory estimates save a search: `python benchmarks/estimate_in_search.py TABLE.json [--seeds 10]`.

On a table of `search_cost.py measure`, each arm runs with and without the memory estimates that the product makes for the
table's study, and the decoupled search also to its own end. Printed are the share of trials that ran out of memory, the time to
95% and 99% of the reference hypervolume, and the processor time of the estimates, without and with cached traces.
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
from tradeoff.studies.execution.memory_estimate import configurations_to_estimate

SAMPLERS = ("tpe", "decoupled")


def estimates_of(table: dict[str, Any], cache_folder: Path) -> tuple[MemoryEstimates, float]:
    """Return the memory estimates for a table's study and the processor time that they took in seconds."""
    begin_s = time.process_time()
    config = StudyConfig.model_validate(table["config"])
    space, _ = available_space(config, table["device"])
    estimates = estimate_for_search(
        config.job,
        configurations_to_estimate(space),
        device=table["device"],
        memory_limit_mib=config.memory_limit_mib(table["device"]),
        cache_folder=cache_folder,
    )
    return estimates, time.process_time() - begin_s


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
        estimates, first_s = estimates_of(table, Path(folder))
        _, again_s = estimates_of(table, Path(folder))
    print(f"the memory estimates took {first_s:.1f} s of a processor, {again_s:.1f} s with cached traces")
    for arm in ARMS:
        if arm.sampler not in SAMPLERS or arm.plain or arm.seeds > 1:
            continue
        for to_its_end in (False, True) if arm.sampler == "decoupled" else (False,):
            for name, used in (("without", None), ("with", estimates)):
                runs = [
                    replay_arm(arm, table, truth, seed, to_its_end=to_its_end, estimates=used)[0]
                    for seed in range(arguments.seeds)
                ]
                title = f"{arm.name}{' to its end' if to_its_end else ''}, {name} memory estimates"
                print(describe(title, runs), flush=True)


if __name__ == "__main__":
    main()
