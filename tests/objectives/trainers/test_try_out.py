"""Models of every kind that people bring, as small as can be: what is refused, what is left out, and what is made to work."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AlbertConfig,
    BertConfig,
    BertForSequenceClassification,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    MPNetConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
)

from tradeoff.objectives.data.contents import folder_fingerprint
from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.job.jobs import TextClassificationJob
from tradeoff.objectives.trainers.embedded import embedded_tokenizer
from tradeoff.objectives.trainers.preparation import prepare_workload
from tradeoff.objectives.trainers.try_out import failing_options
from tradeoff.searchspace import TrialParameters

TOKENIZER = embedded_tokenizer([review.text for review in generate_reviews(100, seed=1)])
SMALL: dict[str, Any] = {
    "vocab_size": len(TOKENIZER), "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8
}  # fmt: skip
SEARCHED = {"per_device_train_batch_size": [2, 4], "gradient_checkpointing": [False, True]}


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Save a model, or a configuration alone, with a tokenizer, and prepare a job of it."""

    def prepared(model: Any, *, tokenizer: Any = TOKENIZER, searched: Any = SEARCHED, **settings: Any) -> dict[str, Any]:
        model.save_pretrained(tmp_path / "model")
        if tokenizer is not None:
            tokenizer.save_pretrained(tmp_path / "model")
        defaults = {"train_samples": 16, "eval_samples": 8, "max_length": 16, "eval_batch_size": 4}
        job = TextClassificationJob(model=str(tmp_path / "model"), **(defaults | settings))
        return prepare_workload(job, tmp_path / "cache", searched)

    return prepared


def test_a_head_for_other_labels_and_another_loss_is_replaced_with_a_line(prepare: Any, tmp_path: Path) -> None:
    checkpoint = BertForSequenceClassification(BertConfig(**SMALL, num_labels=2, problem_type="regression")).half()
    facts = prepare(checkpoint)
    assert "is for 2 labels and not for 5: a new one is trained" in facts["notices"][0]
    assert facts["lacks"] == []
    assert facts["contents"] == {"model": folder_fingerprint(tmp_path / "model")}
    assert list((tmp_path / "cache").glob("tried-*"))  # not tried again when the study is resumed


def test_a_head_for_as_many_labels_is_kept_without_a_line(prepare: Any) -> None:
    assert prepare(BertForSequenceClassification(BertConfig(**SMALL, num_labels=5)), searched=None)["notices"] == []


def test_a_configuration_whose_vocabulary_is_that_of_its_text_part_is_trained(prepare: Any) -> None:
    text = Gemma3TextConfig(**SMALL | {"num_key_value_heads": 1, "head_dim": 8})
    vision = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    facts = prepare(Gemma3Config(text_config=text, vision_config=vision))
    assert (facts["model"]["vocab_size"], facts["lacks"]) == (len(TOKENIZER), [])


def test_a_decoder_without_a_padding_token_is_trained_on_random_tokens(prepare: Any) -> None:
    config = GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=1)
    facts = prepare(config, tokenizer=None, dataset="random-tokens", eval_samples=0)
    assert (facts["model"]["pad_token_id"], facts["lacks"]) == (0, [])


