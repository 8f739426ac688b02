"""The benchmarks run to their end, in small: what they print is not looked at."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["decision.py", "--classes", "40", "--trials", "60"],
        ["decision.py", "--wide", "--classes", "12"],
        ["on_the_clock.py", "--seeds", "1", "--max-seconds", "60"],
        ["scale.py", "overhead", "--storages", "sqlite", "--workers", "2", "--held", "30", "--trials", "4", "--running", "3"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_benchmark_runs_to_its_end(arguments: list[str]) -> None:
    name, *options = arguments
    command = [sys.executable, str(ROOT / "benchmarks" / name), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_benchmark_can_be_imported() -> None:
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    assert "compare_fronts" in names
    command = [sys.executable, "-c", "\n".join(f"import {name}" for name in names)]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
