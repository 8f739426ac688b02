"""What a front costs: plain Optuna, Optuna over shared knowledge, and the decoupled search, to the same hypervolume.

    python benchmarks/search_cost.py measure TABLE.json    # trains and probes every configuration for real, once
    python benchmarks/search_cost.py replay TABLE.json     # every arm, many seeds, on those measurements
    python benchmarks/search_cost.py real TABLE.json       # every arm for real, in wall time, on this machine

`--job rate` is a second job of another shape: twice the samples, so that a probe is cheaper beside a training, and a learning
rate in the space, so that there are three times as many classes for the same structures.

`measure` runs each configuration of the study through the product (probe, then training), and trains each learning class with
two further seeds. From it comes the truth: a configuration's accuracy is the mean over its class's trainings and seeds, its
time and memory are its own. Where a learning rate is searched, each structure is run once and each class trained by its fastest
member: a rate changes neither time nor memory. The reference hypervolume is that of all configurations, and an arm is judged by
the truth about the configurations that it would put on its own front itself, so that luck does not count.

`replay` gives the real samplers and the real objective these measurements instead of a process, and books what each trial cost
when it was measured: an arm that trains pays for the training, one that probes for the probe. It says what the search decides;
`real` says what it takes on the clock, its own overhead and the publishing included.

Arms: (a) multivariate TPE with every trial trained, out-of-memory pruned, as a user would write it; (c) TPE and random over the
product's objective, with the out-of-memory frontier and shared accuracy; (d) decoupled; (f) the same with
repeats of a class, which is the product's default. `real` runs (a) and (f), and (b)
`Trainer.hyperparameter_search`, as far as it goes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import optuna

from tradeoff.objectives.isolation.trial_server import TrialServer
from tradeoff.objectives.job.arguments import job_of_data
from tradeoff.objectives.measurements.outcome import from_json, to_json
from tradeoff.objectives.measurements.records import TrialRecord, read_record
from tradeoff.objectives.memory_estimator.estimates import MEMORY_ESTIMATES, MemoryEstimates
from tradeoff.objectives.objective import Objective, TrialFailed
from tradeoff.searchspace import Reuse, TrialParameters
from tradeoff.studies.config.availability import available_space
from tradeoff.studies.config.presets import embedded
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.preparation import cache_folder
from tradeoff.studies.results.front import pareto_front
from tradeoff.studies.results.tables import short_configuration
from tradeoff.studies.samplers.build import build_sampler
from tradeoff.studies.samplers.decoupled import DecoupledSampler
from tradeoff.studies.storage.study import open_study
from tradeoff.studies.workers.run import run_study

# Where the tests keep a study in memory.
sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))

SHARES = (0.90, 0.95, 0.99)
EXTRA_SEEDS = (43, 44)
MAX_TRIALS = 150  # of an arm that trains every trial
OBJECTIVES = ("accuracy", "train_time_s", "peak_memory_mib")


def study_config(job: str) -> StudyConfig:
    config = embedded()
    if job == "embedded":
        return config
    space = {
        "per_device_train_batch_size": [16, 64, 256, 512],
        "gradient_accumulation_steps": [1, 4],
        "learning_rate": [2e-3, 8e-3, 3.2e-2],
    }
    changes = {"name": "rate", "job": config.job.model_dump() | {"train_samples": 4800}}
    return StudyConfig.model_validate(config.plain() | changes | {"space": config.space.model_dump() | space})


def key(parameters: dict[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True)


# ------------------------------------------------------------------------------------------------------------ measure


def measure(path: Path, config: StudyConfig) -> None:
    """Runs every configuration, and every class with further seeds; goes on where it was ended."""
    table: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"outcomes": {}, "seeds": {}}
    with TrialServer() as server:
        device = server.describe_device()
        space, _ = available_space(config, device)
        prepared = server.prepare(job_of_data(config.job, space.domains).model_dump(), cache_folder())
        table |= {"device": device, "prepared": prepared, "config": config.plain()}
        grid = list(space.grid())
        structures: dict[str, Any] = table.setdefault("structures", {})
        for number, parameters in enumerate(grid):
            name, structure = key(parameters.as_dict()), key(parameters.structure.as_dict())
            if name not in table["outcomes"]:
                if structure not in structures:
                    outcome = server.run_trial(_request(config, prepared, parameters))
                    structures[structure] = json.loads(to_json(outcome))
                    seconds = f"{outcome.measurements.trial_time_s:.1f} s"
                    print(f"[{number + 1}/{len(grid)}] {name} {outcome.kind} {seconds}", flush=True)
                table["outcomes"][name] = structures[structure]
                path.write_text(json.dumps(table))
        if "learning_rate" in space.domains:
            _train_each_class(server, config, prepared, table, path)
        for name in _fastest_of_each_class(table):
            for seed in EXTRA_SEEDS:
                if f"{seed} {name}" not in table["seeds"]:
                    request = _request(config, prepared, TrialParameters(**json.loads(name)))
                    request["job"] |= {"seed": seed}
                    outcome = server.run_trial(request | {"stages": ["train"]})
                    table["seeds"][f"{seed} {name}"] = outcome.measurements.training.curve[-1].accuracy
                    path.write_text(json.dumps(table))
                    print(f"seed {seed} {name} {table['seeds'][f'{seed} {name}']:.3f}", flush=True)


def _train_each_class(server: TrialServer, config: StudyConfig, prepared: dict[str, Any], table: Any, path: Path) -> None:
    """Gives every configuration the accuracies of its own class: so far it has those of its structure at another rate."""
    trained = table.setdefault("classes", {})
    for name in _fastest_of_each_class(table):
        if name not in trained:
            parameters = TrialParameters(**json.loads(name))
            outcome = server.run_trial(_request(config, prepared, parameters) | {"stages": ["train"]})
            trained[name] = json.loads(to_json(outcome))["measurements"]["training"]
            path.write_text(json.dumps(table))
            print(f"class of {name}: {trained[name]['curve'][-1]['accuracy']:.3f}", flush=True)
    accuracies = {_class(name): training["curve"] for name, training in trained.items()}
    for name, outcome in list(table["outcomes"].items()):
        if outcome["kind"] == "completed":
            measurements = outcome["measurements"]
            training = measurements["training"] | {"curve": accuracies[_class(name)]}
            table["outcomes"][name] = outcome | {"measurements": measurements | {"training": training}}
    path.write_text(json.dumps(table))


def _request(config: StudyConfig, prepared: dict[str, Any], parameters: TrialParameters) -> dict[str, Any]:
    return {
        "job": config.job.model_dump(),
        "parameters": parameters.as_dict(),
        "data_folders": prepared["folders"],
        "stages": ["probe", "train"],
        "memory_limit_mib": config.limits.peak_memory_mib,
    }


def _fastest_of_each_class(table: dict[str, Any]) -> list[str]:
    fastest: dict[Any, tuple[float, str]] = {}
    for name, outcome in table["outcomes"].items():
        if outcome["kind"] == "completed":
            learning_class = TrialParameters(**json.loads(name)).learning_class()
            entry = (outcome["measurements"]["training"]["train_time_s"], name)
            fastest[learning_class] = min(fastest.get(learning_class, entry), entry)
    return [name for _, name in fastest.values()]


# -------------------------------------------------------------------------------------------------------------- truth


@dataclass(frozen=True)
class Truth:
    """What every configuration that fits is worth, and the hypervolume of them all."""

    values: dict[str, tuple[float, float, float]]
    reference: np.ndarray
    full: float

    @classmethod
    def of(cls, table: dict[str, Any]) -> "Truth":
        accuracies = defaultdict(list)
        completed = {name: o for name, o in table["outcomes"].items() if o["kind"] == "completed"}
        for name in table.get("classes", completed):
            accuracies[_class(name)].append(completed[name]["measurements"]["training"]["curve"][-1]["accuracy"])
        for name, accuracy in table["seeds"].items():
            accuracies[_class(name.split(" ", 1)[1])].append(accuracy)
        values = {
            name: (
                statistics.mean(accuracies[_class(name)]),
                outcome["measurements"]["training"]["train_time_s"],
                outcome["measurements"]["probe"]["memory"]["peak_memory_mib"],
            )
            for name, outcome in completed.items()
        }
        slowest = max(time_s for _, time_s, _ in values.values())
        budget = table["config"]["limits"]["peak_memory_mib"]
        # Of no use: a constant answer, the slowest training, the whole budget.
        reference = np.array([-table["prepared"]["baselines"]["accuracy"], slowest * 1.01, budget * 1.01])
        truth = cls(values, reference, 0.0)
        return replace(truth, full=truth.volume(values))

    def volume(self, names: Any) -> float:
        """The hypervolume of these configurations."""
        points = np.array([(-a, t, m) for a, t, m in (self.values[name] for name in names if name in self.values)]).reshape(
            -1, 3
        )
        points = points[(points < self.reference).all(axis=1)]
        # Scaled, so that no unit weighs more in the arithmetic.
        return float(moocore.hypervolume(points / np.abs(self.reference), ref=np.sign(self.reference))) if len(points) else 0.0


def _class(name: str) -> Any:
    return TrialParameters(**json.loads(name)).learning_class()


# ------------------------------------------------------------------------------------------------------------- replay


class ReplayRunner:
    """Answers a request with what was measured for its configuration, and books what that cost.

    Attributes:
        wall_s: Booked seconds.
        num_samples: Training samples processed.
        num_trainings: Trainings started.
        num_run: Requests answered: trials that ran.
    """

    def __init__(self, table: dict[str, Any], *, probes: bool) -> None:
        self._outcomes = table["outcomes"]
        self._seed = table["config"]["job"]["seed"]
        self._by_seed = {
            (int(name.split(" ", 1)[0]), _class(name.split(" ", 1)[1])): accuracy for name, accuracy in table["seeds"].items()
        }
        self._probes = probes
        self.wall_s = 0.0
        self.num_samples = 0
        self.num_trainings = 0
        self.num_run = 0

    def _with_seed(self, training: Any, request: dict[str, Any]) -> Any:
        """The training as it ended with another seed, where the request names one."""
        if (seed := request["job"]["seed"]) == self._seed:
            return training
        accuracy = self._by_seed[seed, _class(key(request["parameters"]))]
        return replace(training, curve=[*training.curve[:-1], replace(training.curve[-1], accuracy=accuracy)])

    def run_trial(self, request: dict[str, Any], *, time_limit_s: float | None = None, on_progress: Any = None) -> Any:
        self.num_run += 1
        outcome = from_json(json.dumps(self._outcomes[key(request["parameters"])]))
        measurements = outcome.measurements
        if outcome.kind != "completed":
            self.wall_s += measurements.trial_time_s
            return outcome
        probe_s, trial_s = measurements.probe.probe_time_s, measurements.trial_time_s
        training = measurements.training
        train_s = training.train_time_s + training.eval_time_s
        self.wall_s += trial_s - probe_s - train_s  # the process, the data, the models
        if "probe" in request["stages"] and self._probes:
            self.wall_s += probe_s
        else:
            measurements = replace(measurements, probe=replace(measurements.probe, probe_time_s=0.0))
        if "train" not in request["stages"]:
            return replace(outcome, measurements=replace(measurements, training=None))
        training = self._with_seed(training, request)
        self.wall_s += train_s
        self.num_samples += training.num_samples
        self.num_trainings += 1
        return replace(outcome, measurements=replace(measurements, training=training))


@dataclass
class Arm:
    name: str
    sampler: str
    reuse: Reuse = Reuse.EFFECTIVE_BATCH
    seeds: int = 1  # that a class may be trained with
    plain: bool = False  # no probe, no knowledge: every trial is trained


ARMS = (
    Arm("(a) TPE, every trial trained", "tpe", reuse=Reuse.OFF, plain=True),
    Arm("(a') random, every trial trained", "random", reuse=Reuse.OFF, plain=True),
    Arm("(c) TPE with shared knowledge", "tpe"),
    Arm("(c') random with shared knowledge", "random"),
    Arm("(d) decoupled", "decoupled"),
    Arm("(f) decoupled, with repeats", "decoupled", seeds=1 + len(EXTRA_SEEDS)),
)


@dataclass(frozen=True)
class Point:
    """How far an arm is after a trial."""

    wall_s: float
    num_samples: int
    num_trainings: int
    volume: float
    out_of_memory: int
    num_run: int = 0


def replay_arm(
    arm: Arm,
    table: dict[str, Any],
    truth: Truth,
    seed: int,
    *,
    to_its_end: bool = False,
    estimates: MemoryEstimates | None = None,
    runner_type: type[ReplayRunner] = ReplayRunner,
    clock_s: Callable[[], float] = time.perf_counter,
) -> tuple[list[Point], list[TrialRecord]]:
    settings = {"sampler": arm.sampler, "sampler_seed": seed, "seeds_per_class": arm.seeds}
    config = StudyConfig.model_validate(table["config"] | settings)
    space, _ = available_space(config, table["device"])
    runner = runner_type(table, probes=not arm.plain)
    objective = Objective(
        setup=replace(
            config.setup(space, table["device"], **{name: table["prepared"][name] for name in ("num_train", "num_eval")}),
            reuse=arm.reuse,
        ),
        data_folders={},
        runner=runner,
    )
    from memory_storage import in_memory

    study = open_study(config, in_memory(), table["device"])
    if estimates is not None:
        study.set_user_attr(MEMORY_ESTIMATES, estimates.as_dict())
    study.sampler = build_sampler(
        config,
        objective,
        baselines=table["prepared"]["baselines"],
        num_trials=0,
    )
    target = _plain(objective) if arm.plain else objective
    points: list[Point] = []
    own = [0.0]

    def ended(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        records = objective.snapshot(study).settled
        front = [key(dict(record.params)) for record in pareto_front(records, OBJECTIVES)]
        volume = truth.volume(front) / truth.full
        out = sum(record.outcome == "out_of_memory" for record in records)
        points.append(Point(runner.wall_s + own[0], runner.num_samples, runner.num_trainings, volume, out, runner.num_run))

    # The decoupled search is run to its own end once, to compare its claims; elsewhere 99% is the end.
    last_share = 2.0 if to_its_end else SHARES[-1]
    for _ in range(MAX_TRIALS * (1 if arm.plain else 20)):
        begin_s = clock_s()
        if isinstance(study.sampler, DecoupledSampler) and study.sampler.finished(study) is not None:
            break
        if points and (points[-1].volume >= last_share or runner.num_trainings >= MAX_TRIALS):
            break
        study.optimize(target, n_trials=1, catch=(TrialFailed,), callbacks=[ended])
        own[0] += clock_s() - begin_s  # the search's own time counts as well
    records = [read_record(t, OBJECTIVES) for t in study.get_trials(deepcopy=False)]
    return points, pareto_front(records, OBJECTIVES)


def _plain(objective: Objective) -> Any:
    """The loop that a user would write: no knowledge, no probe."""

    def run(trial: optuna.Trial) -> tuple[float, ...]:
        parameters = objective.setup.space.suggest(trial)
        return objective.conclude(trial, parameters, objective.runner.run_trial(objective.request(parameters)))

    return run


# --------------------------------------------------------------------------------------------------------------- real


def real_arm(arm: Arm, table: dict[str, Any], truth: Truth, seed: int, max_s: float) -> list[Point]:
    """Runs an arm on the clock; the curve is read from the finished study's own times."""
    settings = {
        "sampler": arm.sampler,
        "sampler_seed": seed,
        "reuse": arm.reuse,
        "seeds_per_class": arm.seeds,
    }
    config = StudyConfig.model_validate(table["config"] | settings | {"trials": 1000})
    with tempfile.TemporaryDirectory() as folder:
        begin_s = time.time()
        study = run_study(config, storage=f"sqlite:///{folder}/study.db", timeout_s=max_s)
        trials = study.get_trials(deepcopy=False)
    first_s = trials[0].datetime_start.timestamp()
    print(f"  {arm.name}, seed {seed}: {time.time() - begin_s:.0f} s of which {first_s - begin_s:.0f} s to start", flush=True)
    points, records, samples, trainings, out = [], [], 0, 0, 0
    for trial in sorted(trials, key=lambda t: t.datetime_complete or t.datetime_start):
        records.append(read_record(trial, OBJECTIVES))
        training = trial.user_attrs.get("training")
        if training is not None:
            samples, trainings = samples + training["num_samples"], trainings + 1
        out += records[-1].outcome == "out_of_memory"
        front = [key(dict(record.params)) for record in pareto_front(records, OBJECTIVES)]
        ended_s = (trial.datetime_complete or trial.datetime_start).timestamp() - first_s
        points.append(Point(ended_s, samples, trainings, truth.volume(front) / truth.full, out))
    return points


