"""Trials on two devices: real processes under gloo, and what becomes of a trial when one of them is lost."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from running import LOOPBACK, Children, Events, is_alive, listening_addresses, poll, request, shared_server, tiny_job

from tradeoff.objectives.device.procfs import status_mib
from tradeoff.objectives.isolation.endings import ProcessResult
from tradeoff.objectives.isolation.following import first_to_go
from tradeoff.objectives.measurements.outcome import Completed, Failed, Interrupted, Memory, OutOfMemory, TimedOut
from tradeoff.objectives.trial.messages import Finished
from tradeoff.objectives.trial.ranks import highest

ENDLESS = tiny_job(epochs=1000)
LARGE = tiny_job(epochs=1000, train_samples=256, max_length=128, eval_batch_size=8)


def on_two(job: Any = None, **settings: Any) -> dict[str, Any]:
    return request(job, **settings) | {"num_ranks": 2}


def ranks() -> list[int]:
    """The processes of the trial that runs, by rank: the server forks them in this order."""
    return sorted(Children().trials())


class Step(Events):
    """Acts at the first step that a stage reports: all ranks have taken it together."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        if "step" in event:
            super().__call__(event)


def lose(
    act: Callable[[list[int]], None],
    *,
    stage: str = "train",
    job: Any = None,
    time_limit_s: float | None = None,
    **parameters: Any,
) -> Any:
    """Runs an endless trial, acts on its ranks in a stage, and returns its outcome; nothing of it may be left."""
    found: list[int] = []

    def disturb() -> None:
        found.extend(poll(lambda: pair if len(pair := ranks()) == 2 else None, "the start of two ranks"))
        act(found)

    events = Step(stage, disturb) if stage == "train" else Events(stage, disturb)
    outcome = shared_server().run_trial(on_two(job or ENDLESS, **parameters), on_progress=events, time_limit_s=time_limit_s)
    assert len(found) == 2
    assert not any(is_alive(pid) for pid in found)
    return outcome


@pytest.fixture(scope="module")
def completed() -> Completed:
    outcome = shared_server().run_trial(on_two(gradient_accumulation_steps=2))
    assert isinstance(outcome, Completed)
    return outcome


def test_two_ranks_share_each_optimizer_step(completed: Completed) -> None:
    training = completed.measurements.training
    assert training is not None
    assert training.num_steps == 2  # 64 samples, 8 x 2 on each of 2 devices
    assert training.num_samples == 64


def test_accuracy_is_that_of_all_evaluation_samples(completed: Completed) -> None:
    training = completed.measurements.training
    assert training is not None
    assert training.curve[-1].accuracy is not None
    assert (training.curve[-1].accuracy * 32) % 1 == 0  # of 32 samples, and not of the 16 that a rank has seen


def test_two_ranks_learn_what_one_device_learns_at_the_same_effective_batch(completed: Completed) -> None:
    alone = shared_server().run_trial(request(stages=("train",), gradient_accumulation_steps=4))
    together = completed.measurements.training
    assert together is not None
    assert together.num_steps == alone.measurements.training.num_steps
    # The same samples in each step; dropout draws differ.
    assert together.train_loss == pytest.approx(alone.measurements.training.train_loss, rel=0.05)


def test_the_probe_measures_on_both_ranks(completed: Completed) -> None:
    probe = completed.measurements.probe
    assert probe is not None
    assert probe.memory.peak_memory_mib is not None
    assert probe.memory.peak_memory_mib > probe.gradients_mib > 0
    assert probe.micro_step_time_s > 0
    assert probe.optimizer_step_time_s > 0


def test_the_server_runs_a_trial_on_one_device_after_one_on_two(completed: Completed) -> None:
    assert isinstance(shared_server().run_trial(request(stages=("probe",))), Completed)
    assert Children().trials() == []


def test_a_rank_that_is_killed_ends_the_trial_with_its_name() -> None:
    outcome = lose(lambda pids: os.kill(pids[1], signal.SIGKILL))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "on rank 1: the trial's process was killed by SIGKILL, in stage 'train'"
    assert outcome.measurements.probe is not None


def test_the_first_rank_that_crashes_ends_the_trial_with_its_name() -> None:
    outcome = lose(lambda pids: os.kill(pids[0], signal.SIGSEGV))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "on rank 0: the trial's process was killed by SIGSEGV, in stage 'train'"


