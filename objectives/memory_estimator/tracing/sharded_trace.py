"""Traces a model that is spread over several devices, as the first of them sees it: FSDP2, as the Trainer sets it up.

The sharding is torch's own (`fully_shard`) in accelerate's units, between ranks of which the first alone is real: torch's
`fake` process group answers for the others at once. So gathered weights, exchanged gradients and what is prefetched are
requested when they would be, and on the stream on which they would be. Where a parameter can't be divided evenly, the first
rank has the most.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as distributed
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from transformers import PretrainedConfig

from tradeoff.objectives.memory_estimator.events import Category, Event, Segments
from tradeoff.objectives.memory_estimator.settings import Sharding, StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.fake_tensors import DependsOnData
from tradeoff.objectives.memory_estimator.tracing.model_config import first_line
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder
from tradeoff.objectives.memory_estimator.tracing.repeated_layers import NUM_TRACED_SHARDED
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.searchspace import Precision

# bitsandbytes' and transformers' Adafactor know no such weights.
_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")


class ShardedTracer(Tracer):
    """Traces a model on one of several devices that share its weights.

    Raises:
        ValueError: The model can't be built, or not be spread.
    """

    num_traced_layers = NUM_TRACED_SHARDED

    def __init__(self, config: PretrainedConfig, settings: TraceSettings) -> None:
        if settings.lora is not None or settings.four_bit:
            raise ValueError("sharding is planned for models of which all weights are trained: leave adapters out")
        if settings.loop == "plain":
            raise ValueError("sharding is planned as the Trainer does it: leave --loop plain out")
        if settings.optimizer not in _OPTIMIZERS:
            raise ValueError(
                f"{settings.optimizer} can't update weights that are spread over devices: choose {', '.join(_OPTIMIZERS)}"
            )
        self._config = config
        super().__init__(config, settings)

    def trace(self, step_class: StepClass, batch_size: int) -> Segments:
        """Return the segments of a run with micro-batches of `batch_size`, as `Tracer.trace` does."""
        with ranks(self._settings.num_devices) as self._mesh:
            try:
                return super().trace(step_class, batch_size)
            finally:
                self._model = None  # it is of no use without its ranks

    def _trace_stages(self, step_class: StepClass, batch_size: int) -> Segments:
        model: Any = self.build_model(self._config)
        assert self._settings.sharding is not None
        with self._fake:
            shard(model, self._mesh, self._settings.sharding, step_class.precision)
        self._place(model)
        self._set_checkpointing(step_class.gradient_checkpointing)
        with self._tracing(), emptied_storages(self._recorder):
            # What is gathered gets its place when it first comes, and is emptied and filled from then on.
            self._run_once(step_class, batch_size)
            model.zero_grad(set_to_none=True)
            self._micro_batch("first", step_class, batch_size)
            first = self._with_gradients()
            if self._steps is None:
                names = set(self._gradients())
                self._optimizer_steps(names)  # works out shapes, on whole tensors that no device would have
                self._steps = self._optimizer_steps(names)
            model.zero_grad(set_to_none=True)
            model.set_requires_gradient_sync(False)
            first_of_several = _kept(self._micro_batch("first of several", step_class, batch_size))
            next_of_several = self._micro_batch("next of several", step_class, batch_size)
            model.set_requires_gradient_sync(True)
            self._micro_batch("last of several", step_class, batch_size)
            last_of_several = self._with_gradients()
            model.zero_grad(set_to_none=True)
            # At the end: the backward pass that follows an evaluation gathers the head once more than any other does.
            evaluation, predictions = self._evaluation(step_class, batch_size)
        return self._segments(
            evaluation=evaluation,
            predictions=predictions,
            first_micro_batch=first,
            next_micro_batch=(),  # no gradients are kept from one step to the next
            first_of_several=first_of_several,
            next_of_several=next_of_several,
            last_of_several=last_of_several,
        )

    def _run_once(self, step_class: StepClass, batch_size: int) -> None:
        try:
            self._forward(step_class, batch_size).backward()
        except DependsOnData:
            raise
        except ValueError as error:  # torch looks at some of a model when it first runs
            raise _not_spread(self._name, error) from error

    def _evaluation(self, step_class: StepClass, batch_size: int) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        _, predictions = super()._evaluation(step_class, batch_size)
        # The units that the next forward pass begins with would stay whole until then.
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return self._segment(), predictions

    def _forward(self, step_class: StepClass, batch_size: int, *, evaluates: bool = False) -> Any:
        """Run the model without autocast: its units compute in half precision by their own policy."""
        return super()._forward(replace(step_class, precision=Precision.FP32), batch_size, evaluates=evaluates)

    def _trace_every_layer(self) -> None:
        self._may_repeat = False  # the model is built anew


def shard(model: Any, mesh: DeviceMesh, sharding: Sharding, precision: Precision) -> None:
    """Spread a model as accelerate does: each layer is a unit, and so are the embeddings and the head.

    Raises:
        ValueError: It can't be spread.
    """
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=sharding == "full_shard",
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
    )
    is_half = precision is not Precision.FP32
    if is_half:
        plugin.set_mixed_precision(precision.value)
    # What accelerate reads of an Accelerator, which itself spreads nothing without several GPUs.
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=mesh.mesh_dim_names),
        mixed_precision=precision.value if is_half else "no",
        is_main_process=False,
        device=torch.device("cpu"),
    )
    try:
        fsdp2_prepare_model(accelerator, model)
    except Exception as error:  # of any type: accelerate's and torch's code, on any model
        raise _not_spread(model.config.model_type, error) from error


def _not_spread(model_type: str, error: Exception) -> ValueError:
    return ValueError(f"{model_type} models can't be spread over devices: {first_line(error)}")


@contextmanager
def ranks(number: int) -> Iterator[DeviceMesh]:
    """Let this process be the first of `number` ranks, of which the others are not there.

    Raises:
        ValueError: The process is one of several already.
    """
    if distributed.is_initialized():
        raise ValueError("memory with sharding is estimated in a process that is not itself one of several that train together")
    distributed.init_process_group("fake", rank=0, world_size=number)
    try:
        yield init_device_mesh("cpu", (number,), mesh_dim_names=("fsdp",))
    finally:
        distributed.destroy_process_group()


@contextmanager
def emptied_storages(recorder: StorageRecorder) -> Iterator[None]:
    """Record when storages are emptied and filled again, which is how FSDP2 releases what it has gathered."""
    resize = torch.UntypedStorage.resize_

    def resize_and_record(storage: Any, size: int) -> Any:
        result = resize(storage, size)
        recorder.resized(storage)
        return result

    torch.UntypedStorage.resize_ = resize_and_record  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]


def _kept(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Let what a segment leaves behind be gradients."""
    released = {event.key for event in events if event.num_bytes is None}
    return tuple(
        event if event.num_bytes is None or event.key in released or event.category is Category.WORKSPACE
        else event._replace(category=Category.GRADIENTS)
        for event in events
    )  # fmt: skip