def memory_of(table: dict[str, Any]) -> Any:
    """The measured memory of a configuration, or None if it ran out of it."""

    def memory(parameters: TrialParameters) -> float | None:
        outcome = table["outcomes"][key(parameters.as_dict())]
        return outcome["measurements"]["probe"]["memory"]["peak_memory_mib"] if outcome["kind"] == "completed" else None

    return memory


def plain_real_arm(table: dict[str, Any], truth: Truth, seed: int, max_s: float) -> list[Point]:
    """(a) on the clock: one process, the Trainer in it, multivariate TPE, out-of-memory caught and pruned."""
    from plain_loop import run_plain

    space, _ = available_space(StudyConfig.model_validate(table["config"]), table["device"])
    points, chosen, samples, out = [], [], 0, 0
    for elapsed_s, parameters, values, num_samples in run_plain(table, space, memory_of(table), seed=seed, max_s=max_s):
        samples += num_samples
        out += values is None
        if values is not None:
            chosen.append((parameters, values))
        front = moocore.is_nondominated(np.array([(-a, t, m) for _, (a, t, m) in chosen])) if chosen else []
        names = [key(parameters) for (parameters, _), keep in zip(chosen, front, strict=True) if keep]
        points.append(Point(elapsed_s, samples, len(chosen), truth.volume(names) / truth.full, out))
        if points[-1].volume >= SHARES[-1]:
            break
    return points


