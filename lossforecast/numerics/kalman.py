"""The Kalman filter of a random walk observed through noise: it whitens the observations.

The result equals that of the Cholesky factor of the covariance of walk plus noise, in O(n) instead
of O(n^3) time, and without the threads of a BLAS: on a machine whose cores are all busy, they may
take a thousand times as long as the computation itself.
"""

from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.numerics.special import tridiagonal_solve

__all__ = ["Filter", "filtered", "whiten"]


@dataclass(frozen=True)
class Filter:
    """The filters of w walks at n observations, in order (Kalman 1960)."""

    gain: FloatArray
    """Kalman gain: share of the innovation that is attributed to the walk, (w, n)."""
    std: FloatArray
    """Standard deviation of the innovation, (w, n)."""
    variance: FloatArray
    """Variance of the walk after the last observation, (w,)."""


def filtered(moves: FloatArray, noise: FloatArray) -> Filter:
    """The filters of walks that begin at 0.

    With P the variance of the walk, q that of its move and r that of the noise, at each observation

        P <- P + q,    gain = P / (P + r),    std^2 = P + r,    P <- gain * r

    Args:
        moves: variance of the move of each walk since the previous observation, (w, n).
        noise: variance of the noise, above 0, (n,).
    """
    gains, innovations, variances = [], [], []
    noises = noise.tolist()
    for row in moves.tolist():
        variance = 0.0
        for move, noise_variance in zip(row, noises, strict=True):
            variance += move
            innovation = variance + noise_variance
            gain = variance / innovation
            gains.append(gain)
            innovations.append(innovation)
            variance = gain * noise_variance
        variances.append(variance)
    gain, innovation = (np.array(values).reshape(moves.shape) for values in (gains, innovations))
    return Filter(gain, np.sqrt(innovation), np.array(variances))


def whiten(filter_: Filter, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Whitened observations, (w, n, p), and the expected state of the walk at the end, (w, p).

    The innovations of each series, as if it were walk plus noise, over their standard deviation:

        white_i = (y_i - state) / std_i,    state <- state + gain_i (y_i - state)

    Args:
        filter_: the filters of w walks at n observations.
        columns: p series of observations, (n, p), or different ones for each walk, (w, n, p).
    """
    white = np.empty((*filter_.gain.shape, columns.shape[-1]))
    state = np.empty((len(white), columns.shape[-1]))
    for i, (gain, std) in enumerate(zip(filter_.gain, filter_.std, strict=True)):
        observed = columns if columns.ndim == 2 else columns[i]
        states = _solved(gain - 1, gain[:, np.newaxis] * observed)
        white[i] = observed
        white[i, 1:] -= states[:-1]
        white[i] /= std[:, np.newaxis]
        state[i] = states[-1]
    return white, state


def _solved(below: FloatArray, right: FloatArray) -> FloatArray:
    """Solution x of ``x_i + below_i x_(i-1) = right_i`` from ``x_(-1) = 0`` on, (n, p)."""
    if len(right) < 2:
        return right
    one, zero = np.ones(len(right)), np.zeros(len(right) - 1)
    solution: FloatArray = tridiagonal_solve(below[1:], one, zero, right)
    return solution
