"""What is out-of-memory and what is not: the texts are those that torch and its libraries raise."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch
from forked import run_forked

from tradeoff.objectives.device.kernel_kills import KernelKillWatch
from tradeoff.objectives.device.out_of_memory import MemoryDetails, out_of_memory_details, out_of_memory_last_words

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.43 GiB of which 512.00 MiB is free. "
    "Including non-PyTorch memory, this process has 6.90 GiB memory in use. Of the allocated memory 6.00 GiB is allocated by "
    "PyTorch, and 76.32 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
CUDA_SHARE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.00 GiB of which 120.00 GiB is free. "
    "7.00 GiB allowed; Of the allocated memory 6.00 GiB is allocated by PyTorch, and 256.00 MiB is reserved by PyTorch but "
    "unallocated."
)
DEVICE_TEXTS = [
    CUDA,
    "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.43 GiB total capacity; 6.51 GiB already allocated; "
    "2.94 MiB free; 6.81 GiB reserved in total by PyTorch)",
    "HIP out of memory. Tried to allocate 20.00 MiB.",
    "CUDA error: out of memory",
    "CUDA error: out of memory.",
    "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/ for more information.\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "NVRTC error: NVRTC_ERROR_OUT_OF_MEMORY",
    "Triton Error [CUDA]: out of memory",
    "NCCL error in: ProcessGroupNCCL.cpp:1275, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4294967296 bytes. Error code 12 (Cannot allocate memory)",
    "std::bad_alloc",
    "unable to mmap 1048576 bytes from file </torch_1_2_3>: Cannot allocate memory (12)",
]
OTHER_ERRORS = [
    RuntimeError("the memory of this module is out of range"),
    RuntimeError("this queue is out of memory slots: raise max_slots"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("out of resource: shared memory, Required: 163840, Hardware limit: 101376."),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
                 "of shared memory. Please try to raise your shared memory limit."),
    ValueError("CUDA error: out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    KeyError("memory"),
]  # fmt: skip


@pytest.mark.parametrize("text", DEVICE_TEXTS)
def test_the_texts_of_torch_and_its_libraries_are_out_of_memory(text):
    details = out_of_memory_details(RuntimeError(text))
    assert details is not None
    assert details.message.startswith("RuntimeError: ")


@pytest.mark.parametrize("error", OTHER_ERRORS, ids=lambda error: str(error)[:40])
def test_a_real_error_is_not_out_of_memory_for_mentioning_memory(error):
    assert out_of_memory_details(error) is None


def test_torchs_own_error_says_what_it_wanted_and_what_was_free():
    details = out_of_memory_details(torch.OutOfMemoryError(CUDA))
    assert details is not None
    assert details.requested_mib == 2048.0
    assert details.free_mib == 512.0
    assert details.message.startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_under_a_memory_fraction_free_is_what_is_left_of_the_share():
    # 7 GiB allowed, 6 allocated and 0.25 held in parts of blocks: 0.75 GiB, though the GPU has 120 GiB free.
    details = out_of_memory_details(torch.OutOfMemoryError(CUDA_SHARE))
    assert details is not None
    assert details.free_mib == 768.0


def test_the_older_form_of_torchs_error_is_read_as_well():
    details = out_of_memory_details(RuntimeError(DEVICE_TEXTS[1]))
    assert details is not None
    assert (details.requested_mib, details.free_mib) == (20.0, 2.94)


def test_an_error_of_the_accelerator_is_out_of_memory():
    assert out_of_memory_details(torch.AcceleratorError("CUDA error: out of memory")) is not None


def test_a_memory_error_needs_no_text():
    assert out_of_memory_details(MemoryError()) == MemoryDetails(message="MemoryError: no message")


def test_numpys_error_says_what_it_wanted():
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 50, dtype=np.uint8)
    details = out_of_memory_details(raised.value)
    assert details is not None
    assert "Unable to allocate" in details.message


def test_numpys_sizes_are_read():
    details = out_of_memory_details(
        MemoryError("Unable to allocate 1.50 GiB for an array with shape (3, 4) and data type int8")
    )
    assert details is not None
    assert details.requested_mib == 1536.0


def test_torchs_cpu_allocator_says_what_it_wanted():
    # No machine has a pebibyte to give, so the error is torch's own.
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50, dtype=torch.uint8)
    details = out_of_memory_details(raised.value)
    assert details is not None
    assert details.requested_mib == 2.0**30
    assert details.message.startswith("RuntimeError: DefaultCPUAllocator: can't allocate memory")


def test_a_system_call_that_finds_no_memory_is_out_of_memory():
    assert out_of_memory_details(OSError(errno.ENOMEM, "Cannot allocate memory")) is not None


def test_the_cause_of_an_error_counts():
    error = ValueError("the step failed")
    error.__cause__ = torch.OutOfMemoryError(CUDA)
    details = out_of_memory_details(error)
    assert details is not None
    assert details.requested_mib == 2048.0


def test_an_error_while_handling_out_of_memory_counts():
    error = AttributeError("no attribute 'optimizer'")
    error.__context__ = MemoryError()
    assert out_of_memory_details(error) is not None


def test_a_handled_out_of_memory_that_was_cut_off_does_not_count():
    error = ValueError("labels must be at least 0, got -1")
    error.__context__ = MemoryError()
    error.__suppress_context__ = True
    assert out_of_memory_details(error) is None


def test_out_of_memory_in_a_group_of_errors_counts():
    assert out_of_memory_details(ExceptionGroup("workers", [ValueError("x"), MemoryError()])) is not None


def test_errors_that_name_each_other_as_context_end():
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert out_of_memory_details(first) is None


def test_a_data_loaders_error_is_told_in_its_workers_words():
    text = f"Caught OutOfMemoryError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  {CUDA}"
    details = out_of_memory_details(RuntimeError(text))
    assert details is not None
    assert details.message.startswith("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("text", ["can't start new thread", "could not create a primitive"])
def test_an_ambiguous_error_is_not_out_of_memory_without_a_memory_limit(text):
    assert out_of_memory_details(RuntimeError(text)) is None


def test_a_primitive_that_can_not_be_made_is_out_of_memory_only_when_the_limit_is_used_up():
    code = """
