"""A traced training step as plain data: segments of allocations and releases, exact at every batch size.

Within one class of settings (model, precision, checkpointing, ...) a step requests the same blocks in the same order whatever
the batch, and the size of each is a + b * batch. Two traces give a and b of every block, so the sequence is known at any batch
size. Replaying it through the allocator is exact, which interpolating the peaks would not be.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Category(StrEnum):
    """The purpose of a block of memory."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    WORKSPACE = "workspace"

    # An enum hashes in Python, which is felt where millions of events are counted by it.
    __hash__ = str.__hash__


# The beginnings of the keys of what is kept until the next forward pass, and of what is kept from the one before.
HELD, PREVIOUS = "held ", "previous "


class Event(NamedTuple):
    """A block is requested (`num_bytes` is its size) or released (`num_bytes` is None).

    A key names a block across segments: one segment releases the gradients that another one left. `stream` is the number of the
    one that requests the block, 0 for the one that computes: the allocator serves each from pools of its own.
    """

    key: str
    num_bytes: int | None
    category: Category | None = None
    stream: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """The stages of a training run, each once.

    Attributes:
        build: The model moves to the GPU.
        evaluation: A forward pass without gradients.
        first_micro_batch: A forward and backward pass that starts without gradients.
        next_micro_batch: One that adds to the gradients of an earlier one.
        first_step: Clipping, and the optimizer's first step, which creates its state.
        next_step: Clipping, and a later step.
        zero_gradients: The gradients are dropped.
        first_of_several: The first micro-batch of a step of several, where devices hold shares of the gradients: they exchange
            them after the last one alone, and each holds all of its own until then.
        next_of_several: One in the middle of these.
        last_of_several: The last of these.
        predictions: What an evaluation keeps of a batch until its end.
    """

    build: tuple[Event, ...]
    evaluation: tuple[Event, ...]
    first_micro_batch: tuple[Event, ...]
    next_micro_batch: tuple[Event, ...]
    first_step: tuple[Event, ...]
    next_step: tuple[Event, ...]
    zero_gradients: tuple[Event, ...]
    first_of_several: tuple[Event, ...] = ()
    next_of_several: tuple[Event, ...] = ()
    last_of_several: tuple[Event, ...] = ()
    predictions: tuple[Event, ...] = ()

    def as_mapping(self) -> Mapping[str, tuple[Event, ...]]:
        """Return the segments by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class NotAligned(Exception):
    """Two traces do not request the same blocks in the same order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearSegments:
    """Segments at two batch sizes, and thereby at every larger one.

    Example:
        >>> small = Segments(**{name: () for name in Segments.__slots__} | {"build": (Event("x", 300, Category.WEIGHTS),)})
        >>> large = Segments(**{name: () for name in Segments.__slots__} | {"build": (Event("x", 400, Category.WEIGHTS),)})
        >>> LinearSegments(small=small, small_batch=2, large=large, large_batch=3).at(10).build[0].num_bytes
        1100

    Raises:
        NotAligned: The two do not request the same blocks in the same order, or a size does not grow by whole bytes.
    """

    small: Segments
    small_batch: int
    large: Segments
    large_batch: int

    def __post_init__(self) -> None:
        assert self.small_batch < self.large_batch
        span = self.large_batch - self.small_batch
        for name, small_events, large_events in self._by_stage():
            if len(small_events) != len(large_events):
                raise NotAligned(
                    f"{name}: {len(small_events)} events at {self.small_batch}, {len(large_events)} at {self.large_batch}"
                )
            for small, large in zip(small_events, large_events, strict=True):
                if small.key != large.key or (small.num_bytes is None) != (large.num_bytes is None):
                    raise NotAligned(f"{name}: {small.key} at {self.small_batch}, {large.key} at {self.large_batch}")
                if small.num_bytes is not None and large.num_bytes is not None and (large.num_bytes - small.num_bytes) % span:
                    raise NotAligned(f"{name}: {small.key} takes {small.num_bytes} and {large.num_bytes} bytes")

    def at(self, batch: int) -> Segments:
        """Return the segments at `batch`; exact from the smaller of the two traced sizes on."""
        span = self.large_batch - self.small_batch

        def between(small: Event, large: Event) -> Event:
            if small.num_bytes == large.num_bytes:
                return small
            assert small.num_bytes is not None
            assert large.num_bytes is not None
            slope = (large.num_bytes - small.num_bytes) // span
            return small._replace(num_bytes=small.num_bytes + slope * (batch - self.small_batch))

        return Segments(**{name: tuple(map(between, *events)) for name, *events in self._by_stage()})

    def _by_stage(self) -> Iterator[tuple[str, tuple[Event, ...], tuple[Event, ...]]]:
        large = self.large.as_mapping()
        for name, events in self.small.as_mapping().items():
            yield name, events, large[name]
