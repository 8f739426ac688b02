"""A memory limit on a CPU, enforced by the operating system in processes of their own."""

import pytest
from forked import run_forked

from tradeoff.objectives.device.data_limit import current_data_mib, set_data_limit

PRELUDE = """
import json, threading, torch
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.device.data_limit import current_data_mib
from tradeoff.objectives.device.malloc import page_allocation
from tradeoff.objectives.device.out_of_memory import out_of_memory_details

def fits(mib):
    try:
        return torch.ones(int(mib * 2**18)).sum().item() > 0
    except RuntimeError as error:
        assert out_of_memory_details(error) is not None, error
        return False
"""


def in_process(code):
    return run_forked(PRELUDE + code)


def test_a_tensor_within_the_limit_fits_and_one_beyond_it_does_not():
    code = """
start_device().enforce_memory_limit(100.0)
print(json.dumps([fits(90), fits(130), fits(90)]))
"""
    assert in_process(code) == [True, False, True]


def test_freed_tensors_do_not_eat_the_limit_while_blocks_go_back():
    code = """
start_device().enforce_memory_limit(100.0)
with page_allocation():
    print(json.dumps(all(fits(size) for size in range(2, 91))))
"""
    assert in_process(code) is True


def test_a_few_threads_and_a_parallel_operation_leave_the_limit_to_tensors():
    code = """
start_device().enforce_memory_limit(100.0)
together = threading.Barrier(4)
threads = [threading.Thread(target=together.wait) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(fits(90)))
"""
    assert in_process(code) is True


def test_the_measured_peak_and_the_limit_are_the_same_measure():
    # Three tensors of 32 MiB at once: what the meter shows is what a limit must at least be.
    code = """
def train():
    tensors = [torch.ones(8 * 2**20) for _ in range(3)]
    return sum(tensor[0].item() for tensor in tensors)

device = start_device()
meter = device.memory_meter()
with page_allocation():
    train()
    peak_mib = meter.read().peak_memory_mib
    device.enforce_memory_limit(peak_mib + 4)
    train()
    device.enforce_memory_limit(peak_mib - 20)  # 14 MiB short, with the room that libraries are left
    try:
        train()
        fitted = True
    except RuntimeError as error:
        fitted = out_of_memory_details(error) is None
print(json.dumps([round(peak_mib), fitted]))
"""
    peak_mib, fitted = in_process(code)
    assert peak_mib == pytest.approx(96, abs=2)
    assert not fitted


def test_the_limit_can_be_lifted_again():
    code = """
device = start_device()
device.enforce_memory_limit(100.0)
refused = not fits(300)
left_mib = device.left_in_limit_mib()
device.lift_memory_limit()
print(json.dumps([refused, 90 < left_mib < 110, fits(300), device.left_in_limit_mib()]))
"""
    assert in_process(code) == [True, True, True, None]


def test_current_data_grows_by_what_is_allocated():
    code = """
before_mib = current_data_mib()
tensor = torch.empty(64 * 2**20, dtype=torch.uint8)
print(json.dumps(current_data_mib() - before_mib))
"""
    assert in_process(code) == pytest.approx(64, abs=1)


@pytest.mark.parametrize("limit_mib", [0.0, -1.0, float("nan")])
def test_a_limit_of_nothing_is_refused(limit_mib):
    with pytest.raises(ValueError, match=r"limits\.peak_memory_mib must be above 0, got"):
        set_data_limit(limit_mib)


def test_a_system_that_does_not_tell_a_processs_data_is_named(monkeypatch):
    monkeypatch.setattr("tradeoff.objectives.device.data_limit.status_mib", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Linux, got .*: remove limits\.peak_memory_mib"):
        current_data_mib()
