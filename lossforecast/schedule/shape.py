"""`relative_rates` and `shape_difference`: schedules of any length and peak, compared."""

from typing import TYPE_CHECKING

import numpy as np

from lossforecast.arrays import FloatArray

if TYPE_CHECKING:
    from lossforecast.schedule.lr_schedule import LRSchedule

__all__ = ["relative_rates", "shape_difference"]

_SHARES = np.arange(1, 65) / 64  # of a run


def relative_rates(schedule: "LRSchedule", shares: FloatArray) -> FloatArray:
    """Learning rates at some shares of a run, (m,), in units of the peak.

    Example:
        >>> from lossforecast import LRSchedule
        >>> relative_rates(LRSchedule.wsd(100, 1e-3), np.array([0.5, 1.0])).tolist()
        [1.0, 0.0]
    """
    steps = np.maximum(np.rint(shares * schedule.total_steps), 1).astype(np.int64)
    rates: FloatArray = schedule.lr(steps) / (schedule.peak or 1.0)
    return rates


def shape_difference(one: "LRSchedule", other: "LRSchedule") -> float:
    """Largest difference of the rates, in units of the peaks, at 64 equal shares of the run.

    The first 1/64 of the run is left out: logged rates are interpolated there.

    Example:
        >>> from lossforecast import LRSchedule
        >>> short, long = LRSchedule.cosine(100, 1e-3), LRSchedule.cosine(10_000, 2e-3)
        >>> shape_difference(short, long) < 0.02
        True
    """
    return float(np.abs(relative_rates(one, _SHARES) - relative_rates(other, _SHARES)).max())
