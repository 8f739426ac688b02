"""Memory meters on a CPU, in processes of their own, and the sampler against a stand-in for NVML."""

import pytest
import torch
from forked import run_forked
from nvml_stub import NvmlStub, compile_stub

from tradeoff.objectives.device.cpu import CpuDevice, processor_name
from tradeoff.objectives.device.sampler import MemoryTrace

GPU = "GPU-11111111-1111-1111-1111-111111111111"

PRELUDE = """
import json, torch
from tradeoff.objectives.device.base import DeviceInfo
from tradeoff.objectives.device.cpu import CpuDevice, CpuMemoryMeter
from tradeoff.objectives.device.malloc import page_allocation
from tradeoff.objectives.device.sampler import DeviceSampler

device = CpuDevice(DeviceInfo(kind="cpu", name="a processor", total_memory_mib=8192.0, precisions=("fp32",), num_cpus=2))

def tensor(mib):
    return torch.ones(int(mib * 2**18))
"""


def in_process(code):
    return run_forked(PRELUDE + code)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(library, tmp_path):
    return NvmlStub(library, tmp_path / "state")


def test_the_peak_is_what_was_alive_at_once_above_the_baseline():
    code = """
kept_before = tensor(50)
meter = device.memory_meter()
with page_allocation():
    first = tensor(40)
    second = tensor(60)
    del first, second
    third = tensor(30)
    memory = meter.read()
print(json.dumps([memory.peak_memory_mib, meter.held_mib(), memory.context_mib > 50]))
"""
    peak_mib, held_mib, has_baseline = in_process(code)
    assert peak_mib == pytest.approx(100, abs=3)
    assert held_mib == pytest.approx(30, abs=3)
    assert has_baseline


def test_a_reset_starts_a_new_peak_from_the_same_baseline():
    code = """
meter = device.memory_meter()
with page_allocation():
    kept = tensor(20)
    gone = tensor(100)
    del gone
    meter.reset_peak()
    more = tensor(30)
    print(json.dumps(meter.read().peak_memory_mib))
"""
    assert in_process(code) == pytest.approx(50, abs=3)


def test_a_mapped_file_is_no_memory_of_the_model(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"\1" * 64 * 2**20)
    code = f"""
import mmap
meter = device.memory_meter()
with open({str(path)!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    read = sum(mapped[::4096])
memory = meter.read()
print(json.dumps([memory.peak_memory_mib, memory.peak_process_mib - memory.context_mib]))
"""
    peak_mib, whole_process_mib = in_process(code)
    assert peak_mib < 8
    assert whole_process_mib > 64


def test_on_a_cpu_there_are_no_figures_of_a_gpu():
    code = """
memory = device.memory_meter().read()
print(json.dumps([memory.peak_allocated_mib, memory.peak_reserved_mib, memory.peak_device_mib]))
"""
    assert in_process(code) == [None, None, None]


def test_where_the_peak_can_not_be_reset_the_peak_of_the_processs_life_is_used():
    code = """
from pathlib import Path
CpuMemoryMeter._CLEAR_REFS = Path("/proc/self/there/is/no/such/file")
meter = CpuMemoryMeter()
gone = tensor(500)
del gone
before_reset_mib = meter.read().peak_memory_mib
meter.reset_peak()
print(json.dumps([before_reset_mib, meter.read().peak_memory_mib]))
"""
    before_reset_mib, after_reset_mib = in_process(code)
    # Less than 500 by what importing torch took at its own peak above what stays.
    assert 250 < before_reset_mib < 510
    assert after_reset_mib == before_reset_mib


def test_page_allocation_gives_freed_blocks_back_which_plain_malloc_keeps():
    # 4,000 blocks of 100 KiB with a small one that stays after each: the free space lies in the middle of the heap.
    code = """
meter = device.memory_meter()

def scatter():
    blocks, between = [], []
    for _ in range(4000):
        blocks.append(torch.ones(25 * 1024))
        between.append(torch.ones(256))
    return between

with page_allocation():
    inside = scatter()
    inside_mib = meter.held_mib()
outside = scatter()
print(json.dumps([inside_mib, meter.held_mib() - inside_mib]))
"""
    inside_mib, outside_mib = in_process(code)
    assert inside_mib < 30
    assert outside_mib > 300


def test_page_allocation_ends_when_its_block_raises():
    code = """
try:
    with page_allocation():
        raise KeyError("x")
except KeyError:
    pass
meter = device.memory_meter()
blocks = [torch.ones(25 * 1024) for _ in range(2000)]
wall = torch.ones(256)
del blocks
print(json.dumps(meter.held_mib()))
"""
    # With one 64 KiB threshold left over, 2,000 freed blocks of 100 KiB would be gone: 195 MiB.
    assert in_process(code) > 150


