"""Fake tensors, which have shapes and types but no data, and what they can't follow, said for the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.overrides import TorchFunctionMode

from tradeoff.objectives.memory_estimator.tracing.model_config import first_line

__all__ = ["DependsOnData", "FakeTensorMode", "KnownMasks", "explained"]


class DependsOnData(ValueError):
    """An operator's result depends on the data, which fake tensors don't have."""


class KnownMasks(TorchFunctionMode):
    """Indexing by a mask, of which fake tensors don't know how many elements it chooses: all of them, or one of each row.

    T5 and BART classify by the token that ends a text, which they look for like this; each text has one.

    Args:
        one_of_each_row: Whether masks choose one element of each row.
    """

    def __init__(self, *, one_of_each_row: bool = False) -> None:
        super().__init__()
        self._one_of_each_row = one_of_each_row

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.unique_consecutive and self._one_of_each_row:
            return args[0][:1].clone()
        if func is torch.Tensor.__getitem__:
            value, key = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
            if key and isinstance(key[0], torch.Tensor) and key[0].dtype is torch.bool:
                number = key[0].size(0) if self._one_of_each_row else key[0].numel()
                return value[(*torch.zeros(number, key[0].dim(), dtype=torch.long).unbind(1), *key[1:])]
        return func(*args, **(kwargs or {}))


@contextmanager
def explained(model_type: str) -> Iterator[None]:
    """Turn what goes wrong while a model runs on fake tensors into a sentence.

    Raises:
        DependsOnData: What the model does depends on the data.
        ValueError: Its code fails on fake tensors otherwise.
    """
    failure = f"the memory of {model_type} models can't be estimated, since"
    remedy = "probes measure it anyway"
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise DependsOnData(f"{failure} {error.func} depends on the data: {remedy}") from error
    except (UnsupportedFakeTensorException, UnsupportedOperatorException) as error:
        operator = getattr(error, "func", error)
        raise ValueError(f"{failure} fake tensors don't support {operator}: {remedy}") from error
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        # The model's own code: it may refuse fake tensors, or a configuration that lacks what it reads.
        raise ValueError(f"{failure} their code fails on fake tensors ({first_line(error)}): {remedy}") from error
