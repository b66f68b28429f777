"""`regular_steps`: learning rates that fall by the same factor at equal intervals."""

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.schedule import LRSchedule

__all__ = ["regular_steps"]

_SAME = 1e-6  # relative difference of equal rates
_TOLERANCE = 2.5e-4  # of the peak: largest distance of a rate from the decay
_MIN_FALL = 0.15  # of the peak: a linear decay that fell less is nearly exponential
_MIN_DROPS = 2
_MAX_DROPS = 2000  # ahead that are kept one by one
_MIN_FACTOR = 1e-4


def regular_steps(
    steps: IntArray, rates: FloatArray, total_steps: int
) -> tuple[LRSchedule, str, float] | None:
    """The step decay, or the exponential decay of one step an epoch, that logged rates follow.

    Args:
        steps: steps of the rates from the peak on, increasing, (n,).
        rates: the rates, positive, (n,).
        total_steps: planned length of the run.

    Returns:
        The rates to the end of the run, the decay in words, and the largest distance of a rate from
        it as a share of the peak; None if the rates follow no such decay.
    """
    peak = float(rates.max(initial=0.0))
    if not 0 < peak < np.inf or not 0 < rates[-1] < (1 - _MIN_FALL) * peak:
        return None
    at = np.flatnonzero(np.abs(np.diff(rates)) > _SAME * rates[:-1])
    if at.size < _MIN_DROPS or (np.diff(rates) > 0).any():
        return None
    before, after = steps[at].astype(float), steps[at + 1].astype(float)
    drops, levels = (before + after) / 2, np.append(rates[at], rates[-1]) / peak
    factor = float((levels[-1] / levels[0]) ** (1 / at.size))
    distance = float(np.abs(levels[0] * factor ** np.arange(levels.size) - levels).max())
    if distance > _TOLERANCE or not _MIN_FACTOR < factor < 1:
        return None
    interval = float((drops[-1] - drops[0]) / (at.size - 1))
    gaps = (after - before) / 2
    first = 0.0 if at.size == _MIN_DROPS else drops[0] - interval  # two need the start as well
    expected = first + interval * np.arange(1, at.size + 1)
    if (np.abs(drops - expected) > gaps + gaps.max()).any() or interval < 1:
        return None
    words = f"steps by a factor of {factor:.3g} every {interval:,.0f}"
    ahead = np.arange(drops[-1] + interval, total_steps, interval)
    if ahead.size > _MAX_DROPS:
        places = np.linspace(float(steps[-1]), total_steps, _MAX_DROPS)
        future = rates[-1] * factor ** np.maximum((places - drops[-1]) / interval - 0.5, 0)
    else:
        places = np.concatenate([[float(steps[-1])], *([d, d + 1] for d in np.round(ahead))])
        exponents = np.concatenate([[0], *([i, i + 1] for i in range(ahead.size))])
        future = rates[-1] * factor**exponents
    there = places <= total_steps
    keep = np.unique(np.round(places[there]).astype(np.int64), return_index=True)
    schedule = LRSchedule.from_points(keep[0], future[there][keep[1]], total_steps=total_steps)
    return schedule, words, distance