def test_a_rank_that_is_lost_before_it_has_found_the_others_ends_the_trial() -> None:
    outcome = lose(lambda pids: os.kill(pids[1], signal.SIGKILL), stage="data")
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("on rank 1: the trial's process was killed by SIGKILL")


def test_a_rank_that_runs_out_of_memory_ends_the_trial_as_out_of_memory() -> None:
    def starve(pids: list[int]) -> None:
        held_mib = status_mib("VmData", Path(f"/proc/{pids[1]}/status"))
        assert held_mib is not None
        _, hard = resource.prlimit(pids[1], resource.RLIMIT_DATA)
        resource.prlimit(pids[1], resource.RLIMIT_DATA, (int(held_mib + 24) << 20, hard))

    outcome = lose(starve, stage="probe", job=LARGE, per_device_train_batch_size=64)
    assert isinstance(outcome, OutOfMemory), outcome
    assert outcome.reason.startswith("on rank 1: ")
    assert outcome.shortfall_mib > 0


def test_the_memory_limit_is_each_rank_s_own() -> None:
    outcome = shared_server().run_trial(on_two(memory_limit_mib=4.0))
    assert isinstance(outcome, OutOfMemory)
    assert outcome.stage == "probe"
    assert outcome.reason.startswith("on rank ")
    assert Children().trials() == []


def test_a_rank_that_hangs_is_ended_with_the_others_at_the_time_limit() -> None:
    outcome = lose(lambda pids: os.kill(pids[1], signal.SIGSTOP), stage="probe", time_limit_s=8)
    assert isinstance(outcome, TimedOut)
    assert outcome.reason == "took longer than limits.trial_time_s = 8 s, in stage 'probe'"


def test_ctrl_c_ends_all_ranks_and_keeps_the_probe() -> None:
    def press(_: list[int]) -> None:
        raise KeyboardInterrupt

    outcome = lose(press)
    assert isinstance(outcome, Interrupted)
    assert outcome.measurements.probe is not None


PARENT = """
import json, sys
from tradeoff.objectives.isolation.trial_server import TrialServer

with TrialServer() as server:
    server.run_trial(json.loads(sys.argv[1]), on_progress=lambda event: print(event["stage"], flush=True))
"""


def test_a_parent_that_is_killed_leaves_no_rank() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, json.dumps(on_two(ENDLESS))], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    poll(lambda: parent.stdout.readline().strip() == "train", "the training")
    processes = [*Children(parent.pid).servers(), *Children(parent.pid).trials()]
    assert len(processes) == 3
    parent.kill()
    parent.communicate()
    poll(lambda: not any(is_alive(pid) for pid in processes), "the end of the server and its ranks")


def test_nothing_is_bound_but_the_loopback_address() -> None:
    addresses: list[str] = []

    def look(pids: list[int]) -> None:
        addresses.extend(listening_addresses(pids))
        os.kill(pids[0], signal.SIGKILL)

    lose(look)
    assert addresses
    assert set(addresses) <= LOOPBACK


def answered(outcome: Any, at_s: float) -> ProcessResult:
    return ProcessResult(reply=Finished(outcome=outcome, at_s=at_s))


ERROR = Failed(stage="train", reason="RuntimeError: connection closed by peer")


def test_out_of_memory_comes_before_the_error_that_it_causes() -> None:
    out = OutOfMemory(stage="train", reason="out of memory", shortfall_mib=1.0)
    assert first_to_go([answered(ERROR, 2.0), answered(out, 3.0)]) == 1


def test_a_rank_that_vanished_comes_before_the_error_that_it_causes() -> None:
    assert first_to_go([answered(ERROR, 2.0), ProcessResult(closed=True)]) == 1


def test_of_two_errors_the_earlier_one_speaks() -> None:
    assert first_to_go([answered(ERROR, 2.0), answered(ERROR, 1.0)]) == 1


def test_rank_0_speaks_where_none_was_lost(completed: Completed) -> None:
    assert first_to_go([answered(completed, 1.0), answered(completed, 0.5)]) == 0


def test_the_highest_peak_of_each_instrument_counts() -> None:
    together = highest([Memory(peak_memory_mib=5.0, context_mib=9.0), Memory(peak_memory_mib=7.0, peak_device_mib=3.0)])
    assert together == Memory(peak_memory_mib=7.0, context_mib=9.0, peak_device_mib=3.0)
