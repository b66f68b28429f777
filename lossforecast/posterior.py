"""`Posterior`: what is believed of the laws' parameters after the evidence, and what it foretells.

The model and its symbols are those of `lossforecast.fit`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lossforecast.design import clock_apart, columns_at, walk_clock
from lossforecast.mixture import Mixture
from lossforecast.prior import Beliefs
from lossforecast.scale import FARTHEST, Scale
from lossforecast.schedule import LRSchedule
from lossforecast.walk import Filter, whiten

__all__ = ["Posterior", "Walk"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Walk:
    """One size of the discrepancy in one regime: what all its nodes share."""

    regime: int
    """Index into ``beliefs.regimes``."""
    size: float
    misfit: bool
    """Whether this size says that no law describes the run."""
    score: float
    """What it adds to the log evidence of its nodes."""
    clock: FloatArray
    whitened: FloatArray
    """Basis and z, in units in which walk and noise are white."""
    state: FloatArray
    """What of basis and z is the walk's, after the last observation."""
    filter: Filter
    """Of this walk alone."""

    def at(self, clock: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What of basis and z is the walk's at some times, (m, columns), and its variance, (m,)."""
        ahead = clock - self.clock[-1]
        if ahead.min(initial=0.0) >= 0:
            known = np.broadcast_to(self.state, (clock.size, self.state.size))
            return known, self.size**2 * ahead + self.filter.variance
        shared = self.size**2 * np.minimum(self.clock[:, np.newaxis], clock)
        carried = whiten(self.filter, shared)[0][0]
        return carried.T @ self.whitened, self.size**2 * clock - (carried**2).sum(axis=0)


@dataclass(frozen=True)
class Posterior:
    """What is believed of the laws' parameters after the evidence, over k nodes."""

    beliefs: Beliefs
    schedule: LRSchedule
    now: int
    scale: Scale
    weight: FloatArray
    """Posterior weight of each node, (k,)."""
    member: IntArray
    """Index into ``beliefs.members``, (k,)."""
    alpha: IntArray
    """Index into ``beliefs.alphas``, (k,)."""
    group: IntArray
    """Nodes of one walk and one component of the drop share a group, (k,)."""
    walk: IntArray
    """Which of the walks, (k,)."""
    drop_scale: FloatArray
    """Full drop believed over D, (k,)."""
    believed: FloatArray
    """Standard deviation believed of the drop before the losses, (k,)."""
    told: FloatArray
    """How much of what is believed of the drop a measurement says, from 0 to 1, (k,)."""
    mean: FloatArray
    """Mean of (level, a, -D), (k, 3)."""
    covariance: FloatArray
    """Their covariance, (k, 3, 3)."""
    slope: float
    """``-dz / d log(S1)`` over the later half of the evidence."""
    noise: float
    """Standard deviation of one observation, as z."""
    added_variance: float
    """As z: of the mean of the observations that the reported loss averages, and of a rise."""
    _columns: IntArray  # columns of the basis that a node uses, (k, 3)
    _origin: tuple[float, float]  # the clock's two hands at the first observation
    _walks: tuple[Walk, ...]
    _now_and_end: tuple[FloatArray, FloatArray]  # of `columns_at`

    def predict(self, schedule: LRSchedule, steps: IntArray) -> Mixture:
        """Distribution of the loss at some steps, (m,), under a schedule.

        The schedule may differ from the fitted one after the present step.
        """
        return self._loss(*columns_at(self.beliefs, schedule, self.schedule, self.now, steps))

    def ahead(self, schedule: LRSchedule, stop: int) -> tuple[Mixture, Mixture]:
        """Distributions of the loss at a step, and of what annealing brings until then, one place.

        The step is the present one or later.
        """
        basis, hands = self._now_and_end
        if schedule is not self.schedule or stop != schedule.total_steps:
            steps = np.array([self.now, stop], np.int64)
            basis, hands = columns_at(self.beliefs, schedule, self.schedule, self.now, steps)
        return self._loss(basis[1:], hands[:, 1:]), self._drop(basis)

    def gains(
        self, schedule: LRSchedule, stop: int, others: Sequence[tuple[LRSchedule, int]]
    ) -> Mixture:
        """Of how much lower the losses at other ends are than at one, all of them from now on.

        What two futures have in common cancels: the parameters, and the discrepancy as far as its
        clocks run alike.

        Args:
            schedule: the learning rates up to the one end.
            stop: its step, the present one or later.
            others: m schedules and steps.
        """
        first, *rest = (
            columns_at(self.beliefs, plan, self.schedule, self.now, np.array([at], np.int64))
            for plan, at in ((schedule, stop), *others)
        )
        apart = first[0] - np.concatenate([basis for basis, _ in rest])
        rows = apart[:, self._columns].swapaxes(0, 1)  # (k, m, 3)
        mean = np.einsum("kmi,ki->km", rows, self.mean)
        variance = np.einsum("kmi,kij,kmj->km", rows, self.covariance, rows)
        for index, walk in enumerate(self._walks):
            travel = self.beliefs.regimes[walk.regime].lr_travel
            clock = [clock_apart(first[1][:, 0], hands[:, 0], travel) for _, hands in rest]
            variance[self.walk == index] += walk.size**2 * np.array(clock)
        std = np.sqrt(np.maximum(variance, 1e-18))
        unit = self.scale.unit
        if self.scale.logarithmic:  # of the loss at the one end, exp(-mean) is left
            unit = float(self._loss(*first).moments()[0][0])
            left = np.exp(-np.clip(mean, -FARTHEST, FARTHEST))
            mean, std = 1 - left, left * std
        return self._calibrated(Mixture(self.weight, unit * mean, unit * std))

    def _loss(self, basis: FloatArray, hands: FloatArray) -> Mixture:
        mean = np.empty((self.weight.size, basis.shape[0]))
        variance = np.empty_like(mean)
        for index, walk in enumerate(self._walks):
            nodes = np.flatnonzero(self.walk == index)
            if nodes.size == 0:
                continue
            regime = self.beliefs.regimes[walk.regime]
            clock = walk_clock(hands, self._origin, regime.lr_travel)
            known, moved = walk.at(clock)
            rows = basis[:, self._columns[nodes]] - known[:, self._columns[nodes]]
            rows = rows.transpose(1, 0, 2)  # (nodes, m, 3)
            mean[nodes] = np.einsum("kmi,ki->km", rows, self.mean[nodes]) + known[:, -1]
            spread = np.einsum("kmi,kij,kmj->km", rows, self.covariance[nodes], rows)
            variance[nodes] = spread + np.maximum(moved, 0.0)
        std = np.sqrt(np.maximum(variance, 1e-18))
        if self.scale.logarithmic:
            mean += np.log(self.scale.level)
            found = Mixture(self.weight, mean, std, True)
        else:
            found = Mixture(self.weight, self.scale.loss(mean), self.scale.unit * std)
        found = self._calibrated(found)
        unit = 1.0 if self.scale.logarithmic else self.scale.unit
        return replace(found, std=np.hypot(found.std, unit * math.sqrt(self.added_variance)))

    def _calibrated(self, mixture: Mixture) -> Mixture:
        """As past forecasts made after as much of a run turned out."""
        seen = self.now / self.schedule.total_steps
        shares, *values = np.transpose(self.beliefs.calibration)
        scale, tail = (float(np.interp(seen, shares, value)) for value in values)
        return mixture.calibrated(scale, tail)

    def _drop(self, basis: FloatArray) -> Mixture:
        """Of the loss lost to annealing between two steps."""
        share = basis[1, self._columns[:, 2]] - basis[0, self._columns[:, 2]]
        mean = -self.mean[:, 2] * share
        std = np.sqrt(self.covariance[:, 2, 2]) * np.abs(share)
        unit = self.scale.unit
        if self.scale.logarithmic:  # of the present level, exp(-drop) is left
            mean, std = -np.expm1(-mean), np.exp(-mean) * std
        return Mixture(self.weight, unit * mean[:, np.newaxis], unit * std[:, np.newaxis])

    def drop_arrived(self) -> FloatArray:
        """Share of the full drop that has arrived at the present step at each node, (k,)."""
        share: FloatArray = self._now_and_end[0][0, self._columns[:, 2]]
        return share

    def drop_shrinkage(self) -> float:
        """Standard deviation of the full drop over the one believed before the losses.

        Taken within each component of the prior, so that preferring one is not mistaken for
        having measured the drop.
        """
        aware, weight, drop, spread = self._full_drops()
        if not aware.any():
            return 0.0
        group = self.group[aware]
        total = np.maximum(np.bincount(group, weight), 1e-300)
        centre = np.bincount(group, weight * drop) / total
        variance = np.bincount(group, weight * (spread**2 + (drop - centre[group]) ** 2)) / total
        shrinkage = np.sqrt(variance)[group] / self.believed[aware]
        return float(weight @ shrinkage / weight.sum())

    def measured(self) -> bool:
        """Whether a measurement says more of the drop than the prior does."""
        return float(self.weight @ self.told) > 0.5

    def full_drop(self) -> tuple[float, float, float]:
        """Mean and standard deviation of the full drop, as z, and the weight of the first regime.

        Of the members that know the learning rate; nan if there are none.
        """
        _, weight, drop, spread = self._full_drops()
        weight = weight / weight.sum()
        mean = float(weight @ drop)
        whole = float(np.sqrt(weight @ (spread**2 + (drop - mean) ** 2)))
        first = np.array([walk.regime == 0 for walk in self._walks])
        return mean, whole, float(self.weight[first[self.walk]].sum())

    def _full_drops(self) -> tuple[NDArray[np.bool_], FloatArray, FloatArray, FloatArray]:
        """Which nodes know the learning rate; their weights, and mean and spread of the drop."""
        aware = np.array(self.beliefs.aware)[self.member]
        scale = self.drop_scale[aware]
        spread = np.sqrt(self.covariance[aware, 2, 2]) / scale
        return aware, self.weight[aware], -self.mean[aware, 2] / scale, spread

    def misfit(self) -> float:
        """Posterior probability that no law describes the run."""
        misfits = np.array([walk.misfit for walk in self._walks])
        return float(self.weight[misfits[self.walk]].sum())
