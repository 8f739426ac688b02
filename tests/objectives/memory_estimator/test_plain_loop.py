"""A loop without a Trainer, which keeps a model's outputs until the next ones are there."""

import pytest
import torch
from memory_on_cpu import counted_peak_mib
from transformers import GPT2Config, GPT2LMHeadModel

from tradeoff.objectives.memory_estimator.caching_allocator import MIB
from tradeoff.objectives.memory_estimator.estimator import MemoryEstimator
from tradeoff.objectives.memory_estimator.events import HELD, PREVIOUS, Category, Event, Segments
from tradeoff.objectives.memory_estimator.replay import replay_run
from tradeoff.objectives.memory_estimator.run_estimate import GpuMemory
from tradeoff.objectives.memory_estimator.settings import TraceSettings
from tradeoff.searchspace import TrialParameters

CONFIG = GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=5000)
EIGHT = TrialParameters(per_device_train_batch_size=8)


def estimated_mib(loop):
    settings = TraceSettings(
        sequence_length=64, task="causal-lm", loop=loop, max_grad_norm=0, foreach=False, attention="eager", target="cpu"
    )
    estimator = MemoryEstimator(CONFIG, settings=settings, gpu=GpuMemory(context_mib=0, loaded_code_mib=0))
    return estimator.estimate([EIGHT])[0].lower_bound_mib


def train():
    model = GPT2LMHeadModel._from_config(CONFIG, attn_implementation="eager").train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    ids = torch.ones((8, 64), dtype=torch.long)
    for _ in range(3):
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_plain_loop_is_estimated_as_it_allocates():
    assert estimated_mib("plain") == pytest.approx(counted_peak_mib(train), rel=0.01)
    # The logits of the step before: 8 rows of 64 tokens, 5,000 words.
    assert estimated_mib("plain") - estimated_mib("trainer") > 0.9 * 8 * 64 * 5000 * 4 / MIB


def test_outputs_are_held_until_the_next_ones_are_there():
    micro_batch = (Event(f"{HELD}0", 40 * MIB, Category.ACTIVATIONS), Event(f"{PREVIOUS}0", None))
    segments = Segments(
        build=(Event("weight", 20 * MIB, Category.WEIGHTS),),
        evaluation=(),
        first_micro_batch=micro_batch,
        next_micro_batch=micro_batch,
        first_step=(),
        next_step=(),
        zero_gradients=(),
    )
    assert replay_run(segments, accumulation_steps=2).allocated_bytes == 100 * MIB
