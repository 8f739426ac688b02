"""Replays a whole training run through the caching allocator, stage by stage.

The order matters. Accumulation holds gradients while the next micro-batch runs forward. The optimizer's state appears at the
end of the first step, in whatever the first backward pass left free. And a run of a single step never trains with that state.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tradeoff.objectives.memory_estimator.caching_allocator import AllocationError, CachingAllocator
from tradeoff.objectives.memory_estimator.events import HELD, PREVIOUS, Category, Event, Segments
from tradeoff.objectives.memory_estimator.expandable_segments import ExpandableAllocator

# Steps after which a run repeats itself: the first creates the optimizer's state, the next ones settle the blocks.
MAX_STEPS = 6
MAX_MICRO_BATCHES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLength:
    """The length of a training.

    Attributes:
        micro_batches_per_epoch: Micro-batches in one pass over the data; the Trainer always makes a step at its end.
        epochs: Passes over the data; the last one may be partial.
    """

    micro_batches_per_epoch: int
    epochs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPeak:
    """A run's memory at its peak, in bytes.

    Attributes:
        reserved_bytes: The most that the allocator reserved.
        allocated_bytes: The most that blocks in use occupied.
        requested_bytes: The most that was requested and in use, without the allocator's rounding.
        parts: What the blocks in use were for when they occupied the most.
        failed_at: The stage that ran out of memory; None if none did.
        num_retries: How often the allocator had to return free segments.
        settled: For each step that was replayed, the number of micro-batches from which on it is the same.
    """

    reserved_bytes: int
    allocated_bytes: int
    requested_bytes: int
    parts: dict[Category, int]
    failed_at: str | None
    num_retries: int
    settled: tuple[int, ...] = ()

    @property
    def felt_limit(self) -> bool:
        """Whether a larger capacity could have changed the run."""
        return self.failed_at is not None or self.num_retries > 0


class Replays:
    """Replays of runs, each made once of several that are the same.

    After a few micro-batches a step repeats itself, whatever their number is: 3 are often as good as 16.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, list[tuple[Sequence[int], RunPeak]]] = {}

    def peak(self, key: Hashable, groups: Sequence[int], replay: Callable[[], RunPeak]) -> RunPeak:
        """Return the peak of a run.

        Args:
            key: All that it depends on besides the number of its micro-batches.
            groups: The number of micro-batches before each of its steps.
            replay: Replays it.
        """
        known = self._known.setdefault(key, [])
        for others, peak in known:
            steps = zip(groups, others, peak.settled, strict=False)
            if len(groups) == len(others) and all(min(group, enough) == min(other, enough) for group, other, enough in steps):
                return peak
        known.append((groups, replay()))
        return known[-1][1]


def accumulation_groups(accumulation_steps: int, length: RunLength | None) -> list[int]:
    """Return the number of micro-batches before each of the first `MAX_STEPS` optimizer steps; None stands for a long run."""
    if length is None:
        return [accumulation_steps] * MAX_STEPS
    left = max(1, round(length.micro_batches_per_epoch * length.epochs))
    groups: list[int] = []
    while left > 0 and len(groups) < MAX_STEPS:
        in_epoch = min(left, length.micro_batches_per_epoch)
        left -= in_epoch
        full, rest = divmod(in_epoch, accumulation_steps)
        groups += [accumulation_steps] * min(full, MAX_STEPS) + [rest] * (rest > 0)
    return groups[:MAX_STEPS]


def replay_run(
    segments: Segments,
    *,
    accumulation_steps: int,
    length: RunLength | None = None,
    capacity_bytes: int | None = None,
    evaluation: Segments | None = None,
    num_kept_batches: int = 0,
    expandable_segments: bool = False,
) -> RunPeak:
    """Replay a training run.

    Args:
        segments: The stages at the micro-batch's size.
        accumulation_steps: Micro-batches for each optimizer step.
        length: How long training lasts; None for long enough to repeat itself.
        capacity_bytes: The most that the allocator may reserve; None for no limit.
        evaluation: The stages at the evaluation batch's size, to evaluate before and after training; None for no evaluation.
        num_kept_batches: The batches of an evaluation whose predictions are kept.
        expandable_segments: Whether the allocator grows its segments.

    Returns:
        The peak; that until the failure, if the run ran out of memory.
    """
    replay = _Replay((ExpandableAllocator if expandable_segments else CachingAllocator)(capacity_bytes))
    failed_at = None
    try:
        for stage, events in _stages(segments, accumulation_steps, length, evaluation, num_kept_batches, replay):
            failed_at = stage
            replay.play(events)
        failed_at = None
    except AllocationError:
        pass
    allocator = replay.allocator
    return RunPeak(
        reserved_bytes=allocator.peak_reserved_bytes,
        allocated_bytes=allocator.peak_allocated_bytes,
        requested_bytes=allocator.peak_requested_bytes,
        parts=replay.parts_at_peak,
        failed_at=failed_at,
        num_retries=allocator.num_retries,
        settled=tuple(replay.settled),
    )


