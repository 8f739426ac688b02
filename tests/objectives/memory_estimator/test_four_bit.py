"""Weights of 4 bits on fake tensors."""

import pytest
from memory_events import left_bytes
from transformers import LlamaConfig

from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.events import Category
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.searchspace import Precision

pytest.importorskip("bitsandbytes")

CONFIG = LlamaConfig(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=50, pad_token_id=0
)
BF16 = StepClass(gradient_checkpointing=False, precision=Precision.BF16)
# The products of a layer: of the attention, and of the layer's own network.
SHAPES = [(64, 64)] * 4 + [(64, 128)] * 3


def traced(four_bit):
    none = BlasWorkspace(cublas_bytes=0, cublaslt_bytes=0)
    settings = TraceSettings(sequence_length=16, task="sft", lora=Lora(r=2), four_bit=four_bit, blas=none)
    return Tracer(CONFIG, settings).trace(BF16, 2)


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
