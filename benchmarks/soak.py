"""A study under fire: several workers, and every few seconds something that runs it is killed, stopped or interrupted.

    python benchmarks/soak.py                                # 300 trials on 4 workers, on SQLite
    python benchmarks/soak.py --postgres                     # on a PostgreSQL server of its own, which is stopped now and then
    python benchmarks/soak.py --trials 12 --workers 2 --every 3

The workers are real `tradeoff run` processes and the trials real trainings of a second. At the end the storage must hold
exactly the trials that were asked for, none that runs, and a reason for each that did not complete; no process may be left.
Prints the figures as JSON, and ends with status 1 if anything of this does not hold.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import optuna  # noqa: E402
from optuna.trial import FrozenTrial, TrialState  # noqa: E402
from postgres import PostgresServer, new_server, why_not  # noqa: E402
from running import Children, is_alive, tiny_job  # noqa: E402

from studies.config import StudyConfig  # noqa: E402
from studies.storage import open_storage  # noqa: E402

NAME = "soak"
COMMAND = [sys.executable, "-c", "from studies.cli import main; main()", "run", "study.yaml"]
MAX_DATABASE_AWAY_S = 5.0


def soak_study(trials: int) -> StudyConfig:
    """Trainings of a second, each of another configuration."""
    return StudyConfig.model_validate(
        {
            "name": NAME,
            "job": tiny_job(train_samples=32, eval_samples=32, max_length=16).model_dump(),
            "space": {
                "per_device_train_batch_size": [4, 8, 16, 32],
                "gradient_accumulation_steps": [1, 2],
                "gradient_checkpointing": [False, True],
                "precision": "fp32",
                "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            },
            "sampler": "random",
            "reuse": "off",
            "early_stopping": False,
            "trials": trials,
        }
    )


@dataclass
class Soak:
    """The workers, and what is done to them.

    Attributes:
        folder: Where everything is.
        url: The storage.
        num_workers: How many there are to be.
        server: The database's server; None for SQLite.
        random: Chooses the faults.
    """

    folder: Path
    url: str
    num_workers: int
    server: PostgresServer | None
    random: random.Random
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def keep_up(self) -> None:
        """Starts a worker for each that has ended, and remembers which processes there are."""
        for worker in [worker for worker in self.workers if worker.poll() is not None]:
            self.statuses[str(worker.returncode)] += 1
            self.workers.remove(worker)
        while len(self.workers) < self.num_workers:
            environment = os.environ | {"TRADEOFF_STORAGE": self.url, "TRADEOFF_HEARTBEAT_S": "5"}
            environment |= {"TRADEOFF_CACHE": str(self.folder / "cache"), "TRADEOFF_ARTIFACTS": str(self.folder / "artifacts")}
            environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            with (self.folder / "log.txt").open("ab") as log:
                self.workers.append(
                    subprocess.Popen(
                        COMMAND, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
                    )
                )
        for worker in self.workers:
            found = Children(worker.pid)
            self.seen |= {worker.pid, *found.servers(), *found.trials()}

    def kill_a_trial(self) -> None:
        found = [pid for worker in self.workers for pid in Children(worker.pid).trials()]
        self._kill(self.random.choice(found) if found else None)

    def kill_a_server(self) -> None:
        found = [pid for worker in self.workers for pid in Children(worker.pid).servers()]
        self._kill(self.random.choice(found) if found else None)

    def kill_a_worker(self) -> None:
        self._kill(self.random.choice(self.workers).pid)

    def kill_everything(self) -> None:
        for worker in self.workers:
            found = Children(worker.pid)
            for pid in (worker.pid, *found.servers(), *found.trials()):
                self._kill(pid)

    def press_ctrl_c(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.random.choice(self.workers).send_signal(signal.SIGINT)

    def stop_the_database(self) -> None:
        assert self.server is not None
        self.server.stop(at_once=self.random.random() < 0.5)
        time.sleep(self.random.uniform(1.0, MAX_DATABASE_AWAY_S))
        self.server.start()

    @property
    def kinds(self) -> list[Callable[[], None]]:
        """The faults, the milder ones more than once."""
        mild = [self.kill_a_trial, self.kill_a_worker, self.press_ctrl_c] * 3
        return [*mild, self.kill_a_server, self.kill_everything] + ([self.stop_the_database] * 4 if self.server else [])

    def strike(self) -> None:
        fault = self.random.choice(self.kinds)
        self.faults[fault.__name__] += 1
        fault()

    @staticmethod
    def _kill(pid: int | None) -> None:
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def trials(self) -> list[FrozenTrial]:
        try:
            return optuna.load_study(study_name=NAME, storage=open_storage(self.url)).trials
        except KeyError:
            return []


def counts(trial: FrozenTrial) -> bool:
    counted = {"completed", "stopped_early", "diverged", "out_of_memory", "timed_out"}
    return trial.state.is_finished() and trial.user_attrs.get("outcome") in counted and "derived_from" not in trial.user_attrs


def soak(*, trials: int, workers: int, every_s: float, postgres: bool, seed: int, limit_s: float) -> dict[str, Any]:
    """Runs a study to its end among faults, and looks at what is left.

    Returns:
        The figures; `problems` is empty where everything held.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    server = new_server() if postgres else None
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tradeoff-soak-") as name:
        folder = Path(name)
        (folder / "study.yaml").write_text(json.dumps(soak_study(trials).plain()))
        url = server.new_database() if server is not None else f"sqlite:///{folder}/soak.db"
        run = Soak(folder, url, workers, server, random.Random(seed))
        try:
            due_s = time.monotonic() + every_s
            while sum(map(counts, run.trials())) < trials and time.monotonic() - begin_s < limit_s:
                run.keep_up()
                time.sleep(0.2)
                if time.monotonic() >= due_s and run.trials():
                    run.strike()
                    due_s = time.monotonic() + run.random.uniform(0.5, 1.5) * every_s
            ended_s = time.monotonic() - begin_s
            _end(run)
            # One more that finds the study complete, and ends what the dead have left.
            run.num_workers = 1
            run.keep_up()
            run.workers[0].wait(timeout=300)
            return _figures(run, trials) | {"seconds": round(ended_s, 1)}
        finally:
            for worker in run.workers:
                worker.kill()
            if server is not None:
                server.close()


