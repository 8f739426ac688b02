"""The tensors in what a model returns."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in what a model returns, caches included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Cache | CacheLayerMixin):
        yield from tensors_in(list(vars(value).values()))
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
