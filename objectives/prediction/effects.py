"""Predict what was not measured from what was, knob by knob.

What a step costs is a line in the micro-batch. A line for every combination of knobs would take as many measurements as there
are combinations. Here the logarithms of a line's two coefficients, what a step costs whatever its batch and what each sample
adds, are sums of one effect for each knob, as in an analysis of variance: twice the length doubles what a sample adds, whatever
the precision. The effects, and what combinations differ from their sum, are Gaussian processes (additive ones:
D. Duvenaud et al., "Additive Gaussian Processes", NeurIPS 2011), so a prediction has an error: small where each value was
measured once, large for a value that never was. Numbers are interpolated on their own scale. How much combinations differ from
the sum is taken to be what makes the measurements most likely.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.searchspace import Values
from tradeoff.searchspace.domains import is_number

Array = NDArray[np.float64]

# With a larger standard deviation nothing is predicted.
MAX_ERROR = 0.5

# Standard deviations of logarithms. A knob's value may change a coefficient by any plausible factor, ...
_EFFECT = 1.0
# ... which is likely to be much the same for both coefficients ...
_CORRELATION = 0.7
# ... and of a number, the logarithm is close to a line on the number's own scale.
_CURVATURE = 0.1
# The coefficients themselves may be anything.
_LEVEL = 3.0
# What a combination may differ from the sum of its effects: the candidates, and what they are before anything is measured.
_USUAL_INTERACTION, _LESS, _MORE = 0.1, (0.05,), (0.2, 0.4)
_LOG_SPREAD = 1.0
# Combinations that differ in one knob that is no number share this much of it.
_SHARED = 0.5
# Positive numbers whose largest is so many times the smallest are compared by their ratios.
_RATIO_OF_LOGS = 3.0
_MAX_ITERATIONS, _TOLERANCE, _LONGEST_STEP = 50, 1e-3, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A measured value.

    Attributes:
        key: The values of the knobs that it depends on, except for the micro-batch.
        batch: The micro-batch; 0 for what does not depend on it.
        value: The value, above 0.
        relative_std: Its standard deviation, as a share of it.
    """

    key: Values
    batch: float
    value: float
    relative_std: float


@dataclass(frozen=True, slots=True)
class _Line:
    """The logarithms of a predicted line's coefficients, and their covariance."""

    fixed: float
    per_sample: float
    covariance: tuple[float, float, float]

    def at(self, batch: float) -> tuple[float, float]:
        fixed, added = math.exp(self.fixed), batch * math.exp(self.per_sample)
        share = fixed / (fixed + added)
        ff, fp, pp = self.covariance
        variance = share**2 * ff + 2 * share * (1 - share) * fp + (1 - share) ** 2 * pp
        return fixed + added, math.sqrt(max(0.0, variance))


@dataclass(frozen=True)
class Effects:
    """Effects of knobs on lines in the micro-batch.

    Attributes:
        points: What was measured.
        expected: Keys that will be asked for: predicted together, as that is much faster than one by one.
    """

    points: Sequence[Point]
    expected: Iterable[Values] = ()

    def predict(self, key: Values, batch: float) -> tuple[float, float] | None:
        """Return the value and its standard deviation, as a share of it; None while too little was measured to tell."""
        if not self.points:
            return None
        if key not in self._lines:
            self._lines.update(self._fit.lines([key] if self._lines else list(dict.fromkeys([key, *self.expected]))))
        value, relative_std = self._lines[key].at(batch)
        return (value, relative_std) if relative_std <= MAX_ERROR else None

    @cached_property
    def _lines(self) -> dict[Values, _Line]:
        return {}

    @cached_property
    def _fit(self) -> "_Fit":
        data = _Data(self.points)
        half = data.target - math.log(2)
        fits = [_Fit(data, _USUAL_INTERACTION, (half, half - data.log_batch))]
        # Each begins where its neighbour ended.
        for interactions in (_LESS, _MORE):
            latest = fits[0]
            for interaction in interactions:
                latest = _Fit(data, interaction, latest.coefficients)
                fits.append(latest)
        return max(fits, key=lambda fit: fit.log_evidence)


