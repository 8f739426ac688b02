"""A Gaussian process whose parameters have priors, so that one observation is enough to fit it, and hundreds are too.

Each knob has a length scale. Their prior grows with the root of the number of knobs, which keeps two random points of a space
with many of them as much alike as in one with few: C. Hvarfner, E. O. Hellsten, L. Nardi, "Vanilla Bayesian Optimization
Performs Great in High Dimensions", ICML 2024. Length scales, signal, noise and the exponents of scaling rules are the most
probable ones given the observations (MAP); where these say little, the priors do.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The most observations that the parameters are fitted to: a step of the fit costs the cube of their number.
MAX_FITTED = 120
# What is believed of a length scale in a space with one knob.
TYPICAL_LENGTH = 0.7
# Standard deviations of the priors of the logarithms of a length scale and of the signal's variance, and of the logit of an
# exponent.
LENGTH_SPREAD, SIGNAL_SPREAD, EXPONENT_SPREAD = 0.75, 0.5, 1.5
# No variance of noise is below this share of the signal's: the matrices could not be inverted.
MIN_NOISE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Points at which a process is observed or predicted.

    A scaling rule is a coordinate from which another one is subtracted, times an exponent between 0 and 1 that is learnt.

    Attributes:
        points: Their coordinates, of shape (number of points, number of coordinates).
        shears: What each exponent subtracts from the coordinates, of shape (number of exponents, *points.shape).
        scales: The number of the length scale that each coordinate has, from 0.
        exponents: What is believed of each exponent before anything is observed.
    """

    points: Array
    shears: Array
    scales: NDArray[np.intp]
    exponents: tuple[float, ...] = ()

    @property
    def num_scales(self) -> int:
        """The number of length scales."""
        return int(self.scales.max()) + 1 if self.scales.size else 0

    def take(self, positions: NDArray[np.intp]) -> "Inputs":
        """Return some of the points."""
        return Inputs(
            points=self.points[positions], shears=self.shears[:, positions], scales=self.scales, exponents=self.exponents
        )


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is believed of the luck of an observation before anything is observed.

    Attributes:
        variance: Its variance, where that of all observations is about 1.
        spread: The standard deviation of the logarithm of that.
    """

    variance: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class _Parameters:
    """The parameters of a process, as one array: logarithms, and the logits of the exponents."""

    values: Array
    num_scales: int

    @classmethod
    def prior(cls, inputs: Inputs, noise: "Noise") -> "tuple[_Parameters, Array]":
        """Return the most probable parameters before anything is observed, and the standard deviations around them."""
        lengths = [math.log(TYPICAL_LENGTH * math.sqrt(inputs.num_scales))] * inputs.num_scales
        logits = [math.log(exponent / (1 - exponent)) for exponent in inputs.exponents]
        spreads = [LENGTH_SPREAD] * len(lengths) + [SIGNAL_SPREAD, noise.spread] + [EXPONENT_SPREAD] * len(logits)
        values = np.array([*lengths, 0.0, math.log(max(noise.variance, MIN_NOISE)), *logits])
        return cls(values=values, num_scales=len(lengths)), np.array(spreads)

    @property
    def signal(self) -> float:
        return math.exp(self.values[self.num_scales])

    @property
    def noise(self) -> float:
        return math.exp(self.values[self.num_scales + 1])

    @cached_property
    def exponents(self) -> Array:
        return 1 / (1 + np.exp(-self.values[self.num_scales + 2 :]))

    def lengths(self, inputs: Inputs) -> Array:
        """Return the length scale of each coordinate."""
        return np.exp(self.values[: self.num_scales])[inputs.scales]

    def scaled(self, inputs: Inputs) -> Array:
        """Return the points with the rules applied, in length scales."""
        return (inputs.points - np.tensordot(self.exponents, inputs.shears, axes=1)) / self.lengths(inputs)


class GaussianProcess:
    """A process with mean 0 and a Matern kernel of smoothness 5/2, fitted to observations of variance about 1.

    Args:
        inputs: Where it was observed.
        values: What was observed there, of shape (number of points,).
        noise: What is believed of the luck of an observation.
        trust: How far the observations may move all parameters but the noise from what is believed beforehand, from 0 (not at
            all) to 1.

    Attributes:
        noise: The variance of an observation as fitted.
        exponents: The exponents of the scaling rules.
    """

    def __init__(self, inputs: Inputs, values: Array, *, noise: Noise, trust: float = 1.0) -> None:
        from scipy.linalg import cho_factor, cho_solve
        from threadpoolctl import threadpool_limits

        # The matrices are small: a second thread costs more than it saves, and takes a core from the trials.
        with threadpool_limits(1):
            self._parameters = _fitted(inputs, values, noise, trust)
            self._scaled = self._parameters.scaled(inputs)
            covariance = self._parameters.signal * _matern(_squared_distances(self._scaled, self._scaled))
            covariance[np.diag_indices(len(values))] += self._parameters.noise
            self._factor = cho_factor(covariance, lower=True)
            self._weights: Array = cho_solve(self._factor, values)
        self.noise = self._parameters.noise
        self.exponents = self._parameters.exponents

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:
        """Return the means and the standard deviations of what is learned at some points, without noise."""
        from scipy.linalg import solve_triangular

        parameters = self._parameters
        across = parameters.signal * _matern(_squared_distances(parameters.scaled(inputs), self._scaled))
        reduced = solve_triangular(self._factor[0], across.T, lower=True)
        variances = parameters.signal - (reduced**2).sum(axis=0)
        return across @ self._weights, np.sqrt(np.maximum(variances, 0.0))


def _squared_distances(a: Array, b: Array) -> Array:
    squares: Array = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.maximum(squares, 0.0)


def _matern(squares: Array) -> Array:
    root = np.sqrt(5 * squares)
    kernel: Array = (1 + root + root**2 / 3) * np.exp(-root)
    return kernel


def _fitted(inputs: Inputs, values: Array, noise: Noise, trust: float) -> _Parameters:
    """Return the most probable parameters."""
    from scipy.optimize import minimize

    num = len(values)
    part = np.unique(np.linspace(0, num - 1, min(num, MAX_FITTED)).round().astype(int))
    inputs, values = inputs.take(part), values[part]
    prior, spreads = _Parameters.prior(inputs, noise)

    def loss(candidate: Array) -> tuple[float, Array]:
        value, gradient = _misfit(_Parameters(values=candidate, num_scales=prior.num_scales), inputs, values)
        away = (candidate - prior.values) / spreads
        return value + 0.5 * float(away @ away), gradient + away / spreads

    reach = 4 * trust * spreads
    bounds = list(zip(prior.values - reach, prior.values + reach, strict=True))
    bounds[prior.num_scales + 1] = (math.log(MIN_NOISE), prior.values[prior.num_scales + 1] + 4 * noise.spread)
    found = minimize(loss, prior.values, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
    return _Parameters(values=found.x, num_scales=prior.num_scales)


def _misfit(parameters: _Parameters, inputs: Inputs, values: Array) -> tuple[float, Array]:
    """Return the negative logarithm of the observations' likelihood, but for a constant, and its gradient."""
    from scipy.linalg import cho_factor, cho_solve

    scaled = parameters.scaled(inputs)
    squares = _squared_distances(scaled, scaled)
    root = np.sqrt(5 * squares)
    decay = np.exp(-root)
    signal = parameters.signal * (1 + root + root**2 / 3) * decay
    covariance = signal.copy()
    covariance[np.diag_indices(len(values))] += parameters.noise
    factor = cho_factor(covariance, lower=True)
    inverse: Array = cho_solve(factor, np.eye(len(values)))
    weights = inverse @ values
    value = 0.5 * float(values @ weights) + float(np.log(np.diag(factor[0])).sum())
    # By the covariances, then by the squared distances, then by the scaled coordinates.
    by_covariance = 0.5 * (inverse - np.outer(weights, weights))
    by_squares = by_covariance * (-5 / 6) * parameters.signal * (1 + root) * decay
    by_scaled = 4 * (by_squares.sum(axis=1)[:, None] * scaled - by_squares @ scaled)
    by_coordinate = -(by_scaled * scaled).sum(axis=0)
    by_length = np.bincount(inputs.scales, weights=by_coordinate, minlength=parameters.num_scales)
    slopes = parameters.exponents * (1 - parameters.exponents)
    by_exponent = -np.tensordot(inputs.shears, by_scaled / parameters.lengths(inputs), axes=2) * slopes
    by_signal = float((by_covariance * signal).sum())
    by_noise = parameters.noise * float(np.trace(by_covariance))
    return value, np.concatenate([by_length, [by_signal, by_noise], by_exponent])
