"""Several workers of a study: real processes with real trials, on PostgreSQL."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_process import ENDLESS, Command, worker_processes, write_study
from optuna.trial import TrialState
from running import PROC, Recorder, SharedTrialServer, cache_folder, command_line, is_alive, poll, tiny_study

from tradeoff.objectives.measurements.records import read_record
from tradeoff.studies.config.study import StudyConfig
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.execution.interrupts import EXIT_STATUS
from tradeoff.studies.storage.opening import load_study, open_storage
from tradeoff.studies.storage.study import check_device
from tradeoff.studies.workers import run as runner
from tradeoff.studies.workers.run import join_study, run_study

OBJECTIVES = tiny_study().objectives


@dataclass
class Watch(Recorder):
    """A display that remembers which worker ran which trial, and those workers' processes; it kills one of them, once."""

    kills: int | None = None
    workers: dict[int, int] = field(default_factory=dict)
    processes: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def trial_started(self, number: int, parameters: Any, *, worker: int = 0) -> None:
        super().trial_started(number, parameters, worker=worker)
        self.workers[number] = worker
        self.processes |= set(worker_processes(os.getpid()))
        if worker == self.kills:
            (pid,) = (pid for pid in worker_processes(os.getpid()) if f"--index {worker} " in command_line(pid))
            os.kill(pid, signal.SIGKILL)
            self.kills = None


def num_counted(study: optuna.Study) -> int:
    return sum(read_record(trial, OBJECTIVES).counts for trial in study.trials)


@dataclass
class Ran:
    study: optuna.Study
    config: StudyConfig
    display: Watch
    storage: str


@pytest.fixture(scope="module")
def ran(postgres: Any) -> Ran:
    """A study that two workers have run, of which the second was killed in its first trial."""
    storage = postgres.new_database()
    config = tiny_study(name="both", trials=5, space={"per_device_train_batch_size": [2, 4, 8, 16, 32]})
    display = Watch(kills=1)
    study = run_study(config, storage=storage, workers=2, display=display, cache=cache_folder())
    return Ran(study, config, display, storage)


def test_two_workers_run_exactly_the_trials_that_were_asked_for(ran: Ran) -> None:
    assert num_counted(ran.study) == 5
    assert {trial.state for trial in ran.study.trials} <= {TrialState.COMPLETE, TrialState.FAIL}


def test_both_workers_take_part_each_in_a_process_of_its_own(ran: Ran) -> None:
    assert set(ran.display.workers.values()) == {0, 1}
    assert len(ran.display.processes) >= 2


def test_a_worker_that_is_killed_is_started_again_and_said_so(ran: Ran) -> None:
    assert "worker 1 was killed by SIGKILL; it is started again (1 of 3 times)" in ran.display.messages


def test_what_a_killed_worker_was_running_is_tried_again_once(ran: Ran) -> None:
    number = next(number for number, worker in ran.display.workers.items() if worker == 1)
    lost = ran.study.trials[number]
    assert (lost.state, lost.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    again = [trial for trial in ran.study.trials if trial.user_attrs.get("retry_of") == number]
    assert [(trial.state, trial.params) for trial in again] == [(TrialState.COMPLETE, lost.params)]


def test_the_data_is_prepared_once(ran: Ran) -> None:
    assert Counter(ran.display.messages)["preparing the data"] == 1


def test_workers_on_a_cpu_are_said_to_share_it_and_have_as_many_processors_each(ran: Ran) -> None:
    assert any("trials that run at the same time slow each other down" in line for line in ran.display.messages)
    assert any("2 trainings share " in line and "each may take all of it" in line for line in ran.display.messages)
    assert ran.study.user_attrs["device"]["num_cpus"] == max(1, len(os.sched_getaffinity(0)) // 2)


def test_the_parent_hears_of_each_trial_and_writes_its_note(ran: Ran) -> None:
    told = [record.number for record in ran.display.ended if record.outcome == "completed"]
    assert sorted(told) == [trial.number for trial in ran.study.trials if trial.state == TrialState.COMPLETE]
    notes = [key for key in ran.study._storage.get_study_system_attrs(ran.study._study_id) if key.endswith("note_str:0")]
    assert len(notes) == len(ran.study.trials) + 1


def test_workers_end_with_the_study_and_leave_nobody(ran: Ran) -> None:
    assert not any(is_alive(pid) for pid in ran.display.processes)
    assert worker_processes(os.getpid()) == []


def test_a_study_of_two_workers_is_refused_where_a_trial_would_have_more_processors(ran: Ran) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    stored = ran.study.user_attrs["device"]
    with pytest.raises(TradeoffError, match="set --workers to match"):
        check_device("both", stored, {**stored, "num_cpus": stored["num_cpus"] + 1})
    with pytest.raises(TradeoffError, match="counts memory differently"):
        check_device("both", {**stored, "memory_measure": 1}, stored)  # one from before the number was stored has none


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    started: list[Command] = []
    yield started
    for command in started:
        command.kill()


def test_ctrl_c_twice_ends_all_at_once(postgres_url: str, tmp_path: Path, commands: list[Command]) -> None:
    file = write_study(tmp_path, tiny_study(job=ENDLESS, trials=4))
    command = Command(tmp_path, postgres_url, "run", file, "--workers", "2")
    commands.append(command)
    command.wait_for_running("tiny", 2)
    workers = worker_processes(command.process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # so that ending in order takes forever

    presses_s: list[float] = []

    def press_again() -> bool:
        # The first one may find the command waiting for the database, in which a stopped worker holds a transaction.
        if not presses_s or time.monotonic() - presses_s[-1] > 3:
            presses_s.append(time.monotonic())
            command.process.send_signal(signal.SIGINT)
        return command.process.poll() is not None

    poll(press_again, "the end of the command")
    assert command.process.wait(timeout=60) == EXIT_STATUS
    poll(lambda: not any(is_alive(pid) for pid in command.seen), "the end of the workers, servers and trials")


def test_a_worker_that_joins_leaves_on_sigterm_in_order_and_shows_no_password(
    postgres: Any, postgres_url: str, tmp_path: Path, commands: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_study(job=ENDLESS, trials=2)
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    run_study(config, storage=postgres_url, timeout_s=0, cache=cache_folder())
    command = Command(tmp_path, postgres_url, "worker", "tiny")
    commands.append(command)
    command.wait_for_running("tiny", 1)
    lines = [command_line(int(pid.name)) for pid in PROC.iterdir() if pid.name.isdigit()]
    assert not any(postgres.password in line for line in lines)
    command.process.terminate()
    status, output = command.end()
    assert status == EXIT_STATUS, output
    assert postgres.password not in output
    left, waiting = command.trials("tiny")
    assert (left.state, left.user_attrs["outcome"]) == (TrialState.FAIL, "interrupted")
    assert (waiting.state, waiting.params or waiting.system_attrs["fixed_params"]) == (TrialState.WAITING, left.params)
    assert not any(is_alive(pid) for pid in command.seen)


def test_a_worker_joins_a_study_and_ends_when_it_is_complete(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TrialServer", SharedTrialServer)
    storage = open_storage(ran.storage)
    study = load_study("both", storage)
    # One more trial is asked for, by whoever started the study.
    study.set_user_attr("config", {**ran.config.plain(), "trials": 6})
    study.set_user_attr("device", {**study.user_attrs["device"], "num_cpus": len(os.sched_getaffinity(0))})
    display = Watch()
    joined = join_study("both", storage=ran.storage, display=display, cache=cache_folder())
    assert num_counted(joined) == 6