import resource, json
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.procfs import status_mib
answers = []
for left_mib in (8, 64):
    limit = int((status_mib("VmData") + left_mib) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    answers.append(out_of_memory_details(RuntimeError("could not create a primitive")) is not None)
print(json.dumps(answers))
"""
    assert run_forked(code) == [True, False]


def test_a_thread_that_finds_no_room_for_its_stack_is_out_of_memory():
    code = """
import resource, threading, json
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.procfs import status_mib
limit = int((status_mib("VmData") + 20) * 2**20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
stop = threading.Event()
threads = []
try:
    for _ in range(10):
        threads.append(threading.Thread(target=stop.wait))
        threads[-1].start()
except RuntimeError as error:
    print(json.dumps([str(error), out_of_memory_details(error) is not None]))
stop.set()
"""
    assert run_forked(code) == ["can't start new thread", True]


def test_a_real_allocation_beyond_a_real_limit_is_out_of_memory():
    code = """
import resource, json, torch
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.procfs import status_mib
limit = int((status_mib("VmData") + 64) * 2**20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
try:
    torch.empty(256 * 2**20, dtype=torch.uint8)
except RuntimeError as error:
    print(json.dumps(out_of_memory_details(error).requested_mib))
"""
    assert run_forked(code) == 256.0


def test_python_itself_raises_a_memory_error_beyond_the_limit():
    code = """
import resource, json
from tradeoff.objectives.device.out_of_memory import out_of_memory_details
from tradeoff.objectives.device.procfs import status_mib
limit = int((status_mib("VmData") + 64) * 2**20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
try:
    bytearray(256 * 2**20)
except MemoryError as error:
    print(json.dumps(out_of_memory_details(error) is not None))
"""
    assert run_forked(code) is True


@pytest.mark.parametrize(
    ("log", "requested_mib"),
    [
        ("step 3\nterminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n", None),
        ("memory allocation of 1048576 bytes failed\n", 1.0),
        ("\nlibgomp: Out of memory allocating 2097152 bytes\n", 2.0),
        ("\nlibgomp: Thread creation failed: Resource temporarily unavailable\n", None),
    ],
)
def test_the_last_words_of_a_process_that_ended_itself_are_out_of_memory(log, requested_mib):
    details = out_of_memory_last_words(log)
    assert details is not None
    assert details.requested_mib == requested_mib


def test_other_last_words_are_not_out_of_memory():
    assert out_of_memory_last_words("terminate called after throwing an instance of 'std::out_of_range'\n") is None


def test_out_of_memory_is_judged_without_importing_torch():
    code = """
import sys
import tradeoff.objectives.device.out_of_memory
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def machine(tmp_path, membership, **counters):
    """A procfs and a place for control groups under `tmp_path`, with counters by path."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(membership, encoding="utf-8")
    count(tmp_path, counters)
    return KernelKillWatch(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup")


def count(tmp_path, counters):
    for name, text in counters.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


EVENTS = "low 0\nhigh 0\nmax 9\noom 4\noom_kill {}\noom_group_kill 0\n"


def test_kills_in_the_own_control_group_are_counted(tmp_path):
    group = "cgroup/user/trial/memory.events"
    watch = machine(tmp_path, "0::/user/trial\n", **{group: EVENTS.format(3), "proc/vmstat": "oom_kill 7\n"})
    assert watch.kills_since() == 0
    count(tmp_path, {group: EVENTS.format(5), "proc/vmstat": "oom_kill 70\n"})
    assert watch.kills_since() == 2


def test_in_a_container_the_own_group_is_the_root_of_the_mount(tmp_path):
    watch = machine(tmp_path, "0::/docker/abc\n", **{"cgroup/memory.events": EVENTS.format(0)})
    count(tmp_path, {"cgroup/memory.events": EVENTS.format(1)})
    assert watch.kills_since() == 1


def test_the_older_control_groups_are_counted(tmp_path):
    group = "cgroup/memory/trial/memory.oom_control"
    text = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
    watch = machine(tmp_path, "5:cpu:/\n4:memory:/trial\n0::/\n", **{group: text.format(1)})
    count(tmp_path, {group: text.format(2)})
    assert watch.kills_since() == 1


def test_without_a_control_group_the_machines_kills_are_counted(tmp_path):
    watch = machine(tmp_path, "0::/\n", **{"proc/vmstat": "nr_free_pages 5\noom_kill 7\n"})
    count(tmp_path, {"proc/vmstat": "nr_free_pages 5\noom_kill 8\n"})
    assert watch.kills_since() == 1


def test_a_kernel_that_does_not_count_kills_says_nothing(tmp_path):
    assert machine(tmp_path, "0::/\n", **{"proc/vmstat": "nr_free_pages 5\n"}).kills_since() is None


def test_a_machine_without_procfs_says_nothing(tmp_path):
    assert KernelKillWatch(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup").kills_since() is None


def test_this_machine_counts_no_kill_while_nothing_is_killed():
    assert KernelKillWatch().kills_since() in (0, None)
