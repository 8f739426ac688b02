"""Memory estimates made in a process beside the trials."""

import os
import signal

import pytest
from running import is_alive, poll, request, run, shared_server, tiny_job
from transformers import LongformerConfig

from tradeoff.objectives.job.arguments import name_of_data
from tradeoff.objectives.measurements.outcome import Completed
from tradeoff.objectives.memory_estimator.estimates import MemoryEstimates
from tradeoff.objectives.trial.messages import Refusal
from tradeoff.searchspace import TrialParameters

DEVICE = {"kind": "cpu", "precisions": ["fp32", "bf16"], "total_memory_mib": 4000.0}
BATCHES = (4, 8, 64)


def start(tmp_path, job=None, **changes):
    whole = {
        "task": "estimate_memory",
        "job": (job or tiny_job()).model_dump(),
        "configurations": [TrialParameters(per_device_train_batch_size=batch).as_dict() for batch in BATCHES],
        "changes": {},
        "device": DEVICE,
        "memory_limit_mib": 1000.0,
        "longest": {name_of_data(job or tiny_job()): 32},
        "cache_folder": str(tmp_path),
    }
    return shared_server().start_task(whole | changes)


def test_estimates_are_made_while_a_trial_runs_and_are_near_what_the_trial_measures(tmp_path):
    task = start(tmp_path)
    outcome = run(stages=("probe",), per_device_train_batch_size=64)
    assert isinstance(outcome, Completed)
    message = task.reply(timeout_s=None)
    estimates = MemoryEstimates.from_dict(message.answer["estimates"])
    estimated = [estimates.at(TrialParameters(per_device_train_batch_size=1).memory_class(), batch) for batch in BATCHES]
    peaks = [one.peak_memory_mib for one in estimated]
    assert peaks == sorted(peaks)
    assert all(one.lower_bound_mib < one.peak_memory_mib for one in estimated)
    measured = outcome.measurements.probe.memory.peak_memory_mib
    # A process of a few MiB: what the libraries take for themselves is as much again.
    assert estimated[-1].lower_bound_mib < measured < estimated[-1].peak_memory_mib + 20
    assert task.reply() == message
    traces = [*tmp_path.iterdir()]
    assert [path.suffixes[-2:] for path in traces] == [[".json", ".gz"]] * 3
    for trace in traces:
        trace.write_bytes(trace.read_bytes()[:100])
    again = start(tmp_path).reply(timeout_s=None).answer
    assert (again["estimates"], message.answer["notices"]) == (message.answer["estimates"], [])
    (said,) = again["notices"]
    assert said.startswith(f"the stored trace {tmp_path}/")
    assert said.endswith("can't be read (EOFError): what is damaged is made again")


def test_a_model_that_cannot_be_traced_is_named_in_a_sentence(tmp_path):
    LongformerConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=100, attention_window=8
    ).save_pretrained(tmp_path / "model")
    task = start(tmp_path / "traces", tiny_job(model=str(tmp_path / "model")))
    assert "the memory of longformer models can't be estimated" in task.reply(timeout_s=None).error


def test_a_cancelled_task_ends_and_the_server_goes_on(tmp_path):
    task = start(tmp_path)
    assert is_alive(task.pid)
    task.cancel()
    task.cancel()
    poll(lambda: not is_alive(task.pid), "the end of the task")
    assert isinstance(shared_server().run_trial(request(stages=("probe",))), Completed)


def test_a_task_that_was_killed_has_no_answer(tmp_path):
    task = start(tmp_path)
    os.kill(task.pid, signal.SIGKILL)
    assert task.reply(timeout_s=None) == Refusal(error="the process has ended without an answer")


@pytest.mark.parametrize("timeout_s", [0.0, 0.01])
def test_a_task_that_runs_has_no_answer_yet(tmp_path, timeout_s):
    task = start(tmp_path)
    assert task.reply(timeout_s=timeout_s) is None
    task.cancel()
