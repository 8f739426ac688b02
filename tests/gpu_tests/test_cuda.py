"""What only a real GPU can show; skipped as a whole on a machine without one."""

import json
import subprocess
import sys

import pytest
import torch

from tradeoff.objectives.device.base import DeviceInfo

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PRELUDE = """
import json, os, torch
from tradeoff.objectives.device.nvml import NvmlReader
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.registry import start_device
from tradeoff.objectives.device.sampler import DeviceSampler

device = start_device()

def tensor(mib):
    return torch.ones(int(mib * 2**18), device="cuda")
"""


def in_subprocess(code):
    """Runs `code` in a process of its own, as a trial is: context and allocator are fresh."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_gpu_is_described():
    device = DeviceInfo.from_dict(in_subprocess("print(json.dumps(device.info.as_dict()))"))
    assert device.kind == "cuda"
    assert device.name == torch.cuda.get_device_name(0)
    assert device.total_memory_mib == torch.cuda.get_device_properties(0).total_memory / 2**20
    assert {"fp32", "fp16"} <= set(device.precisions)


def test_the_gpu_is_nvmls_gpu_with_the_same_memory():
    code = """
with NvmlReader.open(device.info.uuid) as nvml:
    print(json.dumps([nvml.total_memory_mib(), device.info.total_memory_mib, nvml.unavailable_reason]))
"""
    nvml_mib, torch_mib, reason = in_subprocess(code)
    assert nvml_mib is not None, reason
    # The driver keeps a part that CUDA does not count.
    assert nvml_mib == pytest.approx(torch_mib, rel=0.05)


def test_the_context_takes_memory_before_any_tensor():
    assert 50 < in_subprocess("print(json.dumps(device.info.context_mib))") < 2048


def test_the_peak_is_the_context_and_what_was_reserved_at_once():
    code = """
meter = device.memory_meter()
before_mib = torch.cuda.memory_reserved() / 2**20
first, second = tensor(400), tensor(600)
del first, second
torch.cuda.empty_cache()
third = tensor(300)
memory = meter.read()
held_mib = meter.held_mib()
print(json.dumps([before_mib, device.info.context_mib, held_mib, memory.peak_memory_mib, memory.peak_reserved_mib,
                  memory.peak_allocated_mib]))
"""
    before_mib, context_mib, held_mib, peak_mib, reserved_mib, allocated_mib = in_subprocess(code)
    assert reserved_mib == pytest.approx(before_mib + 1000, abs=40)
    assert peak_mib == pytest.approx(context_mib + reserved_mib, abs=0.01)
    assert 1000 <= allocated_mib <= reserved_mib
    assert held_mib == pytest.approx(context_mib + before_mib + 300, abs=40)


def test_a_reset_starts_a_new_peak():
    code = """
meter = device.memory_meter()
gone = tensor(800)
del gone
torch.cuda.empty_cache()
meter.reset_peak()
kept = tensor(100)
print(json.dumps(meter.read().peak_allocated_mib))
"""
    assert in_subprocess(code) < 400


def test_nvmls_figure_for_the_process_is_the_objective_where_it_lists_the_process():
    code = """
meter = device.memory_meter()
kept = tensor(1000)
memory = meter.read()
print(json.dumps([memory.peak_memory_mib, memory.peak_process_mib]))
"""
    peak_mib, process_mib = in_subprocess(code)
    if process_mib is None:
        pytest.skip("NVML does not list this process")
    assert process_mib == pytest.approx(peak_mib, abs=64)


def test_within_the_limit_tensors_fit_and_beyond_it_they_run_out_of_memory():
    code = """
limit_mib = device.info.context_mib + torch.cuda.memory_reserved() / 2**20 + 1000
device.enforce_memory_limit(limit_mib)
meter = device.memory_meter()
kept = tensor(900)
try:
    tensor(400)
    answer = None
except torch.OutOfMemoryError as error:
    details = out_of_memory_details(error)
    answer = [details.requested_mib, details.free_mib, meter.read().peak_memory_mib - limit_mib]
print(json.dumps(answer))
"""
    answer = in_subprocess(code)
    assert answer is not None, "400 MiB fitted into the 100 MiB that were left"
    requested_mib, free_mib, above_limit_mib = answer
    assert requested_mib == 400.0
    assert free_mib <= 100
    assert above_limit_mib <= 0


def test_a_limit_below_the_context_is_refused():
    code = """
try:
    device.enforce_memory_limit(device.info.context_mib / 2)
except ValueError as error:
    print(json.dumps(str(error)))
"""
    assert "must be above the CUDA context" in in_subprocess(code)


def test_a_training_step_fits_the_peak_that_it_was_measured_with():
    code = """
def step():
    layers = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(8)]).cuda()
    optimizer = torch.optim.AdamW(layers.parameters())
    for _ in range(2):
        layers(torch.ones(4096, 1024, device="cuda")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

meter = device.memory_meter()
step()
peak_mib = meter.read().peak_memory_mib
torch.cuda.empty_cache()
device.enforce_memory_limit(peak_mib + 2)
step()
print(json.dumps(meter.read().peak_memory_mib <= peak_mib + 2))
"""
    assert in_subprocess(code) is True


def test_the_sampler_sees_memory_load_and_time():
    code = """
import time
matrix = torch.ones(4096, 4096, device="cuda")
with DeviceSampler(device, interval_s=0.05) as sampler:
    begin = time.perf_counter()
    while time.perf_counter() - begin < 2:
        matrix @ matrix
        torch.cuda.synchronize()
print(json.dumps([sampler.peak_device_mib, sampler.gpu_utilization_percent, sampler.energy_j, sampler.memory_samples]))
"""
    device_mib, utilization_percent, energy_j, samples = in_subprocess(code)
    assert len(samples) > 3
    assert all(mib > 64 for _, mib in samples)
    if device_mib is not None:
        assert device_mib > 64
    if utilization_percent is not None:
        assert 0 < utilization_percent <= 100
    if energy_j is not None:
        assert energy_j > 0


def test_the_clock_waits_for_the_device():
    code = """
matrix = torch.ones(8192, 8192, device="cuda")
event = torch.cuda.Event()
device.clock_s()
matrix @ matrix
event.record()
device.clock_s()
print(json.dumps(event.query()))
"""
    assert in_subprocess(code) is True
