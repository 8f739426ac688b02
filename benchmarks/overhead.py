"""What the product adds to a training: how soon a trial's first step is done, what a study adds, how soon a command answers.

    python benchmarks/overhead.py [--repeats 5] [--trials 8]

Prints medians and ranges, and the machine's load before and after, on which all of them depend. A first step is compared with
the same in a freshly spawned interpreter, which imports torch and transformers, in the same run and by turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.measurements.records import read_attributes
from tradeoff.searchspace import Reuse, TrialParameters
from tradeoff.studies.config.presets import embedded
from tradeoff.studies.workers.run import run_study

COMMAND = [sys.executable, "-c", "from tradeoff.studies.cli.main import main; main()"]


def first_step_s(server: TrialServer, request: dict[str, Any]) -> float:
    """From here to the end of the trial's first optimizer step.

    The trial's own clock starts when its process reads the request; what lies before, until its first message arrives, is
    added. A few milliseconds between the two are counted twice, so the sum is too long rather than too short.
    """
    begin_s = time.perf_counter()
    messages_s: list[float] = []
    outcome = server.run_trial(request, on_progress=lambda _: messages_s.append(time.perf_counter() - begin_s))
    own_s = outcome.measurements.first_step_time_s
    assert own_s is not None, outcome
    return messages_s[0] + float(own_s)


def show(label: str, values: Sequence[float], unit: str = "s") -> float:
    """Prints a line with median, range and number, and returns the median."""
    median = statistics.median(values)
    print(f"{label:58} {median:8.3f} {unit}   {min(values):.3f} to {max(values):.3f}, n={len(values)}", flush=True)
    return median


def first_steps(repeats: int, folder: Path) -> None:
    job = embedded().job
    with TrialServer() as warm:
        request = {
            "job": job.model_dump(),
            "parameters": TrialParameters(per_device_train_batch_size=32).as_dict(),
            "data_folders": warm.prepare(job.model_dump(), folder)["folders"],
            "stages": ["probe"],
            "memory_limit_mib": embedded().limits.peak_memory_mib,
        }
        warm_s, spawned_s = [], []
        for _ in range(repeats):
            warm_s.append(first_step_s(warm, request))
            with TrialServer() as fresh:
                spawned_s.append(first_step_s(fresh, request))
    a = show("first optimizer step, warm server", warm_s)
    b = show("first optimizer step, freshly spawned interpreter", spawned_s)
    print(f"{'ratio of the medians':58} {b / a:8.1f} x", flush=True)


def study_overhead(trials: int, folder: Path) -> None:
    # Every trial is a training of its own: a survey's length depends on what it finds.
    settings = {"trials": trials, "name": "overhead", "sampler": "random", "sampler_seed": 0, "reuse": Reuse.OFF}
    config = embedded().model_copy(update=settings)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    begin_s = time.perf_counter()
    study = run_study(config, storage=f"sqlite:///{folder}/a.db", cache=folder)
    wall_s = time.perf_counter() - begin_s
    measured = [read_attributes(trial.user_attrs) for trial in study.trials]
    times_s = [attributes["trial_time_s"] for attributes in measured if "trial_time_s" in attributes]
    # The search alone: imports and preparation happen once, whatever the number of trials.
    begin = min(trial.datetime_start for trial in study.trials)
    end = max(trial.datetime_complete for trial in study.trials)
    search_s = (end - begin).total_seconds()
    trial_s = sum(times_s)
    print(f"{f'a study of {trials} trials, {len(times_s)} processes: sum of their times':58} {trial_s:8.3f} s")
    print(f"{'  from the first trial to the end of the last':58} {search_s:8.3f} s   {search_s / trial_s - 1:+.1%}")
    print(f"{'  whole call: imports, data and plots too':58} {wall_s:8.3f} s   {wall_s / trial_s - 1:+.1%}", flush=True)
    commands(folder)


def commands(folder: Path, repeats: int = 5) -> None:
    storage = f"sqlite:///{folder}/a.db"
    for label, arguments in (("tradeoff --help", ["--help"]), ("tradeoff front", ["front", "--storage", storage])):
        times_s = []
        for _ in range(repeats):
            begin_s = time.perf_counter()
            subprocess.run([*COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
            times_s.append(time.perf_counter() - begin_s)
        show(label, times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="first steps of each kind")
    parser.add_argument("--trials", type=int, default=8, help="trials of the study")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load before: {', '.join(f'{load:.2f}' for load in os.getloadavg())}", flush=True)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        first_steps(arguments.repeats, Path(folder))
        study_overhead(arguments.trials, Path(folder))
    print(f"load after: {', '.join(f'{load:.2f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()
