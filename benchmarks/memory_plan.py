"""Estimated against published peak memory: `memory_plan.py [ROWS.json] [--source guide ...] [--table TABLE.csv]`.

`published_rows.py` says which rows of the file can be matched, and how. Releases of transformers of which only loops are traced
are installed with pip under `build/`. `memory_on_cpu.py` tests the trace alone, on real runs.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from published_rows import Loops, Published, Runs, matched

from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.run_estimate import (
    MIB,
    GpuMemory,
    RunEstimate,
)

BUILD = Path("build/memory_plan")
ROWS = Path(__file__).with_name("tables") / "published_memory.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A published figure beside its estimate, in MiB; no estimate where the source does not tell all that it depends on."""

    published: Published
    estimated_mib: float
    low_mib: float
    high_mib: float
    fits: bool | None
    is_told: bool = True

    @property
    def error(self) -> float | None:
        measured = self.published.measured_mib
        return None if measured is None or not self.is_told else self.estimated_mib / measured - 1

    @property
    def is_inside(self) -> bool | None:
        measured = self.published.measured_mib
        return None if measured is None else self.low_mib <= measured <= self.high_mib

    def row(self) -> dict[str, Any]:
        measured = self.published.measured_mib
        return {
            "source": self.published.source,
            "case": self.published.case,
            "measured_mib": "" if measured is None else round(measured, 1),
            "estimated_mib": round(self.estimated_mib, 1),
            "error": "" if self.error is None else f"{self.error:+.2%}",
            "low_mib": round(self.low_mib, 1),
            "high_mib": round(self.high_mib, 1),
            "inside": _yes_or_no(self.is_inside),
            "fitted": _yes_or_no(self.published.fits),
            "estimated_to_fit": _yes_or_no(self.fits),
        }


def of_runs(group: Runs) -> list[Result]:
    tracer = group.arguments.get("tracer")
    folder = BUILD / "traces" / (tracer.__name__ if tracer else "installed")
    estimator = MemoryEstimator(group.config, **group.arguments, cache_folder=folder, progress=_say)
    estimates = estimator.estimate(configuration for configuration, _ in group.runs)
    return [_of_run(group, published, each) for (_, published), each in zip(group.runs, estimates, strict=True)]


def _of_run(group: Runs, published: Published, estimate: RunEstimate) -> Result:
    estimated_mib = estimate.peak_memory_mib
    if group.figure == "allocated":
        estimated_mib -= estimate.parts["context"] + estimate.parts["retained"]
    return Result(
        published=published,
        estimated_mib=estimated_mib,
        low_mib=estimate.lower_bound_mib,
        high_mib=estimate.upper_bound_mib,
        fits=estimate.fits,
        is_told=group.is_told,
    )


def of_loops(group: Loops) -> list[Result]:
    folder = BUILD / f"transformers-{group.transformers}"
    if not folder.is_dir():
        _say(f"installing transformers {group.transformers} in {folder}")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "--no-deps"]
        needs = ["tokenizers<0.20" if group.transformers < "4.45" else "tokenizers<0.21", "huggingface_hub<1"]
        subprocess.run([*install, f"transformers=={group.transformers}", *needs], check=True)
    shapes = [f"{batch}x{length}" for (batch, length), _ in group.runs]
    _say(f"tracing {group.model}, {group.attention}, transformers {group.transformers}: {' '.join(shapes)}")
    worker = [sys.executable, str(Path(__file__).with_name("logits_loop.py")), group.model, group.attention, *shapes]
    path = os.pathsep.join([str(folder.resolve()), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    answer = subprocess.run(worker, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout
    peaks = [[value / MIB for value in each] for each in json.loads(answer.splitlines()[-1])]
    return [
        Result(
            published=published,
            estimated_mib=allocated,
            low_mib=requested,
            high_mib=1.01 * reserved,
            fits=_fits(reserved, group.device_mib),
        )
        for (_, published), (allocated, requested, reserved) in zip(group.runs, peaks, strict=True)
    ]


def summary(results: list[Result]) -> dict[str, str]:
    errors = sorted(abs(each.error) for each in results if each.error is not None)
    inside = [each.is_inside for each in results if each.is_inside is not None]
    wrong = sum(bool(each.fits) and each.published.fits is False for each in results)
    too_careful = sum(each.fits is False and bool(each.published.fits) for each in results)
    return {
        "rows": str(len(results)),
        "median": f"{statistics.median(errors):.2%}" if errors else "",
        "95th percentile": f"{errors[max(0, -(-95 * len(errors) // 100) - 1)]:.2%}" if errors else "",
        "largest": f"{errors[-1]:.2%}" if errors else "",
        "inside the bounds": f"{sum(inside)} of {len(inside)}" if inside else "",
        "wrong fits": str(wrong),
        "wrong does not fit": str(too_careful),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="?", default=ROWS, help="the published rows, a JSON list")
    parser.add_argument("--source", nargs="*", help="only these")
    parser.add_argument("--table", type=Path, help="where to write every row, as CSV")
    options = parser.parse_args()
    groups, reasons = matched(json.loads(options.rows.read_text()))
    results: list[Result] = []
    for group in groups:
        if options.source and group.runs[0][1].source not in options.source:
            continue
        begin_s = time.perf_counter()
        found = of_loops(group) if isinstance(group, Loops) else of_runs(group)
        for each in found:
            print("  ".join(f"{value!s:>10}" if name != "case" else f"{value:40}" for name, value in each.row().items()))
        print(f"{time.perf_counter() - begin_s:.0f} s", flush=True)
        results += found
    print()
    for source in [*dict.fromkeys(each.published.source for each in results), None]:
        line = summary([each for each in results if source in (each.published.source, None)])
        print(f"{source or 'all':22}", "; ".join(f"{name} {value}" for name, value in line.items() if value))
    print(f"\nnot matched: {sum(reasons.values())} rows of {options.rows}")
    for reason, number in reasons.most_common():
        print(f"{number:5} {reason}")
    if options.table is not None:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        with options.table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(results[0].row()))
            writer.writeheader()
            writer.writerows(each.row() for each in results)


def _fits(reserved_mib: float, device_mib: float) -> bool | None:
    """Whether what is reserved fits beside a context that nobody has measured; None if that decides."""
    bounds = GpuMemory(total_mib=device_mib).allocator_bounds_bytes
    assert bounds is not None
    verdicts = {reserved_mib * MIB <= capacity for capacity in bounds}
    return verdicts.pop() if len(verdicts) == 1 else None


def _yes_or_no(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
