"""A random walk seen through noise, filtered step by step: what makes its observations white.

The same as by the Cholesky factor of the covariance of walk and noise, in a time that grows with
the number of observations and not with its third power, and without the threads of a BLAS, which
on a machine whose cores are all busy may take a thousand times as long as the solution itself.
"""

from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["Filter", "filtered", "whiten"]


@dataclass(frozen=True)
class Filter:
    """How w walks are told from their noise at n observations, in order (Kalman 1960)."""

    gain: FloatArray
    """Share of what is new in an observation that is the walk's, (w, n)."""
    std: FloatArray
    """Of what is new in an observation, (w, n)."""
    variance: FloatArray
    """Of the walk after the last observation, (w,)."""


def filtered(moves: FloatArray, noise: FloatArray) -> Filter:
    """The filter of walks that begin at 0.

    Args:
        moves: variance of what each walk has moved since the observation before, (w, n).
        noise: variance of the noise, above 0, (n,).
    """
    gains, new, variances = [], [], []
    noises = noise.tolist()
    for row in moves.tolist():
        variance = 0.0
        for moved, noisy in zip(row, noises, strict=True):
            variance += moved
            total = variance + noisy
            gain = variance / total
            gains.append(gain)
            new.append(total)
            variance = gain * noisy
        variances.append(variance)
    gain, total = (np.array(values).reshape(moves.shape) for values in (gains, new))
    return Filter(gain, np.sqrt(total), np.array(variances))


def whiten(filter_: Filter, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Observations in units in which walk and noise are white, (w, n, p), for every walk.

    And the walk expected after the last one, (w, p), if the observations were it and noise alone.

    Args:
        filter_: of w walks and n observations.
        columns: p series of observations, (n, p), or for each walk its own, (w, n, p).
    """
    shape = (*filter_.gain.shape, columns.shape[-1])
    by_time = np.broadcast_to(columns, shape).swapaxes(0, 1)
    gain = filter_.gain.T[..., np.newaxis]
    white, state = np.empty(by_time.shape), np.zeros((shape[0], shape[2]))
    for i, now in enumerate(by_time):
        new = np.subtract(now, state, out=white[i])
        state += gain[i] * new
    white /= filter_.std.T[..., np.newaxis]
    return white.swapaxes(0, 1), state
