"""What a study costs beyond its trials, by the number of workers, the trials that it holds, and where it is stored.

    python benchmarks/scale.py overhead                                     # workers 1, 8, 32; 100, 1,000, 5,000 trials held
    python benchmarks/scale.py overhead --trial 2                           # trials of two seconds
    python benchmarks/scale.py overhead --running 1000 --workers 1 8        # beside a thousand others
    python benchmarks/scale.py ratio [--trials 12]

`overhead` lets real workers, a process each, run the real loop (ask, what is known, tell) on trials that take no time, so that
they are all at it at once, which real trials never are; with `--trial`, on trials that take as many seconds. Configurations
are drawn at random, from a space so large that none is settled by another; what the decoupled search adds by planning is
measured apart, in one process. PostgreSQL is Debian's, with its own settings, on loopback.
`ratio` runs the embedded job for real, with one worker and with two, a processor each.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tradeoff.objectives.measurements.outcome import Completed, Evaluation, Measurements, Memory, ProbeResult, TrainingResult
from tradeoff.objectives.measurements.records import DERIVED_FROM, outcome_attributes, stored_attributes
from tradeoff.objectives.objective import Objective
from tradeoff.searchspace import Reuse, TrialParameters
from tradeoff.studies.config.presets import embedded
from tradeoff.studies.config.space import SpaceConfig
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.execution.display import Display
from tradeoff.studies.execution.loop import Search
from tradeoff.studies.samplers.build import build_sampler
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.owner import OWNER_ATTRIBUTE
from tradeoff.studies.storage.stored_study import StoredStudy
from tradeoff.studies.workers.run import run_study

# The PostgreSQL server of the tests.
sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))

NUM_TRAIN = 1000
BUDGET_MIB = 8000.0
# One training settles about as many configurations as this.
MEMBERS = 10
SPACE = {
    "per_device_train_batch_size": [1, 2, 4, 8, 16, 32, 64],
    "gradient_accumulation_steps": [1, 2, 4, 8],
    "gradient_checkpointing": [False, True],
    "precision": ["fp32", "bf16"],
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
}
JOB = {"train_samples": NUM_TRAIN, "epochs": 3}
CONFIG = StudyConfig.model_validate({"name": "scale", "job": JOB, "space": SPACE, "sampler": "random", "trials": 10**6})
DEVICE = {"kind": "cuda", "name": "a card", "total_memory_mib": BUDGET_MIB, "precisions": ["fp32", "bf16"]}


def measurements(p: TrialParameters) -> Measurements:
    """As many figures as a real trial stores."""
    step_s = 0.01 * p.per_device_train_batch_size
    memory = Memory(peak_memory_mib=500.0 + 40 * p.per_device_train_batch_size)
    time_s = 10 + 100 / p.per_device_train_batch_size
    curve = [
        Evaluation(epoch=e, num_samples=e * NUM_TRAIN, train_time_s=time_s * e / 3, accuracy=0.2 * e, eval_loss=1.0 / e)
        for e in (1, 2, 3)
    ]  # fmt: skip
    probe = ProbeResult(
        memory=memory,
        micro_step_time_s=step_s,
        optimizer_step_time_s=0.01,
        eval_batch_time_s=0.1,
        estimated_train_time_s=time_s,
        probe_time_s=1.0,
        gradients_mib=40.0,
    )
    training = TrainingResult(
        memory=memory,
        train_time_s=time_s,
        eval_time_s=1.0,
        num_steps=100,
        num_samples=3 * NUM_TRAIN,
        samples_per_s=3 * NUM_TRAIN / time_s,
        train_loss=1.0,
        curve=curve,
    )
    return Measurements(probe=probe, training=training, trial_time_s=time_s)


@dataclass
class Instant:
    """Runs every request at once, or waits as long as a trial takes, and notes when a trial was told."""

    trial_s: float = 0.0
    told_s: list[float] = field(default_factory=list)
    log: str = ""

    def run_trial(self, request: Mapping[str, Any], **_: Any) -> Completed:
        time.sleep(self.trial_s)
        return Completed(measurements=measurements(TrialParameters(**request["parameters"])))

    def trial_ended(self, record: Any, *, log: str | None = None) -> None:
        self.told_s.append(time.monotonic())


def new_objective(runner: Instant) -> Objective:
    return Objective(
        setup=CONFIG.setup(CONFIG.search_space(), DEVICE, num_train=NUM_TRAIN),
        data_folders={},
        runner=runner,
    )


def open_study(url: str) -> StoredStudy:
    storage, directions = open_storage(url), ["maximize", "minimize", "minimize"]
    optuna.create_study(study_name=CONFIG.name, storage=storage, directions=directions, load_if_exists=True)
    return StoredStudy(CONFIG.name, storage, optuna.samplers.RandomSampler())


def fill(study: StoredStudy, num_trials: int) -> None:
    """Adds trials until the study holds so many: one of `MEMBERS` was trained, the others follow from it."""
    space, random = CONFIG.search_space(), np.random.default_rng(0)
    grid = space.structures
    trials = []
    for number in range(len(study.get_trials(deepcopy=False)), num_trials):
        p = grid[int(random.integers(len(grid)))].replace(learning_rate=float(10 ** random.uniform(-5, -3)))
        attributes = outcome_attributes(Completed(measurements=measurements(p)))
        if number % MEMBERS:
            attributes = {name: value for name, value in attributes.items() if name not in ("probe", "training")}
            attributes[DERIVED_FROM] = number - number % MEMBERS
        values = [0.2 + 0.4 * float(random.random()), float(random.uniform(10, 100)), attributes["peak_memory_mib"]]
        stored = stored_attributes(attributes)
        trials.append(
            create_trial(params=space.stored(p), distributions=space.distributions(), values=values, user_attrs=stored)
        )
    study.add_trials(trials)


def add_running(study: StoredStudy, num_trials: int) -> None:
    """Adds trials that run all the time, on machines of which nothing is known here."""
    # Nobody is to take them for lost before the benchmark has ended.
    os.environ["TRADEOFF_HEARTBEAT_S"] = "86400"
    elsewhere = {"host": "elsewhere", "boot": "another", "namespace": "another", "pid": 1, "began": 1}
    space, random = CONFIG.search_space(), np.random.default_rng(1)
    first = len(study.get_trials(deepcopy=False))
    trials = []
    for number in range(first, first + num_trials):
        p = space.structures[number % len(space.structures)].replace(learning_rate=float(10 ** random.uniform(-5, -3)))
        trial = create_trial(
            state=TrialState.RUNNING,
            params=space.stored(p),
            distributions=space.distributions(),
            system_attrs={OWNER_ATTRIBUTE: elsewhere},
        )
        trials.append(trial)
    study.add_trials(trials)


@dataclass
class Share:
    """Ends a worker once it has run its share."""

    runner: Instant
    trials: int

    @property
    def requested(self) -> bool:
        return len(self.runner.told_s) > self.trials

    def waiting(self) -> AbstractContextManager[None]:
        return nullcontext()


def work(url: str, worker: int, trials: int, trial_s: float, begin: Any, output: str) -> None:
    """One worker's part: joins, waits for the others, and runs its share of the trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runner, begin_s = Instant(trial_s=trial_s), time.monotonic()
    study, goal = open_study(url), new_objective(runner)
    study.sampler = build_sampler(CONFIG, goal, baselines={}, num_trials=0, worker=worker)
    display, share = Display(), Share(runner, trials)
    search = Search(study, CONFIG, goal, runner, display, share, (runner,))  # type: ignore[arg-type]
    search.objective.snapshot(study)
    joined_s = time.monotonic() - begin_s
    begin.wait(600)
    time.sleep(trial_s * worker / begin.parties)  # not all at the same moment
    runner.told_s.append(time.monotonic())
    with display.running(CONFIG.name, DEVICE, CONFIG), suppress(KeyboardInterrupt):
        search.run(None)
    pool: Any = study.storage.database.engine.pool  # type: ignore[attr-defined]
    told = {"joined_s": joined_s, "told_s": runner.told_s, "connections": pool.checkedin() + pool.checkedout()}
    Path(output).write_text(json.dumps(told))


