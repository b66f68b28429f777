"""Where the learning rate of a step decay falls, and by how much."""

from collections.abc import Callable

import numpy as np

from lossforecast.arrays import FloatArray, IntArray

__all__ = ["falls_in_steps"]

_CELLS = 200  # of a run, in which steps are sought
_MIN_EDGES = 20  # of these cells: a shorter run is too coarse to tell a step from a smooth decay
_MIN_RATIO, _MIN_RATE = 1.3, 1e-3  # of the rates before and after; of the peak
_MAX_FALL_AROUND = 0.05  # of the fall in a step, in the cells before and after it


def falls_in_steps(
    lr: Callable[[IntArray], FloatArray], total_steps: int, peak: float
) -> tuple[IntArray, FloatArray]:
    """Steps (n,), increasing, and the falls of the logarithm of the rate until each of them, (n,).

    A step is a fall to 1/1.3 or less within a hundredth of the run, while the rate hardly changes
    in the two hundredths around it; a smooth decay has none. Rates below 1/1000 of the peak count
    as that much.
    """
    edges = np.unique(np.linspace(1, total_steps, _CELLS + 1).astype(np.int64))
    if peak == 0 or edges.size < _MIN_EDGES:
        return edges[:1], np.zeros(1)
    rates = np.maximum(lr(edges) / peak, _MIN_RATE)
    falls = np.pad(-np.diff(np.log(rates)), 2)
    both = falls[2:-1] + falls[3:]  # a step may fall into two cells
    at_most = _MAX_FALL_AROUND * both[:-1]
    is_step = (
        (both[:-1] >= np.log(_MIN_RATIO))
        & (falls[2:-2] > at_most)
        & (np.abs(falls[1:-3]) <= at_most)
        & (np.abs(falls[4:]) <= at_most)
    )
    return edges, np.append(0.0, np.cumsum(np.where(is_step, both[:-1], 0.0)))
