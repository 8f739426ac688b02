"""How the stages of a run follow each other, on segments small enough to work the allocator's result out by hand."""

from dataclasses import replace

import pytest

from tradeoff.objectives.memory_estimator.caching_allocator import MIB
from tradeoff.objectives.memory_estimator.events import Category, Event, LinearSegments, NotAligned, Segments
from tradeoff.objectives.memory_estimator.replay import (
    Replays,
    RunLength,
    accumulation_groups,
    replay_run,
    with_late_releases,
)

ACTIVATION = (Event("activation", 40 * MIB, Category.ACTIVATIONS),)
SEGMENTS = Segments(
    build=(Event("weight", 20 * MIB, Category.WEIGHTS),),
    evaluation=(),
    first_micro_batch=(*ACTIVATION, Event("gradient", 20 * MIB, Category.GRADIENTS), Event("activation", None)),
    next_micro_batch=(
        *ACTIVATION,
        Event("addend", 20 * MIB, Category.ACTIVATIONS),
        Event("addend", None),
        Event("activation", None),
    ),
    first_step=(Event("state", 20 * MIB, Category.OPTIMIZER),),
    next_step=(),
    zero_gradients=(Event("gradient", None),),
)
ONE_STEP = RunLength(micro_batches_per_epoch=1, epochs=1)


def reserved_mib(**settings):
    return replay_run(SEGMENTS, **settings).reserved_bytes / MIB


def test_a_run_of_one_step_never_trains_beside_the_optimizers_state():
    # Weights 20, activation 40, gradient 20; the state takes half of what the activation left.
    assert reserved_mib(accumulation_steps=1, length=ONE_STEP) == 80


def test_a_second_step_can_not_reuse_the_block_that_the_state_split():
    # As before, but now the activation finds no free block of 40: another segment.
    assert reserved_mib(accumulation_steps=1) == 120


def test_a_segment_that_grows_joins_what_the_gradient_left_to_what_the_state_left():
    # Weights 20, activation 40, gradient 20; then state and 40 free, which the activation takes, and another gradient.
    assert reserved_mib(accumulation_steps=1, expandable_segments=True) == 100


def test_accumulation_adds_the_gradients_that_are_held():
    # Weights 20, activation 40, gradient 20, and 20 to be added to it.
    assert reserved_mib(accumulation_steps=2, length=RunLength(micro_batches_per_epoch=2, epochs=1)) == 100
    # From the second step on also the state, and nothing is left over.
    assert reserved_mib(accumulation_steps=2) == 120


def test_more_accumulation_than_an_epoch_has_micro_batches_makes_one_step_at_its_end():
    assert list(accumulation_groups(8, RunLength(micro_batches_per_epoch=5, epochs=1))) == [5]
    assert list(accumulation_groups(8, RunLength(micro_batches_per_epoch=5, epochs=3))) == [5, 5, 5]
    assert list(accumulation_groups(2, RunLength(micro_batches_per_epoch=5, epochs=1))) == [2, 2, 1]


def test_gradients_that_are_filled_with_zeros_are_held_from_the_first_step_on():
    kept = replace(SEGMENTS, zero_gradients=())
    # The next micro-batch adds: 20 more than with gradients that were dropped would be free for.
    peak = replay_run(kept, accumulation_steps=1)
    assert peak.parts[Category.GRADIENTS] == 20 * MIB
    assert peak.allocated_bytes == (20 + 20 + 20 + 40 + 20) * MIB


def test_parts_say_what_the_peak_is_made_of():
    peak = replay_run(SEGMENTS, accumulation_steps=1, length=ONE_STEP)
    assert peak.parts == {
        Category.WEIGHTS: 20 * MIB,
        Category.GRADIENTS: 20 * MIB,
        Category.OPTIMIZER: 0,
        Category.ACTIVATIONS: 40 * MIB,
        Category.WORKSPACE: 0,
    }


def test_a_run_that_does_not_fit_says_at_which_stage():
    assert replay_run(SEGMENTS, accumulation_steps=1, capacity_bytes=79 * MIB).failed_at == "forward and backward"
    assert replay_run(SEGMENTS, accumulation_steps=1, length=ONE_STEP, capacity_bytes=80 * MIB).failed_at is None


