"""Traces a model of many layers that are all alike by tracing four of them.

A layer in the middle requests and releases the same blocks as the one before it. So a trace of four layers, with marks where
each layer begins forward and ends backward, holds the trace of any number: the third layer's part is repeated. It is used only
if the second and the third layer's parts are the same, event by event; otherwise every layer is traced.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from torch import nn

from tradeoff.objectives.memory_estimator.events import Event
from tradeoff.objectives.memory_estimator.tracing.outputs import tensors_in
from tradeoff.objectives.memory_estimator.tracing.recorder import StorageRecorder
from tradeoff.objectives.trainers.trained_parts import OptionFault, layers_of

# The first, two that are compared, and the last.
NUM_TRACED = 4
# FSDP2 gathers the weights of the next layer but one ahead, so the second layer is as the first: one more.
NUM_TRACED_SHARDED = 5
# What a gradient's key begins with; the parameter's name follows.
GRADIENT = "gradient "


class NotRepeated(Exception):
    """The layers do not allocate alike."""


class _Place(NamedTuple):
    """Where a block is requested: in which segment and pass, by which layer, and how many requests before its last one."""

    segment: int
    is_backward: bool
    layer: int
    num_later: int


class RepeatedLayers:
    """The layers of a model, of which a few are traced.

    Args:
        model: The model, which has these few alone until `whole` is called.
        path: The name of its list of layers.
        recorder: Records the model.
        num_traced: How many these few are. The last but one is repeated, and compared with the one before it.
    """

    def __init__(self, model: nn.Module, path: str, recorder: StorageRecorder, num_traced: int = NUM_TRACED) -> None:
        self._model = model
        self._path = path
        self._recorder = recorder
        self._all: nn.ModuleList = model.get_submodule(path)  # type: ignore[assignment]
        self._num_traced = num_traced
        self._few = nn.ModuleList(list(self._all)[:num_traced])
        self._marks: dict[tuple[bool, int], int] = {}
        self._left: dict[str, _Place] = {}  # what other segments have left, such as gradients
        # FSDP2 has hooks of its own: forward a layer begins when it is gathered, and backward it ends when it is dropped.
        self._hooks = []
        for index, layer in enumerate(self._few):
            self._hooks += [
                layer.register_forward_pre_hook(partial(self._enter, index), with_kwargs=True),
                layer.register_forward_pre_hook(partial(self._watch, index), with_kwargs=True, prepend=True),
            ]
        self._hooks.append(self._few[-1].register_forward_hook(self._leave))
        self._put(self._few)

    def whole(self) -> None:
        """Give the model back all its layers."""
        self._put(self._all)

    def few(self) -> None:
        """Leave the model the layers that are traced."""
        self._put(self._few)

    def remove(self) -> None:
        """Give the model back all its layers, for good."""
        for hook in self._hooks:
            hook.remove()
        self.whole()

    def start(self) -> None:
        """Begin a segment."""
        self._marks = {}

    def traced_name(self, name: str) -> str:
        """Return the name of the traced parameter that stands for a parameter of the whole model."""
        prefix = f"{self._path}."
        if not name.startswith(prefix):
            return name
        number, _, rest = name.removeprefix(prefix).partition(".")
        is_last = int(number) == len(self._all) - 1
        return f"{prefix}{self._num_traced - 1 if is_last else min(int(number), self._num_traced - 2)}.{rest}"

    def of_all(self, events: Sequence[Event]) -> list[Event]:
        """Return the events of a segment as all layers would have made them.

        Raises:
            NotRepeated: The layers that were compared do not allocate alike.
        """
        parts = _parts(self._marks, len(events), self._num_traced)
        expansion = _Expansion(events, parts, self._path, len(self._all), self._num_traced, self._left)
        self._left |= expansion.left
        return expansion.events()

    def _put(self, layers: nn.ModuleList) -> None:
        owner, _, name = self._path.rpartition(".")
        setattr(self._model.get_submodule(owner), name, layers)

    def _enter(self, index: int, *_: Any) -> None:
        if not self._recorder.in_backward:  # activations that are computed again are a part of the backward pass
            self._note(False, index)

    def _watch(self, index: int, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note when the gradient of what a layer is given is there."""
        if self._recorder.in_backward:
            return
        values = tensors_in([*args, *kwargs.values()])
        hidden = next((each for each in values if each.is_floating_point() and each.dim() == 3), None)
        if hidden is not None and hidden.requires_grad:
            hidden.register_hook(lambda _: self._note(True, index))  # type: ignore[no-untyped-call]

    def _leave(self, layer: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        self._enter(self._num_traced)
        self._watch(self._num_traced, layer, (output,), {})

    def _note(self, is_backward: bool, index: int) -> None:
        self._marks[is_backward, index] = len(self._recorder.events)


def repeated_layers(model: Any, recorder: StorageRecorder, num_traced: int = NUM_TRACED) -> RepeatedLayers | None:
    """Cut a model down to a few of its layers if it has many that are alike; None if not."""
    if model.config.is_encoder_decoder:
        return None
    try:
        path, layers = layers_of(model)
    except OptionFault:
        return None
    if len(layers) <= num_traced + 1 or len(set(getattr(model.config, "layer_types", None) or [None])) > 1:
        return None
    if len({_signature(layer) for layer in layers}) > 1:
        return None
    return RepeatedLayers(model, path, recorder, num_traced)


def _signature(layer: nn.Module) -> tuple[Any, ...]:
    """Return all that tells layers apart, but for their numbers."""
    return tuple(
        (
            name,
            type(module),
            *((key, value) for key, value in sorted(vars(module).items()) if _is_setting(key, value)),
            *((key, each.shape, each.dtype, each.requires_grad) for key, each in module.named_parameters(recurse=False)),
            *((key, each.shape, each.dtype) for key, each in module.named_buffers(recurse=False)),
        )
        for name, module in layer.named_modules()
    )


def _is_setting(name: str, value: Any) -> bool:
    return isinstance(value, int | float | str | None) and not name.startswith("layer_id")


# Of a pass, of a layer (None: of none), the first event and the one behind the last.
_Part = tuple[bool, int | None, int, int]


class _Expansion:
    """A segment of a few layers that becomes one of many."""

    def __init__(
        self,
        events: Sequence[Event],
        parts: Sequence[_Part],
        path: str,
        num_layers: int,
        num_traced: int,
        left: Mapping[str, _Place],
    ) -> None:
        self._events = events
        self._parts = parts
        self._gradient = f"{GRADIENT}{path}."
        self._last_traced, self._repeated = num_traced - 1, num_traced - 2
        self._num_copies = num_layers - num_traced + 1
        self._last = num_layers - 1
        segment = 1 + max((place.segment for place in left.values()), default=0)
        self._places = dict(left)
        self._released_in: dict[str, int] = {}
        for number, (is_backward, layer, begin, end) in enumerate(parts):
            part = events[begin:end]
            self._released_in |= {event.key: number for event in part if event.num_bytes is None}
            if layer is not None:
                requested = reversed([event.key for event in part if event.num_bytes is not None])
                self._places |= {key: _Place(segment, is_backward, layer, num_later) for num_later, key in enumerate(requested)}
        self._keys = {place: key for key, place in self._places.items()}

    @property
    def left(self) -> dict[str, _Place]:
        """What the segment leaves behind, of all that layers have requested."""
        return {key: place for key, place in self._places.items() if key not in self._released_in}

    def events(self) -> list[Event]:
        spans = {(is_backward, layer): (begin, end) for is_backward, layer, begin, end in self._parts}
        repeated = self._repeated
        for is_backward in {part[0] for part in self._parts}:
            if self._shape(spans[is_backward, repeated - 1], repeated - 1) != self._shape(
                spans[is_backward, repeated], repeated
            ):
                raise NotRepeated
        found: list[Event] = []
        for number, (is_backward, layer, begin, end) in enumerate(self._parts):
            part = self._events[begin:end]
            if layer == repeated:
                copies = range(self._num_copies)
                for copy in reversed(copies) if is_backward else copies:
                    found += [self._of_copy(event, copy) for event in part]
            else:
                for event in part:
                    found += self._outside(event, number)
        return found

    def _shape(self, span: tuple[int, int], layer: int) -> list[Any]:
        """Return what a layer's part does, in terms that are the same for every layer; releases in a row have no order."""
        shape: list[Any] = []
        for event in self._events[slice(*span)]:
            if event.num_bytes is not None:
                shape.append((self._renumbered(event.key, 0).rpartition(" ")[2], event.num_bytes, event.category))
                continue
            place = self._places.get(event.key)
            released = event.key if place is None else place._replace(layer=place.layer - layer)
            if not shape or not isinstance(shape[-1], Counter):
                shape.append(Counter())
            shape[-1][released] += 1
        return shape

    def _of_copy(self, event: Event, copy: int) -> Event:
        """Return an event of the repeated layer in one of its copies."""
        if event.num_bytes is not None:
            return event._replace(key=self._copied(event.key, copy))
        place = self._places.get(event.key)
        if place is None:
            raise NotRepeated
        layer = place.layer + copy
        if layer < self._repeated:
            return Event(self._key(place._replace(layer=layer)), None)
        if layer >= self._last:
            return Event(self._key(place._replace(layer=self._last_traced)), None)
        return Event(self._copied(self._key(place._replace(layer=self._repeated)), layer - self._repeated), None)

    def _outside(self, event: Event, part: int) -> list[Event]:
        """Return an event of another part: once, or for each copy if it releases what every layer has left."""
        place = self._places.get(event.key)
        if place is None or event.num_bytes is not None or place.layer != self._repeated:
            is_of_last = event.key.startswith(f"{self._gradient}{self._last_traced}.")
            return [event._replace(key=self._renumbered(event.key, self._last))] if is_of_last else [event]
        if self._released_in.get(self._key(place._replace(layer=self._repeated - 1))) == part:
            copies = range(self._num_copies)
        else:
            is_backward, layer, *_ = self._parts[part]
            nearest = 0 if is_backward and (layer is None or layer < self._repeated) else self._num_copies - 1
            copies = range(nearest, nearest + 1)
        return [Event(self._copied(event.key, copy), None) for copy in copies]

    def _key(self, place: _Place) -> str:
        if place not in self._keys:
            raise NotRepeated
        return self._keys[place]

    def _copied(self, key: str, copy: int) -> str:
        if key.startswith(self._gradient):
            return self._renumbered(key, self._repeated + copy)
        return f"{key} of copy {copy}" if copy else key

    def _renumbered(self, key: str, number: int) -> str:
        """Return a key with another layer's number, if it names a gradient."""
        if not key.startswith(self._gradient):
            return key
        return f"{self._gradient}{number}.{key.removeprefix(self._gradient).partition('.')[2]}"


def _parts(marks: Mapping[tuple[bool, int], int], num_events: int, num_traced: int) -> list[_Part]:
    """Return the parts of a segment in order: of each layer, and of what lies between and around them.

    Raises:
        NotRepeated: A layer's beginning was not seen.
    """
    layers = range(1, num_traced)
    forward = [(False, index) for index in range(1, num_traced + 1)]
    backward = [(True, index) for index in range(num_traced, 0, -1)] if any(mark[0] for mark in marks) else []
    if any(mark not in marks for mark in forward + backward):
        raise NotRepeated
    bounds = [0, *(marks[mark] for mark in forward + backward), num_events]
    if bounds != sorted(bounds):
        raise NotRepeated
    names: list[tuple[bool, int | None]] = [(False, 0), *((False, layer) for layer in layers), (False, None)]
    if backward:
        names += [*((True, layer) for layer in reversed(layers)), (True, None)]
    return [(*name, begin, end) for name, (begin, end) in zip(names, pairwise(bounds), strict=True)]
