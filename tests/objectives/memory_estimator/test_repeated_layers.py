"""Traces of many layers that are alike, made from a trace of a few of them."""

from collections import Counter
from itertools import groupby

import pytest
from transformers import BertConfig, GPT2Config, LlamaConfig

from tradeoff.objectives.job.settings import Lora
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing import trace
from tradeoff.objectives.memory_estimator.tracing.sharded_trace import ShardedTracer
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.searchspace import Precision

BERT = BertConfig(hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=64, vocab_size=50)
LLAMA = LlamaConfig(
    hidden_size=32, num_hidden_layers=6, num_attention_heads=2, intermediate_size=64, vocab_size=50, pad_token_id=0
)
DEEPER = LlamaConfig(**LLAMA.to_dict() | {"num_hidden_layers": 8})
GPT2 = GPT2Config(n_embd=32, n_layer=6, n_head=2, vocab_size=50)


def of_every_layer(monkeypatch, tracer, config, settings, step_class):
    with monkeypatch.context() as patch:
        patch.setattr(trace, "repeated_layers", lambda *_: None)
        return tracer(config, settings).trace(step_class, 2)


def in_numbers(events, names):
    """A segment with its blocks named by the order in which they are requested; releases in a row have no order.

    `names` holds those of the segments before, some of whose blocks it may release.
    """
    found = []
    for is_release, run in groupby(events, key=lambda event: event.num_bytes is None):
        for event in [] if is_release else run:
            is_kept = event.key.startswith(("gradient", "state"))
            names[event.key] = event.key if is_kept else len(names)
            found.append((names[event.key], event.num_bytes, event.category))
        if is_release:
            found.append(Counter(names.get(event.key, event.key) for event in run))
    return found


@pytest.mark.parametrize(
    ("config", "changes", "step"),
    [
        (BERT, {}, (False, "fp16")),
        (BERT, {"lora": Lora()}, (True, "bf16")),
        (LLAMA, {"task": "sft"}, (True, "bf16")),
        (GPT2, {"task": "causal-lm", "optimizer": "adafactor"}, (False, "fp32")),
        (DEEPER, {"task": "causal-lm", "num_devices": 2, "sharding": "full_shard"}, (False, "bf16")),
        (DEEPER, {"task": "sft", "num_devices": 2, "sharding": "shard_grad_op"}, (True, "fp32")),
    ],
)
def test_few_layers_give_the_trace_of_all(monkeypatch, config, changes, step):
    settings = TraceSettings(**{"sequence_length": 16} | changes)
    step_class = StepClass(gradient_checkpointing=step[0], precision=Precision(step[1]))
    tracer = Tracer if settings.sharding is None else ShardedTracer
    repeated = tracer(config, settings)
    few = repeated.trace(step_class, 2)
    assert repeated.traces_few_layers
    whole = of_every_layer(monkeypatch, tracer, config, settings, step_class)
    names, other_names = {}, {}
    for name, events in whole.as_mapping().items():
        assert in_numbers(few.as_mapping()[name], other_names) == in_numbers(events, names), name


def test_layers_that_differ_are_all_traced(monkeypatch):
    step_class = StepClass(gradient_checkpointing=False, precision=Precision.FP32)
    settings = TraceSettings(sequence_length=16, frozen_layers=1)
    assert Tracer(BERT, settings).trace(step_class, 2) == of_every_layer(monkeypatch, Tracer, BERT, settings, step_class)


def test_a_model_whose_code_needs_all_layers_has_them_back(monkeypatch):
    step_class = StepClass(gradient_checkpointing=True, precision=Precision.FP32)
    settings = TraceSettings(sequence_length=16)
    tracer = Tracer(BERT, settings)
    forward = tracer._model.bert.encoder.forward

    def with_all(*args, **kwargs):
        assert tracer._model.bert.encoder.layer[5]
        return forward(*args, **kwargs)

    tracer._model.bert.encoder.forward = with_all
    assert tracer.trace(step_class, 2) == of_every_layer(monkeypatch, Tracer, BERT, settings, step_class)
