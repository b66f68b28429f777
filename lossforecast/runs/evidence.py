"""`Evidence`: the losses that a fit uses, thinned and without the start of the run."""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.numerics import MAD_TO_STD, gammaincinv
from lossforecast.runs.bins import Bins
from lossforecast.schedule import LRSchedule

__all__ = ["Evidence", "gather"]


_MAX_POINTS = 128  # of evidence, and one for each event: more do not sharpen a forecast
_MIN_POINTS_AFTER_BURN_IN = 8  # with fewer, the start of the run is used too
_MAX_LOSS = 1e100  # losses are clipped there: their squares stay finite
_MIN_LOSS = 1e-100  # of positive losses whose jumps are taken out
_INITIAL_SHARE = 0.01  # of the steps so far, whose median loss is that at the start
_INITIAL_POINTS = 3  # at least
_OUTLIER_STDS = 5.0  # distance of an outlier from its neighbours, in robust standard deviations
_RELATIVE_NOISE_FLOOR = 1e-5  # of one observation, relative to the loss
_MIN_BINS_FOR_NOISE = 10  # between two events; with fewer, the noise is that of the whole run
_POINTS_AT_JUMP = 3  # on each side of an event, whose medians show how far the loss jumped
_NO_EVENTS: IntArray = np.empty(0, np.int64)
_windows = np.lib.stride_tricks.sliding_window_view


@dataclass(frozen=True)
class Evidence:
    """Mean losses and the variances of these means; arrays of shape (n,), in order of the steps."""

    step: NDArray[np.int64]
    loss: FloatArray
    variance: FloatArray
    noise: float
    """Standard deviation of one observation around the expected loss."""
    n_observed: int
    """Number of finite losses observed so far."""
    initial: float = math.nan
    """Median loss of the first hundredth of the steps so far; nan if unknown."""
    events: IntArray = field(default_factory=_NO_EVENTS.copy)
    """Steps of the events after the first loss, increasing; some may still be to come, (m,)."""

    def __len__(self) -> int:
        return self.step.size

    @property
    def is_empty(self) -> bool:
        """True if no loss was observed."""
        return self.n_observed == 0

    def without_jumps(self) -> Self:
        """The evidence with the losses before each event moved to the level of those after it.

        They are moved by the difference between the medians of three points on each side or, where
        all losses are above 0, by their ratio. So a comparison of early and late losses does not
        mistake a jump for a fall or a rise.
        """
        loss, initial = self.loss.copy(), self.initial
        relative = bool(loss.size and loss.min() > 0)
        for part in _parts(self.step, self.events)[1:]:
            start = part.start
            before = float(np.median(loss[max(start - _POINTS_AT_JUMP, 0) : start]))
            after = float(np.median(loss[part][:_POINTS_AT_JUMP]))
            moved = np.append(loss[:start], initial)
            moved = moved * (after / before) if relative else moved + (after - before)
            moved = np.clip(moved, _MIN_LOSS if relative else -_MAX_LOSS, _MAX_LOSS)
            loss[:start], initial = moved[:-1], float(moved[-1])
        return replace(self, loss=loss, initial=initial)

    @classmethod
    def placeholder(cls, step: int, loss: float, events: IntArray) -> Self:
        """One loss with a huge variance, for a fit before the first observation.

        Events up to its step are left out: they precede all losses that are still to come.
        """
        return cls(
            step=np.array([step]),
            loss=np.array([loss]),
            variance=np.array([(1e3 * loss) ** 2]),
            noise=0.0,
            n_observed=0,
            initial=loss,
            events=events[events > step],
        )


