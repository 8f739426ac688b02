"""Traces on fake tensors: what CUDA would allocate, told apart from what the CPU would."""

import functools

import pytest
import torch
from memory_events import left_bytes, peak_bytes
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.events import Category, LinearSegments
from tradeoff.objectives.memory_estimator.replay import replay_run
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.cuda_dispatch import attention_kernel, cuda_dispatch
from tradeoff.objectives.memory_estimator.tracing.fake_tensors import FakeTensorMode
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.searchspace import Precision

CONFIG = BertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50, num_labels=3
)
PLAIN = StepClass(gradient_checkpointing=False, precision=Precision.FP32)
HALF = StepClass(gradient_checkpointing=False, precision=Precision.FP16)


def settings(**changes):
    # Without cuBLAS's workspaces, which would dwarf so small a model.
    none = BlasWorkspace(cublas_bytes=0, cublaslt_bytes=0)
    return TraceSettings(**({"sequence_length": 16, "attention": "eager", "blas": none} | changes))


@pytest.fixture(scope="module")
def tracer():
    tracer = Tracer(CONFIG, settings())
    tracer.trace = functools.cache(tracer.trace)
    return tracer


def sizes(function, *shape, dtype=torch.float32, half=None):
    """The sizes that `function` allocates for a tensor of this shape, in order, with the dispatch of CUDA."""
    recorder = StorageRecorder(None)
    with FakeTensorMode(), cuda_dispatch():
        value = torch.empty(shape, dtype=dtype, requires_grad=True)
        with recorder, torch.autocast("cpu", dtype=half or torch.float16, enabled=half is not None):
            function(value)
    return [event.num_bytes for event in recorder.events if event.num_bytes is not None]


def test_a_dropout_mask_takes_one_byte_for_each_element():
    assert sizes(lambda value: functional.dropout(value, 0.1, True), 4, 8) == [128, 32]


def test_autocast_runs_softmax_in_float32_without_a_copy_of_float16():
    assert sizes(lambda value: functional.softmax(value, -1), 4, 8, dtype=torch.float16, half=torch.float16) == [128]


def test_autocast_copies_bfloat16_for_softmax():
    assert sizes(lambda value: functional.softmax(value, -1), 4, 8, dtype=torch.bfloat16, half=torch.bfloat16) == [128, 128]


def test_autocast_runs_layer_norm_in_float32():
    # The input in float32, the result, and a mean and a deviation for each of 4 rows.
    found = sizes(lambda value: functional.layer_norm(value, (8,)), 4, 8, dtype=torch.float16, half=torch.float16)
    assert sorted(found) == [16, 16, 128, 128]


def test_autocast_lowers_a_matrix_product():
    # The operand cast to 2 bytes, once since autocast keeps it, and a result of 2 bytes.
    assert sizes(lambda value: torch.matmul(value, value), 8, 8, half=torch.float16) == [128, 128]


def test_the_dispatch_of_the_cpu_is_back_afterwards():
    with cuda_dispatch():
        pass
    recorder = StorageRecorder(None)
    with FakeTensorMode():
        value = torch.empty(4, 8, requires_grad=True)
        with recorder:
            result = functional.dropout(value, 0.1, True)
    assert result.dtype is torch.float32
    # The CPU keeps its noise in float32.
    assert [event.num_bytes for event in recorder.events if event.num_bytes is not None] == [128, 128]


@pytest.mark.parametrize(
    ("dtype", "masked", "ampere", "kernel"),
    [
        (torch.float16, False, True, "flash"),
        (torch.float16, True, True, "efficient"),
        (torch.float16, False, False, "efficient"),
        (torch.float32, False, True, "efficient"),
    ],
)
def test_attention_takes_the_kernel_that_a_gpu_would_choose(dtype, masked, ampere, kernel):
    query = torch.empty(1, 2, 16, 64, dtype=dtype)
    assert attention_kernel(query, torch.empty(1) if masked else None, flash_attention=ampere) == kernel


