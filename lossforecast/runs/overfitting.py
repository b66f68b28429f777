"""The lowest validation loss, and the rise since."""

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.numerics import MAD_TO_STD
from lossforecast.runs.bins import Bins

__all__ = ["lowest_loss", "overfit_rise"]

_N_AVERAGED = 3
_MIN_LOSSES = 8
_MIN_VALUES_SINCE_MINIMUM = 4
_MIN_SHARE_SINCE_MINIMUM = 0.1  # of the smoothed losses
_MIN_RISE_STDS = 3  # standard deviations of the noise


def overfit_rise(losses: FloatArray) -> tuple[int, float]:
    """Index of the minimum of the smoothed losses (n,), and the rise since; (0, 0.0) if none.

    The losses are averaged over three. The rise counts if the minimum is at least 4 values and 10%
    of the run ago, and if the mean of the last three exceeds it by 3 standard deviations of the
    noise; else it is 0.
    """
    if losses.size < _MIN_LOSSES:
        return 0, 0.0
    smooth = _smoothed(losses)
    lowest = int(np.argmin(smooth))
    since = smooth[lowest:]
    if since.size < max(_MIN_VALUES_SINCE_MINIMUM, _MIN_SHARE_SINCE_MINIMUM * smooth.size):
        return 0, 0.0
    noise = MAD_TO_STD * float(np.median(np.abs(np.diff(losses)))) + 1e-12
    rise = float(np.mean(since[-3:]) - since[0])
    return lowest + 1, rise if rise > _MIN_RISE_STDS * noise else 0.0


def lowest_loss(bins: Bins) -> tuple[int, float] | None:
    """Step and value of the lowest mean of three neighbouring losses; None if there are fewer."""
    finite = np.isfinite(bins.mean)
    losses = bins.mean[finite]
    if losses.size < _N_AVERAGED:
        return None
    smooth = _smoothed(losses)
    lowest = int(np.argmin(smooth))
    return int(bins.last[finite][lowest + _N_AVERAGED // 2]), float(smooth[lowest])


def _smoothed(losses: FloatArray) -> FloatArray:
    """Means of three neighbouring losses, (n - 2,)."""
    return np.convolve(losses, np.ones(_N_AVERAGED) / _N_AVERAGED, mode="valid")
