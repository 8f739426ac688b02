"""The cost of `torch.compile` in a training: the micro-steps in which something is compiled, and how much longer they take.

A model is compiled when it is first called, once more when a shape changes (then for any size), and again for evaluation.
Nothing is kept from one trial to the next: compiling takes as long in each as on a new machine, and a trial's time does not
depend on those before it.
"""

import statistics
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from transformers import Trainer


def compile_from_scratch() -> None:
    """Disable the compiler's caches in this process; what the user has in them stays."""
    torch.compiler.config.force_disable_caches = True


def forget_compiled_code() -> None:
    """Drop what this process has compiled, so that the next model is compiled again and within dynamo's limit of variants."""
    torch.compiler.reset()


def num_compiled() -> int:
    """Return the number of graphs that dynamo has compiled in this process so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


class CompileClock:
    """Times a Trainer's micro-steps, those in which something was compiled apart from the others.

    Args:
        clock_s: Returns the time in seconds, with all work on the device finished.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._compiling_s: list[float] = []
        self._plain_s: list[float] = []

    def attach(self, trainer: Trainer) -> None:
        """Time the Trainer's forward and backward passes from now on."""
        original = trainer.training_step

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin_s, before = self._clock_s(), num_compiled()
            loss = original(*args, **kwargs)
            (self._compiling_s if num_compiled() > before else self._plain_s).append(self._clock_s() - begin_s)
            return loss

        trainer.training_step = timed

    def time_s(self, *, further_shapes: int = 0) -> float:
        """Return the time that compiling took.

        Args:
            further_shapes: Changes of shape that are still to come; each is assumed to take as long as the last one.
        """
        if not self._compiling_s:
            return 0.0
        plain_s = statistics.median(self._plain_s) if self._plain_s else 0.0
        compiling_s = [max(0.0, each_s - plain_s) for each_s in self._compiling_s]
        return sum(compiling_s) + further_shapes * compiling_s[-1]
