"""GPUs without a GPU: which are visible, behind the real pynvml and a stand-in for the driver's library; names; the limit."""

import os

import pytest
from nvml_stub import NvmlStub, compile_stub

from tradeoff.objectives.device.base import DeviceInfo
from tradeoff.objectives.device.cuda import CudaDevice, nvml_uuid

FIRST = "GPU-11111111-1111-1111-1111-111111111111"
SECOND = "GPU-22222222-2222-2222-2222-222222222222"
INSTANCES = ["MIG-33333333-3333-3333-3333-333333333333", "MIG-44444444-4444-4444-4444-444444444444"]
UUID = "11111111-2222-3333-4444-555555555555"
ASK = "import os; from tradeoff.objectives.device.registry import visible_devices; answer = visible_devices().names"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def two_gpus(library, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stub = NvmlStub(library, tmp_path / "state")
    stub.card(FIRST)
    stub.card(SECOND)
    return stub


def test_without_a_choice_all_gpus_are_visible_by_uuid(two_gpus):
    assert two_gpus.run(ASK) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        ("1,0", ["1", "0"]),
        (f"{SECOND}", [SECOND]),
        ("GPU-2222", ["GPU-2222"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["0"]),  # CUDA takes nothing that follows an unknown entry
        ("1, 1", ["1"]),
    ],
)
def test_the_users_choice_is_kept_in_the_users_words(two_gpus, chosen, visible):
    assert two_gpus.run(ASK, CUDA_VISIBLE_DEVICES=chosen) == visible


def test_of_a_gpu_that_is_divided_into_instances_each_instance_counts(two_gpus):
    for instance in INSTANCES:
        two_gpus.card(instance, parent=SECOND)
    assert two_gpus.run(ASK) == [FIRST, *INSTANCES]
    assert two_gpus.run(ASK, CUDA_VISIBLE_DEVICES=INSTANCES[1]) == [INSTANCES[1]]


def test_counting_neither_imports_torch_nor_needs_a_driver(tmp_path):
    without_driver = NvmlStub(None, tmp_path / "state")
    assert without_driver.run(f"{ASK}; import sys; answer = [answer, 'torch' in sys.modules]") == [[], False]
    assert without_driver.run(ASK, CUDA_VISIBLE_DEVICES="0,1") == []


def test_a_worker_sees_the_gpus_that_it_was_assigned():
    assert CudaDevice.visibility(["GPU-aa", "3"]) == {"CUDA_VISIBLE_DEVICES": "GPU-aa,3"}


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("2,3", "2"), ("GPU-aaa,GPU-bbb", "GPU-aaa"), ("", "")])
def test_a_trial_on_one_device_sees_one_gpu(visible, seen, monkeypatch):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    CudaDevice.see_one()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_torchs_uuid_gets_nvmls_prefix():
    assert nvml_uuid(UUID, name="NVIDIA T4", visible_devices="1", index=0) == f"GPU-{UUID}"


def test_a_uuid_that_has_a_prefix_keeps_it():
    assert nvml_uuid(f"GPU-{UUID}", name="NVIDIA T4", visible_devices=None, index=0) == f"GPU-{UUID}"


def test_an_instance_is_known_by_the_gpus_name():
    assert nvml_uuid(UUID, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", visible_devices=None, index=0) == f"MIG-{UUID}"


def test_an_instance_that_the_user_chose_goes_by_the_users_name_for_it():
    visible = "MIG-aaaa, MIG-bbbb"
    assert nvml_uuid(UUID, name="NVIDIA H100", visible_devices=visible, index=1) == "MIG-bbbb"


def test_a_limit_below_the_cuda_context_is_refused():
    info = DeviceInfo(kind="cuda", name="a GPU", total_memory_mib=8192.0, precisions=("fp32",), num_cpus=2, context_mib=417.0)
    with pytest.raises(ValueError, match="must be above the CUDA context, 417 MiB on a GPU, got 400"):
        CudaDevice(info).enforce_memory_limit(400.0)
