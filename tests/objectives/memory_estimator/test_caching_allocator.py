"""The caching allocator, on sequences whose result follows by hand from the rules in its docstring."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeoff.objectives.memory_estimator.caching_allocator import MIB, AllocationError, CachingAllocator
from tradeoff.objectives.memory_estimator.expandable_segments import ExpandableAllocator


def held(allocator):
    return allocator.allocated_bytes, allocator.reserved_bytes


def test_a_single_byte_takes_a_block_of_512_in_a_segment_of_2_mib():
    allocator = CachingAllocator()
    assert allocator.allocate("a", 1) == 512
    assert held(allocator) == (512, 2 * MIB)


def test_a_segment_of_2_mib_holds_two_requests_of_1_mib_and_not_a_third():
    allocator = CachingAllocator()
    allocator.allocate("a", MIB)
    allocator.allocate("b", MIB)
    assert held(allocator) == (2 * MIB, 2 * MIB)
    allocator.allocate("c", MIB)
    assert held(allocator) == (3 * MIB, 4 * MIB)


def test_a_request_above_1_mib_is_rounded_to_512_bytes_and_splits_a_segment_of_20_mib():
    allocator = CachingAllocator()
    assert allocator.allocate("a", MIB + 1) == MIB + 512
    assert held(allocator) == (MIB + 512, 20 * MIB)
    # The other 19 MiB serve the next request.
    allocator.allocate("b", 18 * MIB)
    assert allocator.reserved_bytes == 20 * MIB


@pytest.mark.parametrize(
    ("requested", "segment"),
    [(10 * MIB - 512, 20 * MIB), (10 * MIB, 10 * MIB), (10 * MIB + 1, 12 * MIB), (13 * MIB, 14 * MIB)],
)
def test_from_10_mib_a_request_gets_its_own_segment_in_steps_of_2_mib(requested, segment):
    allocator = CachingAllocator()
    allocator.allocate("a", requested)
    assert allocator.reserved_bytes == segment


def test_a_rest_of_up_to_1_mib_is_not_split_off_a_large_block():
    allocator = CachingAllocator()
    # 11 MiB in a segment of 12: the rest of 1 MiB stays with the block.
    assert allocator.allocate("a", 11 * MIB) == 12 * MIB
    # 512 bytes less, and the rest is a block of its own.
    assert CachingAllocator().allocate("b", 11 * MIB - 512) == 11 * MIB - 512


def test_small_and_large_requests_do_not_share_segments():
    allocator = CachingAllocator()
    allocator.allocate("large", 2 * MIB)
    allocator.allocate("small", 512)
    assert allocator.reserved_bytes == 22 * MIB


def test_the_smallest_free_block_that_fits_is_taken():
    allocator = CachingAllocator()
    allocator.allocate("60", 60 * MIB)
    allocator.allocate("40", 40 * MIB)
    allocator.release("60")
    allocator.release("40")
    allocator.allocate("38", 38 * MIB)
    # Had the block of 60 been split, 50 MiB would not be free in one piece now.
    allocator.allocate("50", 50 * MIB)
    assert held(allocator) == (88 * MIB, 100 * MIB)


def test_free_neighbours_are_merged():
    allocator = CachingAllocator()
    for key in "abcd":
        allocator.allocate(key, 5 * MIB)
    for key in "acbd":
        allocator.release(key)
    allocator.allocate("all", 20 * MIB)
    assert held(allocator) == (20 * MIB, 20 * MIB)


def test_blocks_of_two_segments_are_never_merged():
    allocator = CachingAllocator()
    allocator.allocate("a", 10 * MIB)
    allocator.allocate("b", 10 * MIB)
    allocator.release("a")
    allocator.release("b")
    allocator.allocate("c", 20 * MIB)
    assert held(allocator) == (20 * MIB, 40 * MIB)


def test_released_memory_stays_reserved():
    allocator = CachingAllocator()
    allocator.allocate("a", 30 * MIB)
    allocator.release("a")
    assert held(allocator) == (0, 30 * MIB)
    assert allocator.peak_allocated_bytes == 30 * MIB


def test_a_full_gpu_makes_it_return_free_segments_and_try_again():
    allocator = CachingAllocator(capacity_bytes=40 * MIB)
    allocator.allocate("a", 30 * MIB)
    allocator.release("a")
    allocator.allocate("b", 32 * MIB)
    assert held(allocator) == (32 * MIB, 32 * MIB)
    assert allocator.peak_reserved_bytes == 32 * MIB
    assert allocator.num_retries == 1


def test_a_segment_with_a_block_in_use_is_not_returned():
    allocator = CachingAllocator(capacity_bytes=30 * MIB)
    allocator.allocate("a", 5 * MIB)
    allocator.allocate("b", 5 * MIB)
    allocator.release("a")
    with pytest.raises(AllocationError, match="do not fit"):
        allocator.allocate("c", 20 * MIB)


def test_a_request_fails_only_if_no_free_block_and_no_new_segment_fits():
    allocator = CachingAllocator(capacity_bytes=56 * MIB)
    allocator.allocate("a", 30 * MIB)
    allocator.allocate("b", 4 * MIB)
    allocator.release("b")
    # 30 MiB, then a segment of 20 for b, which is then free: c takes it.
    allocator.allocate("c", 12 * MIB)
    assert allocator.peak_reserved_bytes == 50 * MIB
    full = CachingAllocator(capacity_bytes=42 * MIB)
    full.allocate("a", 30 * MIB)
    full.allocate("b", 12 * MIB)
    with pytest.raises(AllocationError, match=f"{20 * MIB} bytes do not fit: {42 * MIB} of {42 * MIB} are reserved"):
        full.allocate("c", 2 * MIB)
    assert full.peak_allocated_bytes == 42 * MIB


def test_nothing_is_taken_for_a_tensor_without_elements():
    allocator = CachingAllocator()
    assert allocator.allocate("empty", 0) == 0
    assert allocator.release("empty") == 0
    assert held(allocator) == (0, 0)


def test_what_is_requested_is_counted_without_rounding():
    allocator = CachingAllocator()
    allocator.allocate("a", 100)
    allocator.allocate("b", 11 * MIB)
    allocator.release("a")
    assert allocator.peak_requested_bytes == 11 * MIB + 100


def test_an_expandable_segment_grows_at_its_end_by_what_is_missing():
    allocator = ExpandableAllocator()
    allocator.allocate("a", 30 * MIB)
    assert allocator.reserved_bytes == 40 * MIB
    # Of 15 MiB, 10 are free at the end.
    allocator.allocate("b", 15 * MIB)
    assert allocator.reserved_bytes == 60 * MIB
    allocator.release("a")
    # What "a" has left comes before the end.
    allocator.allocate("c", 14 * MIB)
    allocator.allocate("d", 16 * MIB)
    assert allocator.reserved_bytes == 60 * MIB
    allocator.allocate("e", 20 * MIB)
    assert allocator.reserved_bytes == 80 * MIB


def test_a_full_gpu_gets_the_free_end_of_an_expandable_segment_back():
    allocator = ExpandableAllocator(100 * MIB)
    allocator.allocate("a", 30 * MIB)
    allocator.allocate("b", 50 * MIB)
    allocator.release("b")
    assert allocator.reserved_bytes == 80 * MIB
    # 50 MiB are free, in one block that ends at 80: two steps of 20.
    for number in range(31):
        allocator.allocate(number, MIB)
    assert allocator.num_retries == 1
    assert allocator.reserved_bytes == (80 - 40 + 2 * 16) * MIB
    with pytest.raises(AllocationError):
        allocator.allocate("c", 60 * MIB)


SIZES = st.one_of(
    st.integers(1, 2000), st.integers(MIB // 2, 3 * MIB), st.sampled_from([MIB, 10 * MIB, 20 * MIB]), st.integers(MIB, 50 * MIB)
)


@pytest.mark.parametrize("kind", [CachingAllocator, ExpandableAllocator])
@given(st.lists(st.tuples(st.booleans(), SIZES, st.integers(0, 100)), max_size=60), st.sampled_from([None, 64 * MIB]))
def test_blocks_never_overlap_and_cover_what_is_reserved(kind, steps, capacity_bytes):
    allocator = kind(capacity_bytes)
    live = []
    for number, (releases, num_bytes, chosen) in enumerate(steps):
        if releases and live:
            allocator.release(live.pop(chosen % len(live)))
            continue
        try:
            block_bytes = allocator.allocate(number, num_bytes)
        except AllocationError:
            assert capacity_bytes is not None
            continue
        assert num_bytes <= block_bytes
        assert block_bytes % 512 == 0
        live.append(number)
        blocks = allocator.ranges()
        assert sum(size for _, size, _ in blocks) == allocator.reserved_bytes
        assert sum(size for _, size, used in blocks if used) == allocator.allocated_bytes
        for (start, size, used), (following, _, next_used) in pairwise(blocks):
            assert start + size <= following
            # Two free blocks side by side would have been merged.
            assert used or next_used or start + size < following
        assert capacity_bytes is None or allocator.reserved_bytes <= capacity_bytes


def test_a_stream_is_not_served_with_what_another_one_has_released():
    allocator = CachingAllocator()
    allocator.allocate("gathered", 12 * MIB, stream=1)
    allocator.release("gathered")
    allocator.allocate("computed", 12 * MIB)
    assert allocator.reserved_bytes == 24 * MIB
    allocator.allocate("gathered again", 12 * MIB, stream=1)
    assert allocator.reserved_bytes == 24 * MIB
