"""Tracers of older releases of torch and transformers, with which published memory figures were measured."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from tradeoff.objectives.memory_estimator.events import Event
from tradeoff.objectives.memory_estimator.tracing.cuda_dispatch import Operator, softmax
from tradeoff.objectives.memory_estimator.tracing.optimizers import AdamW8bit, parameter_groups
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer


class Torch20Tracer(Tracer):
    """torch 2.0: the foreach AdamW holds a second list of temporaries."""

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return ForeachAdamW(parameter_groups(model, self._settings.weight_decay), {})


class SoftmaxThatSavesItsInput(torch.autograd.Function):
    """Softmax with the derivative that it had up to torch 1.10: `_softmax_backward_data(grad, result, dim, self)`."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int, from_half: bool, kernel: str) -> Tensor:
        result: Tensor = getattr(torch.ops.aten, kernel).default(input, dim, from_half)
        ctx.save_for_backward(input, result)
        ctx.dim, ctx.kernel = dim, kernel
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        input, result = ctx.saved_tensors
        operator = getattr(torch.ops.aten, f"{ctx.kernel}_backward_data").default
        return operator(gradient, result, ctx.dim, input.dtype), None, None, None


class Torch110Tracer(Tracer):
    """torch 1.10: `zero_grad` keeps the gradients, filled with zeros, and softmax saves its input for the backward pass."""

    operators: Mapping[str, Operator] = {
        "softmax.int": softmax(lambda *args: SoftmaxThatSavesItsInput.apply(*args, "_softmax")),
        "log_softmax.int": softmax(lambda *args: SoftmaxThatSavesItsInput.apply(*args, "_log_softmax")),
    }

    def zero_gradients(self, gradients: Iterable[str]) -> tuple[Event, ...]:
        return ()


class Torch110LoopAdamWTracer(Torch110Tracer):
    """The same, with the AdamW of transformers up to 4.45."""

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return LoopAdamW(parameter_groups(model, self._settings.weight_decay), {})


class Torch110Adam8bitTracer(Torch110Tracer):
    """The same, with bitsandbytes 0.26: a scale for 2,048 elements, and embeddings in 8 bits without the Trainer's say."""

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return AdamW8bit(parameter_groups(model, self._settings.weight_decay), block_size=2048)


class Moments(torch.optim.Optimizer):
    """AdamW's two moments, created at the first step."""

    def moments(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state["exp_avg"], state["exp_avg_sq"]

    def with_gradients(self) -> list[list[Tensor]]:
        """The parameters of each group that have a gradient."""
        groups = ([parameter for parameter in group["params"] if parameter.grad is not None] for group in self.param_groups)
        return [group for group in groups if group]


class ForeachAdamW(Moments):
    """`_multi_tensor_adamw` of torch 2.0 (torch/optim/adamw.py): the denominator is a second list of temporaries.

    Later releases add epsilon in place: https://github.com/pytorch/pytorch/blob/v2.1.0/torch/optim/adamw.py
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for parameters in self.with_gradients():
            self.update(parameters)

    def update(self, parameters: list[Tensor]) -> None:
        gradients = [parameter.grad for parameter in parameters]
        averages, squares = (list(moments) for moments in zip(*map(self.moments, parameters), strict=True))
        torch._foreach_mul_(parameters, 0.99)
        torch._foreach_mul_(averages, 0.9)
        torch._foreach_add_(averages, gradients, alpha=0.1)
        torch._foreach_mul_(squares, 0.999)
        torch._foreach_addcmul_(squares, gradients, gradients, 0.001)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [1.0] * len(parameters))
        denominators = torch._foreach_add(roots, 1e-8)
        torch._foreach_addcdiv_(parameters, averages, denominators, [-1e-5] * len(parameters))


class LoopAdamW(Moments):
    """`transformers.AdamW` (transformers/optimization.py up to 4.45), without weight decay: one parameter after the other."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for parameter in chain(*self.with_gradients()):
            average, square = self.moments(parameter)
            average.mul_(0.9).add_(parameter.grad, alpha=0.1)
            square.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            denominator = square.sqrt().add_(1e-6)
            parameter.addcdiv_(average, denominator, value=-1e-5)
