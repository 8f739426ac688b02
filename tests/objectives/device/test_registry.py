"""What a device is, by name and by what it can."""

import os

import pytest
import torch

from tradeoff.objectives.device.base import DeviceInfo, describe_device, nvml_uuid, processor_name, see_one_card, warm_up

CARD = DeviceInfo(
    kind="cuda",
    name="NVIDIA T4",
    uuid="GPU-1",
    total_memory_mib=15360.0,
    precisions=("fp32", "fp16"),
    driver="575.57.08",
    num_cpus=8,
    context_mib=417.0,
)
UUID = "11111111-2222-3333-4444-555555555555"


def test_a_device_survives_being_written_as_plain_values():
    assert DeviceInfo.from_dict(CARD.as_dict()) == CARD


def test_what_is_known_of_a_card_holds_for_another_of_its_model():
    other = DeviceInfo.from_dict(CARD.as_dict() | {"uuid": "GPU-2", "num_cpus": 64, "context_mib": 420.0, "driver": "580.1"})
    assert other.model_key == CARD.model_key


@pytest.mark.parametrize("change", [{"name": "NVIDIA L4"}, {"total_memory_mib": 7680.0}])
def test_what_is_known_of_a_card_does_not_cross_models(change):
    assert DeviceInfo.from_dict(CARD.as_dict() | change).model_key != CARD.model_key


def test_a_cpus_key_counts_its_processors():
    cpu = DeviceInfo(kind="cpu", name="a processor", total_memory_mib=8192.0, precisions=("fp32",), num_cpus=2)
    assert cpu.model_key == "a processor, 8192 MiB, 2 processors"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is described instead")
def test_without_a_card_the_cpu_is_described():
    device = describe_device()
    assert device.kind == "cpu"
    assert device.name
    assert device.precisions == ("fp32", "bf16")
    assert device.total_memory_mib > 256
    assert device.num_cpus >= 1
    assert (device.uuid, device.driver, device.context_mib) == (None, None, None)


def test_a_warm_up_leaves_torchs_random_numbers_alone():
    before = torch.random.get_rng_state()
    warm_up("cpu")
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


def test_torchs_uuid_gets_nvmls_prefix():
    assert nvml_uuid(UUID, name="NVIDIA T4", visible_devices="1", index=0) == f"GPU-{UUID}"


def test_a_uuid_that_has_a_prefix_keeps_it():
    assert nvml_uuid(f"GPU-{UUID}", name="NVIDIA T4", visible_devices=None, index=0) == f"GPU-{UUID}"


def test_an_instance_is_known_by_the_cards_name():
    assert nvml_uuid(UUID, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", visible_devices=None, index=0) == f"MIG-{UUID}"


def test_an_instance_that_the_user_chose_goes_by_the_users_name_for_it():
    visible = "MIG-aaaa, MIG-bbbb"
    assert nvml_uuid(UUID, name="NVIDIA H100", visible_devices=visible, index=1) == "MIG-bbbb"


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("2,3", "2"), ("GPU-aaa,GPU-bbb", "GPU-aaa"), ("", "")])
def test_a_trial_on_one_device_sees_one_card(visible, seen, monkeypatch):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    see_one_card()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
