"""What `torch.compile` costs a training: the micro-steps in which something is compiled, and how much longer they take.

A model is compiled when it is first called, once more when a shape changes (then for any size), and again for evaluation.
Nothing is kept from one trial to the next: compiling takes as long in each of them as on a machine that has never done it, and
a trial's time does not depend on those before it.
"""

import statistics
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from transformers import Trainer


def compile_from_scratch() -> None:
    """Turns inductor's caches off in this process. Nothing else is touched: they may hold what the user wants to keep."""
    import torch._inductor.config

    torch._inductor.config.force_disable_caches = True


def forget_compiled_code() -> None:
    """Drops what this process has compiled, so that the next model is compiled anew and within dynamo's limit of variants."""
    torch._dynamo.reset()


def num_compiled() -> int:
    """Graphs that dynamo has compiled in this process so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


class CompileClock:
    """Times a Trainer's micro-steps, and tells those in which something was compiled from the others.

    Args:
        clock_s: Now in seconds, with all work on the device finished.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._compiling_s: list[float] = []
        self._plain_s: list[float] = []

    def attach(self, trainer: Trainer) -> None:
        """Times the Trainer's forward and backward passes from now on."""
        original = trainer.training_step

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin_s, before = self._clock_s(), num_compiled()
            loss = original(*args, **kwargs)
            (self._compiling_s if num_compiled() > before else self._plain_s).append(self._clock_s() - begin_s)
            return loss

        trainer.training_step = timed

    def time_s(self, *, further_shapes: int = 0) -> float:
        """What compiling took.

        Args:
            further_shapes: Changes of shape that are still to come, each compiled as the last one was.
        """
        if not self._compiling_s:
            return 0.0
        plain_s = statistics.median(self._plain_s) if self._plain_s else 0.0
        compiling_s = [max(0.0, each_s - plain_s) for each_s in self._compiling_s]
        return sum(compiling_s) + further_shapes * compiling_s[-1]
