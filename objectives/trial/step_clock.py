"""Times the parts of optimizer steps: each micro-batch, and the update that follows them."""

import copy
import math
import statistics
from collections.abc import Callable
from functools import wraps
from typing import Any

from transformers import Trainer, TrainerCallback

# Two steps may be equal by chance.
MIN_FOR_SPREAD = 3


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Times a Trainer's steps in parts.

    The device is synchronised at both ends of each part, which prevents overlap: use it in a probe, not in a training.

    Attributes:
        micro_step_s: Forward and backward pass of one micro-batch, its loading included.
        update_s: The rest of an optimizer step: clipping, the update, the Trainer's own work, and the exchange of gradients
            if there are several devices.

    Args:
        clock_s: Returns the time in seconds, with all work on the device finished.
        skip_steps: Optimizer steps to leave out at the start.
        num_compiled: Returns the number of graphs compiled so far; a step in which it grows is left out too. None if nothing
            is compiled.
    """

    def __init__(self, clock_s: Callable[[], float], *, skip_steps: int, num_compiled: Callable[[], int] | None = None) -> None:
        self._clock_s = clock_s
        self._num_compiled = num_compiled or (lambda: 0)
        self._compiled_before = 0
        self._skip_steps = skip_steps
        self._passes_s: list[float] = []
        self._exchanging_s: list[float] = []
        self._step_begin_s = self._step_end_s = self._load_s = 0.0
        self.micro_step_s: list[float] = []
        self.update_s: list[float] = []

    @property
    def micro_step_spread(self) -> float | None:
        """The relative standard error of the median micro-step time, as far as the steps differ; None for fewer than three."""
        if len(self.micro_step_s) < MIN_FOR_SPREAD:
            return None
        # The median of n normal values varies by a factor of sqrt(pi / 2) more than their mean.
        error_s = math.sqrt(math.pi / 2 / len(self.micro_step_s)) * statistics.stdev(self.micro_step_s)
        return error_s / statistics.median(self.micro_step_s)

    def attach(self, trainer: Trainer, *, exchanges: bool = False) -> None:
        """Time the Trainer's forward and backward passes from now on.

        Args:
            trainer: The Trainer.
            exchanges: True if the backward pass exchanges gradients between devices. It does so once an optimizer step,
                however many micro-batches there are. So each pass is run without it first, and the difference counts as
                part of the update.
        """
        original = trainer.training_step

        @wraps(original)
        def timed(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if exchanges:
                begin_s = self._clock_s()
                with trainer.accelerator.no_sync(model):
                    original(model, copy.copy(inputs), *args, **kwargs)
                self._passes_s.append(self._clock_s() - begin_s)
                model.zero_grad(set_to_none=True)
            begin_s = self._clock_s()
            loss = original(model, inputs, *args, **kwargs)
            passed_s = self._clock_s() - begin_s
            if exchanges:
                self._exchanging_s.append(passed_s)
            else:
                self._passes_s.append(passed_s)
            return loss

        trainer.training_step = timed
        trainer.add_callback(self)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start timing the first load."""
        self._step_end_s = self._clock_s()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """End the load and begin the step."""
        self._step_begin_s = self._clock_s()
        self._compiled_before = self._num_compiled()
        self._load_s = self._step_begin_s - self._step_end_s
        self._passes_s.clear()
        self._exchanging_s.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the step and record its parts."""
        self._step_end_s = self._clock_s()
        if state.global_step > self._skip_steps and self._num_compiled() == self._compiled_before:
            load_s = self._load_s / len(self._passes_s)
            self.micro_step_s.extend(passed_s + load_s for passed_s in self._passes_s)
            passes_s, exchanging_s = sum(self._passes_s), sum(self._exchanging_s)
            update_s = max(0.0, self._step_end_s - self._step_begin_s - passes_s - exchanging_s)
            self.update_s.append(update_s + max(0.0, exchanging_s - passes_s if self._exchanging_s else 0.0))
