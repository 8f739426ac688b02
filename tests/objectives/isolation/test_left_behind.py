"""Whatever the user's code starts ends with its trial, and whatever it leaves open keeps nobody waiting."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Children, Events, cache_folder, is_alive, poll, shared_server

from tradeoff.objectives.isolation.trial_server import JobError, PreparationTimeoutError
from tradeoff.objectives.job.jobs import CustomJob
from tradeoff.objectives.measurements.outcome import Failed

# Each way of leaving a process behind writes that process's number; then the job fails, so that nothing needs to be trained.
WAYS = """
import os, signal, subprocess, sys, tempfile, time
from pathlib import Path

def note(pid):
    with (Path(__file__).parent / "pids").open("a") as file:
        file.write(f"{pid}\\n")

def endless():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    note(os.getpid())
    time.sleep(600)
    os._exit(0)

def session():
    note(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)

def other_environment():
    note(subprocess.Popen(["sleep", "600"], env={}, start_new_session=True).pid)

def fork():
    if os.fork() == 0:
        endless()

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            endless()
        os._exit(0)
    os.wait()

def breeder():
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork() == 0:
                note(os.getpid())
                time.sleep(600)
            time.sleep(0.005)

def printer():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        while True:
            os.write(1, b"x" * 65536)
    note(pid)

def kept_file():
    (Path(tempfile.gettempdir()) / "accuracy").write_text("")
    note(tempfile.gettempdir())

def hang():
    (Path(__file__).parent / "hangs").write_text(str(os.getpid()))
    note(os.getpid())
    time.sleep(600)

def deaf():
    os.closerange(3, 256)
    hang()

def long_error():
    raise ValueError("z" * 50_000_000)

def build(args, way):
    for one in way.split():
        globals()[one]()
    poll = 0
    while not (Path(__file__).parent / "pids").exists() and poll < 600:
        time.sleep(0.05)
        poll += 1
    print("x" * 5000)
    raise ValueError("enough")
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    (tmp_path / "ways.py").write_text(WAYS)

    def make(way: str) -> dict[str, Any]:
        return CustomJob(
            build="ways:build", python_path=str(tmp_path), kwargs={"way": way}, metric="rmse", direction="minimize"
        ).model_dump()

    return make


def pids(folder: Path) -> list[int]:
    path = folder / "pids"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("way", ["session", "other_environment", "fork", "daemon", "breeder", "printer"])
def test_a_process_that_the_users_code_has_started_ends_with_it(
    tmp_path: Path, job: Callable[[str], dict[str, Any]], way: str
) -> None:
    with pytest.raises(JobError, match="enough"):
        shared_server().prepare(job(way), cache_folder(), searched={})
    assert pids(tmp_path)
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def trial(job: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"per_device_train_batch_size": 2}
    return {"job": job, "parameters": parameters, "data_folders": {}, "stages": ["probe"], "memory_limit_mib": None} | more


def test_a_killed_trial_leaves_none_either(tmp_path: Path, job: Callable[[str], dict[str, Any]]) -> None:
    request = trial(job("session daemon fork hang"))

    def kill() -> None:
        poll(lambda: len(pids(tmp_path)) == 4, "the start of all")
        os.kill(int((tmp_path / "hangs").read_text()), signal.SIGKILL)

    outcome = shared_server().run_trial(request, on_progress=Events("data", kill))
    assert isinstance(outcome, Failed)
    assert "was killed by SIGKILL" in outcome.reason
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_the_ranks_of_a_trial_leave_none_either(tmp_path: Path, job: Callable[[str], dict[str, Any]]) -> None:
    outcome = shared_server().run_trial(trial(job("daemon fork"), num_ranks=2))
    assert isinstance(outcome, Failed)
    assert len(pids(tmp_path)) >= 2
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_a_process_of_the_user_s_own_is_left_alone(job: Callable[[str], dict[str, Any]]) -> None:
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with pytest.raises(JobError, match="enough"):
        shared_server().prepare(job("session"), cache_folder(), searched={})
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_files_in_the_temporary_directory_are_the_trial_s_own_and_go_with_it(
    tmp_path: Path, job: Callable[[str], dict[str, Any]]
) -> None:
    with pytest.raises(JobError, match="enough"):
        shared_server().prepare(job("kept_file"), cache_folder(), searched={})
    where = Path((tmp_path / "pids").read_text().strip())
    assert where.parent.parent == Path(tempfile.gettempdir())
    assert where.parent.stat().st_mode & 0o777 == 0o700
    assert not where.exists()


def test_a_build_that_hangs_is_ended_at_the_time_limit_of_a_trial(tmp_path: Path, job: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(JobError, match=r"limits\.trial_time_s = 3 s;"):
        shared_server().prepare(job("daemon hang"), cache_folder(), searched={}, time_limit_s=600, attempt_limit_s=3)
    assert not any(is_alive(pid) for pid in pids(tmp_path))
    assert Children().trials() == []


def test_a_build_that_hangs_is_ended_when_time_is_up(tmp_path: Path, job: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(PreparationTimeoutError):
        shared_server().prepare(job("hang"), cache_folder(), searched={}, time_limit_s=3, attempt_limit_s=600)
    assert not any(is_alive(pid) for pid in pids(tmp_path))


def test_a_trial_that_closes_its_channel_and_goes_on_is_ended(tmp_path: Path, job: Callable[[str], dict[str, Any]]) -> None:
    outcome = shared_server().run_trial(trial(job("deaf")), time_limit_s=600)
    assert isinstance(outcome, Failed)
    assert not is_alive(pids(tmp_path)[0])


def test_an_error_as_long_as_a_disk_is_cut(job: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(JobError) as error:
        shared_server().prepare(job("long_error"), cache_folder(), searched={})
    assert len(str(error.value)) < 10_000
