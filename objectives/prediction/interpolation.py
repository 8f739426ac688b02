"""Interpolation between measured micro-batches."""

from collections.abc import Mapping


def interpolate(points: Mapping[float, float], at: float) -> float:
    """Interpolate linearly between the two nearest points, and extrapolate along the line of the last two; never below 0.

    Args:
        points: At least two measured values by micro-batch.
        at: The micro-batch.
    """
    batches = sorted(points)
    right = next((i for i, batch in enumerate(batches) if batch >= at), len(batches) - 1)
    right = max(1, right)
    low, high = batches[right - 1], batches[right]
    share = (at - low) / (high - low)
    return max(0.0, points[low] + share * (points[high] - points[low]))
