"""The real reader behind the real pynvml, against a stand-in for the library that a driver brings."""

import pytest
from nvml_stub import NvmlStub, compile_stub

FIRST = "GPU-11111111-1111-1111-1111-111111111111"
SECOND = "GPU-22222222-2222-2222-2222-222222222222"
INSTANCE = "MIG-33333333-3333-3333-3333-333333333333"

READ = """
from tradeoff.objectives.device.nvml import NvmlReader
with NvmlReader.open({uuid!r}) as nvml:
    answer = dict(
        process=nvml.process_memory_mib(),
        device=nvml.device_memory_mib(),
        total=nvml.total_memory_mib(),
        others=nvml.num_other_processes(),
        busy=nvml.utilization_percent(),
        energy=nvml.total_energy_j(),
        reason=nvml.unavailable_reason,
    )
"""
NOTHING = {"process": None, "device": None, "total": None, "others": None, "busy": None, "energy": None}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(library, tmp_path):
    return NvmlStub(library, tmp_path / "state")


def read(stub, uuid, **environment):
    return stub.run(READ.format(uuid=uuid), **environment)


def test_all_figures_of_a_gpu_are_read_in_their_units(stub):
    stub.card(FIRST, total_mib=8192, used_mib=3000, busy=87, energy_mj=5500, pid="self", process_mib=2048)
    assert read(stub, FIRST) == {
        "process": 2048.0,
        "device": 3000.0,
        "total": 8192.0,
        "others": 0,
        "busy": 87.0,
        "energy": 5.5,
        "reason": None,
    }


@pytest.mark.parametrize(("pids", "others"), [("-", 0), ("self", 0), ("self,4711", 1), ("4711", 0), ("4711,4712,4713", 2)])
def test_of_the_processes_on_a_gpu_one_is_this_one_whatever_its_number_is_there(stub, pids, others):
    stub.card(FIRST, pid=pids, process_mib=100)
    assert read(stub, FIRST)["others"] == others


def test_a_gpu_that_cuda_renumbers_is_found_by_its_uuid(stub):
    stub.card(FIRST, used_mib=1000)
    stub.card(SECOND, used_mib=2000)
    assert read(stub, SECOND, CUDA_VISIBLE_DEVICES="1")["device"] == 2000.0


def test_a_uuid_without_prefix_as_torch_writes_it_is_found(stub):
    stub.card(FIRST, used_mib=1000)
    stub.card(SECOND, used_mib=2000)
    assert read(stub, SECOND.removeprefix("GPU-"))["device"] == 2000.0


def test_a_mig_instance_has_memory_of_its_own_and_neither_load_nor_energy(stub):
    stub.card(FIRST, total_mib=81920, used_mib=50000, busy=50, energy_mj=1)
    stub.card(INSTANCE, parent=FIRST, total_mib=9856, used_mib=700, pid="self", process_mib=600)
    assert read(stub, INSTANCE) == {
        "process": 600.0,
        "device": 700.0,
        "total": 9856.0,
        "others": 0,
        "busy": None,
        "energy": None,
        "reason": "NVML: Not Supported",
    }


def test_a_mig_instance_is_found_without_its_prefix(stub):
    stub.card(FIRST, used_mib=50000)
    stub.card(INSTANCE, parent=FIRST, used_mib=700)
    assert read(stub, INSTANCE.removeprefix("MIG-"))["device"] == 700.0


def test_a_process_that_nvml_lists_under_another_id_has_no_figure(stub):
    stub.card(FIRST, used_mib=3000, pid=1, process_mib=2048)
    figures = read(stub, FIRST)
    assert figures["process"] is None
    assert figures["device"] == 3000.0


def test_a_listed_process_without_a_figure_has_none(stub):
    stub.card(FIRST, used_mib=3000, pid="self", process_mib="-")
    assert read(stub, FIRST)["process"] is None


def test_a_gpu_with_no_processes_has_no_figure_for_this_one(stub):
    stub.card(FIRST, used_mib=3000)
    assert read(stub, FIRST)["process"] is None


def test_one_call_that_is_refused_leaves_the_others(stub):
    stub.card(FIRST, used_mib=3000, busy=87, energy_mj=5500, pid="self", process_mib=2048)
    stub.refuse("nvmlDeviceGetComputeRunningProcesses_v3", 4)
    figures = read(stub, FIRST)
    assert figures["process"] is None
    assert figures["device"] == 3000.0
    assert figures["energy"] == 5.5
    assert figures["reason"] == "NVML: Insufficient Permissions"


def test_a_driver_without_the_newer_memory_call_is_asked_the_older_one(stub):
    stub.card(FIRST, used_mib=3000)
    stub.refuse("nvmlDeviceGetMemoryInfo_v2", 13)
    assert read(stub, FIRST)["device"] == 3000.0


def test_an_unknown_uuid_has_no_figures_and_says_so(stub):
    stub.card(FIRST, used_mib=3000)
    assert read(stub, SECOND) == NOTHING | {"reason": f"NVML: Not Found: {SECOND}"}


def test_nvml_that_refuses_to_start_leaves_no_figures(stub):
    stub.card(FIRST, used_mib=3000)
    stub.refuse("nvmlInitWithFlags", 4)
    assert read(stub, FIRST) == NOTHING | {"reason": "NVML: Insufficient Permissions"}


def test_a_machine_without_the_library_has_no_figures(stub):
    stub.library = None
    stub.card(FIRST, used_mib=3000)
    assert read(stub, FIRST) == NOTHING | {"reason": "NVML: NVML Shared Library Not Found"}


def test_no_gpu_has_no_figures(stub):
    assert read(stub, None) == NOTHING | {"reason": "no GPU"}


def test_used_memory_is_told_for_every_gpu_and_instance(stub):
    stub.card(FIRST, used_mib=1000)
    stub.card(SECOND, used_mib=2000)
    stub.card(INSTANCE, parent=SECOND, used_mib=700)
    code = "from tradeoff.objectives.device.nvml import used_memory_by_uuid_mib\nanswer = used_memory_by_uuid_mib()"
    assert stub.run(code) == {FIRST: 1000.0, SECOND: 2000.0, INSTANCE: 700.0}


def test_a_gpu_that_refuses_its_memory_is_left_out(stub):
    stub.card(FIRST, used_mib="-")
    stub.card(SECOND, used_mib=2000)
    code = "from tradeoff.objectives.device.nvml import used_memory_by_uuid_mib\nanswer = used_memory_by_uuid_mib()"
    assert stub.run(code) == {SECOND: 2000.0}


def test_gpus_that_nvml_does_not_count_leave_no_used_memory(stub):
    stub.card(FIRST, used_mib=1000)
    stub.refuse("nvmlDeviceGetCount_v2", 4)
    assert (
        stub.run("from tradeoff.objectives.device.nvml import used_memory_by_uuid_mib\nanswer = used_memory_by_uuid_mib()")
        == {}
    )


def test_the_driver_says_its_version(stub):
    assert stub.run("from tradeoff.objectives.device.nvml import driver_version\nanswer = driver_version()") == "575.57.08"


def test_a_driver_that_refuses_has_no_version(stub):
    stub.refuse("nvmlSystemGetDriverVersion", 4)
    assert stub.run("from tradeoff.objectives.device.nvml import driver_version\nanswer = driver_version()") is None


def test_reading_nvml_imports_no_torch(stub):
    stub.card(FIRST)
    assert stub.run(READ.format(uuid=FIRST) + "\nimport sys\nanswer = 'torch' in sys.modules") is False
