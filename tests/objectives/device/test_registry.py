"""The kinds of device: how one is found, and that nobody but the registry compares them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tradeoff.objectives.device.base import DeviceInfo
from tradeoff.objectives.device.cpu import CpuDevice
from tradeoff.objectives.device.cuda import CudaDevice
from tradeoff.objectives.device.registry import KINDS, device_class, start_device, visible_devices

ROOT = Path(__file__).parents[3]
PACKAGES = ("searchspace", "objectives", "studies")
GPU = DeviceInfo(
    kind="cuda",
    name="NVIDIA T4",
    uuid="GPU-1",
    total_memory_mib=15360.0,
    precisions=("fp32", "fp16"),
    driver="575.57.08",
    num_cpus=8,
    context_mib=417.0,
)


def compared_to_a_kind(path):
    """The lines of a file that compare with the name of a kind of device, or look one up in a dictionary written there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        operands = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Tuple | ast.List | ast.Set):
            operands += node.comparators[0].elts
        if isinstance(node, ast.MatchValue):
            operands = [node.value]
        if isinstance(node, ast.Dict):
            operands = [key for key in node.keys if key is not None]
        if any(isinstance(operand, ast.Constant) and operand.value in KINDS for operand in operands):
            yield node.lineno


def test_nobody_compares_kinds_of_device():
    # The memory estimator compares the allocators that it replays, not devices.
    own = {"objectives/memory_estimator/job.py": 1, "objectives/memory_estimator/tracing/trace.py": 2}
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): len(list(compared_to_a_kind(path))) for path in files}
    assert {name: count for name, count in found.items() if count} == own


def test_a_device_survives_being_written_as_plain_values():
    assert DeviceInfo.from_dict(GPU.as_dict()) == GPU


def test_a_stored_description_finds_its_class():
    assert device_class(GPU.as_dict()) is CudaDevice
    assert device_class({"kind": "cpu", "name": "a processor"}) is CpuDevice


@pytest.mark.parametrize("description", [{"kind": "tpu"}, {}])
def test_a_kind_that_is_not_registered_is_refused(description):
    with pytest.raises(ValueError, match=r"kind must be one of cuda, cpu, got"):
        device_class(description)


def test_every_kind_is_registered_under_its_own_name():
    assert all(device.kind == name for name, device in KINDS.items())
    assert list(KINDS)[-1] == "cpu"  # the one that is always available


@pytest.mark.parametrize("device", KINDS.values(), ids=list(KINDS))
def test_a_kind_says_all_that_is_asked_of_a_stored_study(device):
    asked = ("kind", "peak_scope", "traced_allocator", "process_group_backend")
    assert all(isinstance(getattr(device, name), str) for name in asked)
    assert not getattr(device, "__abstractmethods__")  # noqa: B009


def test_kinds_are_found_without_importing_torch():
    code = """
import sys
from tradeoff.objectives.device.registry import see_one_device, visible_devices
see_one_device()
visible_devices()
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is used instead")
def test_without_a_gpu_the_cpu_is_used():
    device = start_device()
    assert isinstance(device, CpuDevice)
    assert device.info.kind == "cpu"
    assert device.info.name == CpuDevice.name_without_starting()
    assert device.info.precisions == ("fp32", "bf16")
    assert device.info.total_memory_mib > 256
    assert device.info.num_cpus >= 1
    assert (device.info.uuid, device.info.driver, device.info.context_mib) == (None, None, None)
    assert visible_devices() == (CpuDevice, [])