def gather(
    bins: Bins, schedule: LRSchedule, burn_in: float, events: IntArray = _NO_EVENTS
) -> Evidence:
    """Thin the observed losses to at most 128 points with a variance each.

    1. The warm-up and a share `burn_in` of the run so far are left out, because the start follows
       no law, unless fewer than 8 bins remain.
    2. The noise of one observation is the variance inside the bins or, where bins hold single
       observations, that of second differences; relative to the loss where all losses are above 0.
    3. Bins are pooled evenly in the square root of time.
    4. Points far from their neighbours keep their loss and get a larger variance.

    Losses before and after an event are not pooled, and not compared in 2 and 4.

    Args:
        bins: the losses.
        schedule: learning rate of every step.
        burn_in: share of the run so far.
        events: steps of the events, increasing, (m,). Those up to the first loss do not count.
    """
    used = _after_burn_in(bins, schedule, burn_in)
    if not used.any():
        empty = np.empty(0)
        return Evidence(
            step=np.empty(0, dtype=np.int64),
            loss=empty,
            variance=empty,
            noise=0.0,
            n_observed=0,
            events=events,
        )
    step, count = bins.step[used], bins.count[used].astype(float)
    loss = np.clip(bins.mean[used], -_MAX_LOSS, _MAX_LOSS)
    relative = bool(loss.min() > 0)
    noise = _noise_between(
        _parts(step, events),
        np.log(loss) if relative else loss,
        count,
        np.sqrt(bins.variance[used]) / (loss if relative else 1.0),
        unit=0.0 if relative else float(np.median(np.abs(loss))),
    )
    group = _groups(step, np.searchsorted(events, step, side="right"))
    at, pooled, weight = _pooled(group, step, loss, count)
    scale = np.abs(pooled) if relative else np.ones(pooled.size)
    variance = (noise[np.searchsorted(group, np.arange(at.size))] * scale) ** 2 / weight
    comparable, std = np.log(pooled) if relative else pooled, np.sqrt(variance) / scale
    variance = variance * np.concatenate(
        [_inflation(comparable[each], std[each]) for each in _parts(at, events)]
    )
    recent = float(np.median(scale[-max(1, scale.size // 4) :]))
    return Evidence(
        step=at,
        loss=pooled,
        variance=variance,
        noise=float(noise[-1]) * recent,
        n_observed=int(bins.count.sum()),
        initial=_initial(bins),
        events=events[events > bins.first[0]],
    )


def _parts(step: IntArray | FloatArray, events: IntArray) -> list[slice]:
    """The parts into which events cut n >= 1 points, none of them empty."""
    cuts = np.unique(np.searchsorted(step, events))
    bounds = [0, *cuts[(cuts > 0) & (cuts < step.size)].tolist(), step.size]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _after_burn_in(bins: Bins, schedule: LRSchedule, burn_in: float) -> NDArray[np.bool_]:
    """The finite bins after the warm-up and the burn-in, or all if these are too few, (n,)."""
    finite = np.isfinite(bins.mean)
    if not finite.any():
        return finite
    now = int(bins.last[-1])
    start = max(min(schedule.warmup_steps, now // 2), burn_in * now)
    after = finite & (bins.first >= start)
    return after if after.sum() >= _MIN_POINTS_AFTER_BURN_IN else finite


def _initial(bins: Bins) -> float:
    """Median of the finite bins in the first hundredth of the steps so far, of three at least."""
    finite = np.isfinite(bins.mean)
    step, loss = bins.step[finite], bins.mean[finite]
    n = max(np.searchsorted(step, _INITIAL_SHARE * step[-1], side="right"), _INITIAL_POINTS)
    return float(np.median(np.clip(loss[:n], -_MAX_LOSS, _MAX_LOSS)))


def _groups(step: FloatArray, part: IntArray) -> IntArray:
    """Numbers of the groups, (n,): of equal width in the square root of time, within each part."""
    elapsed = (step - step[0]) / max(step[-1] - step[0], 1.0)
    even = np.minimum(np.sqrt(elapsed) * _MAX_POINTS, _MAX_POINTS - 1).astype(int)
    groups: IntArray = np.unique(even + part, return_inverse=True)[1]  # neither decreases
    return groups


def _pooled(
    group: IntArray, step: FloatArray, loss: FloatArray, count: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Means over groups: steps, losses and counts, (m,) each."""
    weight: FloatArray = np.bincount(group, count).astype(float)
    at = np.maximum(np.rint(np.bincount(group, count * step) / weight), 1).astype(np.int64)
    # differences from a level: a mean of 1e30 and 3 must not lose the 3 of its neighbours
    level = np.median(loss)
    pooled = level + np.bincount(group, count * (loss - level)) / weight
    return at, np.clip(pooled, loss.min(), loss.max()), weight


def _noise_between(
    parts: list[slice], loss: FloatArray, count: FloatArray, spread: FloatArray, unit: float
) -> FloatArray:
    """The `_noise` of each part between two events, (n,); of the whole run for short parts."""
    whole = _noise(loss, count, spread, unit)
    noise = np.full(loss.size, whole)
    for part in parts if len(parts) > 1 else []:
        if part.stop - part.start >= _MIN_BINS_FOR_NOISE:
            noise[part] = _noise(loss[part], count[part], spread[part], unit)
    return noise


def _noise(loss: FloatArray, count: FloatArray, spread: FloatArray, unit: float) -> float:
    """Standard deviation of one observation, from inside the bins or between them.

    Args:
        loss: mean losses of the bins or their logarithms, (n,).
        count: observations in each bin, (n,).
        spread: standard deviation inside each bin, in the units of `loss`, (n,).
        unit: typical size of the losses; 0 where `loss` is logarithmic.
    """
    floor = _RELATIVE_NOISE_FLOOR * max(unit, 1.0 if unit == 0 else 0.0) + 1e-12
    several = count > 1
    if several.mean() > 0.5:
        # median of the sample variance of normal noise, relative to the true variance
        freedom = count[several] - 1
        median_ratio = 2 * gammaincinv(freedom / 2, 0.5) / freedom
        return max(float(np.median(spread[several] / np.sqrt(median_ratio))), floor)
    late = loss[loss.size // 3 :] if loss.size >= 2 * _MIN_POINTS_AFTER_BURN_IN else loss
    if late.size < 3:
        return max(0.01 * (abs(float(late[-1])) if unit else 1.0), floor)
    bend = late[1:-1] - (late[:-2] + late[2:]) / 2  # of white noise: variance 1.5
    median_bend = float(np.median(np.abs(bend)))
    single: float = MAD_TO_STD * median_bend * np.sqrt(np.median(count) / 1.5)
    return max(single, floor)


def _inflation(loss: FloatArray, noise: FloatArray) -> FloatArray:
    """Factor on the variance of outliers: (distance / 5 robust standard deviations)^2, at least 1.

    Losses spike upwards. A low loss is an outlier only if the losses after it are high again: if
    the loss has begun to fall, its newest points are not outliers.
    """
    if loss.size < 7:
        return np.ones(loss.size)
    around = np.sort(_windows(np.concatenate([loss[3:0:-1], loss, loss[-2:-5:-1]]), 7))[:, 3]
    after = np.sort(_windows(np.append(loss, [loss[-1]] * 3), 4))[:, 1:3].mean(axis=1)
    away = np.abs(loss - around)
    typical = MAD_TO_STD * np.median(away[away.size // 4 :])
    away = np.where(loss < around, np.minimum(away, np.abs(loss - after)), away)
    usual = np.maximum(np.maximum(typical, noise), 1e-300)  # 0 if all losses are equal
    excess: FloatArray = np.clip(away / (_OUTLIER_STDS * usual), 1.0, 1e6)
    return excess**2