class _Data:
    """What was measured, as arrays."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.codes = _Codes([point.key for point in points])
        self.at = self.codes.of([point.key for point in points])
        self.target = np.log([point.value for point in points])
        self.noise = np.diag(np.array([point.relative_std for point in points]) ** 2)
        batch = np.array([point.batch for point in points])
        self.log_batch = np.log(np.where(batch > 0, batch, 1.0))
        self.depends = batch > 0
        self.means = float(np.median(self.target)) - 1.0, float(np.median(self.target - self.log_batch))
        self.effects, self.alike = _kernels(self.at, self.at)


class _Fit:
    """The posterior of the coefficients' logarithms, by linearisation around its maximum."""

    def __init__(self, data: _Data, interaction: float, coefficients: tuple[Array, Array]) -> None:
        self._data, self._interaction = data, interaction
        kernel, shared = _covariances(data.effects, data.alike, interaction)
        fixed, per_sample = coefficients
        for _ in range(_MAX_ITERATIONS):
            predicted = np.logaddexp(fixed, np.where(data.depends, per_sample + data.log_batch, -np.inf))
            share = np.exp(fixed - predicted)
            rest = 1.0 - share
            residual = data.target - predicted + share * (fixed - data.means[0]) + rest * (per_sample - data.means[1])
            both = share[:, None] * share + rest[:, None] * rest
            across = share[:, None] * rest + rest[:, None] * share
            covariance = both * kernel + across * shared + data.noise
            weights = np.linalg.solve(covariance, residual)
            self._weighted = share * weights, rest * weights
            steps = (
                data.means[0] + kernel @ self._weighted[0] + shared @ self._weighted[1] - fixed,
                data.means[1] + kernel @ self._weighted[1] + shared @ self._weighted[0] - per_sample,
            )
            largest = max(float(np.abs(step).max()) for step in steps)
            if largest < _TOLERANCE:
                break
            # A coefficient that hardly counts may be sent far away by a linear step.
            scale = min(1.0, _LONGEST_STEP / largest)
            fixed, per_sample = fixed + scale * steps[0], per_sample + scale * steps[1]
        self.coefficients = fixed, per_sample
        self._shares, self._factor = (share, rest), np.linalg.cholesky(covariance)
        usual = math.log(interaction / _USUAL_INTERACTION) / _LOG_SPREAD
        self.log_evidence = float(-residual @ weights / 2 - np.log(np.diag(self._factor)).sum() - usual**2 / 2)

    def lines(self, keys: Sequence[Values]) -> dict[Values, _Line]:
        """Predict the lines of these keys."""
        at = self._data.codes.of(keys)
        effects, alike = _kernels(at, self._data.at)
        kernel, shared = _covariances(effects, alike, self._interaction)
        (share, rest), (left, right) = self._shares, self._weighted
        means = self._data.means[0] + kernel @ left + shared @ right, self._data.means[1] + kernel @ right + shared @ left
        crossed = kernel * share + shared * rest, kernel * rest + shared * share
        f, p = (np.linalg.solve(self._factor, each.T) for each in crossed)
        own, own_shared = _covariances(_LEVEL**2 + at.variance, np.ones(len(keys)), self._interaction)
        ff, fp, pp = own - (f * f).sum(axis=0), own_shared - (f * p).sum(axis=0), own - (p * p).sum(axis=0)
        return {
            key: _Line(float(means[0][i]), float(means[1][i]), (float(ff[i]), float(fp[i]), float(pp[i])))
            for i, key in enumerate(keys)
        }


def _covariances(effects: Array, alike: Array, interaction: float) -> tuple[Array, Array]:
    """Return the covariance of one coefficient of two keys, and that between the two coefficients."""
    kernel = effects + interaction**2 * alike
    return kernel, _CORRELATION * (kernel - _LEVEL**2)


def _kernels(a: "_Encoded", b: "_Encoded") -> tuple[Array, Array]:
    """Return the covariance of the sums of effects, and the likeness of the combinations."""
    effects = np.full((len(a.groups), len(b.groups)), _LEVEL**2)
    alike = np.ones_like(effects)
    for k in range(a.groups.shape[1]):
        same = a.groups[:, k, None] == b.groups[None, :, k]
        x, y = a.numbers[:, k, None], b.numbers[None, :, k]
        # What is no number is at 0, and so near to itself.
        near = np.exp(-2 * (x - y) ** 2)
        effects += same * (_EFFECT**2 * (1 + x * y) + _CURVATURE**2 * near)
        alike *= np.where(same, near, _SHARED)
    return effects, alike


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Values of knobs, a row for each key.

    Attributes:
        groups: Of each knob that was measured, what its value can be compared with.
        numbers: Where it stands there, if it is a number.
        variance: That of the sum of all effects, before anything was measured.
    """

    groups: NDArray[np.int64]
    numbers: Array
    variance: Array


class _Codes:
    """The scale of each knob, from -1 to 1 over the numbers that were measured."""

    def __init__(self, keys: Sequence[Values]) -> None:
        names = dict.fromkeys(name for key in keys for name in key)
        self._scales: dict[str, tuple[bool, float, float]] = {}
        for name in names:
            numbers = [float(key[name]) for key in keys if name in key and is_number(key[name])]
            is_log = bool(numbers) and min(numbers) > 0 and max(numbers) >= _RATIO_OF_LOGS * min(numbers)
            ends = [math.log(end) if is_log else end for end in (min(numbers, default=0.0), max(numbers, default=0.0))]
            self._scales[name] = is_log, sum(ends) / 2, (ends[1] - ends[0]) / 2 or 1.0
        self._groups: dict[tuple[str, Any], int] = {}

    def of(self, keys: Sequence[Mapping[str, Any]]) -> _Encoded:
        groups = np.zeros((len(keys), len(self._scales)), dtype=np.int64)
        numbers = np.zeros(groups.shape)
        for k, (name, (is_log, middle, half)) in enumerate(self._scales.items()):
            for i, key in enumerate(keys):
                value = key.get(name, ())  # an empty tuple is no value of a knob
                if not is_number(value):
                    # 1 == True in Python.
                    groups[i, k] = self._groups.setdefault((name, repr(value)), len(self._groups) + 1)
                elif is_log and value <= 0:
                    groups[i, k] = self._groups.setdefault((name, "0"), len(self._groups) + 1)
                else:
                    numbers[i, k] = ((math.log(value) if is_log else float(value)) - middle) / half
        unknown = np.array([len(key.keys() - self._scales.keys()) for key in keys])
        variance = (_EFFECT**2 * (1 + numbers**2) + _CURVATURE**2).sum(axis=1) + _EFFECT**2 * unknown
        return _Encoded(groups, numbers, variance)
