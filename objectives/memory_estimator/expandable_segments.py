"""The caching allocator with `expandable_segments:True`: one segment for each pool, which grows at its end.

c10/cuda/CUDACachingAllocator.cpp, `ExpandableSegment`: a segment is mapped in steps of 2 MiB (small pool) or 20
MiB (large pool). A free block that is not at its end is taken first; the last one is grown by what it lacks. Blocks are split
down to 512 bytes. If the GPU is full, torch unmaps free steps wherever they are, this model those at the end alone.
"""

from bisect import bisect_left

from tradeoff.objectives.memory_estimator.caching_allocator import (
    MIN_BLOCK_BYTES,
    SHARED_SEGMENT_BYTES,
    SMALL_SEGMENT_BYTES,
    AllocationError,
    Block,
    CachingAllocator,
    is_small,
)

# No segment reaches the next pool's.
_ADDRESSES_OF_A_POOL = 1 << 50


class ExpandableAllocator(CachingAllocator):
    """The allocator's state.

    Example:
        >>> allocator = ExpandableAllocator()
        >>> allocator.allocate("weights", 3 * 1024 * 1024), allocator.allocate("gradients", 19 * 1024 * 1024)
        (3145728, 19922944)
        >>> allocator.reserved_bytes // (1024 * 1024)
        40
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        super().__init__(capacity_bytes)
        self._last: dict[int, Block] = {}

    def _is_split(self, rest: int, pool: int) -> bool:
        return rest >= MIN_BLOCK_BYTES

    def _take_free(self, size: int, pool: int) -> Block | None:
        free, last = self._free[pool], self._last.get(pool)
        for position in range(bisect_left(free, (size,)), len(free)):
            if free[position][2] is not last:
                return free.pop(position)[2]
        return None

    def _reserve(self, size: int, pool: int) -> Block:
        mapped = self._missing(size, pool)
        if self.capacity_bytes is not None and self.reserved_bytes + mapped > self.capacity_bytes:
            self.num_retries += 1
            self._return_free_segments()
            mapped = self._missing(size, pool)
            if self.reserved_bytes + mapped > self.capacity_bytes:
                raise AllocationError(f"{mapped} bytes do not fit: {self.reserved_bytes} of {self.capacity_bytes} are reserved")
        last = self._last.get(pool)
        if last is not None and not last.used:
            self._drop_free(last)
            last.num_bytes += mapped
        else:
            begin = pool * _ADDRESSES_OF_A_POOL if last is None else last.address + last.num_bytes
            block = Block(begin, mapped, pool)
            block.left = last
            if last is not None:
                last.right = block
            last = block
        self._last[pool] = last
        self.reserved_bytes += mapped
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return last

    def _missing(self, size: int, pool: int) -> int:
        """Return by how much the segment has to grow for a block at its end, in bytes."""
        last = self._last.get(pool)
        free = 0 if last is None or last.used else last.num_bytes
        step = SMALL_SEGMENT_BYTES if is_small(pool) else SHARED_SEGMENT_BYTES
        return -(-max(0, size - free) // step) * step

    def _return_free_segments(self) -> None:
        for pool, last in list(self._last.items()):
            step = SMALL_SEGMENT_BYTES if is_small(pool) else SHARED_SEGMENT_BYTES
            returned = 0 if last.used else last.num_bytes // step * step
            if returned == 0:
                continue
            self._drop_free(last)
            last.num_bytes -= returned
            self.reserved_bytes -= returned
            if last.num_bytes > 0:
                self._add_free(last)
            elif last.left is None:
                del self._last[pool]
            else:
                last.left.right = None
                self._last[pool] = last.left

    def _add_free(self, block: Block) -> None:
        super()._add_free(block)
        if block.right is None:
            self._last[block.pool] = block