def _end(run: Soak) -> None:
    """Waits for the workers, which end by themselves once the study is complete."""
    for worker in run.workers:
        try:
            run.statuses[str(worker.wait(timeout=120))] += 1
        except subprocess.TimeoutExpired:
            run.statuses["did not end"] += 1
    run.workers.clear()


def _figures(run: Soak, asked: int) -> dict[str, Any]:
    trials = run.trials()
    log = (run.folder / "log.txt").read_text(errors="replace")
    outcomes = Counter(str(trial.user_attrs.get("outcome", trial.state.name)) for trial in trials)
    counted = sum(map(counts, trials))
    left = sorted(pid for pid in run.seen if is_alive(pid))
    silent = [t.number for t in trials if t.user_attrs.get("outcome") != "completed" and not t.user_attrs.get("reason")]
    unfinished = [t.number for t in trials if t.state == TrialState.RUNNING]
    untold = [path.name for path in (run.folder / "artifacts" / "untold").glob("*")]
    retried = Counter(t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs)
    checks = {
        f"{counted} trials counted, {asked} were asked for": counted == asked,
        f"trials {unfinished} run for ever": not unfinished,
        f"processes {left} are left": not left,
        f"trials {silent} have no reason": not silent,
        f"outcomes {untold} were not told": not untold,
        f"trials {[n for n, times in retried.items() if times > 1]} were tried again more than once": all(
            times == 1 for times in retried.values()
        ),
        "the user saw 'database is locked'": "database is locked" not in log,
        "the user saw a traceback": "Traceback" not in log,
        "a password was printed": run.server is None or run.server.password not in log,
    }
    problems = [problem for problem, holds in checks.items() if not holds]
    if problems:
        print(log[-20000:], file=sys.stderr)
    return {
        "trials": len(trials),
        "counted": counted,
        "outcomes": dict(sorted(outcomes.items())),
        "faults": dict(sorted(run.faults.items())),
        "workers_ended_with": dict(sorted(run.statuses.items())),
        "processes_seen": len(run.seen),
        "problems": problems,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="mean time between two faults")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=3600.0, metavar="SECONDS")
    chosen = parser.parse_args()
    if chosen.postgres and (reason := why_not()) is not None:
        parser.error(reason)
    figures = soak(
        trials=chosen.trials,
        workers=chosen.workers,
        every_s=chosen.every,
        postgres=chosen.postgres,
        seed=chosen.seed,
        limit_s=chosen.limit,
    )
    print(json.dumps(figures, indent=2))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