def test_blocks_given_back_let_a_run_fit_that_would_hold_more():
    # The second activation of 40 gets the room of the gradient's free segment of 20, and 20 that were never taken.
    tight = replay_run(SEGMENTS, accumulation_steps=1, capacity_bytes=100 * MIB)
    assert tight.failed_at is None
    assert tight.num_retries > 0
    assert tight.reserved_bytes == 100 * MIB


def test_evaluation_counts_too():
    evaluation = replace(SEGMENTS, evaluation=(Event("logits", 90 * MIB, Category.ACTIVATIONS), Event("logits", None)))
    # Beside the weights; the state splits the block of 90, so that the evaluation after training needs another.
    assert reserved_mib(accumulation_steps=1, length=ONE_STEP, evaluation=evaluation) == 200


def segments(*events):
    return replace(SEGMENTS, build=events)


def test_sizes_between_and_beyond_two_traces_are_exact():
    linear = LinearSegments(
        small=segments(Event("a", 700, Category.WEIGHTS), Event("b", 64, Category.WEIGHTS), Event("a", None)),
        small_batch=2,
        large=segments(Event("a", 900, Category.WEIGHTS), Event("b", 64, Category.WEIGHTS), Event("a", None)),
        large_batch=4,
    )
    # 500 + 100 for each sample, and 64 whatever the batch.
    assert [event.num_bytes for event in linear.at(10).build] == [1500, 64, None]


@pytest.mark.parametrize(
    "other",
    [
        (Event("a", 701, Category.WEIGHTS),),
        (Event("b", 900, Category.WEIGHTS),),
        (Event("a", 900, Category.WEIGHTS), Event("a", None)),
    ],
)
def test_traces_that_differ_in_more_than_their_sizes_are_refused(other):
    with pytest.raises(NotAligned):
        LinearSegments(small=segments(Event("a", 700, Category.WEIGHTS)), small_batch=2, large=segments(*other), large_batch=4)


def test_another_order_has_the_same_requests_and_releases_some_of_them_one_request_later():
    tensors = [Event(f"tensor {index}", (2 + index) * MIB, Category.ACTIVATIONS) for index in range(20)]
    events = tuple(event for tensor in tensors for event in (tensor, Event(tensor.key, None)))
    late = with_late_releases(replace(SEGMENTS, first_micro_batch=events), seed=0).first_micro_batch
    assert late != events
    assert sorted(late, key=str) == sorted(events, key=str)
    for tensor, following in zip(tensors, [*tensors[2:], None, None], strict=True):
        released = late.index(Event(tensor.key, None))
        assert late.index(tensor) < released
        # Two requests later it is gone.
        assert following is None or released < late.index(following)
    assert with_late_releases(SEGMENTS, seed=0).build == SEGMENTS.build


def test_a_run_is_replayed_once_of_several_that_are_the_same():
    replays = Replays()
    replayed = []

    def peak(accumulation_steps):
        def replay():
            replayed.append(accumulation_steps)
            return replay_run(SEGMENTS, accumulation_steps=accumulation_steps)

        return replays.peak("all the rest", accumulation_groups(accumulation_steps, None), replay).reserved_bytes

    # From the third micro-batch of a step on nothing changes.
    assert [peak(steps) for steps in (16, 4, 3, 2, 1)] == [120 * MIB] * 5
    assert replayed == [16, 2, 1]


def test_devices_that_share_gradients_exchange_them_after_the_last_micro_batch_alone():
    shared = replace(
        SEGMENTS,
        first_micro_batch=(Event("share", 10 * MIB, Category.GRADIENTS),),
        next_micro_batch=(),
        first_of_several=(Event("whole", 40 * MIB, Category.GRADIENTS),),
        next_of_several=(Event("addend", 20 * MIB, Category.ACTIVATIONS), Event("addend", None)),
        last_of_several=(Event("share", 10 * MIB, Category.GRADIENTS), Event("whole", None)),
        first_step=(),
        zero_gradients=(Event("share", None),),
    )

    def requested_mib(accumulation_steps, **length):
        return replay_run(shared, accumulation_steps=accumulation_steps, **length).requested_bytes / MIB

    assert requested_mib(1) == 30  # weights and a share
    assert requested_mib(2) == 70  # all gradients until they are exchanged
    assert requested_mib(3) == requested_mib(16) == 80  # and what is added to them
    # The last step of an epoch has the micro-batch that is left.
    assert requested_mib(2, length=RunLength(micro_batches_per_epoch=1, epochs=3)) == 30
