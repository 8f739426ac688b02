import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import (
    Children,
    Events,
    children,
    end_trial,
    is_alive,
    only_trial,
    parent_of,
    poll,
    request,
    shared_server,
    tiny_job,
)

from tradeoff.objectives.isolation.trial_server import JobError, ProcessKilledError, TrialServer
from tradeoff.objectives.measurements.outcome import Completed, Failed, Interrupted, TimedOut
from tradeoff.objectives.trial.messages import Answer

# Far longer than any test waits.
ENDLESS = tiny_job(epochs=100_000)

# Imported by a server before it forks: notes what every process that it forks finds, and crashes it on demand.
WATCH = """
import ctypes, os, threading, torch
from pathlib import Path

folder = Path(os.environ["WATCH_FOLDER"])

def note(name):
    (folder / name).write_text(f"{torch.cuda.is_initialized()} {threading.active_count()}")

def in_child():
    note("trial")
    if (folder / "crash").exists():
        ctypes.string_at(0)

os.register_at_fork(before=lambda: note("server"), after_in_child=in_child)
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrialServer, Path]]:
    """A server started in a folder whose names shadow libraries, with a module of the user's imported before it forks."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "modules").mkdir()
    (folder / "modules" / "watch.py").write_text(WATCH)
    for name in ("evaluate.py", "datasets/__init__.py", "transformers.py", "objectives.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise ImportError('taken from the working folder')")
    environment = {"PYTHONPATH": str(folder / "modules"), "WATCH_FOLDER": str(folder)}
    with TrialServer(environment=environment, modules=("watch",)) as server:
        before = Path.cwd()
        os.chdir(folder)
        try:
            server.start()
        finally:
            os.chdir(before)
        yield server, folder


def killed_in_training(number: signal.Signals) -> object:
    events = Events("train", end_trial(number))
    outcome = shared_server().run_trial(request(ENDLESS), on_progress=events)
    assert events.acted
    return outcome


def test_a_killed_trial_fails_with_the_signal_and_the_stage() -> None:
    outcome = killed_in_training(signal.SIGKILL)
    assert isinstance(outcome, Failed)
    assert (outcome.stage, outcome.reason) == ("train", "the trial's process was killed by SIGKILL, in stage 'train'")


def test_what_a_killed_trial_measured_before_is_kept() -> None:
    outcome = killed_in_training(signal.SIGKILL)
    assert isinstance(outcome, Failed)
    assert outcome.measurements.probe is not None
    assert outcome.measurements.probe.micro_step_time_s > 0
    assert outcome.measurements.training is None


def test_the_next_trial_runs_after_one_was_killed() -> None:
    killed_in_training(signal.SIGKILL)
    assert isinstance(shared_server().run_trial(request()), Completed)


def test_a_crash_in_training_is_a_failure() -> None:
    outcome = killed_in_training(signal.SIGSEGV)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "the trial's process was killed by SIGSEGV, in stage 'train'"


def test_a_crash_at_the_memory_limit_is_repeated_under_the_meter_alone() -> None:
    events = Events("probe", end_trial(signal.SIGSEGV))
    outcome = shared_server().run_trial(request(memory_limit_mib=10_000), on_progress=events)
    assert isinstance(outcome, Completed)
    assert events.stages == ["data", "probe", "data", "probe", "train"]


def test_a_crash_without_a_memory_limit_is_not_repeated() -> None:
    events = Events("probe", end_trial(signal.SIGSEGV))
    outcome = shared_server().run_trial(request(), on_progress=events)
    assert isinstance(outcome, Failed)
    assert events.stages == ["data", "probe"]


def test_native_code_that_crashes_ends_its_trial_alone(watched: tuple[TrialServer, Path]) -> None:
    server, folder = watched
    (folder / "crash").touch()
    try:
        outcome = server.run_trial(request())
    finally:
        (folder / "crash").unlink()
    assert isinstance(outcome, Failed)
    assert outcome.reason == "the trial's process was killed by SIGSEGV, in stage 'start'"
    assert isinstance(server.run_trial(request()), Completed)


