"""Traces the stages of a training run on fake tensors: what each one allocates and releases, in order."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers import PretrainedConfig

from tradeoff.objectives.memory_estimator.events import Category, Event, Segments
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.cuda_dispatch import Operator, cuda_dispatch
from tradeoff.objectives.memory_estimator.tracing.fake_model import build_fake_model, fake_batch
from tradeoff.objectives.memory_estimator.tracing.fake_tensors import (
    DependsOnData,
    FakeTensorMode,
    KnownMasks,
    explained,
)
from tradeoff.objectives.memory_estimator.tracing.four_bit import compute_in
from tradeoff.objectives.memory_estimator.tracing.language_loss import as_on_a_gpu, loss_of
from tradeoff.objectives.memory_estimator.tracing.optimizers import bucket_sizes, build_optimizer, clip_gradients
from tradeoff.objectives.memory_estimator.tracing.outputs import tensors_in
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder, TakesTooLong, in_common_order
from tradeoff.objectives.memory_estimator.tracing.repeated_layers import (
    GRADIENT,
    NUM_TRACED,
    NotRepeated,
    RepeatedLayers,
    repeated_layers,
)
from tradeoff.searchspace import Precision

# Of one core for one batch size. BERT-base takes 3 to 5 s; code that goes from token to token takes hours.
MAX_TRACE_S = 300.0

HALF = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


class Tracer:
    """Traces a model on fake tensors, for any step class and batch size.

    A subclass traces another release of torch: it overrides `operators`, `build_optimizer` and `zero_gradients`. Or it traces a
    model that comes to the device in another way.

    Raises:
        ValueError: The model can't be built.
    """

    operators: Mapping[str, Operator] = {}
    num_traced_layers = NUM_TRACED

    def __init__(self, config: PretrainedConfig, settings: TraceSettings) -> None:
        self._settings = settings
        self._name = config.model_type
        self._fake = FakeTensorMode()
        self._recorder = StorageRecorder(settings.blas if settings.target == "cuda" else None)
        self._may_repeat = settings.task != "own" and settings.loop == "trainer"
        self._loss_outside = False
        self._held: Any = None
        self._steps: tuple[tuple[Event, ...], tuple[Event, ...], tuple[Event, ...]] | None = None
        self._place(self.build_model(config))

    def trace(self, step_class: StepClass, batch_size: int) -> Segments:
        """Return the segments of a run with micro-batches of `batch_size`, in training and in evaluation.

        Raises:
            ValueError: The model does something that fake tensors can't follow.
        """
        try:
            return self._trace(step_class, batch_size)
        except DependsOnData:
            if self._loss_outside or self._settings.task != "sequence-classification":
                raise
        # A head may pick the labelled samples by their values (DeBERTa's does). The plain loss needs as much for so few labels.
        self._loss_outside = True
        return self._trace(step_class, batch_size)

    @property
    def traces_few_layers(self) -> bool:
        """Whether the model's layers are alike, so that a few of them stand for all."""
        return self._layers is not None

    def build_model(self, config: PretrainedConfig) -> torch.nn.Module:
        """Return the model on fake tensors, in training mode."""
        return build_fake_model(config, self._settings, self._fake)

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer whose steps are traced."""
        settings = self._settings
        return build_optimizer(model, settings.optimizer, foreach=settings.foreach, weight_decay=settings.weight_decay)

    def zero_gradients(self, gradients: Iterable[str]) -> tuple[Event, ...]:
        """Return the events of `Optimizer.zero_grad`, which drops the gradients with these keys."""
        return tuple(Event(key, None) for key in gradients)

    def _place(self, model: Any) -> None:
        """Take a model, and record that it came to the device."""
        self._model: Any = model
        self._recorder.forget()
        self._recorder.start("build", Category.WEIGHTS)
        self._recorder.track(_in_order_of_transfer(model), "weight", Category.WEIGHTS)
        exchanges_all = self._settings.num_devices > 1 and self._settings.sharding is None
        buckets = bucket_sizes(model.parameters()) if exchanges_all else []
        self._build = (
            *self._recorder.events,
            *(Event(f"bucket {index}", size, Category.GRADIENTS) for index, size in enumerate(buckets)),
        )
        self._layers: RepeatedLayers | None = None
        if self._may_repeat:
            self._layers = repeated_layers(model, self._recorder, self.num_traced_layers)
        self._checkpointing = False

    def _trace(self, step_class: StepClass, batch_size: int) -> Segments:
        self._recorder.until_s = time.process_time() + MAX_TRACE_S
        try:
            if self._layers is not None:
                try:
                    return self._trace_stages(step_class, batch_size)
                except DependsOnData:
                    raise
                except (NotRepeated, ValueError, LookupError):
                    self._trace_every_layer()
            return self._trace_stages(step_class, batch_size)
        except TakesTooLong as error:
            raise ValueError(
                f"the memory of {self._name} models can't be estimated, since their code takes more than {MAX_TRACE_S:g} s"
                " to trace: probes measure it anyway"
            ) from error

    def _trace_every_layer(self) -> None:
        """Trace all layers from now on: with fewer, the model's code fails or allocates otherwise."""
        assert self._layers is not None
        self._set_checkpointing(False)
        self._model.zero_grad(set_to_none=True)
        self._layers.remove()
        self._layers, self._may_repeat = None, False

    def _trace_stages(self, step_class: StepClass, batch_size: int) -> Segments:
        model = self._model
        self._set_checkpointing(step_class.gradient_checkpointing)
        if self._settings.four_bit:
            compute_in(model, HALF.get(step_class.precision, torch.float32))
        with self._tracing():
            evaluation, predictions = self._evaluation(step_class, batch_size)
            if self._settings.loop == "plain":
                # What the first micro-batch finds is what another one has left.
                self._micro_batch("before", step_class, batch_size)
                model.zero_grad(set_to_none=True)
            self._micro_batch("first", step_class, batch_size)
            first = self._with_gradients()
            following = self._micro_batch("next", step_class, batch_size)
            if self._steps is None:
                # The optimizer depends on the parameters alone: one trace is enough for every class.
                self._steps = self._optimizer_steps(set(self._gradients()))
            self._held = None
            model.zero_grad(set_to_none=True)
        return self._segments(
            evaluation=evaluation, predictions=predictions, first_micro_batch=first, next_micro_batch=following
        )

    def _segments(self, **stages: tuple[Event, ...]) -> Segments:
        """Return these stages with the model's way to the device and the optimizer's steps."""
        assert self._steps is not None
        first_step, next_step, zero_gradients = self._steps
        return Segments(build=self._build, first_step=first_step, next_step=next_step, zero_gradients=zero_gradients, **stages)

    def _set_checkpointing(self, on: bool) -> None:
        if on == self._checkpointing:
            return
        model = self._model
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ValueError(f"{self._name} models have no gradient checkpointing; remove it from the search space")
        # transformers 5.22 renamed the two methods, and warns of the old names.
        prefix = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        if on:
            getattr(model, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(model, f"{prefix}_checkpointing_disable")()
        if self._settings.task == "sft" and self._settings.lora is not None:
            # SFTTrainer lets gradients pass the embeddings where activations of a model with adapters are computed again.
            (model.enable_input_require_grads if on else model.disable_input_require_grads)()
        self._checkpointing = on

    def _evaluation(self, step_class: StepClass, batch_size: int) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        """Trace a batch of an evaluation; its predictions are few numbers, or none are kept."""
        if self._settings.loop == "plain":
            return (), ()
        self._start("evaluation")
        self._model.eval()
        with torch.no_grad():
            self._forward(step_class, batch_size, evaluates=True)
        self._model.train()
        return self._segment(), ()

    def _micro_batch(self, name: str, step_class: StepClass, batch_size: int) -> tuple[Event, ...]:
        """Trace one call of `Trainer.training_step`."""
        self._start(name)
        self._recorder.keep_held()
        loss = self._forward(step_class, batch_size)
        if step_class.precision is Precision.FP16:
            loss = loss * torch.full((), 65536.0)
        self._recorder.in_backward = True
        try:
            loss.backward()
        finally:
            self._recorder.in_backward = False
        del loss
        self._recorder.hold(tensors_in(self._held))
        return self._segment()

    def _start(self, name: str) -> None:
        self._recorder.start(name, Category.ACTIVATIONS)
        if self._layers is not None:
            self._layers.start()

    def _segment(self) -> tuple[Event, ...]:
        """Return what was recorded since `_start`, of all layers."""
        events = self._recorder.events
        return in_common_order(events if self._layers is None else self._layers.of_all(events))

    def _with_gradients(self) -> tuple[Event, ...]:
        """Return the segment, whose gradients are named after their parameters."""
        self._recorder.rename(self._gradients(), Category.GRADIENTS)
        return self._segment()

    def _gradients(self) -> dict[str, torch.Tensor]:
        return {GRADIENT + name: each.grad for name, each in self._model.named_parameters() if each.grad is not None}

    def _forward(self, step_class: StepClass, batch_size: int, *, evaluates: bool = False) -> Any:
        """Run `Trainer.compute_loss` for a model prepared by accelerate, which converts half-precision outputs to float32."""
        inputs = fake_batch(self._model, batch_size, self._settings, evaluates=evaluates)
        if self._settings.task == "sft":
            inputs |= {"fused_lm_head": True, "use_cache": False}
        labels = inputs.pop("labels") if self._loss_outside else None
        half = HALF.get(step_class.precision)
        with torch.autocast("cpu", dtype=half) if half is not None else nullcontext():
            outputs = self._model(**inputs)
        if self._settings.loop == "plain":
            self._held = outputs
        elif half is not None:
            outputs = {name: _to_float32(value) for name, value in outputs.items()}
        if labels is not None:
            if labels.is_floating_point():
                return torch.nn.functional.mse_loss(outputs["logits"].squeeze(-1), labels)
            return torch.nn.functional.cross_entropy(outputs["logits"], labels)
        return loss_of(outputs) if self._settings.task == "sft" else outputs["loss"]

    def _optimizer_steps(self, gradients: Collection[str]) -> tuple[tuple[Event, ...], tuple[Event, ...], tuple[Event, ...]]:
        max_grad_norm, recorder = self._settings.max_grad_norm, self._recorder
        if self._layers is not None:
            self._layers.whole()
            for name, parameter in self._model.named_parameters():
                if parameter.grad is None and GRADIENT + self._layers.traced_name(name) in gradients:
                    parameter.grad = torch.empty_like(parameter)
        gradients = [GRADIENT + name for name, each in self._model.named_parameters() if each.grad is not None]
        optimizer = self.build_optimizer(self._model)
        recorder.skip_scalars = True
        steps = []
        for name in ("first step", "next step"):
            recorder.start(name, Category.WORKSPACE)
            held = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
            if max_grad_norm > 0:
                clip_gradients(held, max_grad_norm)
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
            steps.append(recorder.segment())
        recorder.skip_scalars = False
        if self._layers is not None:
            self._model.zero_grad(set_to_none=True)
            self._layers.few()
        return steps[0], steps[1], self.zero_gradients(gradients)

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        on_gpu = self._settings.target == "cuda"
        flash_attention = self._settings.flash_attention
        dispatch = cuda_dispatch(flash_attention=flash_attention, operators=self.operators) if on_gpu else nullcontext()
        head: AbstractContextManager[Any] = nullcontext()
        if self._settings.task == "sequence-classification" and self._model.config.is_encoder_decoder:
            head = KnownMasks(one_of_each_row=True)
        elif self._settings.task == "sft" and on_gpu:
            head = as_on_a_gpu()
        with explained(self._name), dispatch, self._fake, self._recorder, head:
            yield


def _in_order_of_transfer(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield parameters and buffers in the order in which `module.to(device)` moves them: children first."""
    for child in module.children():
        yield from _in_order_of_transfer(child)
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _to_float32(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
