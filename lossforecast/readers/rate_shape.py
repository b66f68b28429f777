"""`RateShape`: the decay that logged learning rates lie on, which tells those to come."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.readers.rate_steps import regular_steps
from lossforecast.schedule import LRSchedule

__all__ = ["SHAPES", "RateShape", "rate_shape"]

_TOLERANCE = 3e-3  # of the peak: largest distance of a logged rate from a decay that it lies on
_SURELY_WORSE = 4.0  # times the distance of the best decay: one that fits no better is ruled out
_ROUNDING = 2.5e-4  # of the peak: logged rates may have four digits only
_ALIKE = 0.05  # of the peak: decays that differ by less in future are the same
_MIN_POINTS = 8  # of the decay
_MIN_FALL = 0.01  # of the peak: rates that fell less may still be constant
_MAX_POINTS = 400  # that are compared, of the peak and of the decay each
_ENDS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # usual last rates, as shares of the peak
_SHIFTS = (0, -1, 1)  # the rate beside a step may be the one before or after it
_N_STARTS = 25  # steps tried for the start of the decay, and as many around the best one
_N_ROUNDS = 4
_N_POINTS = 1025  # of a decay that is kept as points
_N_FUTURE = 33  # future steps at which decays are compared

SHAPES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "linear": lambda elapsed: 1 - elapsed,
    "cosine": lambda elapsed: (1 + np.cos(np.pi * elapsed)) / 2,
}
"""Share of the fall that is left, by the share of the decay that is over."""
_OTHER_SHAPES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "polynomial of power 0.9": lambda elapsed: (1 - elapsed) ** 0.9,
    "polynomial of power 2": lambda elapsed: (1 - elapsed) ** 2,
    "1 - sqrt": lambda elapsed: 1 - np.sqrt(elapsed),
}
_ALL_SHAPES = {**SHAPES, **_OTHER_SHAPES}


@dataclass(frozen=True)
class RateShape:
    """The decays that logged learning rates fit.

    Attributes:
        schedule: the rates that the best one gives until the end of the run; None if several fit
            and their futures differ.
        description: the decays in words, such as "linear to 0 at 4,000".
        distance: largest distance of a logged rate from the best decay, as a share of the peak.
    """

    schedule: LRSchedule | None
    description: str
    distance: float


@dataclass(frozen=True)
class _Fit:
    """A decay to ``end * peak`` that begins after step `start`.

    `peak` is a share of the largest logged rate.
    """

    shape: str
    end: float
    start: float
    peak: float
    distance: float

    def rates(self, steps: FloatArray, total_steps: int) -> FloatArray:
        """The rates at some steps after the start, (n,)."""
        return self.peak * _shares(self.shape, self.end, self.start, steps, total_steps)


def rate_shape(steps: IntArray, rates: FloatArray, total_steps: int) -> RateShape | None:
    """The decay to the end of a run that its logged rates lie on.

    It is linear or cosine, polynomial or "1 - sqrt" where these fit far better, or falls in equal
    steps (`regular_steps`).

    They do if none is further away than 0.3% of the peak: a step that the scaler of mixed precision
    skips moves them a little. A warm-up and a constant phase may come before. The decay ends at 0
    or at a usual share of the peak (0.5, 1, 2, 5, 10 or 20%).

    Args:
        steps: steps of the rates, increasing, (n,).
        rates: the logged learning rates, (n,).
        total_steps: planned length of the run.

    Returns:
        None if no decay fits, or if too little of one was seen.
    """
    peak = float(rates.max(initial=0.0))
    if not peak > 0:
        return None
    at_peak = np.flatnonzero(rates >= peak * (1 - _ROUNDING))
    first, last, n = int(at_peak[0]), int(at_peak[-1]), rates.size
    fallen = rates[-1] <= (1 - _MIN_FALL) * peak
    if not fallen or steps[-1] >= total_steps:
        return None
    regular = regular_steps(steps[last:], rates[last:], total_steps)
    if regular is not None:
        return RateShape(*regular)
    if n - 1 - last < _MIN_POINTS:
        return None
    starts = float(steps[first - 1]) if first else 0.0, float(steps[last + 1])
    used = np.unique([*_thinned(first, last), *_thinned(last, n - 1)])
    at, values = steps[used].astype(float), rates[used] / peak

    def fits_of(shapes: Iterable[str]) -> list[_Fit]:
        return [_best(s, end, starts, at, values, total_steps) for s in shapes for end in _ENDS]

    fits = fits_of(SHAPES)
    best = min(fits, key=lambda fit: fit.distance)
    if best.distance > _ROUNDING:
        others = fits_of(_OTHER_SHAPES)
        other = min(others, key=lambda fit: fit.distance)
        if _SURELY_WORSE * other.distance < best.distance:
            fits, best = others, other
    if best.distance > _TOLERANCE:
        return None
    limit = min(max(_SURELY_WORSE * best.distance, _ROUNDING), _TOLERANCE)
    possible = [fit for fit in fits if fit.distance <= limit]
    return _told_apart(possible, peak, float(at[-1]), total_steps)


def _by_shape(fits: list[_Fit]) -> list[list[_Fit]]:
    """The fits of each shape that there is, by the height of their ends."""
    return [own for shape in _ALL_SHAPES if (own := [fit for fit in fits if fit.shape == shape])]


def _range_of_ends(fits: list[_Fit], peak: float) -> str:
    """The decays of one shape in words, such as "cosine to 0..2e-05"."""
    lowest, highest = (f"{fit.end * fit.peak * peak:.3g}" for fit in (fits[0], fits[-1]))
    return f"{fits[0].shape} to {lowest}" + (f"..{highest}" if len(fits) > 1 else "")


def _thinned(first: int, last: int) -> IntArray:
    """At most 400 indices from the first to the last."""
    return np.unique(np.rint(np.linspace(first, last, _MAX_POINTS)).astype(np.int64))


def _told_apart(possible: list[_Fit], peak: float, now: float, total_steps: int) -> RateShape:
    """The simplest of the possible decays, or all of them if their futures differ."""
    ahead = np.linspace(now, total_steps, _N_FUTURE)
    best = min(possible, key=lambda fit: fit.distance)
    futures = np.array([fit.rates(ahead, total_steps) for fit in possible])
    away = np.abs(futures - best.rates(ahead, total_steps)).max(axis=1)
    if (away > _ALIKE).any():
        words = " or ".join(_range_of_ends(fits, peak) for fits in _by_shape(possible))
        return RateShape(None, f"{words} at {total_steps:,}", best.distance)
    chosen = next((fit for fit in possible if fit.shape == best.shape), best)  # to 0 if that fits
    top = chosen.peak * peak
    end = chosen.end * top
    if chosen.shape in SHAPES:
        warmup = min(round(chosen.start), total_steps - 1)
        schedule = getattr(LRSchedule, chosen.shape)(total_steps, top, end=end, warmup=warmup)
    else:
        points = np.unique(np.rint(np.linspace(now, total_steps, _N_POINTS)).astype(np.int64))
        rates = chosen.rates(points.astype(float), total_steps) * peak
        schedule = LRSchedule.from_points(points, rates, total_steps=total_steps)
    return RateShape(schedule, f"{chosen.shape} to {end:.3g} at {total_steps:,}", chosen.distance)


def _best(
    shape: str,
    end: float,
    range_of_starts: tuple[float, float],
    steps: FloatArray,
    rates: FloatArray,
    total_steps: int,
) -> _Fit:
    """The decay of one shape and end that comes nearest to n rates, steps and rates (n,)."""
    low, high = range_of_starts
    fits: list[_Fit] = []
    for _ in range(_N_ROUNDS):
        starts = np.linspace(low, min(high, total_steps - 1.0), _N_STARTS)
        for shift in _SHIFTS:
            share = _shares(shape, end, starts[:, np.newaxis], steps + shift, total_steps)
            peaks = (share @ rates) / (share**2).sum(axis=1)
            distances = np.abs(peaks[:, np.newaxis] * share - rates).max(axis=1) / peaks
            i = int(np.argmin(distances))
            fits.append(_Fit(shape, end, float(starts[i]), float(peaks[i]), float(distances[i])))
        nearest = min(fits, key=lambda fit: fit.distance)
        width = (high - low) / (_N_STARTS - 1)
        low, high = max(low, nearest.start - width), min(high, nearest.start + width)
    return nearest


def _shares(
    shape: str, end: float, start: FloatArray | float, steps: FloatArray, total_steps: int
) -> FloatArray:
    """The rates at some steps as shares of the peak; steps and starts are broadcast."""
    elapsed = np.clip((steps - start) / (total_steps - start), 0.0, 1.0)
    shares: FloatArray = end + (1 - end) * _ALL_SHAPES[shape](elapsed)
    return shares
