"""The error of measured times: how far off a time may be, as the machine that measured it shows.

A sample of a time is off by the spread of the steps that it is the median of, by what other processes took of the processors
meanwhile, and by the drift of the machine from one minute to the next. These are assumed for each sample. Where something was
timed more than once, the scatter shows by how much the assumption is off on this machine, pooled over all that was repeated
and relative to the times (R. T. Birge, "The Calculation of Errors by the Method of Least Squares", Phys. Rev. 40, 1932).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# The drift that is assumed between two minutes on a machine that does nothing else, as a relative standard deviation.
DRIFT = 0.03
# How many repeated samples that assumption is worth against what is measured.
PRIOR_REPEATS = 2
# The most of the processors that others can be said to have taken: with more, any factor would be possible.
MAX_BUSY_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeSample:
    """A time that was measured once.

    Attributes:
        time_s: The time.
        relative_std: Its assumed standard deviation, as a share of it.
    """

    time_s: float
    relative_std: float

    @classmethod
    def of(cls, time_s: float, *, spread: float | None = None, busy_share: float | None = None) -> "TimeSample":
        """Return a sample with its assumed standard deviation.

        Args:
            time_s: The time.
            spread: The relative standard error that the spread of its own steps gives it; None if it is not known.
            busy_share: The share of the processors that other processes used meanwhile; None if it is not known.
        """
        # A time that others may have stretched by any factor up to 1 / (1 - share), all equally likely.
        stretched = -math.log(1 - min(busy_share or 0.0, MAX_BUSY_SHARE)) / math.sqrt(12)
        return cls(time_s=time_s, relative_std=math.hypot(DRIFT, spread or 0.0, stretched))


def combine(samples: Sequence[TimeSample]) -> TimeSample:
    """Return what samples of one time say together: their weighted median, so that one that went wrong does not move it.

    Args:
        samples: At least one.
    """
    ordered = sorted(samples, key=lambda sample: sample.time_s)
    weights = np.array([sample.relative_std**-2 for sample in ordered])
    middles = (np.cumsum(weights) - weights / 2) / weights.sum()
    time_s = float(np.interp(0.5, middles, [sample.time_s for sample in ordered]))
    return TimeSample(time_s=time_s, relative_std=float(weights.sum() ** -0.5))


def error_factor(groups: Iterable[Sequence[TimeSample]]) -> float:
    """Return by what factor errors are larger on this machine than they were assumed."""
    scatter, repeats = float(PRIOR_REPEATS), PRIOR_REPEATS
    for samples in groups:
        if len(samples) > 1 and all(sample.time_s > 0 for sample in samples):
            logs = np.log([sample.time_s for sample in samples])
            weights = np.array([sample.relative_std**-2 for sample in samples])
            scatter += float(weights @ (logs - np.average(logs, weights=weights)) ** 2)
            repeats += len(samples) - 1
    return math.sqrt(scatter / repeats)
