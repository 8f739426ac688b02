"""The memory of a loop without an optimizer, in whatever release of transformers is imported; `memory_plan.py` runs it.

transformers' documentation has tables of `outputs = model(**inputs); outputs.logits.sum().backward()` with weights in float16.
Its models' code was another one then, so the release of that time is installed in a directory of its own and put before the
present one. Only the recorder of the product is used, which needs no transformers.

`logits_loop.py MODEL ATTENTION BATCHxLENGTH ...` prints for each shape the bytes allocated, requested and reserved at the peak.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    GPT2Config,
    GPTNeoXConfig,
    OPTConfig,
)

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.caching_allocator import CachingAllocator
from tradeoff.objectives.memory_estimator.events import Category
from tradeoff.objectives.memory_estimator.tracing.cuda_dispatch import cuda_dispatch
from tradeoff.objectives.memory_estimator.tracing.fake_tensors import FakeTensorMode
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder

STEPS = 2
MODELS: dict[str, tuple[Any, Any]] = {
    "bert-base-uncased": (AutoModelForMaskedLM, BertConfig()),
    "facebook/opt-350m": (
        AutoModelForCausalLM,
        OPTConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            ffn_dim=4096,
            word_embed_proj_dim=512,
            do_layer_norm_before=False,
        ),
    ),
    "EleutherAI/pythia-410m-deduped": (
        AutoModelForCausalLM,
        GPTNeoXConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=50304),
    ),
    "openai-community/gpt2-large": (AutoModelForCausalLM, GPT2Config(n_embd=1280, n_layer=36, n_head=20)),
}


class NothingMasked(TorchFunctionMode):
    """What older code asks of values: all are attended to, no token is padding, and no layer is dropped at random."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.Tensor.__contains__, torch.Tensor.__bool__):
            return False
        return True if func is torch.all else func(*args, **(kwargs or {}))


def in_order_of_transfer(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers in the order in which `module.to(device)` moves them."""
    for child in module.children():
        yield from in_order_of_transfer(child)
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def peaks(name: str, attention: str, shapes: list[tuple[int, int]]) -> list[list[int]]:
    """The bytes allocated, requested and reserved at the peak, for each batch and length."""
    auto_class, config = MODELS[name]
    recorder = StorageRecorder(BlasWorkspace())
    fake = FakeTensorMode()
    with fake:
        model = auto_class.from_config(config, attn_implementation=attention, torch_dtype=torch.float16).train()
    recorder.start("build", Category.WEIGHTS)
    recorder.track(in_order_of_transfer(model), "weight", Category.WEIGHTS)
    build = recorder.events
    found = []
    for batch, length in shapes:
        recorder.start("loop", Category.ACTIVATIONS)
        with cuda_dispatch(), fake, recorder, NothingMasked():
            ids = torch.ones((batch, length), dtype=torch.long)
            outputs = None
            for _ in range(STEPS):
                model.zero_grad()
                outputs = model(ids)
                recorder.in_backward = True
                outputs.logits.sum().backward()
                recorder.in_backward = False
            allocator = CachingAllocator()
            for event in [*build, *recorder.events]:
                if event.num_bytes is None:
                    allocator.release(event.key)
                elif event.key not in allocator:
                    allocator.allocate(event.key, event.num_bytes)
            del outputs, ids
            model.zero_grad()
        found.append([allocator.peak_allocated_bytes, allocator.peak_requested_bytes, allocator.peak_reserved_bytes])
    return found


if __name__ == "__main__":
    model_name, attention_name, *texts = sys.argv[1:]
    print(json.dumps(peaks(model_name, attention_name, [tuple(map(int, text.split("x"))) for text in texts])))  # type: ignore[misc]