def test_a_task_that_crashes_says_how_it_ended(watched: tuple[TrialServer, Path]) -> None:
    server, folder = watched
    (folder / "crash").touch()
    try:
        with pytest.raises(ProcessKilledError, match="the process of the task 'describe' was killed by SIGSEGV"):
            server.describe_device()
    finally:
        (folder / "crash").unlink()


def test_neither_the_server_nor_a_fresh_trial_has_touched_cuda_or_started_a_thread(watched: tuple[TrialServer, Path]) -> None:
    server, folder = watched
    assert isinstance(server.run_trial(request()), Completed)
    server.describe_device()  # forked after a whole trial
    assert (folder / "server").read_text() == "False 1"
    assert (folder / "trial").read_text() == "False 1"


def test_the_working_folder_does_not_shadow_a_library(watched: tuple[TrialServer, Path]) -> None:
    server, folder = watched
    working_folders = []
    look = Events("train", lambda: working_folders.append(os.readlink(f"/proc/{only_trial()}/cwd")))
    assert isinstance(server.run_trial(request(), on_progress=look), Completed)
    assert working_folders == [str(folder)]


def test_a_trial_that_hangs_is_ended_at_its_time_limit() -> None:
    trial: list[int] = []

    def stop() -> None:
        trial.append(only_trial())
        os.kill(trial[0], signal.SIGSTOP)

    outcome = shared_server().run_trial(request(ENDLESS), time_limit_s=6, on_progress=Events("data", stop))
    assert isinstance(outcome, TimedOut)
    # It may have come as far as the probe before the signal reached it.
    assert outcome.stage in ("data", "probe")
    assert outcome.reason == f"took longer than limits.trial_time_s = {outcome.limit_s} s, in stage {outcome.stage!r}"
    assert outcome.limit_s == 6
    assert not is_alive(trial[0])


def test_a_trial_that_takes_too_long_is_ended_and_keeps_its_probe() -> None:
    outcome = shared_server().run_trial(request(ENDLESS), time_limit_s=10)
    assert isinstance(outcome, TimedOut)
    assert outcome.stage == "train"
    assert outcome.measurements.probe is not None
    assert Children().trials() == []


def test_a_server_that_is_killed_takes_its_trial_along_and_the_next_request_starts_another(
    watched: tuple[TrialServer, Path],
) -> None:
    server, _ = watched
    ended: list[int] = []

    def kill_server() -> None:
        trial = only_trial()
        ended.extend([parent_of(trial), trial])
        os.kill(ended[0], signal.SIGKILL)

    outcome = server.run_trial(request(ENDLESS), on_progress=Events("train", kill_server))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "the trial's process ended together with the server that started it, in stage 'train'"
    assert outcome.measurements.probe is not None
    poll(lambda: not any(is_alive(pid) for pid in ended), "the end of the server and its trial")
    assert "fp32" in server.describe_device()["precisions"]


def test_a_server_that_died_between_two_requests_is_replaced(watched: tuple[TrialServer, Path]) -> None:
    server, _ = watched
    found: list[int] = []
    server.run_trial(request(stages=("probe",)), on_progress=Events("data", lambda: found.append(parent_of(only_trial()))))
    os.kill(found[0], signal.SIGKILL)
    poll(lambda: not is_alive(found[0]), "the server's end")
    assert "fp32" in server.describe_device()["precisions"]


def test_a_task_beside_the_trials_is_started_though_the_server_has_just_died(watched: tuple[TrialServer, Path]) -> None:
    server, _ = watched
    device = server.describe_device()
    assert server._server.pid is not None
    os.kill(server._server.pid, signal.SIGKILL)
    # Nobody waits for its end: it may still look alive.
    assert server.start_task({"task": "describe"}).reply(timeout_s=None) == Answer(answer=device)