# ------------------------------------------------------------------------------------------------------------- report


def reach(points: list[Point], share: float) -> Point | None:
    return next((point for point in points if point.volume >= share), None)


def report(curves: dict[str, list[list[Point]]], base: str) -> None:
    """Medians of the cost to reach each share, and the median and range of its ratio to the first arm, seed by seed."""
    for quantity, unit in (("wall_s", "s"), ("num_samples", "samples"), ("num_trainings", "trainings")):
        print(f"\n{quantity} to reach {', '.join(f'{share:.0%}' for share in SHARES)} of the reference hypervolume")
        for name, runs in curves.items():
            cells = []
            for share in SHARES:
                costs = [getattr(p, quantity) if (p := reach(run, share)) else float("inf") for run in runs]
                bases = [getattr(p, quantity) if (p := reach(run, share)) else float("inf") for run in curves[base]]
                ratios = [b / c if np.isfinite(c) else 0.0 for b, c in zip(bases, costs, strict=False)]
                low, high = min(ratios), max(ratios)
                middle = statistics.median(ratios)
                cells.append(f"{statistics.median(costs):9.0f} {unit} ({middle:4.1f} x, {low:.1f} to {high:.1f})")
            print(f"  {name:36}" + "  ".join(cells))
    print("\nout of memory until the end, and the last share reached (medians)")
    for name, runs in curves.items():
        out = statistics.median(run[-1].out_of_memory for run in runs)
        print(f"  {name:36}{out:6.0f}   {statistics.median(run[-1].volume for run in runs):.1%}")


