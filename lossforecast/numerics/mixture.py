"""`Mixture`: a Gaussian mixture, the distribution of a forecast."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.numerics.special import ndtr, ndtri

__all__ = ["NO_CALIBRATION", "TAIL_WEIGHT", "Calibration", "Mixture"]


Calibration = tuple[tuple[float, float, float], ...]
"""Rows of (share of the run seen, scale, tail) for `Mixture.calibrated`, from past forecasts."""
NO_CALIBRATION: Calibration = ((0.0, 1.0, 1.0),)
TAIL_WEIGHT = 0.2
"""Weight of the second component of a calibrated mixture, the tail."""

_MAX_ITERATIONS = 200  # each halves the bracket or the error
_LOG_STD_CELL, _MEAN_CELL = 0.15, 0.2  # width of a cell of components merged; in log(std), in stds
_MAX_CELLS = 1 << 40  # away from the centre
_BLOCK_SIZE = 1 << 14  # numbers evaluated at a time, so that they stay in the cache
_SQRT_2PI = math.sqrt(2 * math.pi)
_TINY = 1e-300  # keeps divisions finite
_MAX_LOG_STD = 1.2  # of the logarithm of a loss, so that moments stay sensible
_MAX_LOG_LOSS = 650.0  # so that moments stay finite
_COMMON_ERROR, _MUCH_WIDER = 1.5, 1.5  # of two estimates: see `Mixture.pooled`
_STDS_BELOW = 2.0  # from the mean of a component to the bound of `below`: 97.7% lie below it
_MIN_STD_BELOW = 0.5  # left to a component at that bound


@dataclass(frozen=True)
class Mixture:
    """A mixture of k Gaussians at each of m places, for the loss or for its logarithm.

    Moments, probabilities and quantiles are those of the loss in both cases.
    """

    weight: FloatArray
    """Shape (k,), sum 1."""
    mean: FloatArray
    """Shape (k, m)."""
    std: FloatArray
    """Shape (k, m)."""
    logarithmic: bool = False
    """True if `mean` and `std` are those of the logarithm of the loss."""

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation, each (m,)."""
        mean, std = self.mean, self.std
        if self.logarithmic:
            mean = np.exp(mean + std**2 / 2)
            std = mean * np.sqrt(np.expm1(std**2))
        centre = self.weight @ mean
        away = np.abs(mean - centre)
        # in units of the largest, so that losses of 1e100 do not overflow
        unit = np.maximum(np.maximum(std, away).max(axis=0), _TINY)
        variance = self.weight @ ((std / unit) ** 2 + (away / unit) ** 2)
        return centre, unit * np.sqrt(variance)

    def cdf(self, values: FloatArray) -> FloatArray:
        """Probability below each value: (q, m) for values (q, m)."""
        if self.logarithmic:
            with np.errstate(divide="ignore"):
                values = np.log(np.maximum(values, 0.0))
        return self._cdf(values)

    def quantiles(self, q: FloatArray) -> FloatArray:
        """Quantiles (q, m), by Halley's method inside a bracket that bisection keeps.

        Nearly equal components are merged first, which changes no probability by more than 1e-3.
        The bracket spans the quantiles of the single components. The last step is at most 1e-3 of
        the narrowest standard deviation; the error goes as its cube.
        """
        z = ndtri(q)[:, np.newaxis]
        merged = self._merged
        weight, mean, std = merged
        narrow, wide = std.min(axis=0), std.max(axis=0)
        low = (mean.min(axis=0) + np.minimum(z * narrow, z * wide)).ravel()
        high = (mean.max(axis=0) + np.maximum(z * narrow, z * wide)).ravel()
        at = ((weight * mean).sum(axis=0) + z * (weight * std).sum(axis=0)).ravel()
        level, place = np.repeat(q, narrow.size), np.tile(np.arange(narrow.size), len(q))
        close = np.maximum(1e-13 * (np.abs(low) + np.abs(high)), 1e-3 * narrow[place])
        before = np.full(at.shape, np.inf)
        left = np.arange(at.size)  # not converged yet
        for _ in range(_MAX_ITERATIONS):
            below, density, slope = _around(merged, at[left], place[left])
            here, excess = at[left], below - level[left]
            low[left] = np.where(excess < 0, here, low[left])
            high[left] = np.where(excess < 0, high[left], here)
            step = excess / np.maximum(density, _TINY)
            bend = step * slope / np.maximum(2 * density, _TINY)
            step = here - step / np.clip(1 - bend, 0.5, 2.0)
            # bisect where the step leaves the bracket or converges slowly, as near a narrow peak
            slow = np.abs(excess) > before[left] / 2
            away = np.abs(step - here) > close[left]
            halve = away & (slow | (step <= low[left]) | (step >= high[left]))
            at[left] = np.where(halve, (low[left] + high[left]) / 2, step)
            before[left] = np.abs(excess)
            left = left[away]
            if not left.size:
                break
        quantiles: FloatArray = at.reshape(len(q), -1)
        return np.exp(quantiles) if self.logarithmic else quantiles

    @cached_property
    def _merged(self) -> FloatArray:
        """Weight, mean and std of the components after nearly equal ones are merged, (3, cells, m).

        Components whose means and standard deviations at a place lie in one cell become one with
        their mean and variance. Places with fewer cells end with components of weight 0.
        """
        k, m = self.mean.shape
        mean, std = self.mean.T, self.std.T
        weight = np.broadcast_to(np.maximum(self.weight, _TINY), (m, k))
        width = np.rint(np.log(std) / _LOG_STD_CELL)
        along = np.rint((mean - mean[:, :1]) / (_MEAN_CELL * np.exp(width * _LOG_STD_CELL)))
        cell = width * (2 * _MAX_CELLS) + np.clip(along, -_MAX_CELLS, _MAX_CELLS)
        order = np.argsort(cell, axis=1)
        weight, mean, std, cell = (
            np.take_along_axis(each, order, axis=1) for each in (weight, mean, std, cell)
        )
        is_first = np.diff(cell, axis=1, prepend=np.nan) != 0
        first = np.flatnonzero(is_first)
        total = np.add.reduceat(weight.ravel(), first)
        centre = np.add.reduceat((weight * mean).ravel(), first) / total
        index = np.cumsum(is_first) - 1
        away = mean - centre[index].reshape(m, k)
        variance = np.add.reduceat((weight * (std**2 + away**2)).ravel(), first) / total
        counts = is_first.sum(axis=1)
        place = np.repeat(np.arange(m), counts)
        position = np.arange(first.size) - np.repeat(np.cumsum(counts) - counts, counts)
        merged = np.empty((3, counts.max(), m))
        merged[:] = np.array([np.zeros(m), mean[:, 0], std[:, 0]])[:, np.newaxis]
        merged[:, position, place] = total, centre, np.sqrt(variance)
        return merged

    @classmethod
    def joined(cls, mixtures: Sequence["Mixture"]) -> "Mixture":
        """One mixture of several at the same places, each with equal weight.

        All are of the loss, or all of its logarithm.
        """
        if len(mixtures) == 1:
            return mixtures[0]
        return cls(
            weight=np.concatenate([each.weight for each in mixtures]) / len(mixtures),
            mean=np.concatenate([each.mean for each in mixtures]),
            std=np.concatenate([each.std for each in mixtures]),
            logarithmic=mixtures[0].logarithmic,
        )

    def with_noise(self, noise: float) -> "Mixture":
        """The mixture for single observations, given the standard deviation of their noise."""
        if noise == 0:
            return self
        added: FloatArray | float = noise
        if self.logarithmic:  # of a log-normal loss: log(1 + relative variance)
            added = np.sqrt(np.logaddexp(0.0, 2 * (math.log(noise) - self.mean)))
        return replace(self, std=np.hypot(self.std, added))

    def calibrated(self, scale: float, tail: float) -> "Mixture":
        """The mixture stretched about its centre by `scale`, and by `tail` with weight 0.2.

        ``calibrated(1, 1)`` only clips a logarithmic mixture to its limits.
        """
        centre = self.weight @ self.mean
        away = self.mean - centre
        weight, mean, std = self.weight, centre + scale * away, scale * self.std
        if tail != scale:
            weight = np.concatenate([(1 - TAIL_WEIGHT) * weight, TAIL_WEIGHT * weight])
            mean = np.concatenate([mean, centre + tail * away])
            std = np.concatenate([std, tail * self.std])
        if self.logarithmic:
            mean, std = np.clip(mean, -_MAX_LOG_LOSS, _MAX_LOG_LOSS), np.minimum(std, _MAX_LOG_STD)
        return Mixture(weight, mean, std, self.logarithmic)

    def widened(self, factor: float) -> "Mixture":
        """The mixture stretched by a factor of at least 1 about its median, which stays the same.

        Where the standard deviation of a component is capped, so is its distance from the median,
        which keeps the share of it below the median.
        """
        if factor == 1:
            return self
        plain = replace(self, logarithmic=False)
        median = plain.quantiles(np.array([0.5]))[0]
        by: FloatArray | float = factor
        if self.logarithmic:
            by = np.clip(_MAX_LOG_STD / np.maximum(self.std, _TINY), 1.0, factor)
        return replace(self, mean=median + by * (self.mean - median), std=by * self.std)

    def pooled(self, other: "Mixture") -> "Mixture":
        """The mixture moved and narrowed by another estimate of the same numbers.

        With medians m, m' and half-widths s, s' of the 80% intervals, the pooled estimate is that
        of Gaussians with standard deviations k s and s',

            k = 1 + 1.5 s^2 / (s^2 + (s' / 1.5)^2)

        because two estimates of one run share part of their errors, and this one is easily
        overconfident; k is about 1 where the other is much wider and adds little. Every component
        keeps its place relative to the new interval.
        """
        levels = np.array([0.1, 0.5, 0.9])
        plain = [replace(each, logarithmic=False).quantiles(levels) for each in (self, other)]
        (low, median, high), (other_low, other_median, other_high) = plain
        width = np.maximum(high - low, _TINY)
        other_width = np.maximum(other_high - other_low, _TINY)
        common = 1 + _COMMON_ERROR * width**2 / (width**2 + (other_width / _MUCH_WIDER) ** 2)
        own_precision, precision = (common * width) ** -2, other_width**-2
        total = own_precision + precision
        centre = (own_precision * median + precision * other_median) / total
        ratio = total**-0.5 / width
        return replace(self, mean=centre + ratio * (self.mean - median), std=ratio * self.std)

    def below(self, bound: float) -> "Mixture":
        """The mixture with 97.7% of every component below `bound`.

        `bound` is in the units of `mean`. A component that reaches higher keeps its mean and
        becomes narrower, down to a standard deviation of 0.5; one too high for that moves down.
        """
        mean = np.minimum(self.mean, bound - _STDS_BELOW * _MIN_STD_BELOW)
        return replace(self, mean=mean, std=np.minimum(self.std, (bound - mean) / _STDS_BELOW))

    def _cdf(self, values: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):  # the cdf is 0 or 1 that far away
            z = (values[:, np.newaxis] - self.mean) / self.std
        below: FloatArray = np.einsum("k,qkm->qm", self.weight, ndtr(z))
        return np.clip(below, 0.0, 1.0)  # the weights sum to 1 up to rounding


def _around(merged: FloatArray, at: FloatArray, place: IntArray) -> FloatArray:
    """Cdf, density and slope of the density at points (n,), each of the place given, (3, n).

    `merged` holds weight, mean and std of components at places, (3, k, m).
    """
    values = np.empty((3, at.size))
    rows = max(_BLOCK_SIZE // merged.shape[1], 1)
    for part in (slice(i, i + rows) for i in range(0, at.size, rows)):
        weight, mean, std = (each.T[place[part]] for each in merged)
        z = (at[part, np.newaxis] - mean) / std
        peaks = np.exp(-z * z / 2) / (_SQRT_2PI * std)
        components = (ndtr(z), peaks, -peaks * z / std)
        for row, component in zip(values, components, strict=True):
            row[part] = np.einsum("nk,nk->n", component, weight)
    return values
