"""The loss of TRL's `SFTTrainer` on fake tensors, with what it takes on a GPU.

Its head turns a tile of hidden states at a time into log-probabilities, so that all logits never exist at once. On a GPU a
Triton kernel folds each tile in place and allocates nothing, products are added without a copy, and only tokens whose label
counts are projected: here all of them count, the most that a batch of this length needs.

Sources: `add_fused_lm_head` in trl/trainer/utils.py, and trl/kernels/chunked_logprob.py.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tradeoff.objectives.memory_estimator.tracing.fake_tensors import KnownMasks

# What the Trainer asks of its head, for the metrics that it logs.
_OUTPUTS = ("log_probs", "entropy", "is_top1")


def add_head(model: Any) -> None:
    """Give a model the head that the Trainer gives it.

    Raises:
        ValueError: TRL is not installed.
    """
    try:
        from trl.trainer.utils import add_fused_lm_head
    except ImportError as error:
        raise ValueError(
            "the loss of a language model is TRL's, which is not installed (pip install 'tradeoff[llm]')"
        ) from error
    add_fused_lm_head(model, outputs=_OUTPUTS)


def loss_of(outputs: Any) -> Tensor:
    """Return the loss of a batch, as `SFTTrainer.compute_loss` takes it from what the head returns."""
    losses: Tensor = -outputs["log_probs"]
    return losses.sum() / torch.ones(())


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Run the head, within the block and for the whole process, as it runs on a GPU.

    Raises:
        AttributeError: This release of TRL computes the loss in another way.
    """
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    def allocates_nothing(*args: Any, **kwargs: Any) -> None:
        return None

    with ExitStack() as stack:
        _replace(stack, utils, "_use_triton", lambda device: True)
        for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
            _replace(stack, chunked_logprob, name, allocates_nothing)
        stack.enter_context(KnownMasks())
        yield


def _replace(stack: ExitStack, module: Any, name: str, value: Any) -> None:
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)
