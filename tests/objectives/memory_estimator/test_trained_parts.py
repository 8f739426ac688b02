"""Traces of what is trained in part, with TRL's loss, or by several devices."""

import pytest
import torch
from memory_events import left_bytes, peak_bytes
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.events import Category
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.fake_model import fake_batch
from tradeoff.objectives.memory_estimator.tracing.language_loss import add_head, loss_of
from tradeoff.objectives.memory_estimator.tracing.optimizers import bucket_sizes
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.objectives.trainers.trained_parts import adapted
from tradeoff.searchspace import Precision

CONFIG = BertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50, num_labels=3
)
PLAIN = StepClass(gradient_checkpointing=False, precision=Precision.FP32)


def settings(**changes):
    none = BlasWorkspace(cublas_bytes=0, cublaslt_bytes=0)
    return TraceSettings(**({"sequence_length": 16, "attention": "eager", "blas": none} | changes))


def trained_bytes(config, **parts):
    """The bytes of the weights that are trained in a model with adapters."""
    model = adapted(BertForSequenceClassification(config), **Lora(**parts).settings(), frozen_layers=0, name="bert")
    return sum(each.numel() * 4 for each in model.parameters() if each.requires_grad)


def test_with_adapters_only_they_and_the_head_have_gradients_and_moments():
    segments = Tracer(CONFIG, settings(lora=Lora(r=2))).trace(PLAIN, 2)
    assert left_bytes(segments.first_micro_batch, Category.GRADIENTS) == trained_bytes(CONFIG, r=2)
    assert left_bytes(segments.first_step, Category.OPTIMIZER) == 2 * trained_bytes(CONFIG, r=2)


def test_frozen_layers_keep_no_activations():
    whole, frozen = (Tracer(CONFIG, settings(frozen_layers=layers)).trace(PLAIN, 8) for layers in (0, 2))
    assert peak_bytes(frozen.first_micro_batch) < 0.5 * peak_bytes(whole.first_micro_batch)


LANGUAGE = LlamaConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=70_000, pad_token_id=0
)


def test_the_loss_of_trl_holds_a_tile_instead_of_all_logits():
    sft, whole = (Tracer(LANGUAGE, settings(task=task)).trace(PLAIN, 4) for task in ("sft", "causal-lm"))
    logits = 4 * 16 * 70_000 * 4
    # 60 tokens have a successor, and a tile is 32,768 words wide.
    assert 60 * 32_768 * 4 in [event.num_bytes for event in sft.evaluation]
    assert max(event.num_bytes or 0 for event in sft.evaluation) < logits
    assert logits in [event.num_bytes for event in whole.evaluation]


def test_texts_that_are_packed_are_one_row_without_a_mask_and_are_evaluated_apart():
    packed = settings(task="sft", packed=True, eval_length=8)
    model = Tracer(LANGUAGE, packed)._model
    batch = fake_batch(model, 4, packed)
    assert batch["input_ids"].shape == batch["position_ids"].shape == (1, 64)
    assert "attention_mask" not in batch
    assert fake_batch(model, 4, packed, evaluates=True)["attention_mask"].shape == (4, 8)


@pytest.mark.parametrize("lora", [None, Lora(r=2)])
def test_the_loss_of_trl_on_fake_tensors_takes_what_it_takes_on_real_ones(lora):
    fake = Tracer(LANGUAGE, settings(task="sft", target="cpu", foreach=False, lora=lora)).trace(PLAIN, 4)
    model = LlamaForCausalLM._from_config(LANGUAGE, attn_implementation="eager")
    add_head(model)
    if lora is not None:
        model = adapted(model, **lora.settings(), frozen_layers=0, writes=True, name="llama")
    recorder = StorageRecorder(None)
    recorder.start("real", Category.ACTIVATIONS)
    recorder.track([*model.parameters(), *model.buffers()], "weight", Category.WEIGHTS)
    recorder.start("real", Category.ACTIVATIONS)
    with recorder:
        batch = {name: torch.ones(4, 16, dtype=torch.long) for name in ("input_ids", "labels", "attention_mask")}
        loss_of(model(**batch, fused_lm_head=True, use_cache=False)).backward()
    assert peak_bytes(recorder.events) == pytest.approx(peak_bytes(fake.first_micro_batch), rel=0.01)


def test_gradients_are_exchanged_in_buckets_from_the_last_parameter_on():
    mib = 1024 * 1024
    sizes = [30 * mib, 5 * mib, 20 * mib, mib, mib // 2]
    parameters = [torch.empty(size // 4, device="meta", requires_grad=True) for size in sizes]
    # The first bucket is full at 1 MiB, the others at 25 MiB.
    assert bucket_sizes([torch.empty(9, device="meta"), *parameters]) == [3 * mib // 2, 25 * mib, 30 * mib]
