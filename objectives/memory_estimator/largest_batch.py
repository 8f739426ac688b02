"""The largest micro-batch that fits on a GPU, whatever the batches of a study are."""

from collections.abc import Callable, Collection


def largest_batch(
    fits: Callable[[int], bool],
    known: Collection[int],
    *,
    most: int,
    guess: int | None = None,
    between: Callable[[int, int], int] | None = None,
) -> int | None:
    """Return the largest micro-batch that fits; None if a batch of 1 does not.

    Args:
        fits: Whether a micro-batch fits, which is looked at as seldom as possible.
        known: Micro-batches for which that is known already.
        most: The largest micro-batch to look at.
        guess: The one to look at first; None for no idea.
        between: Is told one that fits and one that does not, and returns the one between them that is likely the largest.
    """
    low = max((batch for batch in known if batch <= most and fits(batch)), default=0)
    high = min((batch for batch in known if low < batch <= most), default=most + 1)

    def look_at(batch: int) -> None:
        nonlocal low, high
        low, high = (batch, high) if fits(batch) else (low, batch)

    for batch in () if guess is None else (guess, guess + 1, guess - 1):
        if low < batch < high:
            look_at(batch)
    step = max(1, low)
    while high > most and low + step < high:
        look_at(low + step)
        step *= 2
    while high - low > 1:
        near = between(low, high) if between is not None and low > 0 and high <= most else 0
        for batch in (near, near + 1):
            if low < batch < high:
                look_at(batch)
        if high - low > 1:
            look_at((low + high) // 2)
    return low or None
