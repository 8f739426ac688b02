"""Traces the stages of a training run on fake tensors: what each allocates and releases, in order."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from transformers import PretrainedConfig

from tradeoff.objectives.memory_estimator.events import Category, Event, Segments
from tradeoff.objectives.memory_estimator.settings import RELEASES, StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.cuda_dispatch import cuda_dispatch
from tradeoff.objectives.memory_estimator.tracing.fake_model import build_fake_model, fake_batch
from tradeoff.objectives.memory_estimator.tracing.model_config import first_line
from tradeoff.objectives.memory_estimator.tracing.optimizers import build_optimizer, clip_gradients
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder
from tradeoff.searchspace import Precision

_HALF = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


class Tracer:
    """A model on fake tensors, of which any step class and batch size can be traced.

    Args:
        config: The model's configuration.
        settings: How training runs.

    Raises:
        ValueError: The model can't be built.
    """

    def __init__(self, config: PretrainedConfig, settings: TraceSettings) -> None:
        self._settings = settings
        self._name = config.model_type
        self._fake = FakeTensorMode()
        self._recorder = StorageRecorder(settings.blas if settings.target == "cuda" else None)
        with self._fake:
            self._model: Any = build_fake_model(config, settings)
        self._recorder.start("build", Category.WEIGHTS)
        self._recorder.track(_in_order_of_transfer(self._model), "weight", Category.WEIGHTS)
        self._build = tuple(self._recorder.events)
        self._checkpointing = False
        self._outside_loss = False
        self._steps: tuple[tuple[Event, ...], tuple[Event, ...], tuple[Event, ...]] | None = None

    def trace(self, step_class: StepClass, batch_size: int) -> Segments:
        """The segments of a run with micro-batches of `batch_size`, also for evaluation.

        Raises:
            ValueError: The model does something that fake tensors can't follow.
        """
        try:
            return self._trace(step_class, batch_size)
        except ValueError as error:
            by_data = isinstance(error.__cause__, DataDependentOutputException | DynamicOutputShapeException)
            if not by_data or self._outside_loss or self._settings.task != "sequence-classification":
                raise
        # A head may pick the labelled samples by their values (DeBERTa's does). On a few labels the plain loss takes the same.
        self._outside_loss = True
        return self._trace(step_class, batch_size)

    def _trace(self, step_class: StepClass, batch_size: int) -> Segments:
        model, recorder = self._model, self._recorder
        self._set_checkpointing(step_class.gradient_checkpointing)
        with self._tracing():
            evaluation = self._evaluation(step_class, batch_size)
            first = self._micro_batch("first", step_class, batch_size)
            gradients = {f"gradient {index}": p.grad for index, p in enumerate(model.parameters()) if p.grad is not None}
            recorder.rename(gradients, Category.GRADIENTS)
            first = tuple(recorder.events)
            following = self._micro_batch("next", step_class, batch_size)
            if self._steps is None:
                # What the optimizer does depends on the parameters alone: once is enough for every class.
                self._steps = self._optimizer_steps(tuple(gradients))
            del gradients
            model.zero_grad(set_to_none=True)
        first_step, next_step, zero_gradients = self._steps
        return Segments(
            build=self._build,
            evaluation=evaluation,
            first_micro_batch=first,
            next_micro_batch=following,
            first_step=first_step,
            next_step=next_step,
            zero_gradients=zero_gradients,
        )

    def _set_checkpointing(self, on: bool) -> None:
        if on == self._checkpointing:
            return
        model = self._model
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ValueError(f"{self._name} models have no gradient checkpointing: leave it out of the space")
        # transformers 5.22 gave the two methods new names and warns of the old ones.
        prefix = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        if on:
            getattr(model, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(model, f"{prefix}_checkpointing_disable")()
        self._checkpointing = on

    def _evaluation(self, step_class: StepClass, batch_size: int) -> tuple[Event, ...]:
        self._recorder.start("evaluation", Category.ACTIVATIONS)
        self._model.eval()
        with torch.no_grad():
            self._forward(step_class, batch_size)
        self._model.train()
        return tuple(self._recorder.events)

    def _micro_batch(self, name: str, step_class: StepClass, batch_size: int) -> tuple[Event, ...]:
        """One call of `Trainer.training_step`."""
        self._recorder.start(name, Category.ACTIVATIONS)
        loss = self._forward(step_class, batch_size)
        if step_class.precision is Precision.FP16:
            loss = loss * torch.full((), 65536.0)
        self._recorder.in_backward = True
        try:
            loss.backward()
        finally:
            self._recorder.in_backward = False
        del loss
        return tuple(self._recorder.events)

    def _forward(self, step_class: StepClass, batch_size: int) -> Any:
        """`Trainer.compute_loss` of a model prepared by accelerate, which brings half-precision outputs back to float32."""
        inputs = fake_batch(self._model, batch_size, self._settings)
        labels = inputs.pop("labels") if self._outside_loss else None
        half = _HALF.get(step_class.precision)
        with torch.autocast("cpu", dtype=half) if half is not None else nullcontext():
            outputs = self._model(**inputs)
        if half is not None:
            outputs = {name: _to_float32(value) for name, value in outputs.items()}
        if labels is not None:
            if labels.is_floating_point():
                return torch.nn.functional.mse_loss(outputs["logits"].squeeze(-1), labels)
            return torch.nn.functional.cross_entropy(outputs["logits"], labels)
        return outputs["loss"]

    def _optimizer_steps(self, gradients: tuple[str, ...]) -> tuple[tuple[Event, ...], tuple[Event, ...], tuple[Event, ...]]:
        settings, recorder = self._settings, self._recorder
        optimizer = build_optimizer(
            self._model,
            settings.optimizer,
            foreach=settings.foreach,
            weight_decay=settings.weight_decay,
            copies_denominator=RELEASES[settings.torch_release].adamw_copies_denominator,
        )
        recorder.skip_scalars = True
        steps = []
        for name in ("first step", "next step"):
            recorder.start(name, Category.WORKSPACE)
            held = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
            if settings.max_grad_norm > 0:
                clip_gradients(held, settings.max_grad_norm)
            del held
            optimizer.step()
            state = {
                f"state {index} {key}": value
                for index, parameter in enumerate(self._model.parameters())
                for key, value in optimizer.state.get(parameter, {}).items()
                if isinstance(value, torch.Tensor) and value.dim() > 0
            }
            recorder.rename(state, Category.OPTIMIZER)
            del state
            steps.append(tuple(recorder.events))
        recorder.skip_scalars = False
        kept = RELEASES[settings.torch_release].keeps_gradients
        return steps[0], steps[1], () if kept else tuple(Event(key, None) for key in gradients)

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self._settings.target == "cuda":
                traits = RELEASES[self._settings.torch_release]
                stack.enter_context(
                    cuda_dispatch(
                        flash_attention=self._settings.flash_attention, softmax_saves_input=traits.softmax_saves_input
                    )
                )
            stack.enter_context(self._fake)
            stack.enter_context(self._recorder)
            try:
                yield
            except (DataDependentOutputException, DynamicOutputShapeException) as error:
                raise ValueError(
                    f"the memory of {self._name} models can't be predicted, since {error.func} depends on the data: "
                    "probes measure it all the same"
                ) from error
            except (UnsupportedFakeTensorException, UnsupportedOperatorException) as error:
                raise ValueError(
                    f"the memory of {self._name} models can't be predicted, since fake tensors don't support "
                    f"{getattr(error, 'func', error)}: probes measure it all the same"
                ) from error
            except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
                # The model's own code: it may refuse fake tensors, or a configuration that lacks what it reads.
                raise ValueError(
                    f"the memory of {self._name} models can't be predicted, since their code fails on fake tensors "
                    f"({first_line(error)}): probes measure it all the same"
                ) from error


def _in_order_of_transfer(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers in the order in which `module.to(device)` moves them: children first."""
    for child in module.children():
        yield from _in_order_of_transfer(child)
    yield from (parameter for parameter in module._parameters.values() if parameter is not None)
    yield from (buffer for buffer in module._buffers.values() if buffer is not None)


def _to_float32(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
