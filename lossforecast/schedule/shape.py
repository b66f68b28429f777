"""`shape_difference`: how far the shapes of two schedules differ."""

from typing import TYPE_CHECKING

import numpy as np

from lossforecast.arrays import FloatArray

if TYPE_CHECKING:
    from lossforecast.schedule.lr_schedule import LRSchedule

__all__ = ["shape_difference"]

_N_SHARES = 64


def shape_difference(one: "LRSchedule", other: "LRSchedule") -> float:
    """Largest difference of the rates, in units of the peaks, at 64 equal shares of the run.

    The first 1/64 of the run is left out: logged rates are interpolated there.

    Example:
        >>> from lossforecast import LRSchedule
        >>> short, long = LRSchedule.cosine(100, 1e-3), LRSchedule.cosine(10_000, 2e-3)
        >>> shape_difference(short, long) < 0.02
        True
    """
    return float(np.abs(_relative_rates(one) - _relative_rates(other)).max())


def _relative_rates(schedule: "LRSchedule") -> FloatArray:
    shares = np.arange(1, _N_SHARES + 1) / _N_SHARES
    steps = np.ceil(shares * schedule.total_steps).astype(np.int64)
    rates: FloatArray = schedule.lr(steps) / max(schedule.peak, 1e-300)
    return rates