def overhead(url: str, num_workers: int, num_trials: int, trial_s: float) -> dict[str, float]:
    """Runs trials by several workers, and returns what a worker spends on each beyond the trial, and what all spend."""
    context = multiprocessing.get_context("forkserver")
    share = -(-num_trials // num_workers)
    with tempfile.TemporaryDirectory() as folder:
        begin = context.Barrier(num_workers)
        outputs = [Path(folder) / str(worker) for worker in range(num_workers)]
        processes = [
            context.Process(target=work, args=(url, worker, share, trial_s, begin, str(output)))
            for worker, output in enumerate(outputs)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        ended = [json.loads(output.read_text()) for output in outputs]
    waits_s = [b - a - trial_s for end in ended for a, b in zip(end["told_s"], end["told_s"][1:], strict=False)]
    first, last = min(end["told_s"][0] for end in ended), max(end["told_s"][-1] for end in ended)
    assert len(waits_s) == share * num_workers, (len(waits_s), share, num_workers)
    return {
        "all_ms": 1000 * (last - first) / len(waits_s),
        "worker_ms": 1000 * statistics.median(waits_s),
        "join_s": statistics.median(end["joined_s"] for end in ended),
        "connections": statistics.median(end["connections"] for end in ended),
    }


def planning_ms(url: str) -> float:
    """What the decoupled search adds: the planning of one trial when another one has ended since."""
    study, goal = open_study(url), new_objective(Instant())
    config = CONFIG.model_copy(update={"sampler": "decoupled"})
    sampler: Any = build_sampler(config, goal, baselines={"accuracy": 0.2}, num_trials=0)
    sampler.finished(study)  # imports what it needs
    fill(study, len(goal.snapshot(study).trials) + MEMBERS)
    begin_s = time.monotonic()
    sampler.finished(study)
    return 1000 * (time.monotonic() - begin_s)


def print_overhead(
    storage: str, workers: Sequence[int], held: Sequence[int], *, trials: int, trial_s: float, running: int
) -> None:
    """A row for each number of trials held and of workers, on a new storage."""
    plans = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = f"sqlite:///{folder}/scale.db"
        if storage == "postgres":
            from postgres import new_server

            server = new_server(durable=True)
            stack.callback(server.close)
            url = server.new_database()
        add_running(open_study(url), running)
        for num_held in held:
            fill(open_study(url), num_held + running)
            plans[num_held] = planning_ms(url)
            for num_workers in workers:
                found = overhead(url, num_workers, max(trials, 3 * num_workers), trial_s)
                row = f"{found['all_ms']:.0f} | {found['worker_ms']:.0f} | {found['join_s']:.1f} | {found['connections']:g}"
                print(f"| {storage} | {num_held:,} | {num_workers} | {row} |", flush=True)
    print("".join(f"\nplanning with {num_held:,} trials held: {ms:.0f} ms" for num_held, ms in plans.items()), flush=True)


def print_ratio(trials: int) -> None:
    """One worker and two on the embedded job, each worker with one processor: the same configurations, each trained."""
    space = SpaceConfig(
        per_device_train_batch_size=[8, 16, 32],
        gradient_accumulation_steps=[1, 2],
        gradient_checkpointing=[False, True],
        precision=["fp32"],
    )
    processors = sorted(os.sched_getaffinity(0))
    times_s = {}
    for num_workers in (1, 2):
        os.sched_setaffinity(0, processors[:num_workers])
        with tempfile.TemporaryDirectory() as folder:
            changed = {"name": "ratio", "space": space, "sampler": "grid", "reuse": Reuse.OFF, "trials": trials}
            config = embedded().model_copy(update=changed)
            begin_s = time.monotonic()
            study = run_study(config, storage=f"sqlite:///{folder}/a.db", workers=num_workers)
            whole_s = time.monotonic() - begin_s
            trials_run = [t for t in study.trials if t.state != TrialState.WAITING and "training" in t.user_attrs]
        times_s[num_workers] = (whole_s, _span_s(trials_run))
    os.sched_setaffinity(0, processors)
    print(
        f"{trials} trials, each worker on one processor: whole {times_s[1][0]:.0f} s and {times_s[2][0]:.0f} s, from the first"
    )
    print(f"trial's begin to the last one's end {times_s[1][1]:.0f} s and {times_s[2][1]:.0f} s:", end=" ")
    print(f"two workers are {times_s[1][1] / times_s[2][1]:.2f} times as fast as one")


def _span_s(trials: Sequence[FrozenTrial]) -> float:
    begins = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete is not None]
    return (max(ends) - min(begins)).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_overhead = commands.add_parser("overhead")
    of_overhead.add_argument("--storages", nargs="+", choices=("sqlite", "postgres"), default=["sqlite", "postgres"])
    of_overhead.add_argument("--workers", nargs="+", type=int, default=[1, 8, 32])
    of_overhead.add_argument("--held", nargs="+", type=int, default=[100, 1000, 5000])
    of_overhead.add_argument("--trials", type=int, default=40)
    of_overhead.add_argument("--trial", type=float, default=0.0, metavar="SECONDS")
    of_overhead.add_argument("--running", type=int, default=0, help="trials of others that run all the time")
    of_ratio = commands.add_parser("ratio")
    of_ratio.add_argument("--trials", type=int, default=12)
    a = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if a.command == "overhead":
        print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} processors; trials of {a.trial:g} s,", end=" ")
        print(f"{a.trials} of them, or 3 for each worker; {a.running} others run all the time\n")
        columns = ("ms from trial to trial, all together", "ms a worker spends on each", "s to join", "connections of a worker")
        print(f"| storage | trials held | workers | {' | '.join(columns)} |")
        print("|---|---|---|---|---|---|---|")
        for storage in a.storages:
            print_overhead(storage, a.workers, a.held, trials=a.trials, trial_s=a.trial, running=a.running)
    else:
        print_ratio(a.trials)


if __name__ == "__main__":
    main()
