"""What a front costs with each method, on tables of measured jobs: `python benchmarks/compare_fronts.py --seeds 10`

For every table and method it prints the seconds until a share of the selection volume (see fronts/score.py) is reached and
held, in the median over seeds with a bootstrap interval, how many times cheaper ours is than the best plain method, seed by
seed, and the mean share over the time. `--methods` also takes `module:function` for a method of your own: a function of a
`Bench`, a seed, and the seconds that it may spend. A seed changes a method's draws, which seed of a training it sees, and the
error of every time.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from fronts.methods import METHODS, Method
from fronts.score import Scorer, area, held
from fronts.table import Bench, Table
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

SHARES = (0.9, 0.95, 0.99)
OURS = "decoupled"
# An arm is given the time of so many trainings of middling length.
NUM_TRAININGS = 80
Array = NDArray[np.float64]


def method(name: str) -> Method:
    """Return a method by its name, or by `module:function`."""
    if name in METHODS:
        return METHODS[name]
    module, _, function = name.partition(":")
    if not function:
        raise SystemExit(f"no method is called {name!r}: {', '.join(METHODS)}, or module:function")
    found: Method = getattr(importlib.import_module(module), function)
    return found


def run(scorer: Scorer, name: str, seed: int, slow_share: float) -> tuple[Array, Bench, float]:
    """Return the curve of a method, what it has spent, and the hypervolume of its last claims."""
    bench = Bench(scorer.table, seed, slow_share)
    method(name)(bench, seed, horizon_s(scorer.table))
    return scorer.curve(bench), bench, scorer.hypervolume(bench.claims[-1][1] if bench.claims else {})


def errors(table: Table, bench: Bench) -> Array:
    """How far each of the last claims is off, of shape (number of claims, 3): learned; time and memory in shares."""
    last = bench.claims[-1][1] if bench.claims else {}
    claims = [(table.truth[key], values) for key, values in last.items() if key in table.truth]
    return np.array(
        [
            (
                abs(claimed.learned - true.learned),
                abs(claimed.train_time_s / true.train_time_s - 1),
                abs(claimed.peak_memory_mib / true.peak_memory_mib - 1),
            )
            for true, claimed in claims
        ]
    ).reshape(-1, 3)


def horizon_s(table: Table) -> float:
    """The time that every method is given."""
    return NUM_TRAININGS * float(np.median([values.train_time_s for values in table.truth.values()]))


def interval(values: Sequence[float], seed: int = 0) -> str:
    """The median with a 90% bootstrap interval; "not reached" counts as infinite."""
    draw = np.random.default_rng(seed)
    medians = np.sort([_median(draw.choice(values, len(values))) for _ in range(1000)])
    return f"{_text(_median(values))} ({_text(medians[50])} to {_text(medians[949])})"


def _median(values: Sequence[float]) -> float:
    """The median, in which half of an infinite number of seconds is none."""
    ordered = np.sort(values)
    return float(ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1].mean())


def _text(seconds: float) -> str:
    return "never" if not np.isfinite(seconds) else f"{seconds:,.0f}"


def ratios(costs: Sequence[float], ours: Sequence[float]) -> str:
    """How many times cheaper ours is, seed by seed: the median and the range; 0 where ours does not get there."""
    if not np.isfinite(ours).any():
        return "never reached by ours"
    times = [other / own if np.isfinite(own) else 0.0 for other, own in zip(costs, ours, strict=True)]
    return f"{_times(_median(times))} ({_times(min(times))} to {_times(max(times))})"


def _times(ratio: float) -> str:
    return "others never" if not np.isfinite(ratio) else f"{ratio:.1f} x"


def report(
    table: Table,
    costs: Mapping[str, Mapping[float, list[float]]],
    areas: Mapping[str, list[float]],
    off: Mapping[str, Sequence[Array]],
) -> None:
    """Print the figures of a table."""
    print(f"\n{table.name}: {len(table.rows)} configurations, {len(table.rows) - len(table.truth)} out of memory")
    for name, reached in costs.items():
        cells = "   ".join(f"{share:.0%}: {interval(reached[share])} s" for share in SHARES)
        print(f"  {name:40}{cells}   mean {np.mean(areas[name]):.1%}")
    for name, each in off.items():
        learned, time_s, memory = np.median(together := np.vstack(each), axis=0)
        most = together.max(axis=0)
        print(
            f"  {name:40}last claims are off by {learned:.3f} {table.learned} (at most {most[0]:.3f}), {time_s:.1%} time"
            f" ({most[1]:.0%}), {memory:.1%} memory ({most[2]:.0%})"
        )
    for share in SHARES if OURS in costs and len(costs) > 1 else ():
        best = min((name for name in costs if name != OURS), key=lambda name: (_median(costs[name][share]), name))
        print(f"  {share:.0%}: {OURS} against {best}: {ratios(costs[best][share], costs[OURS][share])}")


def main() -> None:
    """Run every method on every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="*", type=Path, default=sorted((Path(__file__).parent / "fronts" / "tables").glob("*.json"))
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--slow-share", type=float, default=0.0, help="share of measurements that another program disturbs")
    parser.add_argument(
        "--unshared", action="store_true", help="tell the methods that splits of an effective batch don't learn the same"
    )
    parser.add_argument("--curves", type=Path, help="write all curves as JSON, for the plot")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves: dict[str, dict[str, list[list[list[float]]]]] = {}
    for path in options.tables:
        table = Table.load(path)
        if options.unshared:
            table = replace(table, job={**table.job, "shares_accuracy": False})
        scorer = Scorer(table)
        costs: dict[str, dict[float, list[float]]] = {name: {share: [] for share in SHARES} for name in options.methods}
        areas: dict[str, list[float]] = {name: [] for name in options.methods}
        off: dict[str, list[Array]] = {name: [] for name in options.methods}
        for seed in range(options.seeds):
            for name in options.methods:
                curve, bench, volume = run(scorer, name, seed, options.slow_share)
                for share in SHARES:
                    costs[name][share].append(held(curve, share))
                areas[name].append(area(curve, horizon_s(table)))
                off[name].append(errors(table, bench))
                curves.setdefault(table.name, {}).setdefault(name, []).append(curve.tolist())
                print(
                    f"{table.name} seed {seed} {name}: {curve[-1, 1]:.1%} of the selection volume, {volume:.1%} of the"
                    f" hypervolume, {bench.num_trainings} trainings, {bench.num_out_of_memory} out of memory,"
                    f" {bench.spent_s:,.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        report(table, costs, areas, off)
    print(f"\nload of the machine: {os.getloadavg()[1]:.1f}")
    if options.curves:
        options.curves.write_text(json.dumps(curves))


if __name__ == "__main__":
    main()
