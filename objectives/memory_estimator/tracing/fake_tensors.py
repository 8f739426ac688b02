"""Fake tensors, which have shapes and types but no data, and what they can't follow, said for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from tradeoff.objectives.memory_estimator.tracing.model_config import first_line

__all__ = ["DependsOnData", "FakeTensorMode", "explained"]


class DependsOnData(ValueError):
    """An operator's result depends on the data, which fake tensors don't have."""


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
