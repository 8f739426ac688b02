"""Weights of 4 bits on fake tensors."""

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from memory_events import left_bytes
from transformers import AutoModelForCausalLM, LlamaConfig

from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.events import Category
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.language_loss import add_head, loss_of
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.objectives.trainers.trained_parts import adapted, four_bit
from tradeoff.searchspace import Precision

pytest.importorskip("bitsandbytes")

CONFIG = LlamaConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=50, pad_token_id=0
)
BF16 = StepClass(gradient_checkpointing=False, precision=Precision.BF16)
# The products of a layer: of the attention, and of the layer's own network.
SHAPES = [(64, 64)] * 4 + [(64, 128)] * 3


def traced(four_bit, **changes):
    none = BlasWorkspace(cublas_bytes=0, cublaslt_bytes=0)
    settings = {"sequence_length": 16, "task": "sft", "lora": Lora(r=2), "four_bit": four_bit, "blas": none} | changes
    return Tracer(CONFIG, TraceSettings(**settings)).trace(BF16, 2)


def test_weights_take_half_a_byte_and_their_scales_and_adapters_are_in_half_precision():
    whole, packed = (left_bytes(traced(four_bit).build, Category.WEIGHTS) for four_bit in (False, True))
    saved = 0
    for rows, columns in SHAPES * CONFIG.num_hidden_layers:
        elements = rows * columns
        scales = elements // 64
        saved += 4 * elements - (elements // 2 + scales + 4 * -(-scales // 256) + 4)
        saved += 2 * 2 * (rows + columns)  # two bytes of each weight of an adapter of rank 2
    assert whole - packed == saved - 4 * 16  # and the table of the 16 values, once


def test_a_weight_is_there_for_its_own_product_alone():
    segments = traced(four_bit=True)
    elements = 64 * 128
    forward = [event for event in segments.first_micro_batch if event.key.endswith("gemm_4bit")]
    assert 2 * elements in [event.num_bytes for event in forward if event.category is Category.WORKSPACE]
    backward = [event for event in segments.first_micro_batch if event.key.endswith("dequantize_4bit")]
    # In the type that it was quantized from, and then in the gradient's.
    assert 4 * elements in [event.num_bytes for event in backward]
    released = {event.key for event in segments.first_micro_batch if event.num_bytes is None}
    assert {event.key for event in (*forward, *backward) if (event.num_bytes or 0) >= 2 * elements} <= released


def test_adapters_alone_have_gradients():
    adapters = sum(2 * (rows + columns) for rows, columns in SHAPES * CONFIG.num_hidden_layers)
    assert left_bytes(traced(four_bit=True).first_micro_batch, Category.GRADIENTS) == 2 * adapters


def test_a_pass_on_fake_tensors_requests_what_one_on_real_ones_does(tmp_path):
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(tmp_path)
    quantization = four_bit(torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32, quantization_config=quantization
    )
    add_head(model)
    model = adapted(model, **Lora(r=2).settings(), frozen_layers=0, writes=True, name="llama").train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    recorder = StorageRecorder(None)
    recorder.track([*model.parameters(), *model.buffers()], "weight", Category.WEIGHTS)
    recorder.start("real", Category.ACTIVATIONS)
    with recorder:
        names = ("input_ids", "labels", "attention_mask")
        inputs = {name: torch.ones((2, 16), dtype=torch.long) for name in names}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(**inputs, fused_lm_head=True, use_cache=False)
        loss_of(convert_outputs_to_fp32(lambda: outputs)()).backward()
    fake = traced(True, attention="eager", target="cpu").first_micro_batch
    assert [event.num_bytes for event in fake if event.num_bytes] == [
        each.num_bytes for each in recorder.events if each.num_bytes
    ]
