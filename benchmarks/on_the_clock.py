"""What a front costs on the clock: `python benchmarks/on_the_clock.py --seeds 5`, on an idle machine.

A plain loop around Optuna (plain_loop.py) and `tradeoff run` as it comes both run the study of a table for real, on the machine
that measured the table (fronts/measure.py), and are scored by it as on tables (fronts/score.py). The clock starts with the
first trial; everything after it counts: processes, decisions, storing and publishing. What `tradeoff run` claims after a trial
is the front that `tradeoff front` would show then.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from compare_fronts import SHARES, interval, ratios
from fronts.measure import STUDIES
from fronts.methods import COSTS
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
from tradeoff.studies.results.front import feasible, pareto_front
from tradeoff.studies.results.results import read_results
from tradeoff.studies.workers.run import run_study

TABLES = Path(__file__).parent / "fronts" / "tables"
Claims = Mapping[Key, Values]


def ours(config: StudyConfig, space: SearchSpace, table: Table, seed: int, max_s: float) -> Iterator[tuple[float, Claims]]:
    """Yield the seconds since the first trial and the front, after each trial and at the end of the study."""
    changed = StudyConfig.model_validate(config.plain() | {"sampler_seed": seed, "trials": 1000})
    with tempfile.TemporaryDirectory() as folder:
        study = run_study(changed, storage=f"sqlite:///{folder}/study.db", timeout_s=max_s)
        end_s, results = time.time(), read_results(study)
        trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    begin_s = min(trial.datetime_start.timestamp() for trial in trials.values())
    objectives = (table.learned, *COSTS)
    ended = sorted((trials[record.number].datetime_complete.timestamp(), record) for record in results.records)

    def claims(records: Any) -> Claims:
        return {
            key_of({name: space.complete(TrialParameters(**record.params)).as_dict()[name] for name in table.knobs}): Values(
                table.height(record.values[table.learned]), *(record.values[name] for name in COSTS)
            )
            for record in records
        }

    for place, (ended_s, _) in enumerate(ended, start=1):
        known = [record for _, record in ended[:place]]
        yield ended_s - begin_s, claims(pareto_front(feasible(known), objectives))
    yield end_s - begin_s, claims(judged_front(results).records)


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


def seconds(scorer: Scorer, name: str, seed: int, claims: Iterator[tuple[float, Claims]]) -> list[float]:
    """Run a method; return the seconds until each share is reached and held."""
    curve = np.array([(spent_s, scorer.selection_volume(front)) for spent_s, front in claims])
    print(f"seed {seed}, {name}: {curve[-1, 1]:.1%} after {curve[-1, 0]:.0f} s", flush=True)
    return [held(curve, share) for share in SHARES]


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
    costs: dict[str, list[list[float]]] = {"decoupled": [], "plain": []}
    for seed in range(options.seeds):
        arms = {
            "decoupled": ours(config, space, table, seed, options.max_seconds),
            "plain": plain(config, space, table, folder, seed, options.max_seconds),
        }
        for name, claims in arms.items():
            costs[name].append(seconds(scorer, name, seed, claims))
        begun, end = hyperparameter_search(config.job, space, folder, peaks(table), seed=seed)
        print(f"seed {seed}, Trainer.hyperparameter_search: {begun} of 24 trials begun, {end}", flush=True)
    for place, share in enumerate(SHARES):
        own, other = ([run[place] for run in costs[name]] for name in ("decoupled", "plain"))
        print(f"{share:.0%}: decoupled {interval(own)} s, plain {interval(other)} s: {ratios(other, own)}")
    print(f"load of the machine: {os.getloadavg()[1]:.1f}")


if __name__ == "__main__":
    main()
