"""`Posterior`: what is believed of the laws' parameters after the evidence, and what it foretells.

The model and its symbols are those of `lossforecast.posterior.fit`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.numerics import Filter, Mixture, whiten
from lossforecast.posterior.design_matrix import clock_apart, columns_at, walk_clock
from lossforecast.posterior.loss_transform import FARTHEST, Scale
from lossforecast.prior import Beliefs
from lossforecast.schedule import LRSchedule

__all__ = ["Besides", "Places", "Posterior", "Walk"]

_LARGEST_START = 0.5  # as z: more would say nothing any more

Besides = Callable[[LRSchedule, IntArray], FloatArray]
"""What past runs expect of z besides the laws: of a schedule at steps (m,), n columns, (m, n)."""


@dataclass(frozen=True)
class Walk:
    """One size of the discrepancy in one regime: what all its nodes share."""

    lawful: bool
    """Whether it is of the first regime, of runs that follow a law closely."""
    lr_travel: float
    """How far the clock goes while the learning rate moves from its peak to 0."""
    size: float
    misfit: bool
    """Whether this size says that no law describes the run."""
    score: float
    """What it adds to the log evidence of its nodes."""
    clock: FloatArray
    whitened: FloatArray
    """Basis, z and what past runs expect besides, in units in which walk and noise are white."""
    state: FloatArray
    """What of these is the walk's, after the last observation."""
    filter: Filter
    """Of this walk alone."""

    def at(self, clock: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What of its columns is the walk's at some times, (m, columns), and its variance, (m,)."""
        ahead = clock - self.clock[-1]
        if ahead.min(initial=0.0) >= 0:
            known = np.broadcast_to(self.state, (clock.size, self.state.size))
            return known, self.size**2 * ahead + self.filter.variance
        shared = self.size**2 * np.minimum(self.clock[:, np.newaxis], clock)
        carried = whiten(self.filter, shared)[0][0]
        return carried.T @ self.whitened, self.size**2 * clock - (carried**2).sum(axis=0)


@dataclass(frozen=True)
class Places:
    """Where a posterior is asked for the loss, m places."""

    basis: FloatArray
    """Of `columns_at`, (m, columns)."""
    hands: FloatArray
    """Of the clock, (2, m)."""
    besides: FloatArray
    """What past runs expect besides the laws, (m, n)."""

    def last(self) -> "Places":
        """The last place alone."""
        return Places(self.basis[-1:], self.hands[:, -1:], self.besides[-1:])


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
    youth: float
    """From 1 to 0, how far the start of the run, which follows no law, may not be over."""
    noise: float
    """Standard deviation of one observation, as z."""
    added_variance: float
    """As z: of the mean of the observations that the reported loss averages, and of a rise."""
    columns: IntArray
    """Columns of the basis that each node uses, (k, 3)."""
    origin: tuple[float, float]
    """The clock's two hands at the first observation."""
    walks: tuple[Walk, ...]
    """Every size of the discrepancy in every regime."""
    _now_and_end: "Places"
    _besides: Besides | None
    _beside: IntArray  # which of the columns of `_besides` a node adds, or -1, (k,)

    @property
    def n_columns(self) -> int:
        """How many columns the basis has."""
        return int(self._now_and_end.basis.shape[1])

    def predict(self, schedule: LRSchedule, steps: IntArray) -> Mixture:
        """Distribution of the loss at some steps, (m,), under a schedule.

        The schedule may differ from the fitted one after the present step.
        """
        return self._loss(self._places(schedule, steps))

    def ahead(self, schedule: LRSchedule, stop: int) -> tuple[Mixture, Mixture]:
        """Distributions of the loss at a step, and of what annealing brings until then, one place.

        The step is the present one or later.
        """
        places = self._now_and_end
        if schedule is not self.schedule or stop != schedule.total_steps:
            places = self._places(schedule, np.array([self.now, stop], np.int64))
        return self._loss(places.last()), self._drop(places.basis)

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
            self._places(plan, np.array([at], np.int64)) for plan, at in ((schedule, stop), *others)
        )
        apart = first.basis - np.concatenate([each.basis for each in rest])
        rows = apart[:, self.columns].swapaxes(0, 1)  # (k, m, 3)
        mean = np.einsum("kmi,ki->km", rows, self.mean)
        beside = self._beside >= 0
        besides = first.besides - np.concatenate([each.besides for each in rest])
        mean[beside] += besides[:, self._beside[beside]].T
        variance = np.einsum("kmi,kij,kmj->km", rows, self.covariance, rows)
        for index, walk in enumerate(self.walks):
            hands = [(first.hands[:, 0], each.hands[:, 0]) for each in rest]
            clock = [clock_apart(*each, walk.lr_travel) for each in hands]
            variance[self.walk == index] += walk.size**2 * np.array(clock)
        std = np.sqrt(np.maximum(variance, 1e-18))
        unit = self.scale.unit
        if self.scale.logarithmic:  # of the loss at the one end, exp(-mean) is left
            unit = float(self._loss(first).moments()[0][0])
            left = np.exp(-np.clip(mean, -FARTHEST, FARTHEST))
            mean, std = 1 - left, left * std
        return self._calibrated(Mixture(self.weight, unit * mean, unit * std))

    def _places(self, schedule: LRSchedule, steps: IntArray) -> "Places":
        basis, hands = columns_at(self.beliefs, schedule, self.schedule, self.now, steps)
        if self._besides is None:
            return Places(basis, hands, np.empty((steps.size, 0)))
        return Places(basis, hands, self._besides(schedule, steps))

    def _loss(self, places: "Places") -> Mixture:
        basis = places.basis
        mean = np.empty((self.weight.size, basis.shape[0]))
        variance = np.empty_like(mean)
        for index, walk in enumerate(self.walks):
            nodes = np.flatnonzero(self.walk == index)
            if nodes.size == 0:
                continue
            clock = walk_clock(places.hands, self.origin, walk.lr_travel)
            known, moved = walk.at(clock)
            known, z, besides = np.split(known, [basis.shape[1], basis.shape[1] + 1], axis=1)
            rows = basis[:, self.columns[nodes]] - known[:, self.columns[nodes]]
            rows = rows.transpose(1, 0, 2)  # (nodes, m, 3)
            mean[nodes] = np.einsum("kmi,ki->km", rows, self.mean[nodes]) + z[:, 0]
            if besides.size:
                mean[nodes] += (places.besides - besides)[:, self._beside[nodes]].T
            spread = np.einsum("kmi,kij,kmj->km", rows, self.covariance[nodes], rows)
            variance[nodes] = spread + np.maximum(moved, 0.0)
        start, alone = self._start_not_over(places.hands) ** 2, self._beside < 0
        mean[alone] -= self.scale.logarithmic * start / 2  # the mean of the loss stays
        variance[alone] += start
        std = np.sqrt(np.maximum(variance, 1e-18))
        if self.scale.logarithmic:
            mean += np.log(self.scale.level)
            found = Mixture(self.weight, mean, std, True)
        else:
            found = Mixture(self.weight, self.scale.loss(mean), self.scale.unit * std)
        found = self._calibrated(found)
        unit = 1.0 if self.scale.logarithmic else self.scale.unit
        return replace(found, std=np.hypot(found.std, unit * math.sqrt(self.added_variance)))

    def _start_not_over(self, hands: FloatArray) -> FloatArray:
        """Standard deviation, as z, of what the rest of the start may bring by some places, (m,).

        All that a power law without a limit would bring at the present slope: before it follows a
        law a loss hesitates, and then falls faster than any that began like it.
        """
        # a plan of rate 0 has hands of 0, infinitely far from those of any other
        hand = np.maximum([self._now_and_end.hands[0, 0], *hands[0]], np.finfo(float).tiny)
        ahead = np.maximum(np.log(hand[0]) - np.log(hand[1:]), 0.0)
        fall: FloatArray = self.youth * self.slope * ahead
        return np.minimum(fall, _LARGEST_START)

    def _calibrated(self, mixture: Mixture) -> Mixture:
        """As past forecasts made after as much of a run turned out."""
        seen = self.now / self.schedule.total_steps
        shares, *values = np.transpose(self.beliefs.calibration)
        scale, tail = (float(np.interp(seen, shares, value)) for value in values)
        return mixture.calibrated(scale, tail)

    def _drop(self, basis: FloatArray) -> Mixture:
        """Of the loss lost to annealing between two steps."""
        share = basis[1, self.columns[:, 2]] - basis[0, self.columns[:, 2]]
        mean = -self.mean[:, 2] * share
        std = np.sqrt(self.covariance[:, 2, 2]) * np.abs(share)
        unit = self.scale.unit
        if self.scale.logarithmic:  # of the present level, exp(-drop) is left
            mean, std = -np.expm1(-mean), np.exp(-mean) * std
        return Mixture(self.weight, unit * mean[:, np.newaxis], unit * std[:, np.newaxis])

    def drop_arrived(self) -> FloatArray:
        """Share of the full drop that has arrived at the present step at each node, (k,)."""
        share: FloatArray = self._now_and_end.basis[0, self.columns[:, 2]]
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
        first = np.array([walk.lawful for walk in self.walks])
        return mean, whole, float(self.weight[first[self.walk]].sum())

    def _full_drops(self) -> tuple[NDArray[np.bool_], FloatArray, FloatArray, FloatArray]:
        """Which nodes know the learning rate; their weights, and mean and spread of the drop."""
        aware = np.array(self.beliefs.aware)[self.member]
        scale = self.drop_scale[aware]
        spread = np.sqrt(self.covariance[aware, 2, 2]) / scale
        return aware, self.weight[aware], -self.mean[aware, 2] / scale, spread

    def misfit(self) -> float:
        """Posterior probability that no law describes the run."""
        misfits = np.array([walk.misfit for walk in self.walks])
        return float(self.weight[misfits[self.walk]].sum())
