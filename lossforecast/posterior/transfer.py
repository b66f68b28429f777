"""`PastRunTransfer`: the prediction of a new run from finished runs of the same family.

A new run is expected to follow, under its own schedule, the laws of a past one, with that run's
discrepancy from them at the same time of the clock. Only beta = (level, a, -D) differs:

    beta_new  ~  N(beta_past, V + s^2 G)

where V is the posterior covariance of the past run and ``G = diag(g^2)`` the covariance of the
difference between the two runs, g from `lossforecast.prior.PastRun`. The actual difference is not
known beforehand: s takes several values, weighted by the evidence that the losses of the past runs
and of the new one give for each. Several past runs are averaged by generalised least squares.
Between runs with different peak rates, S1 and the drop are rescaled by powers of their ratio.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.laws import decaying, full_anneal
from lossforecast.numerics import inverse
from lossforecast.posterior.design_matrix import clock_terms, walk_time
from lossforecast.posterior.posterior import Posterior
from lossforecast.prior import STD_OF_EQUAL_SETUPS
from lossforecast.schedule import LRSchedule

__all__ = [
    "DIFFERENCE_SCALES",
    "ExpectedParameters",
    "PastRunTransfer",
]


class DifferenceScale(NamedTuple):
    """One value of s: how much larger than expected the difference between two runs may be.

    Attributes:
        multiplier: factor on the standard deviations g.
        probability: probability of this multiplier before any loss.
        trust: weight that past runs then get against the general prior, 0 to 1.
    """

    multiplier: float
    probability: float
    trust: float


DIFFERENCE_SCALES = (
    DifferenceScale(1.0, 0.6, 0.98),
    DifferenceScale(4.0, 0.2, 0.9),
    DifferenceScale(25.0, 0.1, 0.5),
    DifferenceScale(500.0, 0.1, 0.0),
)
# measured on pairs of recorded runs with peaks in the ratio r and decays over shares of a run
_S1_PEAK_POWER = 0.5  # S1 of a run with r times the peak counts r^-0.5 times as much
_DROP_PEAK_POWER = 0.36
_DROP_SHARE_POWER = 0.15
_MIN_DECAY_SHARE = 1e-3  # of a run

_COMMON_SHARE = 0.5  # of the variance between runs: common to all differences from the new run
_SCALE_POWER = 0.8  # the differences of a and D grow with s^0.8, that of the level with s
_MAX_DIFFERENCE_STD = 1.0  # of the logarithm of a loss, between any two runs
_MIN_RELATIVE_WEIGHT = 0.005  # of the heaviest pair: lighter pairs of a past run are dropped


@dataclass(frozen=True)
class ExpectedParameters:
    """Distribution of beta = (level, a, -D) of a new run before its losses, over p nodes.

    Attributes:
        member: index of the member, (p,).
        alpha: index of the exponent, (p,).
        log_weight: log weight of each scale and node, (s, p).
        mean: mean of beta, (s, p, 3).
        covariance: covariance of beta, (s, p, 3, 3).
    """

    member: IntArray
    alpha: IntArray
    log_weight: FloatArray
    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True)
class _PastPosterior:
    """The posterior of a past run, merged over walks and drops into q pairs (member, exponent)."""

    posterior: Posterior
    difference_std: FloatArray
    """g: standard deviation of beta between this run and the new one, (3,)."""
    decay_share: float
    """Share of the run after its rate leaves the peak."""
    drop_scale: FloatArray
    """D over the drop of a decay to 0, (q,)."""
    pairs: list[tuple[int, int]]
    weight: FloatArray
    mean: FloatArray
    covariance: FloatArray
    residuals: tuple[tuple[int, FloatArray], ...]
    """Pairs of a walk index and weights, (columns + 1, q): the expected state of the walk times the
    weights is its part of the discrepancy of each pair."""

    @classmethod
    def of(cls, posterior: Posterior, difference_std: FloatArray) -> Self:
        """Merge the nodes of each pair into one with the same moments; drop negligible pairs."""
        nodes = posterior.nodes
        pairs, pair = np.unique(
            np.column_stack([nodes.member, nodes.alpha]), axis=0, return_inverse=True
        )
        weight = np.bincount(pair, posterior.weight)
        kept_pairs = weight >= _MIN_RELATIVE_WEIGHT * weight.max()
        share = posterior.weight / weight[pair]
        mean = np.zeros((weight.size, 3))
        np.add.at(mean, pair, share[:, np.newaxis] * nodes.mean)
        away = nodes.mean - mean[pair]
        second_moment = nodes.covariance + away[:, :, np.newaxis] * away[:, np.newaxis]
        covariance = np.zeros((weight.size, 3, 3))
        np.add.at(covariance, pair, share[:, np.newaxis, np.newaxis] * second_moment)
        drop_scale = np.zeros(weight.size)
        drop_scale[pair] = nodes.drop_scale
        return cls(
            posterior=posterior,
            difference_std=difference_std,
            decay_share=full_anneal(decaying(posterior.schedule))[0],
            drop_scale=drop_scale[kept_pairs],
            pairs=[(int(m), int(a)) for m, a in pairs[kept_pairs]],
            weight=weight[kept_pairs] / weight[kept_pairs].sum(),
            mean=mean[kept_pairs],
            covariance=covariance[kept_pairs],
            residuals=cls._residuals(posterior, pair, share, kept_pairs),
        )

    @staticmethod
    def _residuals(
        posterior: Posterior, pair: IntArray, share: FloatArray, kept_pairs: NDArray[np.bool_]
    ) -> tuple[tuple[int, FloatArray], ...]:
        """Weights of z (1) and of the basis (-beta), averaged over the nodes of each pair."""
        nodes, kept = posterior.nodes, kept_pairs[pair]
        residuals = []
        for index in np.unique(nodes.walk[kept]):
            weights = np.zeros((posterior.n_columns + 1, kept_pairs.size))
            for i in np.flatnonzero(kept & (nodes.walk == index)):
                weights[-1, pair[i]] += share[i]
                np.subtract.at(weights[:, pair[i]], nodes.columns[i], share[i] * nodes.mean[i])
            residuals.append((int(index), weights[:, kept_pairs]))
        return tuple(residuals)

    def parameters_for(
        self,
        schedule: LRSchedule,
        now: int,
        level: float,
        decay_share: float,
        drop_scale: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Means (q, 3) and covariances (q, 3, 3) of beta in the units of a new run.

        The difference between the two runs is not in them: `PastRunTransfer.expected` adds it.

        Args:
            schedule: the learning rates of the new run.
            now: its present step.
            level: the loss at which its z is 0.
            decay_share: share of the new run after its rate leaves the peak.
            drop_scale: D over the drop of a decay to 0, (members,).
        """
        past = self.posterior
        ratio = self._peak_ratio(schedule)
        member, alpha = np.array(self.pairs).T
        aware = np.array(past.beliefs.uses_lr)[member]
        alphas = np.array(past.beliefs.alphas)[alpha]
        # a warm-up may begin at 0, where S1 is 0 after the first step
        present_s1 = max(float(schedule.s1(max(now, 1))), schedule.peak / schedule.total_steps)
        s1 = (present_s1 or 1.0) * ratio**-_S1_PEAK_POWER
        s1_ratio = s1 / float(past.schedule.s1(max(past.now, 1)))
        step_ratio = max(now, 1) / max(past.now, 1)
        stretch = np.ones_like(self.mean)
        stretch[:, 1] = np.where(aware, s1_ratio, step_ratio) ** -alphas
        growth = ratio**_DROP_PEAK_POWER
        shares = max(decay_share, _MIN_DECAY_SHARE) / max(self.decay_share, _MIN_DECAY_SHARE)
        longer = shares**_DROP_SHARE_POWER
        stretch[:, 2] = growth * longer * drop_scale[member] / self.drop_scale
        mean = stretch * self.mean
        # runs with different peaks end at about the same loss once annealed to 0; before that, the
        # higher the peak, the larger the drop still to come
        drop = -self.mean[:, 2] / self.drop_scale
        mean[:, 0] += math.log(past.transform.level / level) + drop * (growth - 1)
        covariance = stretch[:, :, np.newaxis] * self.covariance * stretch[:, np.newaxis]
        return mean, covariance

    def discrepancy(self, schedule: LRSchedule, steps: IntArray) -> FloatArray:
        """Discrepancy of this run from its laws where a new run's clock is at `steps`, (m, q)."""
        past = self.posterior
        total_s1 = float(past.schedule.s1(past.schedule.total_steps))
        event_terms = clock_terms(past.schedule, total_s1, past.events)
        total_s1 *= self._peak_ratio(schedule) ** _S1_PEAK_POWER
        terms = clock_terms(schedule, total_s1, steps)
        discrepancy = np.zeros((steps.size, len(self.pairs)))
        for index, weights in self.residuals:
            walk = past.walks[index]
            time = walk_time(terms, past.origin, walk.lr_travel)
            events = walk_time(event_terms, past.origin, walk.lr_travel)
            jumps = np.searchsorted(events, time, side="right")
            discrepancy += walk.expected(time, jumps)[0] @ weights
        return discrepancy

    def _peak_ratio(self, schedule: LRSchedule) -> float:
        """Peak rate of a new run over that of this one; 1 where either is 0."""
        own = self.posterior.schedule.peak
        return schedule.peak / own if own > 0 and schedule.peak > 0 else 1.0


