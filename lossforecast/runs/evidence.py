"""What the fit looks at: the observed losses without the start of the run, thinned, with noise."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from lossforecast.arrays import FloatArray
from lossforecast.runs.history import Bins
from lossforecast.schedule import LRSchedule

__all__ = ["Evidence", "gather"]


_POINTS = 128  # at most; more do not sharpen a forecast
_LEAST = 8  # points; with fewer the burn-in is given up
_LARGEST = 1e100  # losses are cut there, so that their squares stay finite
_windows = np.lib.stride_tricks.sliding_window_view
_OUTLIER = 5.0  # robust standard deviations from the neighbours


@dataclass(frozen=True)
class Evidence:
    """Losses and the variance of their means; arrays of shape (n,), in order of the steps."""

    step: NDArray[np.int64]
    loss: FloatArray
    variance: FloatArray
    noise: float
    """Standard deviation of one observation around the expected loss."""
    n_observed: int
    """How many losses were observed so far."""

    def __len__(self) -> int:
        return self.step.size

    @property
    def says_nothing(self) -> bool:
        """Whether nothing was observed."""
        return self.n_observed == 0

    @classmethod
    def nothing(cls, step: int, loss: float) -> Self:
        """A loss of which nothing is known, where a fit needs one."""
        return cls(np.array([step]), np.array([loss]), np.array([(1e3 * loss) ** 2]), 0.0, 0)


def gather(bins: Bins, schedule: LRSchedule, burn_in: float) -> Evidence:
    """The evidence in some bins, n at most 128.

    Warm-up and a share `burn_in` of the run so far are left out, unless little else is there: the
    start follows no law.
    Bins are pooled evenly in the square root of time. The noise is the variance inside the bins or,
    where they hold single observations, that of second differences. Bins far from their neighbours
    keep their loss and get a larger variance.
    """
    sound = np.isfinite(bins.mean)
    if not sound.any():
        none = np.empty(0)
        return Evidence(np.empty(0, dtype=np.int64), none, none, 0.0, 0)
    now = int(bins.last[-1])
    settled = bins.first >= max(min(schedule.warmup_steps, now // 2), burn_in * now)
    if (sound & settled).sum() >= _LEAST:
        sound &= settled
    step, count = bins.step[sound], bins.count[sound].astype(float)
    loss = np.clip(bins.mean[sound], -_LARGEST, _LARGEST)
    positive = bool(loss.min() > 0)  # then noise is a share of the loss
    each = np.log(loss) if positive else loss
    spread = np.sqrt(bins.variance[sound]) / (loss if positive else 1.0)
    noise = _noise(each, count, spread, floor=0.0 if positive else float(np.median(np.abs(loss))))
    elapsed = (step - step[0]) / max(step[-1] - step[0], 1.0)
    even = np.minimum(np.sqrt(elapsed) * _POINTS, _POINTS - 1).astype(int)
    group = np.unique(even, return_inverse=True)[1]
    weight = np.bincount(group, count)
    at = np.maximum(np.rint(np.bincount(group, count * step) / weight), 1).astype(np.int64)
    # differences from a level: a mean of 1e30 and 3 must not lose the 3 of its neighbours
    level = np.median(loss)
    pooled = level + np.bincount(group, count * (loss - level)) / weight
    pooled = np.clip(pooled, loss.min(), loss.max())
    scale = np.abs(pooled) if positive else np.ones(pooled.size)
    variance = (noise * scale) ** 2 / weight
    flat = np.log(pooled) if positive else pooled
    variance = variance * _inflation(flat, np.sqrt(variance) / scale)
    late = float(np.median(scale[-max(1, scale.size // 4) :]))
    return Evidence(at, pooled, variance, noise * late, int(bins.count.sum()))


def _noise(each: FloatArray, count: FloatArray, spread: FloatArray, floor: float) -> float:
    """Standard deviation of one observation, from inside the bins or between them."""
    least = 1e-5 * max(floor, 1.0 if floor == 0 else 0.0) + 1e-12
    many = count > 1
    if many.mean() > 0.5:
        # half of the sample variances of normal noise lie below this share of its variance
        freedom = count[many] - 1
        half = 2 * gammaincinv(freedom / 2, 0.5) / freedom
        return max(float(np.median(spread[many] / np.sqrt(half))), least)
    late = each[each.size // 3 :] if each.size >= 2 * _LEAST else each
    if late.size < 3:
        return max(0.01 * (abs(float(late[-1])) if floor else 1.0), least)
    bend = late[1:-1] - (late[:-2] + late[2:]) / 2  # of white noise: variance 1.5
    single: float = 1.4826 * float(np.median(np.abs(bend))) * np.sqrt(np.median(count) / 1.5)
    return max(single, least)


def _inflation(loss: FloatArray, noise: FloatArray) -> FloatArray:
    """Factor on the variance of points that stick out from their neighbours.

    Losses spike upwards. A low one is an outlier only if those after it are high again: a loss that
    falls at last says more than all before.
    """
    if loss.size < 7:
        return np.ones(loss.size)
    around = np.median(_windows(np.pad(loss, 3, mode="reflect"), 7), axis=-1)
    after = np.median(_windows(np.pad(loss, (0, 3), mode="edge"), 4), axis=-1)
    away = np.abs(loss - around)
    typical = 1.4826 * np.median(away[away.size // 4 :])
    away = np.where(loss < around, np.minimum(away, np.abs(loss - after)), away)
    usual = np.maximum(np.maximum(typical, noise), 1e-300)  # all may be alike
    excess: FloatArray = np.clip(away / (_OUTLIER * usual), 1.0, 1e6)
    return excess**2
