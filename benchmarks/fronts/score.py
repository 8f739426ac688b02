"""What a set of claims is worth to its user.

**Selection volume.** A user has limits on time and memory, and takes what a method claims to be best within them. The score is
the true quality of that above the baseline, if its true time and memory keep the limits, and nothing otherwise; divided by what
a user with perfect knowledge gets, over limits drawn evenly, on plain and on logarithmic axes. A false claim costs what it
would cost in life. A time may be above its limit by 5%: two runs of one configuration differ as much, so that nobody could
promise more.

**Hypervolume** of the claimed configurations at their true values, as a share of that of all, with the nadir of the true front
as the reference point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from fronts.table import Bench, Key, Table, Values

NUM_LIMITS = 512
TIME_TOLERANCE = 1.05
# The most generous limit, as a share of the most that a configuration of the front needs: some users have room for any.
HIGHEST_LIMIT = 1.25
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scorer:
    """Scores claims about a table."""

    table: Table

    @property
    def _floor(self) -> float:
        return self.table.height(self.table.baseline)

    @cached_property
    def limits(self) -> Array:
        """Limits of time and memory, of shape (number of limits, 2), from the least that the front needs to beyond the most."""
        costs = np.array([(values.train_time_s, values.peak_memory_mib) for values in self.front.values()])
        low, high = costs.min(axis=0), costs.max(axis=0) * HIGHEST_LIMIT
        shares = qmc.Sobol(2, rng=0).random(NUM_LIMITS)
        half = NUM_LIMITS // 2
        plain = low + shares[:half] * (high - low)
        logarithmic = low * (high / low) ** shares[half:]
        return np.vstack([plain, logarithmic])

    @cached_property
    def front(self) -> Mapping[Key, Values]:
        """The true front of what is better than the baseline."""
        keys = [key for key, values in self.table.truth.items() if values.learned > self._floor]
        keep = moocore.is_nondominated(np.array([_costs(self.table.truth[key]) for key in keys]))
        return {key: self.table.truth[key] for key, kept in zip(keys, keep, strict=True) if kept}

    @cached_property
    def _best_gains(self) -> Array:
        return self._gains(self.front)

    def _gains(self, claims: Mapping[Key, Values]) -> Array:
        """What a user gets within each limit."""
        gains = np.zeros(len(self.limits))
        if not claims:
            return gains
        claimed = np.array([(values.learned, values.train_time_s, values.peak_memory_mib) for values in claims.values()])
        true = np.array([_true(self.table, key) for key in claims])
        allowed = (claimed[None, :, 1:] <= self.limits[:, None]).all(axis=2)
        taken = np.where(allowed, claimed[None, :, 0], -np.inf).argmax(axis=1)
        keeps = allowed.any(axis=1) & (true[taken, 1:] <= self.limits * (TIME_TOLERANCE, 1.0)).all(axis=1)
        return np.where(keeps, np.maximum(true[taken, 0] - self._floor, 0.0), 0.0)

    def selection_volume(self, claims: Mapping[Key, Values]) -> float:
        """The share of what perfect knowledge gets, 0 to 1."""
        # A time that is within its limit by the tolerance alone is worth no more than the best that is within it.
        return float(np.minimum(self._gains(claims), self._best_gains).sum() / self._best_gains.sum())

    def hypervolume(self, claims: Mapping[Key, Values]) -> float:
        """The share of the true front's hypervolume, 0 to 1."""
        reference = np.array([_costs(values) for values in self.front.values()]).max(axis=0)
        reference = np.append(-self._floor, reference[1:])
        found = [_costs(self.table.truth[key]) for key in claims if key in self.table.truth]
        return _volume(found, reference) / _volume([_costs(values) for values in self.front.values()], reference)

    def curve(self, bench: Bench) -> Array:
        """The selection volume after each claim, of shape (number of claims, 2): seconds spent, and the share."""
        return np.array([(spent_s, self.selection_volume(claims)) for spent_s, claims in bench.claims]).reshape(-1, 2)


def _true(table: Table, key: Key) -> tuple[float, float, float]:
    values = table.truth.get(key)
    return (0.0, np.inf, np.inf) if values is None else (values.learned, values.train_time_s, values.peak_memory_mib)


def _costs(values: Values) -> tuple[float, float, float]:
    return -values.learned, values.train_time_s, values.peak_memory_mib


def _volume(points: Sequence[tuple[float, float, float]], reference: Array) -> float:
    inside = np.array([point for point in points if (np.array(point) < reference).all()]).reshape(-1, 3)
    return float(moocore.hypervolume(inside / np.abs(reference), ref=np.sign(reference))) if len(inside) else 0.0


def held(curve: Array, share: float) -> float:
    """Seconds until a share is reached and never lost again; infinite if it is not."""
    below = np.flatnonzero(curve[:, 1] < share)
    first = 0 if not below.size else below[-1] + 1
    return float(curve[first, 0]) if first < len(curve) else np.inf


def area(curve: Array, horizon_s: float) -> float:
    """The mean share over the time until a horizon: before the first claim it is 0, after the last one as that."""
    times = np.concatenate([[0.0], np.minimum(curve[:, 0], horizon_s), [horizon_s]])
    shares = np.concatenate([[0.0], curve[:, 1]])
    return float((np.diff(times) * shares).sum() / horizon_s)