@dataclass(frozen=True)
class PastRunTransfer:
    """The prediction of a new run from some past runs, over p pairs (member, exponent)."""

    past_runs: tuple[_PastPosterior, ...]
    pairs: list[tuple[int, int]]

    @classmethod
    def of(cls, posteriors: Sequence[tuple[Posterior, FloatArray]]) -> Self | None:
        """The transfer from posteriors of past runs and their difference_std, (3,); None if none.

        Runs with losses that are not positive are left out: their units do not carry over.
        """
        past_runs = tuple(
            _PastPosterior.of(posterior, difference_std)
            for posterior, difference_std in posteriors
            if posterior.transform.logarithmic and posterior.schedule.peak > 0
        )
        if not past_runs:
            return None
        return cls(past_runs, sorted({pair for past in past_runs for pair in past.pairs}))

    @property
    def level(self) -> float:
        """Approximate final loss of the past runs."""
        return self.past_runs[0].posterior.transform.level

    def expected(
        self, schedule: LRSchedule, now: int, level: float, drop_scale: FloatArray
    ) -> ExpectedParameters:
        """Distribution of the parameters of a run under a schedule, before its losses.

        With ``P_r = (V_r + (1 - c) s^2 G_r)^-1`` for past run r, c the common share of the
        variance between runs, generalised least squares gives

            covariance = (sum_r P_r)^-1,    mean = covariance * sum_r P_r beta_r

        To this covariance the common part of s^2 G and the variance between two runs with equal
        setups are added.

        Args:
            schedule: the learning rates of the new run.
            now: its present step.
            level: the loss at which its z is 0.
            drop_scale: D over the drop of a decay to 0, (members,).
        """
        weight, means, covariances, known = self._in_units_of(schedule, now, level, drop_scale)
        difference_std = np.array([past.difference_std for past in self.past_runs])[:, np.newaxis]
        log_weights, centres, spreads = [], [], []
        for scale in DIFFERENCE_SCALES:
            between = _scaled_std(scale.multiplier, difference_std)[..., np.newaxis] ** 2
            between = between * np.eye(3)
            precision, log_det = inverse(covariances + (1 - _COMMON_SHARE) * between)
            precision *= known
            log_det = np.where(known[..., 0, 0] > 0, -log_det, 0.0).sum(axis=0)
            covariance, total_log_det = inverse(precision.sum(axis=0))
            centre = np.einsum("nij,rnjk,rnk->ni", covariance, precision, means)
            away = (means - centre) * known[..., 0]
            misfit = np.einsum("rni,rnij,rnj->n", away, precision, away)
            log_prior = np.log(scale.probability * weight)
            log_weights.append(log_prior + (log_det - total_log_det - misfit) / 2)
            centres.append(centre)
            own_std = _scaled_std(scale.multiplier, np.array(STD_OF_EQUAL_SETUPS))
            common = _COMMON_SHARE * between.min(axis=0)
            spreads.append(covariance + np.diag(own_std**2) + common)
        member, alpha = np.array(self.pairs).T
        log_weight = np.array(log_weights)
        log_weight -= np.logaddexp.reduce(log_weight, axis=None)
        return ExpectedParameters(
            member=member,
            alpha=alpha,
            log_weight=log_weight,
            mean=np.array(centres),
            covariance=np.array(spreads),
        )

    def _in_units_of(
        self, schedule: LRSchedule, now: int, level: float, drop_scale: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The parameters of r past runs in the units of a new one.

        Weights (p,), means (r, p, 3), covariances (r, p, 3, 3), and 1.0 where a run has a pair,
        else 0.0, (r, p, 1, 1).
        """
        decay_share = full_anneal(decaying(schedule))[0]
        n, runs = len(self.pairs), len(self.past_runs)
        weight = np.zeros(n)
        means = np.zeros((runs, n, 3))
        covariances = np.tile(np.eye(3), (runs, n, 1, 1))
        known = np.zeros((runs, n, 1, 1))
        for i, past in enumerate(self.past_runs):
            at = [self.pairs.index(pair) for pair in past.pairs]
            weight[at] += past.weight / runs
            means[i, at], covariances[i, at] = past.parameters_for(
                schedule, now, level, decay_share, drop_scale
            )
            known[i, at] = 1.0
        return weight, means, covariances, known

    def offsets(self, schedule: LRSchedule, steps: IntArray) -> FloatArray:
        """Offsets of z from the laws, (m, p): the past runs' own discrepancies, averaged.

        Each run is weighted by ``1 / sum(g^2)``.
        """
        offsets = np.zeros((steps.size, len(self.pairs)))
        total = np.zeros(len(self.pairs))
        for past in self.past_runs:
            at = [self.pairs.index(pair) for pair in past.pairs]
            weight = 1 / float(np.square(past.difference_std).sum())
            offsets[:, at] += weight * past.discrepancy(schedule, steps)
            total[at] += weight
        return offsets / total


def _scaled_std(multiplier: float, difference_std: FloatArray) -> FloatArray:
    """Standard deviations of beta between runs that differ `multiplier` times as much, (..., 3).

    ``multiplier * g`` for the level, ``multiplier^0.8 * g`` for a and D, and at most 1.
    """
    factors = multiplier ** np.array([1.0, _SCALE_POWER, _SCALE_POWER])
    return np.minimum(factors * difference_std, _MAX_DIFFERENCE_STD)