def with_late_releases(segments: Segments, seed: int) -> Segments:
    """Return segments in which half of the releases, chosen at random, come one request later.

    Between releases of torch and of transformers such an order changes, and with it which free block a request finds.
    """
    draw = Random(seed)

    def late(events: tuple[Event, ...]) -> tuple[Event, ...]:
        moved = list(events)
        for index in range(len(moved) - 2, -1, -1):
            first, second = moved[index : index + 2]
            is_before_request = first.num_bytes is None and second.num_bytes is not None and first.key != second.key
            if is_before_request and draw.random() < 0.5:
                moved[index : index + 2] = second, first
        return tuple(moved)

    return Segments(**{name: late(events) for name, events in segments.as_mapping().items()})


def _stages(
    segments: Segments,
    accumulation_steps: int,
    length: RunLength | None,
    evaluation: Segments | None,
    num_kept_batches: int,
    replay: "_Replay",
) -> Iterator[tuple[str, tuple[Event, ...]]]:
    allocator = replay.allocator
    yield "model", segments.build
    evaluate = () if evaluation is None else tuple(_evaluation(evaluation, num_kept_batches))
    for events in evaluate:
        yield "evaluation", events
    for step, group in enumerate(accumulation_groups(accumulation_steps, length)):
        before_step = allocator.peak_reserved_bytes
        # Gradients are held between steps if zeroing them does not drop them.
        held = step > 0 and not segments.zero_gradients
        is_exchanged_last = group > 1 and bool(segments.last_of_several)
        first = segments.next_micro_batch if held else segments.first_micro_batch
        following = segments.next_micro_batch
        if is_exchanged_last:
            first, following = segments.first_of_several, segments.next_of_several
        replay.settled.append(1 + is_exchanged_last)
        replay.keep_held()
        yield "forward and backward", first
        for _ in range(min(group - replay.settled[-1], MAX_MICRO_BATCHES)):
            before = allocator.peak_reserved_bytes
            replay.settled[-1] += 1
            replay.keep_held()
            yield "forward and backward", following
            if allocator.peak_reserved_bytes == before and allocator.num_retries == 0:
                break
        else:
            replay.settled[-1] = MAX_MICRO_BATCHES + 1 + is_exchanged_last
        if is_exchanged_last:
            yield "forward and backward", segments.last_of_several
        yield "optimizer step", segments.first_step if step == 0 else segments.next_step
        yield "zero gradients", segments.zero_gradients
        if step > 1 and allocator.peak_reserved_bytes == before_step and allocator.num_retries == 0:
            break
    for events in evaluate:
        yield "evaluation", events


def _evaluation(segments: Segments, num_kept_batches: int) -> Iterator[tuple[Event, ...]]:
    """Yield the events of an evaluation: the Trainer appends each batch's predictions to a copy of the earlier ones.

    Between the first and the last batch only that is replayed, since all need the same beside it.
    """
    yield segments.evaluation
    kept: list[str] = []
    for batch in range(1, num_kept_batches + 1 if segments.predictions else 1):
        if batch > 1 and batch in (2, num_kept_batches):
            yield segments.evaluation
        for index, event in enumerate(segments.predictions):
            assert event.num_bytes is not None
            appended = event._replace(key=f"{event.key} of {batch} batches", num_bytes=batch * event.num_bytes)
            yield (appended, Event(kept[index], None)) if batch > 1 else (appended,)
        kept = [f"{event.key} of {batch} batches" for event in segments.predictions]
    yield tuple(Event(key, None) for key in kept)


class _Replay:
    """An allocator, with what its blocks in use are for."""

    def __init__(self, allocator: CachingAllocator) -> None:
        self.allocator = allocator
        self.parts_at_peak: dict[Category, int] = dict.fromkeys(Category, 0)
        self._parts = dict.fromkeys(Category, 0)
        self._categories: dict[str, Category] = {}
        self._peak_bytes = 0
        self.settled: list[int] = []

    def play(self, events: tuple[Event, ...]) -> None:
        allocator, parts, categories = self.allocator, self._parts, self._categories
        allocate, release, note_peak = allocator.allocate, allocator.release, self._note_peak
        growing = False
        for key, num_bytes, category, stream in events:
            if num_bytes is None:
                if growing:
                    growing = False
                    note_peak()
                if released := release(key):
                    parts[categories[key]] -= released
                continue
            if key in allocator:
                # Left by an earlier run of the stage: a workspace stays, anything else is replaced.
                if category is Category.WORKSPACE:
                    continue
                self._release(key)
            assert category is not None
            parts[category] += allocate(key, num_bytes, stream)
            categories[key] = category
            growing = True
        note_peak()

    def keep_held(self) -> None:
        """Let what a plain loop holds be that of the micro-batch before."""
        for key in [each for each in self._categories if each.startswith(HELD) and each in self.allocator]:
            previous = PREVIOUS + key.removeprefix(HELD)
            self.allocator.rename(key, previous)
            self._categories[previous] = self._categories[key]

    def _release(self, key: str) -> None:
        num_bytes = self.allocator.release(key)
        if num_bytes:
            self._parts[self._categories[key]] -= num_bytes

    def _note_peak(self) -> None:
        if self.allocator.allocated_bytes > self._peak_bytes:
            self._peak_bytes = self.allocator.allocated_bytes
            self.parts_at_peak = dict(self._parts)