def test_the_attention_weights_are_kept_by_eager_attention_alone():
    eager = Tracer(CONFIG, settings(sequence_length=64)).trace(PLAIN, 2)
    fused = Tracer(CONFIG, settings(sequence_length=64, attention="sdpa")).trace(PLAIN, 2)
    weights = 2 * 2 * 64 * 64 * 4
    assert peak_bytes(eager.first_micro_batch) - peak_bytes(fused.first_micro_batch) > 2 * weights


def test_the_model_takes_what_its_parameters_and_buffers_take(tracer):
    model = BertForSequenceClassification(CONFIG)
    expected = sum(each.numel() * each.element_size() for each in [*model.parameters(), *model.buffers()])
    assert sum(event.num_bytes for event in tracer.trace(PLAIN, 2).build) == expected


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_layer_that_is_tied_to_the_embedding_is_counted_once(tied):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 500}
    config = LlamaConfig(**small, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    trace = Tracer(config, settings(task="causal-lm")).trace(PLAIN, 2)
    parameters = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert left_bytes(trace.first_micro_batch, Category.GRADIENTS) == parameters
    buffers = left_bytes(trace.build, Category.WEIGHTS) - parameters
    assert 0 <= buffers < 500


def test_a_first_micro_batch_leaves_the_gradients_and_a_next_one_adds_nothing(tracer):
    segments = tracer.trace(PLAIN, 2)
    expected = sum(each.numel() * 4 for each in BertForSequenceClassification(CONFIG).parameters())
    assert left_bytes(segments.first_micro_batch, Category.GRADIENTS) == expected
    assert left_bytes(segments.first_micro_batch, Category.ACTIVATIONS) == 0
    assert left_bytes(segments.next_micro_batch, Category.ACTIVATIONS) == 0
    assert {event.key for event in segments.zero_gradients} == {
        event.key for event in segments.first_micro_batch if event.category is Category.GRADIENTS
    }


def test_gradients_stay_in_float32_with_mixed_precision(tracer):
    plain, half = tracer.trace(PLAIN, 2), tracer.trace(HALF, 2)
    assert left_bytes(half.first_micro_batch, Category.GRADIENTS) == left_bytes(plain.first_micro_batch, Category.GRADIENTS)


def test_adamw_keeps_two_moments_from_its_first_step_on(tracer):
    segments = tracer.trace(PLAIN, 2)
    parameters = sum(each.numel() * 4 for each in BertForSequenceClassification(CONFIG).parameters())
    assert left_bytes(segments.first_step, Category.OPTIMIZER) == 2 * parameters
    assert left_bytes(segments.next_step, Category.OPTIMIZER) == 0


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({"foreach": True}, 1),
        ({"optimizer": "adamw_torch_fused"}, 0),
        ({"optimizer": "sgd", "foreach": True}, 0),
        ({"optimizer": "sgd", "foreach": True, "weight_decay": 0.1}, 1),
    ],
)
def test_the_form_of_the_optimizer_decides_how_many_copies_of_the_parameters_a_step_takes(changes, copies):
    segments = Tracer(CONFIG, settings(max_grad_norm=0, **changes)).trace(PLAIN, 2)
    model = BertForSequenceClassification(CONFIG)
    # One group of parameters after the other: those with weight decay, which are all matrices, are the larger one.
    decayed = sum(each.numel() * 4 for each in model.parameters() if each.dim() > 1)
    assert peak_bytes(segments.next_step) == copies * decayed


def test_adafactor_keeps_less_than_one_moment():
    segments = Tracer(CONFIG, settings(optimizer="adafactor")).trace(PLAIN, 2)
    parameters = sum(each.numel() * 4 for each in BertForSequenceClassification(CONFIG).parameters())
    assert 0 < left_bytes(segments.first_step, Category.OPTIMIZER) < 0.2 * parameters


