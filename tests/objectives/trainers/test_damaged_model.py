"""A model's files that are damaged, in the user's own directory and in the hub's cache: one sentence that names the file."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import BertConfig, BertForSequenceClassification

from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.trainers.model_files import check_files
from tradeoff.objectives.trainers.prepared_data import PreparedData, prepare
from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer

COMMIT = "a" * 40
DAMAGES = (
    b"",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\x00" * 50,
    bytes(64),
    b"[1]",
    b"null",
    b'{"a": ' + b"9" * 5000 + b"}",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every kind of files: whole, in shards, and as torch saves them."""
    folder = tmp_path_factory.mktemp("model")
    config = BertConfig(
        vocab_size=len(reviews_tokenizer()), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_labels=5,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.save_pretrained(folder, max_shard_size="16KB")
    model.save_pretrained(folder / "whole")
    shutil.copy(folder / "whole" / "model.safetensors", folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    shutil.rmtree(folder / "whole")
    reviews_tokenizer().save_pretrained(folder)
    return folder


def prepared(model: str, cache: Path) -> PreparedData:
    return prepare(TextClassificationJob(model=model, train_samples=8, eval_samples=4, max_length=16), cache)


def refused(model: str, cache: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the sentence is what is looked at
        prepared(model, cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "model-00001-of-00002.safetensors",
     "model.safetensors.index.json", "pytorch_model.bin"],
)  # fmt: skip
def test_a_damaged_file_of_a_model_is_named_before_anything_is_trained(name: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    if name == "pytorch_model.bin":  # which is only read where there is no other
        for path in folder.glob("*.safetensors*"):
            path.unlink()
    content = (folder / name).read_bytes()
    for damage in (content[: len(content) // 2], *DAMAGES):
        (folder / name).write_bytes(damage)
        sentence = refused(str(folder), tmp_path / "cache")
        assert str(folder) in sentence
        assert name in sentence or "the tokenizer in" in sentence
        assert "save" in sentence  # the remedy
    (folder / name).write_bytes(content)
    assert prepared(str(folder), tmp_path / "cache").num_train == 8


def test_a_file_of_a_model_that_is_missing_is_named(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"index\.json must be complete, .*model-00001-of-00002\.safetensors is not beside it"):
        check_files(str(folder), None)


def test_damage_in_the_hubs_cache_is_named_whether_the_data_is_prepared_or_not(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "hub" / "models--me--tiny"
    folder = Path(shutil.copytree(whole, root / "snapshots" / COMMIT))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    assert prepared("me/tiny", tmp_path / "cache").model.revision == COMMIT
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        for damage in (content[:40], *DAMAGES):
            (folder / name).write_bytes(damage)
            assert str(folder / name) in refused("me/tiny", tmp_path / "cache")
            assert f"remove it from {tmp_path / 'hub'} to download it again" in refused("me/tiny", tmp_path / "new")
        (folder / name).write_bytes(content)
