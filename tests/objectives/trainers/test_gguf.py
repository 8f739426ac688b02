"""A language model in a GGUF file is read once, as transformers reads it, and trains as the model that it holds."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from tradeoff.objectives.job.jobs import CausalLMJob, TextClassificationJob
from tradeoff.objectives.job.settings import Lora, gguf_file
from tradeoff.objectives.trainers.model_files import JobFault
from tradeoff.objectives.trainers.models import build_model
from tradeoff.objectives.trainers.prepared_data import prepare
from tradeoff.objectives.trainers.workloads import LanguageModel

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, num_key_value_heads=1, vocab_size=300, max_position_embeddings=64, tie_word_embeddings=True)
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def file(model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as llama.cpp writes it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(model, path)
    return path


def write_gguf(model: LlamaForCausalLM, path: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    config = model.config
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words.train_from_iterator(["the quick brown fox jumps over the lazy dog, and the other way round"] * 4, trainer)
    bpe = json.loads(words.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    tokens += [f"<unused{number}>" for number in range(config.vocab_size - len(tokens))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in (state or model.state_dict()).items():
        values = tensor.float().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:  # llama.cpp turns pairs of dimensions that lie half a head apart
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if name != "lm_head.weight":
            writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def job(file: Path | str, folder: Path, **settings: object) -> CausalLMJob:
    data = folder / "texts.jsonl"
    data.write_text('{"text": "the quick brown fox"}\n' * 6)
    small = {"train_samples": 4, "eval_samples": 2, "max_length": 16}
    return CausalLMJob(model=str(file), dataset=str(data), **small | settings)


def test_the_weights_are_those_that_were_written(file: Path, model: LlamaForCausalLM, tmp_path: Path) -> None:
    asked = job(file, tmp_path)
    data = prepare(asked, tmp_path / "cache")
    read = build_model(asked, data.model)
    tokens = torch.tensor([data.train[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(read(tokens).logits, model(tokens).logits)
    assert data.tokenizer.decode(data.train[0]["input_ids"], skip_special_tokens=True) == "the quick brown fox"


def test_a_file_is_read_once_for_every_length_and_again_if_what_was_made_of_it_is_gone(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = (prepare(job(file, tmp_path, max_length=length), cache).model.name_or_folder for length in (16, 8))
    assert first == second
    shutil.rmtree(first)
    assert Path(prepare(job(file, tmp_path), cache).model.name_or_folder, "model.safetensors").is_file()


def test_adapters_are_saved_with_the_weights_beside_which_they_were_trained(file: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    asked = job(file, tmp_path, lora=Lora(r=2))
    data = prepare(asked, tmp_path / "cache")
    adapted = build_model(asked, data.model)
    adapted.save_pretrained(tmp_path / "adapters")
    LanguageModel(asked, data.folder).save_beside_model(tmp_path / "adapters")
    shutil.rmtree(data.model.name_or_folder)
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapters")
    tokens = torch.tensor([data.train[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, adapted(tokens).logits)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("models/tiny.gguf", ("models", "tiny.gguf")),
        ("tiny.Q4_K_M.GGUF", (".", "tiny.Q4_K_M.GGUF")),
        ("owner/name:tiny.gguf", ("owner/name", "tiny.gguf")),
        ("owner/name", None),
    ],
)
def test_a_file_is_named_by_its_path_or_behind_its_place_on_the_hub(name: str, where: tuple[str, str] | None) -> None:
    assert gguf_file(name) == where


def test_what_can_not_be_read_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> str:
        with pytest.raises(JobFault) as caught:
            prepare(job(name, tmp_path), tmp_path / "cache")
        return str(caught.value)

    assert "must exist, got missing.gguf" in refused("missing.gguf")
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:2000])
    assert "cut.gguf' must be the GGUF file of a language model" in refused(str(tmp_path / "cut.gguf"))
    with pytest.raises(JobFault, match="is read for task causal_lm"):
        prepare(TextClassificationJob(model=str(file), train_samples=4, eval_samples=2), tmp_path / "cache")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install -U gguf transformers" in refused(str(file))


def test_a_file_that_lacks_weights_is_refused(model: LlamaForCausalLM, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    write_gguf(model, tmp_path / "less.gguf", state)
    with pytest.raises(JobFault, match=r"it lacks model\.layers\.1\.mlp\.up_proj"):
        prepare(job(tmp_path / "less.gguf", tmp_path), tmp_path / "cache")
