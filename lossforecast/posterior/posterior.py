"""`Posterior`: the laws' parameters after the evidence, and the losses that they predict.

The model and its symbols are those of `lossforecast.posterior.fit`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.numerics import Mixture
from lossforecast.posterior.design_matrix import (
    PastRunOffsets,
    QueryPoints,
    walk_time,
    walk_time_between,
)
from lossforecast.posterior.loss_transform import MAX_LOG_RATIO, LossTransform
from lossforecast.posterior.node_set import NodeSet
from lossforecast.posterior.unsettled import doubt_about, falls, or_unsettled
from lossforecast.posterior.walk import JUMP_VARIANCE, Walk
from lossforecast.prior import Beliefs
from lossforecast.schedule import LRSchedule

__all__ = ["CoursePredictor", "Posterior"]

CoursePredictor = Callable[[LRSchedule, IntArray], Mixture]
"""Distribution of the logarithm of the loss at steps (m,) of a schedule, at m places."""

_MAX_SURPRISE = 20.0  # that widens a forecast
_MIN_PROB_MEMORISING = 0.03  # of a run that falls fast or faster; others have 0.02
_MAX_START_STD = 0.5  # as z: a wider forecast would carry no information
_VARIANCE_FLOOR = 1e-18
_MAX_LOSS_RATIO = 10.0  # upper end of the 95% interval over the largest loss observed


@dataclass(frozen=True)
class Posterior:
    """The posterior of the laws' parameters over k nodes."""

    beliefs: Beliefs
    schedule: LRSchedule
    now: int
    transform: LossTransform
    weight: FloatArray
    """Posterior weight of each node, (k,), sum 1."""
    nodes: NodeSet
    walks: tuple[Walk, ...]
    """Every size of the discrepancy in every regime."""
    origin: tuple[float, float]
    """Clock terms at the first observation, where the walks begin."""
    now_and_end: QueryPoints = field(repr=False)
    """The present step and the end of the plan."""
    past_run_offsets: PastRunOffsets | None = field(repr=False)
    events: IntArray
    """Steps of the events, at which the walks may jump, increasing."""
    slope: float
    """``-dz / d log(S1)`` over the later half of the evidence."""
    youth: float
    """1 at the start of a run, which follows no law, falling to 0 when the start is over."""
    noise: float
    """Standard deviation of one observation, as z."""
    fall: float
    """Fall of z since the first losses, at least 0."""
    unsettled: float
    """Probability that the run follows no law yet; see `lossforecast.posterior.unsettled`."""
    added_variance: float
    """Variance of z in addition to that of the nodes: noise of the reported mean, expected rise."""
    surprise: float = 0.0
    """Root mean square of the errors of earlier forecasts, in their standard deviations."""
    probe_is_stale: bool = False
    """True if the drop was measured long ago."""
    highest_loss: float = math.inf
    """The largest loss observed, or mean of a bin of losses; infinite if none was."""
    smaller_runs: CoursePredictor | None = field(default=None, repr=False)
    """Logarithm of the loss along the run as predicted from smaller runs of its family."""

    @property
    def prob_unsettled(self) -> float:
        """Share of the forecast in which the run follows no law yet; excludes that of past runs."""
        return self.unsettled * self._weight_of_laws

    @property
    def waits_for_step(self) -> bool:
        """True before the first step of a step decay, for runs whose drop no rule predicts."""
        now, end = self.now_and_end.stepped
        return self.beliefs.may_be_unsettled and now == 0 and end > 0

    @property
    def may_memorise(self) -> bool:
        """True while a training loss over data that is seen again may still fall by any factor."""
        return self.beliefs.repeats_data and self.prob_unsettled > _MIN_PROB_MEMORISING

    @property
    def n_columns(self) -> int:
        """Number of columns of the basis."""
        return int(self.now_and_end.basis.shape[1])

    # ------------------------------------------------------------------ predictions

    def predict(self, schedule: LRSchedule, steps: IntArray) -> Mixture:
        """Distribution of the loss at some steps, (m,), under a schedule.

        The schedule may differ from the fitted one after the present step.
        """
        return self._pooled(self._loss(self._query(schedule, steps)), schedule, steps)

    def ahead(self, schedule: LRSchedule, stop: int) -> tuple[Mixture, Mixture]:
        """Distributions of the loss at a step, and of the drop that annealing brings until then.

        The step is the present one or later; both mixtures have one place.
        """
        query, z = self.now_and_end, self._z_now_and_end
        if schedule is not self.schedule or stop != schedule.total_steps:
            query = self._query(schedule, np.array([self.now, stop], np.int64))
            z = self._z(query)
        at_stop = z[0][:, 1:], z[1][:, 1:]
        loss = self._pooled(self._loss(query.last(), at_stop), schedule, np.array([stop]))
        return loss, self._drop(query.basis)

    def gains(
        self, schedule: LRSchedule, stop: int, others: Sequence[tuple[LRSchedule, int]]
    ) -> Mixture:
        """Distribution of how much lower the loss ends under each of `others` than under this one.

        Both start at the present step. The uncertainty that two futures share cancels: that of the
        parameters, and that of the discrepancy as long as both clocks agree. With rows x of the
        basis,

            mean = (x - x') beta + offset - offset',    variance = (x - x') V (x - x')^T + var

        where var is the variance of the walk in the time that the two futures do not share.

        Args:
            schedule: the learning rates of the future to compare with.
            stop: its last step, the present one or later.
            others: m schedules, each with its last step.
        """
        base = self._query(schedule, np.array([stop], np.int64))
        ends = [self._query(plan, np.array([step], np.int64)) for plan, step in others]
        nodes = self.nodes
        difference = base.basis - np.concatenate([end.basis for end in ends])
        rows = difference[:, nodes.columns].swapaxes(0, 1)  # (k, m, 3)
        mean = np.einsum("kmi,ki->km", rows, nodes.mean)
        has_offset = nodes.offset_column >= 0
        offsets = base.offsets - np.concatenate([end.offsets for end in ends])
        mean[has_offset] += offsets[:, nodes.offset_column[has_offset]].T
        variance = np.einsum("kmi,kij,kmj->km", rows, nodes.covariance, rows)
        jumps = np.concatenate([end.jumps for end in ends])
        jumped = JUMP_VARIANCE * np.abs(jumps - base.jumps)
        for index, walk in enumerate(self.walks):
            apart = [
                walk_time_between(base.terms[:, 0], end.terms[:, 0], walk.lr_travel) for end in ends
            ]
            variance[nodes.walk == index] += walk.size**2 * np.array(apart) + jumped
        fall, fall_std = self._falls(base, *ends)
        weight, mean, variance = self._or_unsettled(
            mean,
            variance,
            fall[:, 1:] - fall[:, :1],
            (fall_std[:, 1:] - fall_std[:, :1]) ** 2 + jumped,
        )
        std = np.sqrt(np.maximum(variance, _VARIANCE_FLOOR))
        unit = self.transform.unit
        if self.transform.logarithmic:  # exp(-mean) of the median loss at `stop` is left
            unit = float(self._loss(base).quantiles(np.array([0.5]))[0, 0])
            remaining = np.exp(-np.clip(mean, -MAX_LOG_RATIO, MAX_LOG_RATIO))
            mean, std = 1 - remaining, remaining * std
        return self._calibrated(Mixture(weight, unit * mean, unit * std))

    def _query(self, schedule: LRSchedule, steps: IntArray) -> QueryPoints:
        return QueryPoints.at(
            schedule,
            steps,
            beliefs=self.beliefs,
            plan=self.schedule,
            now=self.now,
            events=self.events,
            past_runs=self.past_run_offsets,
        )

    def _loss(self, query: QueryPoints, z: tuple[FloatArray, FloatArray] | None = None) -> Mixture:
        """Distribution of the loss at m points, calibrated, with the added variances.

        The added variance v is that of the loss relative to its level; on the log scale it is that
        of the log-normal distribution with this relative variance, ``log(1 + v)``.
        `z` is `_z` at these points, if it is known.
        """
        mean, variance = z or self._z(query)
        start, of_laws = self._start_std(query.terms) ** 2, self.nodes.offset_column < 0
        # on the log scale, the shift keeps the mean of the loss
        mean = mean - np.outer(of_laws, self.transform.logarithmic * start / 2)
        variance = variance + np.outer(of_laws, start)
        fall, fall_std = self._falls(query)
        present, present_variance = self._present
        ahead = query.terms[0] < self.now_and_end.terms[0, 0]
        jumped = JUMP_VARIANCE * (query.jumps - self.now_and_end.jumps[0])
        weight, mean, variance = self._or_unsettled(
            mean,
            variance,
            np.where(ahead, present - fall, self.weight @ mean),
            np.where(ahead, present_variance + fall_std**2 + jumped, self.weight @ variance),
        )
        transform = self.transform
        std = np.sqrt(np.maximum(variance, _VARIANCE_FLOOR))
        if transform.logarithmic:
            mean += np.log(transform.level)
            mixture = Mixture(weight, mean, std, logarithmic=True)
        else:
            mixture = Mixture(weight, transform.to_loss(mean), transform.unit * std)
        mixture = self._calibrated(mixture)
        unit = 1.0 if transform.logarithmic else transform.unit
        added = math.log1p(self.added_variance) if transform.logarithmic else self.added_variance
        mixture = replace(mixture, std=np.hypot(mixture.std, unit * math.sqrt(added)))
        if not transform.logarithmic:
            return mixture
        return mixture.below(math.log(_MAX_LOSS_RATIO) + math.log(self.highest_loss))

    def _z(self, query: QueryPoints) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of z at every node and point, (k, m) each.

        With x the row of the basis, and hats for the state of the walk that a column would imply,

            mean = z^ + (x - x^) beta + offset - offset^,    variance = (x - x^) V (x - x^)^T + var
        """
        nodes, basis = self.nodes, query.basis
        mean = np.empty((self.weight.size, basis.shape[0]))
        variance = np.empty_like(mean)
        for index, walk in enumerate(self.walks):
            own = np.flatnonzero(nodes.walk == index)
            if own.size == 0:
                continue
            expected, walk_variance = walk.expected(
                walk_time(query.terms, self.origin, walk.lr_travel), query.jumps
            )
            of_basis, of_z, of_offsets = np.split(
                expected, [basis.shape[1], basis.shape[1] + 1], axis=1
            )
            columns = nodes.columns[own]
            rows = (basis[:, columns] - of_basis[:, columns]).transpose(1, 0, 2)  # (own, m, 3)
            mean[own] = np.einsum("kmi,ki->km", rows, nodes.mean[own]) + of_z[:, 0]
            if of_offsets.size:
                mean[own] += (query.offsets - of_offsets)[:, nodes.offset_column[own]].T
            of_parameters = np.einsum("kmi,kij,kmj->km", rows, nodes.covariance[own], rows)
            variance[own] = of_parameters + np.maximum(walk_variance, 0.0)
        return mean, variance

    def _start_std(self, terms: FloatArray) -> FloatArray:
        """Standard deviation of z due to a start that may go on, at m points, (m,).

        ``youth * slope * log(S1 / S1(now))``, at most 0.5: the fall of a power law without a floor
        at the present slope. Before a loss follows a law, it may stall and then fall faster than
        other losses that began the same way.
        """
        fall: FloatArray = self.youth * self.slope * self.now_and_end.progress_to(terms)
        return np.minimum(fall, _MAX_START_STD)

    def _falls(self, *queries: QueryPoints) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations of the falls of a run that follows no law yet, (3, m)."""
        return falls(doubt_about(self.beliefs), self.now_and_end, queries)

    @cached_property
    def _z_now_and_end(self) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of z at every node, now and at the end of the plan, (k, 2) each."""
        return self._z(self.now_and_end)

    @cached_property
    def _present(self) -> tuple[float, float]:
        """Mean and variance of z at the present step, over all nodes."""
        mean, variance = (part[:, 0] for part in self._z_now_and_end)
        centre = float(self.weight @ mean)
        return centre, float(self.weight @ (variance + (mean - centre) ** 2))

    def _or_unsettled(
        self, mean: FloatArray, variance: FloatArray, *unsettled: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weights, means and variances of the nodes and of a run that follows no law yet."""
        share = np.where(self.nodes.offset_column < 0, self.unsettled, 0.0)
        return or_unsettled(self.weight, share, mean, variance, *unsettled)

    def _pooled(self, own: Mixture, schedule: LRSchedule, steps: IntArray) -> Mixture:
        """The loss at m steps, pooled with the prediction from smaller runs."""
        if self.smaller_runs is None or not own.logarithmic:
            return own
        return own.pooled(self.smaller_runs(schedule, steps))

    def _calibrated(self, mixture: Mixture) -> Mixture:
        """The mixture stretched by the scale and tail learned for this share of a run.

        They were learned from forecasts by the laws alone; forecasts from past runs have their own.
        Where earlier forecasts of the run were wrong by more than their standard deviation, the
        mixture grows with the square root of the surprise.
        """
        seen = self.now / self.schedule.total_steps
        shares, *values = np.transpose(self.beliefs.calibration)
        scale, tail = (float(np.interp(seen, shares, value)) for value in values)
        if self.past_run_offsets is not None:
            of_laws = self._weight_of_laws
            past_scale, past_tail = self.beliefs.transfer_calibration
            scale = scale**of_laws * past_scale ** (1 - of_laws)
            tail = tail**of_laws * past_tail ** (1 - of_laws)
        widened = math.sqrt(min(max(self.surprise, 1.0), _MAX_SURPRISE))
        return mixture.calibrated(scale, tail).widened(widened)

    @property
    def _weight_of_laws(self) -> float:
        return float(self.weight[self.nodes.offset_column < 0].sum())

    def _drop(self, basis: FloatArray) -> Mixture:
        """Distribution of the loss lost to annealing between two rows of the basis, (2, columns).

        ``D (arrived' - arrived)`` as z, and ``present (1 - exp(-that))`` on the log scale, with the
        loss expected at the present step.
        """
        nodes = self.nodes
        share = basis[1, nodes.columns[:, 2]] - basis[0, nodes.columns[:, 2]]
        mean = -nodes.mean[:, 2] * share
        std = np.sqrt(nodes.covariance[:, 2, 2]) * np.abs(share)
        unit = self.transform.unit
        if self.transform.logarithmic:
            unit = float(self.transform.to_loss(self._present[0]))
            mean, std = -np.expm1(-mean), np.exp(-mean) * std
        return Mixture(self.weight, unit * mean[:, np.newaxis], unit * std[:, np.newaxis])

    # ------------------------------------------------------------------ knowledge of the drop

    def drop_arrived(self) -> FloatArray:
        """Share of the full drop that has arrived at the present step, at each node, (k,)."""
        share: FloatArray = self.now_and_end.basis[0, self.nodes.columns[:, 2]]
        return share

    def discrepancy(self) -> FloatArray:
        """Expected discrepancy of the run from the law of each node at the present step, (k,)."""
        nodes, query = self.nodes, self.now_and_end
        of_law = (query.basis[0, nodes.columns] * nodes.mean).sum(axis=1)
        has_offset = nodes.offset_column >= 0
        of_law[has_offset] += query.offsets[0, nodes.offset_column[has_offset]]
        discrepancy: FloatArray = self._z_now_and_end[0][:, 0] - of_law
        return discrepancy

    def drop_shrinkage(self) -> float:
        """Posterior over prior standard deviation of the full drop.

        Both are taken within each component of the prior, so that a preference for one component
        is not mistaken for a measurement of the drop. 0 if no law has a drop.
        """
        aware, weight, drop, std = self._full_drops()
        if not aware.any():
            return 0.0
        group = self.nodes.group[aware]
        total = np.maximum(np.bincount(group, weight), 1e-300)
        centre = np.bincount(group, weight * drop) / total
        variance = np.bincount(group, weight * (std**2 + (drop - centre[group]) ** 2)) / total
        shrinkage = np.sqrt(variance)[group] / self.nodes.prior_std[aware]
        return float(weight @ shrinkage / weight.sum())

    def drop_is_measured(self) -> bool:
        """Return whether a measurement supplies most of the precision of the drop's prior."""
        return float(self.weight @ self.nodes.measured_share) > 0.5

    def full_drop(self) -> tuple[float, float, float]:
        """Mean and standard deviation of the full drop, as z, and the weight of the first regime.

        Over the members that depend on the learning rate; nan if there are none.
        """
        _, weight, drop, std = self._full_drops()
        weight = weight / weight.sum()
        mean = float(weight @ drop)
        total_std = float(np.sqrt(weight @ (std**2 + (drop - mean) ** 2)))
        lawful = np.array([walk.lawful for walk in self.walks])
        return mean, total_std, float(self.weight[lawful[self.nodes.walk]].sum())

    def _full_drops(self) -> tuple[NDArray[np.bool_], FloatArray, FloatArray, FloatArray]:
        """Mask of the nodes that depend on the learning rate; their weights, drops and stds."""
        nodes = self.nodes
        aware = np.array(self.beliefs.uses_lr)[nodes.member]
        scale = nodes.drop_scale[aware]
        std = np.sqrt(nodes.covariance[aware, 2, 2]) / scale
        return aware, self.weight[aware], -nodes.mean[aware, 2] / scale, std

    def misfit(self) -> float:
        """Posterior probability that no law describes the run."""
        misfits = np.array([walk.misfit for walk in self.walks])
        return float(self.weight[misfits[self.nodes.walk]].sum())
