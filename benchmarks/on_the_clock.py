"""What a front costs on the clock: `python benchmarks/on_the_clock.py --seeds 5`, on an idle machine.

A plain loop around Optuna (plain_loop.py) and `tradeoff run` as it comes both run the study of a table for real, on the machine
that measured the table (fronts/measure.py), and are scored by it as on tables (fronts/score.py). The clock starts with the
first trial; everything after it counts: processes, decisions, storing and publishing. What `tradeoff run` claims after a trial
is the front that `tradeoff front` would show then. A machine is some percent faster on one day than on another: claimed times
are divided by the median of what a method's runs have measured, compared to the table. Peak memory is the table's: a loop in
one process can't measure it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from compare_fronts import SHARES, Array, interval, ratios
from fronts.measure import STUDIES
from fronts.score import Scorer, held
from fronts.table import Key, Table, Values, key_of
from plain_loop import hyperparameter_search, plain_trials

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.arguments import job_of_data
from tradeoff.searchspace import SearchSpace, TrialParameters
from tradeoff.studies.config.availability import available_space
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.preparation import cache_folder
from tradeoff.studies.results.evidence import judged_front
from tradeoff.studies.results.expectation import EXPECTED
from tradeoff.studies.results.results import read_results
from tradeoff.studies.workers.run import run_study

TABLES = Path(__file__).parent / "fronts" / "tables"
Claims = Mapping[Key, Values]


class AsItWas:
    """A study as it was when some of its trials had ended: `tradeoff front` derives the others' values from them."""

    def __init__(self, study: Any, trials: Sequence[optuna.trial.FrozenTrial], *, at_its_end: bool) -> None:
        self._study, self._trials = study, trials
        self.user_attrs = {name: value for name, value in study.user_attrs.items() if at_its_end or name != EXPECTED}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True) -> Sequence[optuna.trial.FrozenTrial]:
        return self._trials


def ours(config: StudyConfig, space: SearchSpace, table: Table, seed: int, max_s: float) -> Iterator[tuple[float, Claims]]:
    """Yield the seconds since the first trial and the front, after each trial and at the end of the study."""
    changed = StudyConfig.model_validate(config.plain() | {"sampler_seed": seed, "trials": 1000})
    with tempfile.TemporaryDirectory() as folder:
        study = run_study(changed, storage=f"sqlite:///{folder}/study.db", timeout_s=max_s)
        end_s = time.time()
        ended = [trial for trial in study.get_trials() if trial.datetime_complete is not None]
        trials = sorted(ended, key=lambda trial: trial.datetime_complete)
        begin_s = min(trial.datetime_start for trial in trials).timestamp()

        def claims(num_ended: int, *, at_its_end: bool = False) -> Claims:
            seen: Any = AsItWas(study, trials[:num_ended], at_its_end=at_its_end)
            keys = {
                key_of({name: space.complete(TrialParameters(**record.params)).as_dict()[name] for name in table.knobs}): record
                for record in judged_front(read_results(seen)).records
            }
            return {
                key: Values(
                    table.height(record.values[table.learned]),
                    record.values["train_time_s"],
                    table.rows[key].peak_memory_mib,
                )
                for key, record in keys.items()
            }

        for num_ended, trial in enumerate(trials, start=1):
            yield trial.datetime_complete.timestamp() - begin_s, claims(num_ended)
        yield end_s - begin_s, claims(len(trials), at_its_end=True)


def plain(
    config: StudyConfig, space: SearchSpace, table: Table, folder: Path, seed: int, max_s: float
) -> Iterator[tuple[float, Claims]]:
    """Yield the seconds since the first trial and all that was measured, after each trial."""
    found: dict[Key, Values] = {}
    for spent_s, parameters, values in plain_trials(config.job, space, folder, peaks(table), seed=seed, max_s=max_s):
        if values is not None:
            accuracy, *costs = values
            found[key_of(parameters)] = Values(table.height(accuracy), *costs)
        yield spent_s, dict(found)


def peaks(table: Table) -> Mapping[Key, float | None]:
    """Return the peak memory of each configuration in MiB; None of what does not fit."""
    return {key: row.peak_memory_mib if table.fits(row) else None for key, row in table.rows.items()}


def run_to_its_end(name: str, seed: int, claims: Iterator[tuple[float, Claims]]) -> list[tuple[float, Claims]]:
    """Run a method to its end; return its claims."""
    found = list(claims)
    print(f"seed {seed}, {name}: ended after {found[-1][0]:.0f} s", flush=True)
    return found


def speed(table: Table, runs: Iterable[list[tuple[float, Claims]]]) -> float:
    """Return what a training takes on this day, as a share of what it took when the table was measured."""
    last = [(key, values) for run in runs for key, values in run[-1][1].items() if key in table.truth]
    return float(np.median([values.train_time_s / table.truth[key].train_time_s for key, values in last]))


def curve(scorer: Scorer, run: list[tuple[float, Claims]], day: float) -> Array:
    """Return the selection volume after each claim, of shape (number of claims, 2): seconds, and the share."""
    return np.array(
        [
            (
                spent_s,
                scorer.selection_volume(
                    {key: replace(each, train_time_s=each.train_time_s / day) for key, each in front.items()}
                ),
            )
            for spent_s, front in run
        ]
    )


def main() -> None:
    """Run both, one after the other, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=sorted(STUDIES), default="embedded")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=300.0, help="of one run")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.load(TABLES / f"{options.table}.json")
    scorer, config = Scorer(table), STUDIES[options.table]()
    with TrialServer() as server:
        space, _ = available_space(config, server.describe_device())
        prepared = server.prepare(job_of_data(config.job, space.domains).model_dump(), cache_folder())
    (folder,) = map(Path, prepared["folders"].values())
    runs: dict[str, list[list[tuple[float, Claims]]]] = {"decoupled": [], "plain": []}
    for seed in range(options.seeds):
        arms = {
            "decoupled": ours(config, space, table, seed, options.max_seconds),
            "plain": plain(config, space, table, folder, seed, options.max_seconds),
        }
        for name, claims in arms.items():
            runs[name].append(run_to_its_end(name, seed, claims))
        begun, end = hyperparameter_search(config.job, space, folder, peaks(table), seed=seed)
        print(f"seed {seed}, Trainer.hyperparameter_search: {begun} of 24 trials begun, {end}", flush=True)
    days = {name: speed(table, each) for name, each in runs.items()}
    curves = {name: [curve(scorer, run, days[name]) for run in each] for name, each in runs.items()}
    for name, each in curves.items():
        ends = ", ".join(f"{one[-1, 1]:.1%} after {one[-1, 0]:.0f} s" for one in each)
        print(f"{name}: its trainings take {days[name]:.2f} of the table's times; ends at {ends}")
    for share in SHARES:
        own, other = ([held(one, share) for one in curves[name]] for name in ("decoupled", "plain"))
        print(f"{share:.0%}: decoupled {interval(own)} s, plain {interval(other)} s: {ratios(other, own)}")
    print(f"load of the machine: {os.getloadavg()[1]:.1f}")


if __name__ == "__main__":
    main()
