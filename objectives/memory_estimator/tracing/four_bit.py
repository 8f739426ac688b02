"""Weights of 4 bits on fake tensors: bitsandbytes' own layers, with what quantizing leaves of a weight.

A weight becomes half a byte for each element, a scale of 8 bits for 64 of them, and a scale of these in float32 for 256
(`quantize_4bit` in bitsandbytes/functional.py with `compress_statistics`). Embeddings, norms and the head stay as they are.
"""

from importlib import import_module
from typing import Any

import torch

from tradeoff.objectives.trainers.trained_parts import four_bit

_BLOCK = 64
_BLOCK_OF_SCALES = 256


def with_four_bit_layers(model: Any) -> None:
    """Replace the linear layers of a model on meta tensors, as `from_pretrained` does.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ValueError("weights of 4 bits need the package bitsandbytes, which is not installed (pip install bitsandbytes)")
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    kept = get_keys_to_not_convert(model)
    replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=four_bit(torch.float32))
    model.is_loaded_in_4bit = True


def pack_weights(model: torch.nn.Module) -> None:
    """Put packed weights and their scales in place of the weights of these layers; within a mode of fake tensors."""
    quant_state: Any = import_module("bitsandbytes.functional").QuantState
    code, code_of_scales = torch.empty(16), torch.empty(256)
    for layer in _layers(model):
        num_elements = layer.weight.numel()
        num_scales = -(-num_elements // _BLOCK)
        scales, offset = torch.empty(num_scales, dtype=torch.uint8), torch.empty(())
        scales_of_scales = torch.empty(-(-num_scales // _BLOCK_OF_SCALES))
        packed = torch.nn.Parameter(torch.empty((-(-num_elements // 2), 1), dtype=torch.uint8), requires_grad=False)
        packed.quant_state = quant_state(  # type: ignore[attr-defined]  # where bitsandbytes looks for it
            absmax=scales,
            shape=layer.weight.shape,
            code=code,
            blocksize=_BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
            offset=offset,
            state2=quant_state(absmax=scales_of_scales, code=code_of_scales, blocksize=_BLOCK_OF_SCALES, dtype=torch.float32),
        )
        layer.weight = packed
        # Seen as the model's own, to be counted among its weights.
        parts = {"scales": scales, "offset": offset, "scales_of_scales": scales_of_scales, "code": code}
        for name, tensor in parts.items():
            layer.register_buffer(name, tensor, persistent=False)
        layer.support_avx512bf16_for_cpu = False  # which would repack the weights on a CPU


def compute_in(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Let the layers compute in a type, as `bnb_4bit_compute_dtype` does."""
    for layer in _layers(model):
        layer.compute_dtype = dtype


def _layers(model: torch.nn.Module) -> list[Any]:
    layer_class: Any = import_module("bitsandbytes.nn").Linear4bit
    return [module for module in model.modules() if isinstance(module, layer_class)]
