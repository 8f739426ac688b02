"""The soak test's short form: one fault of each kind, when the study has come so far; `benchmarks/soak.py` is the long one."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from unittest.mock import Mock

import optuna
import psutil
import pytest
from damage import figures, problems
from optuna.trial import TrialState, create_trial
from postgres import PostgresServer
from running import poll
from under_fire import DIVERGES, TOO_LARGE, Command, UnderFire, study_under_fire

from tradeoff.objectives.device.cpu import MEMORY_MEASURE, processor_name
from tradeoff.studies.execution.interrupts import EXIT_STATUS
from tradeoff.studies.storage.opening import open_storage
from tradeoff.studies.storage.study import open_study

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")

# More than there can be before the last fault, however fast the machine is.
ENDLESS = 100_000


@pytest.fixture
def fire(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> Iterator[UnderFire]:
    under_fire = UnderFire(folder=tmp_path, url=postgres_url, server=postgres, num_in_pool=2)
    yield under_fire
    postgres.start()
    under_fire.close()


def after_one_more(fire: UnderFire, fault: Callable[[], bool], busy: Callable[[], bool] = lambda: True) -> None:
    """Does it once another trial has counted, and what it is to hit is busy."""
    aim = fire.num_counted() + 1
    poll(lambda: fire.num_counted() >= aim, f"another trial before {fault.__name__}")
    poll(lambda: busy() and fire.strike(fault), fault.__name__)


def kill_a_trial_before_it_has_answered(fire: UnderFire) -> None:
    while not any("was killed by SIGKILL" in trial.user_attrs.get("reason", "") for trial in fire.trials()):
        poll(lambda: fire.strike(fire.kill_a_trial), "a trial's process")
        running = {trial.number for trial in fire.trials() if trial.state == TrialState.RUNNING}
        poll(lambda running=running: all(fire.trials()[n].state.is_finished() for n in running), "the end of the trials")


@pytest.mark.slow
def test_a_study_that_meets_a_fault_of_each_kind_ends_with_exactly_what_was_asked_for_and_a_reason_for_the_rest(
    fire: UnderFire,
) -> None:
    # Made before anything runs, so that all start at once: with as many processors for a trial as each worker will have.
    num_cpus = max(1, len(os.sched_getaffinity(0)) // fire.num_in_pool)
    device = {"kind": "cpu", "name": processor_name(), "num_cpus": num_cpus, "precisions": ["fp32", "bf16"]}
    device |= {"total_memory_mib": psutil.virtual_memory().total / 2**20, "memory_measure": MEMORY_MEASURE}
    study = open_study(study_under_fire(ENDLESS), open_storage(fire.url), device)
    study.enqueue_trial(TOO_LARGE)
    run, joined = fire.run(trials=ENDLESS), fire.join()
    poll(lambda: len(run.workers) == 2 and all(map(fire.is_busy, run.workers)), "both workers' trials", limit_s=250)
    first, last = run.workers
    fire.choose = itemgetter(0)
    kill_a_trial_before_it_has_answered(fire)
    after_one_more(fire, fire.kill_a_server)
    poll(lambda: fire.is_busy(joined.process.pid), "a trial of the worker that joined", limit_s=250)
    fire.choose = itemgetter(-1)
    after_one_more(fire, fire.stop_the_database)
    after_one_more(fire, fire.press_ctrl_c, busy=lambda: fire.is_busy(joined.process.pid))
    assert joined.process.wait(timeout=120) == EXIT_STATUS
    after_one_more(fire, fire.kill_a_worker_of_run, busy=lambda: fire.is_busy(last))
    # It has started another server.
    after_one_more(fire, fire.kill_everything, busy=lambda: fire.is_busy(first))
    assert fire.processes() == []
    asked = fire.num_counted() + 3
    study.enqueue_trial(DIVERGES)  # now, when nothing kills it before it diverges
    again = fire.run(trials=asked)
    fire.end()
    assert (problems(fire, asked), again.process.returncode) == ([], 0), again.said
    seen = figures(fire)
    assert {"completed", "out_of_memory", "diverged", "failed", "interrupted"} <= seen["outcomes"].keys(), seen
    assert seen["faults"].keys() == {
        "kill_a_trial", "stop_the_database", "press_ctrl_c", "kill_a_server", "kill_a_worker_of_run", "kill_everything"
    }  # fmt: skip


def test_what_must_hold_at_the_end_is_missed_where_it_does_not(tmp_path: Path) -> None:
    fire = UnderFire(folder=tmp_path, url=f"sqlite:///{tmp_path}/a.db", server=Mock(password="secret"), num_in_pool=1)
    device = {"kind": "cpu", "name": "a processor", "total_memory_mib": 8000.0}
    name = open_study(study_under_fire(5), open_storage(fire.url), device).study_name
    study = optuna.load_study(study_name=name, storage=open_storage(fire.url))  # which stores whatever it is given
    space = study_under_fire(5).search_space().distributions()
    for values in ((1.0, 1.0, 1.0), (math.inf, 1.0, 1.0)):
        attributes = {"outcome": "completed"}
        study.add_trial(create_trial(values=values, params=DIVERGES, distributions=space, user_attrs=attributes))
    for _ in range(2):
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"outcome": "interrupted", "retry_of": 0}))
    study.ask()
    (tmp_path / "artifacts" / "pending-outcomes").mkdir(parents=True)
    (tmp_path / "artifacts" / "pending-outcomes" / "a.json").touch()
    fails = [sys.executable, "-c", "raise ValueError('database is locked, secret')"]
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(fails, stderr=file)
    process.wait()
    fire.commands.append(Command(role="front", process=process, log=log))
    environment = os.environ | {"TRADEOFF_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(["sleep", "600"], env=environment) as left:
        try:
            found = problems(fire, 5)
        finally:
            left.kill()
    assert [problem.split(":")[0].split(" (")[0] for problem in found] == [
        "2 trials counted, 5 were asked for",
        "trials [4] run for ever",
        "trials [2, 3] have no reason",
        "trials [1] have a value that is no number",
        f"the configurations ['{json.dumps(DIVERGES, sort_keys=True)}'] were counted more than once".split(":")[0],
        "trials [0] were tried again more than once",
        "outcomes ['a.json'] were not told",
        f"processes ['{left.pid}",
        "commands ended as they should not",
        "the user saw a traceback",
        "the user saw 'database is locked'",
        "a password was printed",
    ]
