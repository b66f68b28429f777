"""The rise of a validation loss since its minimum."""

import numpy as np
from numpy.typing import NDArray

from lossforecast.numerics import MAD_TO_STD

__all__ = ["overfit_rise"]

_MIN_LOSSES = 8
_MIN_VALUES_SINCE_MINIMUM = 4
_MIN_SHARE_SINCE_MINIMUM = 0.1  # of the smoothed losses
_MIN_RISE_STDS = 3  # standard deviations of the noise


def overfit_rise(losses: NDArray[np.float64]) -> tuple[int, float]:
    """Index of the minimum of the smoothed losses (n,), and the rise since; (0, 0.0) if none.

    The losses are averaged over three. The rise counts if the minimum is at least 4 values and 10%
    of the run ago, and if the mean of the last three exceeds it by 3 standard deviations of the
    noise; else it is 0.
    """
    if losses.size < _MIN_LOSSES:
        return 0, 0.0
    smooth = np.convolve(losses, np.ones(3) / 3, mode="valid")
    lowest = int(np.argmin(smooth))
    since = smooth[lowest:]
    if since.size < max(_MIN_VALUES_SINCE_MINIMUM, _MIN_SHARE_SINCE_MINIMUM * smooth.size):
        return 0, 0.0
    noise = MAD_TO_STD * float(np.median(np.abs(np.diff(losses)))) + 1e-12
    rise = float(np.mean(since[-3:]) - since[0])
    return lowest + 1, rise if rise > _MIN_RISE_STDS * noise else 0.0
