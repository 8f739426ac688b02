"""Which cards there are, behind the real pynvml; only the driver's library is a stand-in."""

import pytest
from nvml_stub import NvmlStub, compile_stub

FIRST = "GPU-11111111-1111-1111-1111-111111111111"
SECOND = "GPU-22222222-2222-2222-2222-222222222222"
INSTANCES = ["MIG-33333333-3333-3333-3333-333333333333", "MIG-44444444-4444-4444-4444-444444444444"]
ASK = "import os; from tradeoff.objectives.device.cuda import visible_cards; answer = visible_cards()"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def two_cards(library, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stub = NvmlStub(library, tmp_path / "state")
    stub.card(FIRST)
    stub.card(SECOND)
    return stub


def test_without_a_choice_all_cards_are_visible_by_uuid(two_cards):
    assert two_cards.run(ASK) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        ("1,0", ["1", "0"]),
        (f"{SECOND}", [SECOND]),
        ("GPU-2222", ["GPU-2222"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["0"]),  # CUDA takes nothing that follows what is not there
        ("1, 1", ["1"]),
    ],
)
def test_the_users_choice_is_kept_in_the_users_words(two_cards, chosen, visible):
    assert two_cards.run(ASK, CUDA_VISIBLE_DEVICES=chosen) == visible


def test_of_a_card_that_is_cut_into_instances_each_instance_counts(two_cards):
    for instance in INSTANCES:
        two_cards.card(instance, parent=SECOND)
    assert two_cards.run(ASK) == [FIRST, *INSTANCES]
    assert two_cards.run(ASK, CUDA_VISIBLE_DEVICES=INSTANCES[1]) == [INSTANCES[1]]


def test_counting_neither_imports_torch_nor_needs_a_driver(tmp_path):
    without_driver = NvmlStub(None, tmp_path / "state")
    assert without_driver.run(f"{ASK}; import sys; answer = [answer, 'torch' in sys.modules]") == [[], False]
    assert without_driver.run(ASK, CUDA_VISIBLE_DEVICES="0,1") == []