def test_an_optimizer_of_8_bits_keeps_two_bytes_and_two_scales_in_256_but_for_embeddings_and_small_parameters():
    config = BertConfig(**CONFIG.to_diff_dict() | {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 16})
    segments = Tracer(config, settings(optimizer="adamw_8bit")).trace(PLAIN, 2)
    expected = 0
    for name, parameter in BertForSequenceClassification(config).named_parameters():
        elements = parameter.numel()
        is_whole = elements < 4096 or name.endswith("embeddings.weight")
        expected += 8 * elements if is_whole else 2 * elements + 2 * 4 * -(-elements // 256)
    assert left_bytes(segments.first_step, Category.OPTIMIZER) == expected


@pytest.mark.parametrize("precision", list(Precision))
def test_a_mixture_of_experts_is_traced_in_every_precision(precision):
    config = MixtralConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=50
    )
    step_class = StepClass(gradient_checkpointing=False, precision=precision)
    segments = Tracer(config, settings(task="causal-lm")).trace(step_class, 2)
    weights = sum(each.numel() * 4 for each in MixtralForCausalLM(config).parameters())
    assert left_bytes(segments.first_micro_batch, Category.GRADIENTS) == weights
    # Each of 32 tokens goes to two of the experts, whose first product has 2 x 64 columns, in the type of their weights.
    rows = 2 * 32
    assert rows * 2 * 64 * 4 in [event.num_bytes for event in segments.evaluation]


def test_a_model_that_takes_too_long_to_trace_is_named_in_a_sentence(monkeypatch):
    monkeypatch.setattr("tradeoff.objectives.memory_estimator.tracing.trace.MAX_TRACE_S", 0.0)
    with pytest.raises(ValueError, match="the memory of bert models can't be estimated, since their code takes more than 0 s"):
        Tracer(CONFIG, settings()).trace(PLAIN, 2)


def test_checkpointing_takes_less_for_activations(tracer):
    checkpointed = tracer.trace(StepClass(gradient_checkpointing=True, precision=Precision.FP32), 8)
    assert peak_bytes(checkpointed.next_micro_batch) < 0.8 * peak_bytes(tracer.trace(PLAIN, 8).next_micro_batch)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", list(Precision))
def test_two_traces_give_every_larger_batch_exactly(tracer, checkpointing, precision):
    step_class = StepClass(gradient_checkpointing=checkpointing, precision=precision)
    linear = LinearSegments(small=tracer.trace(step_class, 2), small_batch=2, large=tracer.trace(step_class, 3), large_batch=3)
    assert linear.at(11) == tracer.trace(step_class, 11)


def test_a_trace_on_fake_tensors_takes_what_a_run_on_real_ones_takes():
    fake = Tracer(CONFIG, settings(target="cpu", foreach=False)).trace(PLAIN, 4)
    model = BertForSequenceClassification._from_config(CONFIG, attn_implementation="eager")
    recorder = StorageRecorder(None)
    recorder.start("real", Category.ACTIVATIONS)
    recorder.track([*model.parameters(), *model.buffers()], "weight", Category.WEIGHTS)
    recorder.start("real", Category.ACTIVATIONS)
    with recorder:
        ids = torch.ones(4, 16, dtype=torch.long)
        mask = torch.ones(4, 16, dtype=torch.long)
        labels = torch.ones(4, dtype=torch.long)
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    # The mask of attention, a few bytes, depends on whether its values may be looked at.
    assert peak_bytes(recorder.events) == pytest.approx(peak_bytes(fake.first_micro_batch), rel=0.01)


def test_a_trace_can_be_replayed(tracer):
    segments = tracer.trace(PLAIN, 2)
    peak = replay_run(segments, accumulation_steps=1)
    assert peak.failed_at is None
    assert peak.reserved_bytes >= peak.allocated_bytes > peak_bytes(segments.build)
