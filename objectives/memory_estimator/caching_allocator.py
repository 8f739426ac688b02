"""A model of torch's CUDA caching allocator: how much GPU memory it reserves for a sequence of allocations and releases.

The memory in use on a GPU is not what tensors occupy but what the allocator has reserved for them. It returns nothing, so the
order of requests matters. The rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings
(https://github.com/pytorch/pytorch/blob/main/c10/cuda/CUDACachingAllocator.cpp):

- A request is rounded up to 512 bytes. Up to 1 MiB it is served from the small pool, above from the large one; each stream has
  its own two.
- A pool serves it with its smallest free block that fits; among equals, with the one at the lowest address.
- If none fits, a segment is reserved: 2 MiB for a small request, 20 MiB below 10 MiB, else the request rounded up to 2 MiB.
- A block is split if the rest is at least 512 bytes (small pool) or more than 1 MiB (large pool).
- A released block is merged with its free neighbours in the segment, and the segment is kept.
- If the GPU is full, every segment that is entirely free is returned, and the request is tried once more.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Hashable

MIB = 1024 * 1024
MIN_BLOCK_BYTES = 512
LARGEST_SMALL_REQUEST_BYTES = 1 * MIB
SMALL_SEGMENT_BYTES = 2 * MIB
SHARED_SEGMENT_BYTES = 20 * MIB
SMALLEST_OWN_SEGMENT_BYTES = 10 * MIB
SEGMENT_STEP_BYTES = 2 * MIB


class AllocationError(Exception):
    """A request exceeds the capacity."""


class Block:
    """A range of a segment, linked to its neighbours in address order."""

    __slots__ = ("address", "left", "num_bytes", "pool", "requested_bytes", "right", "used")

    def __init__(self, address: int, num_bytes: int, pool: int) -> None:
        self.address = address
        self.num_bytes = num_bytes
        self.pool = pool
        self.used = False
        self.requested_bytes = 0
        self.left: Block | None = None
        self.right: Block | None = None


class CachingAllocator:
    """The allocator's state.

    Example:
        >>> allocator = CachingAllocator()
        >>> allocator.allocate("weights", 3 * 1024 * 1024) // MIB
        3
        >>> allocator.allocated_bytes // MIB, allocator.reserved_bytes // MIB
        (3, 20)

    Args:
        capacity_bytes: The most that may be reserved; None for no limit.

    Attributes:
        allocated_bytes: The size of the blocks in use, rounding and unsplit rests included, as `torch.cuda.memory_allocated`.
        reserved_bytes: The size of the segments, as `torch.cuda.memory_reserved`.
        peak_requested_bytes: The most that was requested and not yet released, without rounding.
        num_retries: How often a full GPU made it return its free segments.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self.peak_requested_bytes = 0
        self.num_retries = 0
        self._requested_bytes = 0
        self._blocks: dict[Hashable, Block] = {}
        # Free blocks of each pool by (size, address), the order in which the allocator searches them. A stream's small pool has
        # an odd number.
        self._free: defaultdict[int, list[tuple[int, int, Block]]] = defaultdict(list)
        self._next_address = SMALL_SEGMENT_BYTES

    def allocate(self, key: Hashable, num_bytes: int, stream: int = 0) -> int:
        """Serve a request of a stream; one of 0 bytes needs no block.

        Returns:
            The size of the block in bytes.

        Raises:
            AllocationError: It exceeds the capacity.
        """
        assert key not in self._blocks, f"{key!r} is allocated already"
        if num_bytes == 0:
            return 0
        size = -(-num_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        pool = 2 * stream + (size <= LARGEST_SMALL_REQUEST_BYTES)
        block = self._take_free(size, pool) or self._reserve(size, pool)
        rest = block.num_bytes - size
        if self._is_split(rest, pool):
            self._split(block, size)
        block.used = True
        block.requested_bytes = num_bytes
        self._blocks[key] = block
        self._requested_bytes += num_bytes
        self.allocated_bytes += block.num_bytes
        # Not by max, which is felt in millions of requests.
        if self._requested_bytes > self.peak_requested_bytes:
            self.peak_requested_bytes = self._requested_bytes
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return block.num_bytes

    def release(self, key: Hashable) -> int:
        """Free an allocation's block for later requests; its segment stays reserved.

        Returns:
            The size of the block in bytes, 0 if nothing is allocated under the key.
        """
        block = self._blocks.pop(key, None)
        if block is None:
            return 0
        num_bytes = block.num_bytes
        self._requested_bytes -= block.requested_bytes
        self.allocated_bytes -= block.num_bytes
        block.used = False
        left, right = block.left, block.right
        if left is not None and not left.used:
            self._drop_free(left)
            left.num_bytes += block.num_bytes
            left.right = right
            if right is not None:
                right.left = left
            block = left
        if right is not None and not right.used:
            self._drop_free(right)
            block.num_bytes += right.num_bytes
            block.right = right.right
            if right.right is not None:
                right.right.left = block
        self._add_free(block)
        return num_bytes

    def rename(self, key: Hashable, new_key: Hashable) -> None:
        """Keep an allocation under another key."""
        self._blocks[new_key] = self._blocks.pop(key)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._blocks

    def ranges(self) -> list[tuple[int, int, bool]]:
        """Return every block as (first address, size, in use), in the order of addresses."""
        blocks = list(self._blocks.values()) + [entry[2] for pool in self._free.values() for entry in pool]
        return sorted((block.address, block.num_bytes, block.used) for block in blocks)

    def _is_split(self, rest: int, pool: int) -> bool:
        return rest >= MIN_BLOCK_BYTES if is_small(pool) else rest > LARGEST_SMALL_REQUEST_BYTES

    def _take_free(self, size: int, pool: int) -> Block | None:
        free = self._free[pool]
        position = bisect_left(free, (size,))
        return free.pop(position)[2] if position < len(free) else None

    def _reserve(self, size: int, pool: int) -> Block:
        segment = segment_size(size)
        if self.capacity_bytes is not None and self.reserved_bytes + segment > self.capacity_bytes:
            self.num_retries += 1
            self._return_free_segments()
            if self.reserved_bytes + segment > self.capacity_bytes:
                raise AllocationError(
                    f"{segment} bytes do not fit: {self.reserved_bytes} of {self.capacity_bytes} are reserved"
                )
        block = Block(self._next_address, segment, pool)
        # A gap after each segment keeps blocks of two segments from being neighbours.
        self._next_address += segment + SEGMENT_STEP_BYTES
        self.reserved_bytes += segment
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return block

    def _return_free_segments(self) -> None:
        for pool, free in self._free.items():
            whole = [entry[2] for entry in free if entry[2].left is None and entry[2].right is None]
            self.reserved_bytes -= sum(block.num_bytes for block in whole)
            self._free[pool] = [entry for entry in free if entry[2].left is not None or entry[2].right is not None]

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.num_bytes - size, block.pool)
        rest.left, rest.right = block, block.right
        if rest.right is not None:
            rest.right.left = rest
        block.right = rest
        block.num_bytes = size
        self._add_free(rest)

    def _add_free(self, block: Block) -> None:
        insort(self._free[block.pool], (block.num_bytes, block.address, block))

    def _drop_free(self, block: Block) -> None:
        free = self._free[block.pool]
        del free[bisect_left(free, (block.num_bytes, block.address))]


def is_small(pool: int) -> bool:
    """Return True if a pool serves small requests."""
    return pool % 2 == 1


def segment_size(block_bytes: int) -> int:
    """Return the size of the segment that is reserved for a block, in bytes."""
    if block_bytes <= LARGEST_SMALL_REQUEST_BYTES:
        return SMALL_SEGMENT_BYTES
    if block_bytes < SMALLEST_OWN_SEGMENT_BYTES:
        return SHARED_SEGMENT_BYTES
    return -(-block_bytes // SEGMENT_STEP_BYTES) * SEGMENT_STEP_BYTES
