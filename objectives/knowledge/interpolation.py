"""Values between the micro-batches that were measured."""

from collections.abc import Mapping


def interpolate(points: Mapping[float, float], at: float) -> float:
    """Linear between the two nearest measured points, and beyond the last two along their line; never below 0.

    Args:
        points: Two measured values or more, by micro-batch.
        at: The micro-batch.
    """
    batches = sorted(points)
    right = next((i for i, batch in enumerate(batches) if batch >= at), len(batches) - 1)
    right = max(1, right)
    low, high = batches[right - 1], batches[right]
    share = (at - low) / (high - low)
    return max(0.0, points[low] + share * (points[high] - points[low]))