def test_the_clock_goes_forward():
    assert in_process("first = device.clock_s()\nprint(json.dumps(device.clock_s() >= first))")


def test_a_trace_keeps_every_point_while_there_are_few():
    trace = MemoryTrace(max_points=4)
    for second in range(4):
        trace.add(second, 10.0 * second)
    assert trace.points == [(0, 0.0), (1, 10.0), (2, 20.0), (3, 30.0)]


def test_a_full_trace_makes_two_points_one_and_keeps_the_higher():
    trace = MemoryTrace(max_points=4)
    for second, mib in enumerate([1, 5, 7, 2, 3]):
        trace.add(second, mib)
    assert trace.points == [(1, 5), (2, 7), (4, 3)]
    trace.add(5, 9)
    assert trace.points == [(1, 5), (2, 7), (5, 9)]


def test_a_trace_stays_bounded_and_keeps_the_peak():
    trace = MemoryTrace(max_points=200)
    for second in range(10_000):
        trace.add(second, 999.0 if second == 6_789 else 1.0)
    assert len(trace.points) <= 200
    assert (6_789, 999.0) in trace.points
    assert trace.points == sorted(trace.points)


def test_on_a_cpu_the_sampler_follows_memory_alone():
    code = """
meter = device.memory_meter()
with DeviceSampler(device, held_mib=meter.held_mib, interval_s=0.01) as sampler:
    kept = tensor(100)
figures = [sampler.peak_process_mib, sampler.peak_device_mib, sampler.gpu_utilization_percent, sampler.energy_j]
seconds, mib = zip(*sampler.memory_samples)
print(json.dumps([figures, mib[0], mib[-1], list(seconds) == sorted(seconds)]))
"""
    figures, first_mib, last_mib, ordered = in_process(code)
    assert figures == [None, None, None, None]
    assert first_mib < 10
    assert last_mib == pytest.approx(100, abs=3)
    assert ordered


SAMPLE = """
import os
from pathlib import Path
from tradeoff.objectives.device.base import DeviceInfo
from tradeoff.objectives.device.cuda import CudaDevice
from tradeoff.objectives.device.sampler import DeviceSampler
state = Path(os.environ["NVML_STUB"])
info = DeviceInfo(kind="cuda", name="a GPU", uuid={uuid!r}, total_memory_mib=8192.0, precisions=("fp32",), num_cpus=2)

def rewrite(old, new):
    # Replaced as a whole, so that the sampler's thread never reads half a file.
    unfinished = state.with_suffix(".new")
    unfinished.write_text(state.read_text().replace(old, new))
    unfinished.replace(state)

with DeviceSampler(CudaDevice(info), held_mib=lambda: 0.0, interval_s={interval_s}) as sampler:
{body}
answer = [sampler.peak_process_mib, sampler.peak_device_mib, sampler.gpu_utilization_percent, sampler.energy_j]
"""


def test_energy_and_load_are_those_of_the_time_between(stub):
    # One sample on entering, at 40% and 5 J, one on leaving, at 80% and 12.5 J.
    stub.card(GPU, used_mib=3000, busy=40, energy_mj=5000, pid="self", process_mib=2048)
    body = '    rewrite(" 40 5000 ", " 80 12500 ")'
    assert stub.run(SAMPLE.format(uuid=GPU, interval_s=60, body=body)) == [2048.0, 3000.0, 60.0, 7.5]


def test_a_peak_between_entering_and_leaving_is_seen(stub):
    stub.card(GPU, used_mib=3000, busy=40, energy_mj=5000, pid="self", process_mib=2048)
    body = f"""
    high, low = "{3000 * 2**20} ", "{7000 * 2**20} "
    rewrite(high, low)
    while sampler.peak_device_mib < 7000:
        pass
    rewrite(low, high)
"""
    assert stub.run(SAMPLE.format(uuid=GPU, interval_s=0.01, body=body))[1] == 7000.0


def test_a_gpu_that_nvml_does_not_know_is_sampled_without_its_figures(stub):
    stub.card(GPU, used_mib=3000)
    assert stub.run(SAMPLE.format(uuid="GPU-unknown", interval_s=60, body="    pass")) == [None, None, None, None]


def test_a_warm_up_leaves_torchs_random_numbers_alone():
    before = torch.random.get_rng_state()
    CpuDevice.warm_up()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_processors_model_name_is_read(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel\t\t: 85\nmodel name\t: A Fast Processor @ 3 GHz\n", encoding="utf-8")
    assert processor_name(path) == "A Fast Processor @ 3 GHz"


@pytest.mark.parametrize("text", [None, "processor\t: 0\nCPU implementer\t: 0x41\n"])
def test_a_processor_without_a_model_name_is_named_by_its_architecture(tmp_path, text):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert processor_name(path)
