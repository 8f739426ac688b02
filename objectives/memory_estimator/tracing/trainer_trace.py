"""Traces the user's own Trainer: its model, its collator on its longest rows, its loss and its optimizer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import PretrainedConfig, Trainer

from tradeoff.objectives.data.samples import longest_rows, num_rows
from tradeoff.objectives.memory_estimator.events import Category, Event, Segments
from tradeoff.objectives.memory_estimator.settings import OPTIMIZERS_OF_8_BITS, StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.fake_model import make_fake
from tradeoff.objectives.memory_estimator.tracing.optimizers import build_optimizer
from tradeoff.objectives.memory_estimator.tracing.outputs import tensors_in
from tradeoff.objectives.memory_estimator.tracing.trace import HALF, Tracer


class TrainerTracer(Tracer):
    """Traces a Trainer that was built on the CPU in full precision; its model is on fake tensors afterwards.

    Args:
        trainer: The Trainer.
        settings: How it trains.
        evaluates: Whether it evaluates.

    Raises:
        ValueError: The model can't be traced.
    """

    def __init__(self, trainer: Trainer, settings: TraceSettings, *, evaluates: bool) -> None:
        self._trainer = trainer
        self._evaluates = evaluates
        self._batches: dict[tuple[int, bool], Any] = {}
        config = getattr(trainer.model, "config", None)
        self.config = config if isinstance(config, PretrainedConfig) else PretrainedConfig()
        super().__init__(self.config, settings)
        self._name = self._name or type(trainer.model).__name__

    @property
    def num_kept_batches(self) -> int:
        """The batches of an evaluation whose predictions are on the GPU at the same time."""
        args = self._trainer.args
        if not self._evaluates or self._keeps_loss_only or args.batch_eval_metrics:
            return 0
        batches: int = -(-num_rows(self._trainer.eval_dataset) // args.eval_batch_size)
        return min(batches, args.eval_accumulation_steps or batches)

    def build_model(self, config: PretrainedConfig) -> torch.nn.Module:
        """Put fake tensors in place of the model's weights."""
        model = self._trainer.model
        made = make_fake(model, self._fake)
        for group in [] if self._trainer.optimizer is None else self._trainer.optimizer.param_groups:
            group["params"] = [made[parameter] for parameter in group["params"]]
        model.train()
        return model  # type: ignore[no-any-return]

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the Trainer's own optimizer, in the form that torch chooses on a GPU."""
        if self._trainer.optimizer is None and self._trainer.args.optim in OPTIMIZERS_OF_8_BITS:
            return build_optimizer(model, self._trainer.args.optim, foreach=False)
        optimizer: torch.optim.Optimizer = self._trainer.create_optimizer()
        for group in optimizer.param_groups:
            if self._settings.foreach and not group.get("fused") and "foreach" in group and group["foreach"] is None:
                group["foreach"] = True
        return optimizer

    def trace(self, step_class: StepClass, batch_size: int) -> Segments:
        """Return the segments of a run with micro-batches of `batch_size`, as `Tracer.trace` does."""
        self._trainer.args.dataloader_num_workers = 0
        for evaluates in (False, True) if self._evaluates else (False,):
            if (batch_size, evaluates) not in self._batches:
                dataset = self._trainer.eval_dataset if evaluates else self._trainer.train_dataset
                if isinstance(dataset, Mapping):
                    dataset = next(iter(dataset.values()))
                self._trainer.args.per_device_eval_batch_size = batch_size
                loader = self._trainer.get_eval_dataloader(longest_rows(dataset, batch_size))
                self._batches[batch_size, evaluates] = next(iter(loader))
        return super().trace(step_class, batch_size)

    @property
    def _keeps_loss_only(self) -> bool:
        return self._trainer.compute_metrics is None or self._trainer.args.prediction_loss_only

    def _evaluation(self, step_class: StepClass, batch_size: int) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        if not self._evaluates:
            return (), ()
        recorder = self._recorder
        recorder.start("evaluation", Category.ACTIVATIONS)
        self._model.eval()
        inputs = self._inputs(batch_size, evaluates=True)
        with self._precision(step_class):
            _, *kept = self._trainer.prediction_step(self._model, inputs, self._keeps_loss_only)
        del inputs
        self._model.train()
        sizes = [tensor.nbytes for tensor in tensors_in(kept)]
        del kept
        predictions = tuple(Event(f"predictions {index}", size, Category.ACTIVATIONS) for index, size in enumerate(sizes))
        return recorder.segment(), predictions

    def _forward(self, step_class: StepClass, batch_size: int, *, evaluates: bool = False) -> Any:
        trainer = self._trainer
        counts_items = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
        num_items = torch.ones((), dtype=torch.long) if counts_items else None
        with self._precision(step_class):
            return trainer.compute_loss(
                self._model, self._inputs(batch_size, evaluates=evaluates), num_items_in_batch=num_items
            )

    def _inputs(self, batch_size: int, *, evaluates: bool = False) -> Any:
        return _faked(self._batches[batch_size, evaluates])

    @contextmanager
    def _precision(self, step_class: StepClass) -> Iterator[None]:
        """Let the model compute as accelerate prepares it: in half precision, with results in full precision."""
        half = HALF.get(step_class.precision)
        if half is None:
            yield
            return
        model = self._model
        original = model.forward
        model.forward = convert_outputs_to_fp32(_in_half(original, half))
        try:
            yield
        finally:
            model.forward = original


def _in_half(forward: Callable[..., Any], half: torch.dtype) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=half):
            return forward(*args, **kwargs)

    return run


def _faked(value: Any) -> Any:
    """Return a batch with new tensors of the same shapes in place of its own."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    if hasattr(value, "keys"):
        return {name: _faked(value[name]) for name in value}
    return type(value)(_faked(item) for item in value) if isinstance(value, list | tuple) else value
