"""The largest micro-batch that fits on a GPU, whatever the batches of a study are."""

from collections.abc import Callable, Collection


def largest_batch(fits: Callable[[int], bool], known: Collection[int], *, most: int) -> int | None:
    """Return the largest micro-batch that fits; None if a batch of 1 does not.

    Args:
        fits: Whether a micro-batch fits, which is looked at as seldom as possible.
        known: Micro-batches for which that is known already.
        most: The largest micro-batch to look at.
    """
    fitting = [batch for batch in known if batch <= most and fits(batch)]
    low = max(fitting, default=0)
    too_large = [batch for batch in known if low < batch <= most]
    high = min(too_large, default=most + 1)
    if not too_large:
        step = max(1, low)
        while low + step < high:
            if not fits(low + step):
                high = low + step
                break
            low, step = low + step, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low or None
