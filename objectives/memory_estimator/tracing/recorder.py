"""Records when each storage of a running program is allocated and released."""

import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.events import HELD, PREVIOUS, Category, Event
from tradeoff.objectives.memory_estimator.tracing.workspaces import MATRIX_PRODUCTS, kernel_workspace

# Operators that allocate what they return; the last three are those of tensors that are spread over devices.
_NAMESPACES = ("aten", "bitsandbytes", "c10d", "_c10d_functional", "fsdp")
# How often the clock is looked at.
_OPERATORS_BETWEEN_LOOKS = 100


class TakesTooLong(Exception):
    """A program runs longer than it may."""


class StorageRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that writes an `Event` whenever a storage is allocated or released.

    A storage is released with its last reference, as on a GPU, and not with a view of it. The order within an operator is that
    of CUDA: its workspace is allocated after its result, and released before the next operator. Of a tensor that is spread over
    devices this one's part is recorded.

    Args:
        blas: The workspaces of matrix products; None to record storages alone, as on a CPU.

    Attributes:
        events: Everything recorded since the last call of `start`.
        in_backward: Set while a backward pass runs: on a GPU its thread has a workspace of its own.
        category: The category of what is being recorded.
        until_s: The process's own time, as `time.process_time` has it, at which recording ends with `TakesTooLong`.
        skip_scalars: Leave out tensors without dimensions (the optimizer's step counters, which stay on the host).
    """

    def __init__(self, blas: BlasWorkspace | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blas = blas
        self.events: list[Event] = []
        self.in_backward = False
        self.category = Category.ACTIVATIONS
        self.until_s = math.inf
        self.skip_scalars = False
        self._prefix = ""
        self._num_keys = 0
        self._num_operators = 0
        self._operator = ""
        self._live: dict[int, tuple[str, weakref.ref[Any]]] = {}
        self._streams: dict[Any, int] = {torch.cpu.current_stream(): 0}
        self._blas_threads: set[bool] = set()

    def start(self, prefix: str, category: Category) -> None:
        """Begin a segment: keys start with `prefix` and count from 0."""
        self.events = []
        self._prefix = prefix
        self._num_keys = 0
        self._blas_threads = set()
        self.category = category

    def forget(self) -> None:
        """Leave out what becomes of all that is allocated now."""
        self._live.clear()

    def segment(self) -> tuple[Event, ...]:
        """Return the events in an order that every trace of the segment has."""
        return in_common_order(self.events)

    def track(self, tensors: Iterable[torch.Tensor], name: str, category: Category) -> None:
        """Record storages that exist already as allocated now, named in order."""
        for index, tensor in enumerate(tensors):
            self._note(_own_part(tensor).untyped_storage(), category, key=f"{name} {index}")

    def rename(self, tensors: Mapping[str, torch.Tensor], category: Category) -> None:
        """Rename live storages to their keys in `tensors`, also in the events of this segment."""
        names = {}
        for key, tensor in tensors.items():
            address = _own_part(tensor).untyped_storage()._cdata
            old, reference = self._live[address]
            self._live[address] = (key, reference)
            names[old] = key
        self.events = [
            event._replace(key=names[event.key], category=category if event.num_bytes is not None else None)
            if event.key in names
            else event
            for event in self.events
        ]

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Rename what this segment has allocated for these tensors, and what it leaves to the next one thereby."""
        made = {tensor.untyped_storage()._cdata: tensor for tensor in tensors}
        own = [tensor for address, tensor in made.items() if address in self._live and self._is_own(address)]
        self.rename({f"{HELD}{index}": tensor for index, tensor in enumerate(own)}, Category.ACTIVATIONS)

    def keep_held(self) -> None:
        """Let what was held be that of an earlier segment, in the events to come."""
        for address, (key, reference) in self._live.items():
            if key.startswith(HELD):
                self._live[address] = (PREVIOUS + key.removeprefix(HELD), reference)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Record that a storage, which remains, was emptied, or filled again with weights that were gathered."""
        if storage.nbytes() > 0:
            self._operator = "resize"
            self._note(storage, Category.WEIGHTS)
        else:
            self._release_of(storage._cdata)(None)

    def _is_own(self, address: int) -> bool:
        return self._live[address][0].startswith(f"{self._prefix} ")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if DTensor in types:
            return NotImplemented  # what it does to its part comes here by itself
        if func is torch.ops.prim.device.default:
            return args[0].fake_device  # asked for more often than all operators together
        result = func(*args, **(kwargs or {}))
        if func.namespace not in _NAMESPACES:
            return result
        self._num_operators += 1
        # Asking for the time may take longer than an operator.
        if self._num_operators % _OPERATORS_BETWEEN_LOOKS == 0 and time.process_time() > self.until_s:
            raise TakesTooLong
        self._operator = func._opname
        self._visit(result)
        if self.blas is not None:
            self._take_workspaces(func._schema.name, args, self.blas)
        return result

    def _visit(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            # A spread tensor's shape is worked out on tensors without storage, which are no fake ones.
            is_shape_only = type(value) is torch.Tensor and value.is_meta
            if not (is_shape_only or (self.skip_scalars and value.dim() == 0)):
                self._note(value.untyped_storage(), self.category)
        elif isinstance(value, tuple | list):
            for item in value:
                self._visit(item)

    def _note(self, storage: torch.UntypedStorage, category: Category, key: str | None = None) -> None:
        address = storage._cdata
        if address in self._live:
            return
        num_bytes = storage.nbytes()
        if num_bytes == 0:
            return
        if key is None:
            key = self._next_key()
        self._live[address] = (key, weakref.ref(storage, self._release_of(address)))
        current = torch.cpu.current_stream()
        self.events.append(Event(key, num_bytes, category, self._streams.setdefault(current, len(self._streams))))

    def _release_of(self, address: int) -> Callable[[Any], None]:
        def release(_: Any) -> None:
            if address in self._live:  # unless it was emptied before
                key, _reference = self._live.pop(address)
                self.events.append(Event(key, None))

        return release

    def _take_workspaces(self, name: str, arguments: tuple[Any, ...], blas: BlasWorkspace) -> None:
        if name in MATRIX_PRODUCTS and self.in_backward not in self._blas_threads:
            self._blas_threads.add(self.in_backward)
            thread = "backward" if self.in_backward else "forward"
            self.events.append(Event(f"cublas {thread}", blas.cublas_bytes, Category.WORKSPACE))
        keys = []
        for num_bytes in kernel_workspace(name, arguments, blas):
            keys.append(self._next_key())
            self.events.append(Event(keys[-1], num_bytes, Category.WORKSPACE))
        self.events.extend(Event(key, None) for key in reversed(keys))

    def _next_key(self) -> str:
        key = f"{self._prefix} {self._num_keys} {self._operator}"
        self._num_keys += 1
        return key


def _own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this device's part of a tensor that is spread over several."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def in_common_order(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return events in an order that every trace of their segment has.

    What is released at once, as the copies that autocast keeps of weights, comes in an order of addresses; after the last
    of these releases the allocator is the same in any order.
    """
    ordered: list[Event] = []
    for is_release, together in groupby(events, key=lambda event: event.num_bytes is None):
        run = list(together)
        ordered += sorted(run) if is_release else run
    return tuple(ordered)
