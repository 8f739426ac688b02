"""Traces of a model that is spread over several devices, against what torch really allocates on one of them."""

import json

import pytest
import torch
import torch.distributed as distributed
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig, T5Config

from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.run_estimate import MIB, GpuMemory
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.sharded_trace import ShardedTracer, ranks, shard
from tradeoff.searchspace import Precision, TrialParameters

LLAMA = LlamaConfig(
    hidden_size=128, num_hidden_layers=7, num_attention_heads=4, num_key_value_heads=4, intermediate_size=512, vocab_size=2000
)
WORDY = LlamaConfig(**LLAMA.to_dict() | {"vocab_size": 16_000})
PLAIN = StepClass(gradient_checkpointing=False, precision=Precision.FP32)
LENGTH, STEPS = 64, 3


def parameters(**changes):
    return TrialParameters(**{"per_device_train_batch_size": 8} | changes)


CASES = {
    "plain": (LLAMA, parameters(), "full_shard"),
    "accumulation": (LLAMA, parameters(gradient_accumulation_steps=4), "full_shard"),
    "checkpointing in half precision": (LLAMA, parameters(precision=Precision.BF16, gradient_checkpointing=True), "full_shard"),
    "weights stay whole": (LLAMA, parameters(), "shard_grad_op"),
    # The peak is where the embeddings are gathered backward.
    "one sample of many words": (WORDY, parameters(per_device_train_batch_size=1), "full_shard"),
}


def settings(**changes):
    none = BlasWorkspace(cublas_bytes=0, cublaslt_bytes=0)
    told = {"sequence_length": LENGTH, "task": "causal-lm", "attention": "eager", "num_devices": 2, "sharding": "full_shard"}
    return TraceSettings(**told | {"blas": none, "foreach": False, "target": "cpu"} | changes)


def train(mesh, config, chosen, sharding):
    """Train with real weights, and return what torch's allocator held at its peak, in MiB."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.config.use_cache = False
    if chosen.gradient_checkpointing:
        is_new = hasattr(model, "activation_checkpointing_enable")
        (model.activation_checkpointing_enable if is_new else model.gradient_checkpointing_enable)({"use_reentrant": False})
    shard(model, mesh, sharding, chosen.precision)
    weights = sum(parameter.to_local().untyped_storage().nbytes() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(STEPS):
            for micro_batch in range(steps := chosen.gradient_accumulation_steps):
                model.set_requires_gradient_sync(micro_batch == steps - 1)
                tokens = torch.randint(0, 2000, (chosen.per_device_train_batch_size, LENGTH))
                loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens.clone()).loss
                loss.backward()
                del loss, tokens
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    current = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return (weights + peak) / MIB


def count_alone(_, path):
    """Train each case on the first of two ranks, of which the other one is not there."""
    torch.set_num_threads(1)
    counted = {}
    for name, case in CASES.items():
        with ranks(2) as mesh:
            counted[name] = train(mesh, *case)
    path.write_text(json.dumps(counted))


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    path = tmp_path_factory.mktemp("counted") / "peaks.json"
    torch.multiprocessing.spawn(count_alone, (path,))
    return json.loads(path.read_text())


def estimated(config, chosen, sharding):
    gpu = GpuMemory(context_mib=0.0, loaded_code_mib=0.0)
    estimator = MemoryEstimator(config, settings=settings(sharding=sharding), gpu=gpu, eval_batch_size=1)
    [estimate] = estimator.estimate([chosen])
    return estimate.lower_bound_mib


@pytest.mark.parametrize("case", CASES)
def test_a_rank_requests_what_torch_allocates_on_it(counted, case):
    assert estimated(*CASES[case]) == pytest.approx(counted[case], rel=0.003)


def test_each_device_of_more_holds_less():
    def weights_of(number):
        segments = ShardedTracer(LLAMA, settings(num_devices=number)).trace(PLAIN, 2)
        return sum(event.num_bytes for event in segments.build), segments

    two, _ = weights_of(2)
    eight, segments = weights_of(8)
    assert two == pytest.approx(4 * eight, rel=0.01)
    # Gathered weights and exchanged gradients are requested on streams of their own.
    assert {event.stream for event in segments.first_micro_batch} == {0, 1, 2}
    assert not distributed.is_initialized()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": Lora()}, "leave adapters out"),
        ({"loop": "plain"}, "leave --loop plain out"),
        ({"optimizer": "adamw_8bit"}, "adamw_8bit can't update weights that are spread"),
        ({"optimizer": "adafactor"}, "choose adamw_torch"),
    ],
)
def test_what_is_not_planned_with_sharding_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ShardedTracer(LLAMA, settings(**changes))


def test_one_device_has_nobody_to_share_with():
    with pytest.raises(ValueError, match="set devices_per_trial to 2 or more"):
        settings(num_devices=1)


def test_a_model_that_torch_can_t_spread_is_named():
    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2, vocab_size=100)
    tracer = ShardedTracer(config, settings(task="sequence-classification", num_labels=3))
    with pytest.raises(ValueError, match="t5 models can't be spread over devices: "):
        tracer.trace(PLAIN, 2)
    assert not distributed.is_initialized()


def test_a_process_that_is_one_of_several_is_refused():
    distributed.init_process_group("fake", rank=0, world_size=2)
    try:
        with pytest.raises(ValueError, match="not itself one of several"):
            ShardedTracer(LLAMA, settings()).trace(PLAIN, 2)
    finally:
        distributed.destroy_process_group()
