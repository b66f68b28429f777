"""`Walk`: the discrepancy between law and run, a random walk whose last state is carried on.

At an event, such as a change of the data, the walk may jump.
"""

from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.numerics import Filter, filtered, whiten
from lossforecast.prior import Regime

__all__ = ["JUMP_VARIANCE", "Walk", "walks_of"]

JUMP_VARIANCE = 0.3**2
"""Variance of the jump of z at an event: other data or stronger augmentation can move the loss
by a third, but seldom doubles it."""


@dataclass(frozen=True)
class Walk:
    """One size of the discrepancy in one regime, and the design as seen through it.

    Its columns are those of the basis, then z, then the offsets of past runs.
    """

    lawful: bool
    """True in the first regime, that of runs which follow a law closely."""
    misfit: bool
    """True if this size means that no law describes the run."""
    lr_travel: float
    """Time of the walk while the learning rate moves from its peak to 0."""
    size: float
    """Standard deviation of z after one unit of time."""
    log_evidence: float
    """Contribution to the log evidence of every node of this walk."""
    time: FloatArray
    """Time of the walk at the observations, (n,)."""
    jumps: IntArray
    """Number of events up to each observation, (n,)."""
    whitened: FloatArray
    """The columns in units in which walk plus noise are white, (n, columns)."""
    state: FloatArray
    """State expected after the last observation, for each column as data, (columns,)."""
    filter: Filter
    """The Kalman filter of this walk alone."""

    def expected(self, time: FloatArray, jumps: IntArray) -> tuple[FloatArray, FloatArray]:
        """State expected at some times for each column as data, (m, columns), and variance, (m,).

        The variance of the walk itself, before any observation, is ``size^2 time + 0.09 jumps``.
        After the last observation the state is carried on and its variance grows likewise; before
        it, both follow from the covariance with the observations, which at two times is the
        variance at the earlier one.

        Args:
            time: times of the walk, (m,).
            jumps: number of events up to each of them, (m,).
        """
        ahead = self._variance(time - self.time[-1], jumps - self.jumps[-1])
        if ahead.min(initial=0.0) >= 0:
            state = np.broadcast_to(self.state, (time.size, self.state.size))
            return state, ahead + self.filter.variance
        variance = self._variance(time, jumps)
        shared = np.minimum(self._variance(self.time, self.jumps)[:, np.newaxis], variance)
        gain = whiten(self.filter, shared)[0][0]
        return gain.T @ self.whitened, variance - (gain**2).sum(axis=0)

    def _variance(self, time: FloatArray, jumps: IntArray) -> FloatArray:
        """Variance of the walk after some time and jumps."""
        return self.size**2 * time + JUMP_VARIANCE * jumps


def walks_of(
    regime: Regime,
    time: FloatArray,
    jumps: IntArray,
    noise: FloatArray,
    design: FloatArray,
    *,
    lawful: bool = False,
    last: bool = False,
) -> list[Walk]:
    """A walk of each size in a regime.

    Args:
        regime: sizes and their prior weights, and the travel of the clock.
        time: time of the walk at the observations, (n,).
        jumps: number of events up to each observation, (n,).
        noise: variance of the observations, (n,).
        design: the columns described in `Walk`, (n, columns).
        lawful: True for the first regime.
        last: True for the last regime, whose largest size is the misfit.
    """
    jumped = JUMP_VARIANCE * np.diff(jumps, prepend=0)
    moves = [size**2 * np.diff(time, prepend=0.0) + jumped for size, _ in regime.walks]
    filters = filtered(np.array(moves), noise)
    whitened, state = whiten(filters, design)
    log_determinants = -np.log(filters.std).sum(axis=1)
    largest = max(size for size, _ in regime.walks)
    return [
        Walk(
            lawful=lawful,
            misfit=last and size == largest,
            lr_travel=regime.lr_travel,
            size=size,
            log_evidence=float(np.log(weight) + log_determinants[i]),
            time=time,
            jumps=jumps,
            whitened=whitened[i],
            state=state[i],
            filter=Filter(filters.gain[[i]], filters.std[[i]], filters.variance[[i]]),
        )
        for i, (size, weight) in enumerate(regime.walks)
    ]
