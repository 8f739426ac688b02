"""The optimizers whose memory can be estimated, as the Trainer builds them, and the gradients' way to them.

Only the order and the size of their allocations matter, and these differ between the forms of one optimizer: a loop over the
parameters needs room for one of them, the foreach form for all at once, the fused form for none.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tradeoff.objectives.memory_estimator.settings import OPTIMIZERS_OF_8_BITS

# transformers.Trainer.get_decay_parameter_names.
_WITHOUT_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def build_optimizer(model: nn.Module, name: str, *, foreach: bool, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Return the optimizer that the Trainer would build for a model.

    Args:
        model: The model.
        name: One of `tradeoff.objectives.memory_estimator.settings.OPTIMIZERS`.
        foreach: The form of AdamW and SGD that updates all parameters at once, torch's default on CUDA.
        weight_decay: As in `TrainingArguments`; SGD adds it to a copy of the gradients.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adamw_torch":
        return torch.optim.AdamW(groups, lr=1e-5, foreach=foreach)
    if name == "adamw_torch_fused":
        return torch.optim.AdamW(groups, lr=1e-5, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=1e-5, foreach=foreach)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        adafactor: torch.optim.Optimizer = Adafactor(groups, lr=1e-5, scale_parameter=False, relative_step=False)
        return adafactor
    if name in OPTIMIZERS_OF_8_BITS:
        # The Trainer keeps the states of embeddings in 32 bits.
        whole = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
        return AdamW8bit(groups, whole=whole)
    raise AssertionError(f"settings allow no optimizer {name!r}")


class AdamW8bit(torch.optim.Optimizer):
    """The states of AdamW in 8 bits: bitsandbytes/optim/optimizer.py, `Optimizer2State.init_state`.

    Its kernels update parameters in place, one after the other; the states of one appear right before its first update.

    Args:
        parameters: Parameters, or groups of them.
        whole: Parameters whose states have 32 bits.
        block_size: Elements of a state that share a scale.
    """

    SMALLEST = 4096  # elements of a parameter whose states have 8 bits

    def __init__(self, parameters: Any, *, whole: Iterable[Tensor] = (), block_size: int = 256) -> None:
        super().__init__(parameters, {})
        self._whole = {id(parameter) for parameter in whole}
        self._block_size = block_size

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Create the states of parameters that have none yet."""
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            state = self.state[parameter]
            if parameter.grad is None or state:
                continue
            is_whole = parameter.numel() < self.SMALLEST or id(parameter) in self._whole
            for moment in ("state1", "state2"):
                state[moment] = torch.empty(parameter.shape, dtype=torch.float32 if is_whole else torch.uint8)
            if not is_whole:
                for scales in ("absmax1", "absmax2"):
                    state[scales] = torch.empty(-(-parameter.numel() // self._block_size), dtype=torch.float32)


def clip_gradients(gradients: list[Tensor], max_norm: float) -> None:
    """Run `torch.nn.utils.clip_grad_norm_` in its foreach form, which the public function takes on a GPU only."""
    norms = torch._foreach_norm(gradients, 2.0)
    total = torch.linalg.vector_norm(torch.stack(list(norms)), 2.0)
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    torch._foreach_mul_(gradients, factor)


def bucket_sizes(parameters: Iterable[Tensor]) -> list[int]:
    """Return the bytes of each bucket in which `DistributedDataParallel` exchanges gradients, beside the gradients themselves.

    torch/csrc/distributed/c10d/reducer.cpp, `compute_bucket_assignment_by_size`: parameters from the last one on; a bucket is
    closed when it has reached its size, 1 MiB for the first and 25 MiB for the others. They exist before the first step.
    """
    sizes: list[int] = []
    current = 0
    for parameter in reversed([each for each in parameters if each.requires_grad]):
        current += parameter.numel() * parameter.element_size()
        if current >= (25 if sizes else 1) * 1024 * 1024:
            sizes.append(current)
            current = 0
    return [*sizes, current] if current else sizes


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return a model's parameters with and without weight decay, as the Trainer groups them."""
    from transformers.trainer_pt_utils import get_parameter_names

    decayed = set(get_parameter_names(model, [nn.LayerNorm], _WITHOUT_DECAY))
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in parameters if name in decayed], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in parameters if name not in decayed], "weight_decay": 0.0},
    ]
