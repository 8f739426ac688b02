"""The optimizers whose memory can be predicted, as the Trainer builds them, and the forms that older releases had.

Only the order and the size of what they allocate matters, and that differs between the forms of one optimizer: a loop over the
parameters needs room for one of them, the foreach form for all at once, the fused form for none.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# transformers.Trainer.get_decay_parameter_names.
_WITHOUT_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def build_optimizer(
    model: nn.Module, name: str, *, foreach: bool, weight_decay: float = 0.0, copies_denominator: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that the Trainer would build for a model.

    Args:
        model: The model.
        name: One of `tradeoff.objectives.memory_estimator.settings.OPTIMIZERS`.
        foreach: The form that handles all parameters at once, torch's default on CUDA; AdamW and SGD have it.
        weight_decay: As in `TrainingArguments`; SGD adds it to a copy of the gradients.
        copies_denominator: The foreach AdamW as it was in torch 2.0, with one more copy of the parameters.
    """
    groups = _parameter_groups(model, weight_decay)
    if name == "adamw_torch":
        if foreach and copies_denominator:
            return _ForeachAdamW20(groups, {"lr": 1e-5})
        return torch.optim.AdamW(groups, lr=1e-5, foreach=foreach)
    if name == "adamw_torch_fused":
        return torch.optim.AdamW(groups, lr=1e-5, fused=True)
    if name == "adamw_hf":
        return _LoopAdamW(groups, {"lr": 1e-5})
    if name == "sgd":
        return torch.optim.SGD(groups, lr=1e-5, foreach=foreach)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        adafactor: torch.optim.Optimizer = Adafactor(groups, lr=1e-5, scale_parameter=False, relative_step=False)
        return adafactor
    raise AssertionError(f"settings allow no optimizer {name!r}")


def clip_gradients(gradients: list[Tensor], max_norm: float) -> None:
    """`torch.nn.utils.clip_grad_norm_` as it runs on CUDA, foreach; the public function takes that form on a card only."""
    norms = torch._foreach_norm(gradients, 2.0)
    total = torch.linalg.vector_norm(torch.stack(list(norms)), 2.0)
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    torch._foreach_mul_(gradients, factor)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    from transformers.trainer_pt_utils import get_parameter_names

    decayed = set(get_parameter_names(model, [nn.LayerNorm], _WITHOUT_DECAY))
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in parameters if name in decayed], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in parameters if name not in decayed], "weight_decay": 0.0},
    ]


class _Moments(torch.optim.Optimizer):
    """AdamW's two moments, created at the first step."""

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state["exp_avg"], state["exp_avg_sq"]

    def _with_gradients(self, group: dict[str, Any]) -> Iterable[Tensor]:
        return (parameter for parameter in group["params"] if parameter.grad is not None)


class _ForeachAdamW20(_Moments):
    """`_multi_tensor_adamw` of torch 2.0 (torch/optim/adamw.py): the denominator is a second list of temporaries.

    Later releases add epsilon in place: https://github.com/pytorch/pytorch/blob/v2.1.0/torch/optim/adamw.py
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = list(self._with_gradients(group))
            if parameters:
                self._update(parameters)

    def _update(self, parameters: list[Tensor]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages, squares = (list(moments) for moments in zip(*map(self._moments, parameters), strict=True))
        torch._foreach_mul_(parameters, 0.99)
        torch._foreach_mul_(averages, 0.9)
        torch._foreach_add_(averages, gradients, alpha=0.1)
        torch._foreach_mul_(squares, 0.999)
        torch._foreach_addcmul_(squares, gradients, gradients, 0.001)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [1.0] * len(parameters))
        denominators = torch._foreach_add(roots, 1e-8)
        torch._foreach_addcdiv_(parameters, averages, denominators, [-1e-5] * len(parameters))


class _LoopAdamW(_Moments):
    """`transformers.AdamW` (transformers/optimization.py up to 4.45): one parameter after the other."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in self._with_gradients(group):
                gradient = parameter.grad
                assert gradient is not None
                average, square = self._moments(parameter)
                average.mul_(0.9).add_(gradient, alpha=0.1)
                square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                denominator = square.sqrt().add_(1e-6)
                parameter.addcdiv_(average, denominator, value=-1e-5)
                if group["weight_decay"] > 0:
                    parameter.add_(parameter, alpha=-1e-5 * group["weight_decay"])