def test_a_server_that_is_killed_while_it_imports_is_replaced_too(watched: tuple[TrialServer, Path]) -> None:
    server, _ = watched
    server.close()
    server.start()
    assert server._server.pid is not None
    os.kill(server._server.pid, signal.SIGKILL)
    assert "fp32" in server.describe_device()["precisions"]


def test_a_closed_server_leaves_no_process_and_starts_again_when_it_is_asked(watched: tuple[TrialServer, Path]) -> None:
    server, _ = watched
    before = set(Children().servers())
    server.close()
    assert len(before - set(Children().servers())) == 1
    server.start()
    # A process that has just started has no command line yet.
    poll(lambda: len(Children().servers()) == len(before), "the new server")
    server.close()  # while it still imports
    assert len(Children().servers()) == len(before) - 1


def test_ctrl_c_during_a_trial_ends_it_and_keeps_its_probe() -> None:
    trial: list[int] = []

    def press() -> None:
        trial.append(only_trial())
        raise KeyboardInterrupt

    outcome = shared_server().run_trial(request(ENDLESS), on_progress=Events("train", press))
    assert isinstance(outcome, Interrupted)
    assert outcome.stage == "train"
    assert outcome.measurements.probe is not None
    assert not is_alive(trial[0])


def test_an_error_in_the_callers_own_code_leaves_no_trial_behind() -> None:
    trial: list[int] = []

    def fail() -> None:
        trial.append(only_trial())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shared_server().run_trial(request(ENDLESS), on_progress=Events("train", fail))
    assert not is_alive(trial[0])
    assert isinstance(shared_server().run_trial(request()), Completed)


PARENT = """
import json, sys
from tradeoff.objectives.isolation.trial_server import TrialServer

request = json.loads(sys.argv[1])
with TrialServer() as server:
    server.run_trial(request, on_progress=lambda event: print(event["stage"], flush=True))
"""


def test_a_parent_that_is_killed_leaves_neither_server_nor_trial(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, json.dumps(request(ENDLESS))], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    poll(lambda: parent.stdout.readline().strip() == "train", "the training")
    processes = [*Children(parent.pid).servers(), *Children(parent.pid).trials()]
    assert len(processes) == 2
    parent.kill()
    parent.communicate()
    poll(lambda: not any(is_alive(pid) for pid in processes), "the end of the server and its trial")


def test_data_loaders_end_with_a_trial_that_is_killed() -> None:
    loaders: list[int] = []

    def kill() -> None:
        trial = only_trial()
        loaders.extend(poll(lambda: children(trial), "the start of data loaders"))
        os.kill(trial, signal.SIGKILL)

    outcome = shared_server().run_trial(request(ENDLESS, dataloader_num_workers=1), on_progress=Events("probe", kill))
    assert isinstance(outcome, Failed)
    poll(lambda: not any(is_alive(pid) for pid in loaders), "the end of the data loaders")


def test_progress_names_the_stages_in_order_and_counts_steps() -> None:
    events = Events()
    shared_server().run_trial(request(), on_progress=events)
    assert events.stages == ["data", "probe", "train"]
    assert events.seen[-1]["total"] == 8  # 64 samples, 8 a step


def test_what_a_trial_prints_goes_to_its_log() -> None:
    shared_server().run_trial(request(tiny_job(learning_rate=1e30)))
    assert "eval_loss" in shared_server().log


def test_a_task_that_the_user_got_wrong_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    job = tiny_job(dataset=str(tmp_path / "absent.csv"))
    with pytest.raises(JobError, match=r"absent\.csv"):
        shared_server().prepare(job.model_dump(), tmp_path / "cache")


def test_a_cache_folder_that_cannot_be_made_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="file"):
        shared_server().prepare(tiny_job(data_seed=1).model_dump(), tmp_path / "file" / "cache")