@pytest.mark.parametrize("config", [AlbertConfig(**SMALL, embedding_size=8), MPNetConfig(**SMALL)])
def test_what_the_models_class_lacks_is_left_out(config: Any, prepare: Any) -> None:
    lacks = prepare(config, searched=SEARCHED | {"attn_implementation": ["eager", "flash_attention_2"]})["lacks"]
    by_value = {value: lack["reason"] for lack in lacks for value in lack["values"].values()}
    assert "can't compute its activations again" in by_value[True]
    assert "eager" not in by_value
    if config.model_type == "mpnet":
        assert "does not have flash_attention_2; it has eager" in by_value["flash_attention_2"]


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (BertConfig(**SMALL), {"tokenizer": None}, "a model directory must hold its tokenizer, got .* without tokenizer.json"),
        (
            BertConfig(**SMALL),
            {"tokenizer": embedded_tokenizer(["no such word"])},
            "must know the words of the texts, and .* tokens of the training samples are unknown to it; choose a model",
        ),
        (
            BertForSequenceClassification(BertConfig(**SMALL | {"vocab_size": 20})),
            {},
            "token ids of model .* must be below 20, the rows of its embedding, and its tokenizer gives .*; use the tokenizer",
        ),
        (
            RobertaForSequenceClassification(RobertaConfig(**SMALL, max_position_embeddings=18, pad_token_id=1)),
            # A padding token of 1, as RoBERTa's own tokenizer has.
            {"tokenizer": None, "dataset": "random-tokens", "eval_samples": 0, "max_length": 17},
            "must not exceed the 16 positions of model .* that tokens can take .* got 17; set job.max_length to 16 or less",
        ),
        (BertConfig(**SMALL, max_position_embeddings=8), {}, "must not exceed the 8 positions of model .*, got 16; set"),
        (ViTConfig(hidden_size=8, num_hidden_layers=1), {}, "must classify sequences, and vit models can't; choose another"),
    ],
)
def test_a_model_that_would_learn_nothing_or_fail_is_one_sentence(
    model: Any, settings: dict[str, Any], message: str, prepare: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(model, **settings)


def test_weights_of_another_size_or_of_another_model_are_refused(prepare: Any, tmp_path: Path) -> None:
    other = BertForSequenceClassification(BertConfig(**SMALL | {"hidden_size": 16, "intermediate_size": 16}))
    prepare(other, searched=None)
    BertConfig(**SMALL).save_pretrained(tmp_path / "model")
    job = TextClassificationJob(model=str(tmp_path / "model"), train_samples=16, eval_samples=8, max_length=16)
    with pytest.raises(ValueError, match=r"must have the sizes of its config\.json, and bert\.\S+ is \(.*\) where that says"):
        prepare_workload(job, tmp_path / "cache", SEARCHED)
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must be those of BertForSequenceClassification, and .* are not among them"):
        prepare_workload(job, tmp_path / "cache", SEARCHED)


def test_weights_that_are_cut_off_are_one_sentence(prepare: Any, tmp_path: Path) -> None:
    facts = prepare(BertForSequenceClassification(BertConfig(**SMALL)), searched=None)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"cut off")
    job = TextClassificationJob(model=str(tmp_path / "model"), train_samples=16, eval_samples=8, max_length=16)
    with pytest.raises(ValueError, match=r"model\.safetensors must be complete, and can't be read \(.*\); save or download it"):
        prepare_workload(job, tmp_path / "cache", SEARCHED)
    assert facts["contents"]["model"] != folder_fingerprint(tmp_path / "model")


def test_a_models_content_is_that_of_its_files_and_not_their_dates(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = folder_fingerprint(tmp_path)
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert folder_fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"two")
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert folder_fingerprint(tmp_path) != before


BASE = TrialParameters(per_device_train_batch_size=2)
CHOICES = {
    "gradient_checkpointing": (False, True),
    "precision": ("fp32", "bf16"),
    "attn_implementation": ("eager", "sdpa"),
}


def failing(*broken: Any, choices: Any = CHOICES) -> tuple[set[Any], bool, int]:
    """The values found to fail if a configuration with any of `broken` does, whether the job does, and the attempts."""
    attempts = []

    def attempt(parameters: TrialParameters) -> Exception | None:
        attempts.append(parameters)
        return RuntimeError("broken") if {*broken} & {*parameters.as_dict().values()} else None

    found, error = failing_options(BASE, choices, attempt)
    return {value for _, value in found}, error is not None, len(attempts)


def test_a_job_that_works_takes_as_many_steps_as_its_longest_option() -> None:
    assert failing() == (set(), False, 2)


@pytest.mark.parametrize("broken", [("eager",), ("sdpa",), ("bf16",), ("sdpa", "bf16"), ("eager", "bf16"), ("fp32", "bf16")])
def test_the_values_that_fail_are_told_from_those_that_were_tried_with_them(broken: tuple[str, ...]) -> None:
    found, is_the_jobs, _ = failing(*broken)
    if broken == ("fp32", "bf16"):
        assert (found, is_the_jobs) == (set(), True)  # nothing is left of precision
    else:
        assert (found, is_the_jobs) == ({*broken}, False)


def test_an_option_all_of_whose_values_fail_is_at_fault_where_the_job_works_without_it() -> None:
    choices = {"lr_scheduler_kwargs": ("wrong",), "precision": ("fp32", "bf16")}
    assert failing("wrong", choices=choices)[:2] == ({"wrong"}, False)


def test_a_job_that_always_fails_is_the_jobs_fault() -> None:
    assert failing(2)[:2] == (set(), True)
