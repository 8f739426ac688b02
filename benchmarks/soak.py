"""A study under fire: several workers, and every few seconds something that runs it is killed, stopped or interrupted.

    python benchmarks/soak.py --postgres                     # 300 trials on 4 workers; the PostgreSQL server is stopped too
    python benchmarks/soak.py --trials 60                    # on a SQLite file
    python benchmarks/soak.py --trials 12 --workers 2 --every 3

The workers are those of real commands: half of them belong to one `tradeoff run --workers N`, the others are `tradeoff worker`s
that have joined. Trials are real trainings of a second, of which some run out of memory and some diverge. A dashboard is open,
and now and then a report and the front are made. At the end the storage must hold exactly the trials that were asked for, none
that runs, and a reason for each that did not complete; no process may be left. Prints the figures as JSON, and ends with status
1 if anything of this does not hold: `problems` in tests/damage.py has the whole list.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import optuna  # noqa: E402
from damage import figures, problems  # noqa: E402
from postgres import new_server, why_not  # noqa: E402
from under_fire import UnderFire  # noqa: E402

MAX_DATABASE_AWAY_S = 5.0
READ_EVERY_S = 20.0
# So many trials that some of them must have run out of memory and diverged.
MANY = 50


class Soak(UnderFire):
    """Faults at random, and commands that are started again when they have ended."""

    def __init__(self, *, seed: int, trials: int, workers: int, **where: Any) -> None:
        self.random = random.Random(seed)
        super().__init__(num_in_pool=max(1, workers // 2), choose=self.random.choice, **where)
        self.num_joined = workers - self.num_in_pool
        self.asked = trials
        self._reads_s = 0.0

    @property
    def kinds(self) -> list[Callable[[], bool]]:
        """The faults, those that cost little more than once."""
        kinds = [self.kill_a_trial] * 8 + [self.kill_a_worker_of_run, self.kill_a_joined_worker, self.press_ctrl_c]
        kinds += [self.kill_run, self.kill_a_server, self.send_sigterm, self.kill_everything]
        return kinds + ([self.stop_the_database] * 4 if self.server is not None else [])

    def stop_the_database(self, *, for_s: float | None = None, at_once: bool | None = None) -> bool:
        for_s = self.random.uniform(1.0, MAX_DATABASE_AWAY_S)
        return super().stop_the_database(for_s=for_s, at_once=self.random.random() < 0.5)

    def keep_up(self) -> None:
        """Starts again what has ended."""
        if not self.running("run"):
            self.run(trials=self.asked)
        if self.study() is None:
            return
        for _ in range(self.num_joined - len(self.running("worker"))):
            self.join()
        if not self.running("dashboard"):
            self.open_dashboard()

    def look(self) -> None:
        """Reads the study now and then, as people do."""
        if time.monotonic() - self._reads_s > READ_EVERY_S and not self.running("report", "front"):
            self._reads_s = time.monotonic()
            self.read(self.random.choice(["report", "front"]))
            self.ask_dashboard()


def soak(*, trials: int, workers: int, every_s: float, postgres: bool, seed: int, limit_s: float) -> dict[str, Any]:
    """Runs a study to its end among faults, and looks at what is left.

    Returns:
        The figures; `problems` is empty where everything held.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A shell that runs this in the background has it, and every process that it starts, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server = new_server() if postgres else None
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tradeoff-soak-") as name:
        folder = Path(name)
        url = server.new_database() if server is not None else f"sqlite:///{folder}/soak.db"
        run = Soak(seed=seed, trials=trials, workers=workers, folder=folder, url=url, server=server)
        try:
            due_s = time.monotonic() + every_s
            while (counted := run.num_counted()) < trials and time.monotonic() - begin_s < limit_s:
                run.keep_up()
                time.sleep(0.3)
                if time.monotonic() < due_s or not counted:
                    continue
                run.strike(run.random.choice(run.kinds))
                due_s = time.monotonic() + run.random.uniform(0.5, 1.5) * every_s
                run.look()
                print(f"{time.monotonic() - begin_s:.0f} s: {counted} of {trials}", file=sys.stderr, flush=True)
            ended_s = time.monotonic() - begin_s
            run.end()
            # One more that finds the study complete, and ends what the dead have left.
            run.run(trials=trials)
            run.end()
            seen = figures(run) | {"seconds": round(ended_s, 1), "problems": problems(run, trials)}
            missing = [kind for kind in ("out_of_memory", "diverged") if kind not in seen["outcomes"]]
            if trials >= MANY and missing:
                seen["problems"].append(f"no trial ended as {' or '.join(missing)}: nothing is known of those")
            if seen["problems"]:
                for command in run.commands:
                    print(f"--- {command.log.name}\n{command.said[:8000]}", file=sys.stderr)
            return seen
        finally:
            run.close()
            if server is not None:
                server.close()


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
    seen = soak(
        trials=chosen.trials,
        workers=chosen.workers,
        every_s=chosen.every,
        postgres=chosen.postgres,
        seed=chosen.seed,
        limit_s=chosen.limit,
    )
    print(json.dumps(seen, indent=2))
    return 1 if seen["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