def compare_claims(table: dict[str, Any], truth: Truth) -> None:
    """What the decoupled search says of its front, beside what trainings of the same configurations measured."""
    points, front = replay_arm(ARMS[-1], table, truth, 0, to_its_end=True)
    print(f"\nthe whole search: {points[-1].wall_s:.0f} s, {points[-1].num_trainings} trainings, {points[-1].volume:.1%}")
    print(
        f"{'configuration':34}{'accuracy':>9}{'trained':>9}{'seeds':>14}{'time s':>8}{'measured':>9}{'MiB':>7}{'measured':>9}"
    )
    errors: dict[str, list[float]] = defaultdict(list)
    for record in front:
        name = key(dict(record.params))
        outcome = table["outcomes"][name]["measurements"]
        trained = outcome["training"]["curve"][-1]["accuracy"]
        spread = [a for other, a in table["seeds"].items() if _class(other.split(" ", 1)[1]) == _class(name)] + [trained]
        measured = {"train_time_s": truth.values[name][1], "peak_memory_mib": truth.values[name][2]}
        for objective, value in measured.items():
            errors[objective].append(abs(record.values[objective] / value - 1))
        claimed = record.values["accuracy"]
        errors["accuracy"].append(max(0.0, min(spread) - claimed, claimed - max(spread)))
        print(
            f"{short_configuration(record.params):34}{claimed:9.3f}{trained:9.3f}{min(spread):7.3f}-{max(spread):.3f}"
            f"{record.values['train_time_s']:8.2f}{measured['train_time_s']:9.2f}"
            f"{record.values['peak_memory_mib']:7.1f}{measured['peak_memory_mib']:9.1f}"
        )
    for objective, values in errors.items():
        what = "outside the spread of three seeds, by" if objective == "accuracy" else "relative error"
        print(f"{objective}: {what} {statistics.median(values):.3f} in the median, {max(values):.3f} at the most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "replay", "real"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--job", choices=("embedded", "rate"), default="embedded", help="what to measure")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--max-seconds", type=float, default=600.0, help="of one arm of `real`")
    parser.add_argument("--curves", type=Path, help="write every arm's curve as JSON, for the plot")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.what == "measure":
        measure(options.table, study_config(options.job))
        return
    table = json.loads(options.table.read_text())
    truth = Truth.of(table)
    kinds = [outcome["kind"] for outcome in table["outcomes"].values()]
    print(f"{len(kinds)} configurations on {table['device']['name']}: {kinds.count('out_of_memory')} out of memory")
    curves: dict[str, list[list[Point]]] = defaultdict(list)
    for seed in range(options.seeds):
        for arm in ARMS:
            if options.what == "replay":
                curves[arm.name].append(replay_arm(arm, table, truth, seed)[0])
            elif arm.plain and arm.sampler == "tpe":
                curves[arm.name].append(plain_real_arm(table, truth, seed, options.max_seconds))
            elif arm.seeds > 1:
                curves[arm.name].append(real_arm(arm, table, truth, seed, options.max_seconds))
        if options.what == "real":
            from plain_loop import hyperparameter_search

            space, _ = available_space(StudyConfig.model_validate(table["config"]), table["device"])
            begun, end = hyperparameter_search(table, space, memory_of(table), seed=seed)
            print(f"  (b) Trainer.hyperparameter_search, seed {seed}: {begun} of 24 trials begun, {end}", flush=True)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    report(curves, ARMS[0].name)
    if options.what == "replay":
        compare_claims(table, truth)
    if options.curves:
        plain = {name: [[[p.wall_s, p.num_samples, p.volume] for p in run] for run in runs] for name, runs in curves.items()}
        options.curves.write_text(json.dumps(plain))


if __name__ == "__main__":
    main()
