"""`Mixture`: the distribution that forecasts are made of."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

__all__ = ["NO_CALIBRATION", "Calibration", "Mixture", "tail_density"]

FloatArray = NDArray[np.float64]

Calibration = tuple[tuple[float, float, float], ...]
"""By share of the run seen: scale and tail of `Mixture.calibrated`, from past forecasts."""
NO_CALIBRATION: Calibration = ((0.0, 1.0, 1.0),)

_TURNS = 200  # at most: each halves the bracket or the error
_ROOT = math.sqrt(2 * math.pi)
_TAIL = 0.2  # weight of the second component of a calibrated mixture
_WIDEST = 0.6  # standard deviation of the logarithm of a loss, so that moments stay sensible
_FARTHEST = 650.0  # logarithm of a loss, so that they stay finite


@dataclass(frozen=True)
class Mixture:
    """A mixture of k Gaussians at each of m places, of the loss or of its logarithm.

    Moments, probabilities and quantiles are always those of the loss.
    """

    weight: FloatArray
    """Shape (k,), sum 1."""
    mean: FloatArray
    """Shape (k, m)."""
    std: FloatArray
    """Shape (k, m)."""
    logarithmic: bool = False
    """Whether `mean` and `std` are of the logarithm of the loss."""

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation, each (m,)."""
        mean, std = self.mean, self.std
        if self.logarithmic:
            mean = np.exp(mean + std**2 / 2)
            std = mean * np.sqrt(np.expm1(std**2))
        centre = self.weight @ mean
        away = np.abs(mean - centre)
        # in units of the largest, so that losses of 1e100 do not overflow
        unit = np.maximum(np.maximum(std, away).max(axis=0), 1e-300)
        variance = self.weight @ ((std / unit) ** 2 + (away / unit) ** 2)
        return centre, unit * np.sqrt(variance)

    def cdf(self, values: FloatArray) -> FloatArray:
        """Probability below each value; values (q, m), answer (q, m)."""
        if self.logarithmic:
            with np.errstate(divide="ignore"):
                values = np.log(np.maximum(values, 0.0))
        return self._cdf(values)

    def quantiles(self, q: FloatArray) -> FloatArray:
        """Quantiles (q, m): Newton's method, kept between those of the components by bisection.

        The last step is a millionth of the narrowest component, and the error goes as its square.
        """
        mean, std = (np.ascontiguousarray(x.T) for x in (self.mean, self.std))  # (m, k)
        each = mean + std * ndtri(q)[:, np.newaxis, np.newaxis]
        low, high = each.min(axis=2).ravel(), each.max(axis=2).ravel()
        at = np.einsum("qmk,k->qm", each, self.weight).ravel()
        level, place = np.repeat(q, len(mean)), np.tile(np.arange(len(mean)), len(q))
        close = np.maximum(1e-13 * (np.abs(low) + np.abs(high)), 1e-6 * std.min(axis=1)[place])
        before = np.full(at.shape, np.inf)
        left = np.arange(at.size)  # those not found yet
        for _ in range(_TURNS):
            here, there = at[left], place[left]
            z = (here[:, np.newaxis] - mean[there]) / std[there]
            excess = np.einsum("nk,k->n", ndtr(z), self.weight) - level[left]
            density = np.einsum("nk,k->n", np.exp(-z * z / 2) / std[there], self.weight) / _ROOT
            low[left] = np.where(excess < 0, here, low[left])
            high[left] = np.where(excess < 0, high[left], here)
            step = here - excess / np.maximum(density, 1e-300)
            # half-way where it would leave them, or creeps, as through a narrow peak
            creeps = np.abs(excess) > before[left] / 2
            away = np.abs(step - here) > close[left]
            halve = away & (creeps | (step <= low[left]) | (step >= high[left]))
            at[left] = np.where(halve, (low[left] + high[left]) / 2, step)
            before[left] = np.abs(excess)
            left = left[away]
            if not left.size:
                break
        found = at.reshape(len(q), -1)
        return np.exp(found) if self.logarithmic else found

    def with_noise(self, noise: float) -> "Mixture":
        """The mixture of single observations with a noise of this standard deviation."""
        relative = noise / np.exp(self.mean) if self.logarithmic else noise
        return Mixture(self.weight, self.mean, np.hypot(self.std, relative), self.logarithmic)

    def calibrated(self, scale: float, tail: float) -> "Mixture":
        """The mixture stretched by `scale` about its centre, with a second one in its tail.

        The second has a fifth of the weight and is stretched by `tail`; ``(1, 1)`` changes nothing.
        """
        centre = self.weight @ self.mean
        away = self.mean - centre
        weight, mean, std = self.weight, centre + scale * away, scale * self.std
        if tail != scale:
            weight = np.concatenate([(1 - _TAIL) * weight, _TAIL * weight])
            mean = np.concatenate([mean, centre + tail * away])
            std = np.concatenate([std, tail * self.std])
        if self.logarithmic:
            mean, std = np.clip(mean, -_FARTHEST, _FARTHEST), np.minimum(std, _WIDEST)
        return Mixture(weight, mean, std, self.logarithmic)

    def _cdf(self, values: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):  # infinitely many standard deviations away will do
            z = (values[:, np.newaxis] - self.mean) / self.std
        below: FloatArray = np.einsum("k,qkm->qm", self.weight, ndtr(z))
        return np.clip(below, 0.0, 1.0)  # sums of weights may be off by a rounding


def tail_density(z: FloatArray, scale: float, tail: float) -> FloatArray:
    """Density at standardised errors z of a standard normal after `Mixture.calibrated`."""
    main = np.exp(-((z / scale) ** 2) / 2) / scale
    second = np.exp(-((z / tail) ** 2) / 2) / tail
    density: FloatArray = ((1 - _TAIL) * main + _TAIL * second) / _ROOT
    return density
