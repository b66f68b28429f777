"""`Kin`: what finished runs of the same family lead one to expect of a new one.

Under its own schedule a new run would follow the laws of a past one, and its discrepancy from them
at the same place of the clock, but for a difference of the parameters:

    (level, a, -D) of the new run  ~  N(those of the past run, C + s^2 G)

C being what is uncertain of the past run's parameters and G how unlike the two are. How much two
runs of a family really differ is not known beforehand: s takes several values, and the losses, of
the past runs and the new one, decide between them. Several past runs are averaged by generalised
least squares. Between peak rates, S1 is rescaled and the drop grows as recorded runs show.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.laws import decaying, full_anneal
from lossforecast.numerics import inverse
from lossforecast.posterior.design_matrix import (
    clock_hands,
    walk_clock,
)
from lossforecast.posterior.node_set import NodeSet
from lossforecast.posterior.posterior import Posterior, Walk
from lossforecast.prior import STD_OF_EQUAL_SETUPS, Beliefs
from lossforecast.schedule import LRSchedule

__all__ = ["SCALES", "Expected", "Kin", "nodes_of_past_runs", "weighed_sets"]


SCALES = ((1.0, 0.6, 0.98), (4.0, 0.2, 0.9), (25.0, 0.1, 0.5), (500.0, 0.1, 0.0))
"""How many times as unlike as believed runs may be, how likely that is, and how far to trust then
what past runs say against what is believed of any run."""
_PEAK_S1 = 0.5  # S1 of a run with r times the peak counts r^-0.5 times as much
_PEAK_DROP, _SHARE_DROP = 0.36, 0.15  # powers of the peak and of the decay's share in the drop
# of the variance between runs: what past runs differ by from a new one, and not from each other
_COMMON = 0.5
_SLOWER = 0.8  # power of the scale in the remainder and the drop
_UNLIKEST = 1.0  # standard deviation between any two runs, of the logarithm of a loss
_LEAST = 0.005  # of the largest weight, for a node to count


@dataclass(frozen=True)
class Expected:
    """Of the nodes of a new run's grid, n of them, before its losses.

    Attributes:
        member: index of the member, (n,).
        alpha: index of the exponent, (n,).
        score: log weights of scales and nodes, (s, n).
        mean: of (level, a, -D), (s, n, 3).
        covariance: (s, n, 3, 3).
    """

    member: IntArray
    alpha: IntArray
    score: FloatArray
    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True)
class _Relative:
    """One past run, its posterior merged over walks and drops: nodes of member and exponent."""

    posterior: Posterior
    unlike: FloatArray
    share: float
    drop_scale: FloatArray
    """Full drop believed over D, (nodes,)."""
    key: list[tuple[int, int]]
    weight: FloatArray
    mean: FloatArray
    covariance: FloatArray
    walks: tuple[tuple[int, FloatArray], ...]
    """Which walks count, and what of their columns adds up to the discrepancy of each node."""

    @classmethod
    def of(cls, posterior: Posterior, unlike: FloatArray) -> Self:
        n_columns = posterior.n_columns
        pairs, node = np.unique(
            np.column_stack([posterior.member, posterior.alpha]), axis=0, return_inverse=True
        )
        weight = np.bincount(node, posterior.weight)
        counts = weight >= _LEAST * weight.max()
        kept = counts[node]
        share = posterior.weight / weight[node]
        mean = np.zeros((weight.size, 3))
        np.add.at(mean, node, share[:, np.newaxis] * posterior.mean)
        away = posterior.mean - mean[node]
        spread = posterior.covariance + away[:, :, np.newaxis] * away[:, np.newaxis]
        covariance = np.zeros((weight.size, 3, 3))
        np.add.at(covariance, node, share[:, np.newaxis, np.newaxis] * spread)
        drop_scale = np.zeros(weight.size)
        drop_scale[node] = posterior.drop_scale
        walks = []
        for index in np.unique(posterior.walk[kept]):
            parts = np.zeros((n_columns + 1, weight.size))
            mine = kept & (posterior.walk == index)
            for i in np.flatnonzero(mine):
                parts[-1, node[i]] += share[i]
                np.subtract.at(
                    parts[:, node[i]], posterior.columns[i], share[i] * posterior.mean[i]
                )
            walks.append((int(index), parts[:, counts]))
        return cls(
            posterior=posterior,
            unlike=unlike,
            share=full_anneal(decaying(posterior.schedule))[0],
            drop_scale=drop_scale[counts],
            key=[(int(m), int(a)) for m, a in pairs[counts]],
            weight=weight[counts] / weight[counts].sum(),
            mean=mean[counts],
            covariance=covariance[counts],
            walks=tuple(walks),
        )

    def seen_from(
        self, schedule: LRSchedule, now: int, level: float, share: float, drop_scale: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Means and covariances of the parameters in the units of a new run, without differences.

        Args:
            schedule: of the new run.
            now: its present step.
            level: loss at which its z is 0.
            share: of the run after its rate leaves the peak.
            drop_scale: full drop believed over D of the members, (members,).
        """
        past = self.posterior
        ratio = self._ratio(schedule)
        member, alpha = np.array(self.key).T
        aware = np.array(past.beliefs.aware)[member]
        alphas = np.array(past.beliefs.alphas)[alpha]
        # a warm-up may begin at 0, where nothing is travelled yet
        begun = max(float(schedule.s1(max(now, 1))), schedule.peak / schedule.total_steps)
        s1 = (begun or 1.0) * ratio**-_PEAK_S1
        travelled = s1 / float(past.schedule.s1(max(past.now, 1)))
        passed = max(now, 1) / max(past.now, 1)
        stretch = np.ones_like(self.mean)
        stretch[:, 1] = np.where(aware, travelled, passed) ** -alphas
        grown = ratio**_PEAK_DROP
        length = (max(share, 1e-3) / max(self.share, 1e-3)) ** _SHARE_DROP
        stretch[:, 2] = grown * length * drop_scale[member] / self.drop_scale
        mean = stretch * self.mean
        # annealed to 0, runs of two peaks are alike: at the peak the drop is still to come
        drop = -self.mean[:, 2] / self.drop_scale
        mean[:, 0] += math.log(past.scale.level / level) + drop * (grown - 1)
        spread = stretch[:, :, np.newaxis] * self.covariance * stretch[:, np.newaxis]
        return mean, spread

    def discrepancy(self, schedule: LRSchedule, steps: IntArray) -> FloatArray:
        """How far this run was from its laws at the places of a new run's steps, (m, nodes)."""
        past = self.posterior
        total = float(past.schedule.s1(past.schedule.total_steps))
        total *= self._ratio(schedule) ** _PEAK_S1
        hands = clock_hands(schedule, total, steps)
        found = np.zeros((steps.size, len(self.key)))
        for index, parts in self.walks:
            walk = past.walks[index]
            found += walk.at(walk_clock(hands, past.origin, walk.lr_travel))[0] @ parts
        return found

    def _ratio(self, schedule: LRSchedule) -> float:
        own = self.posterior.schedule.peak
        return schedule.peak / own if own > 0 and schedule.peak > 0 else 1.0


@dataclass(frozen=True)
class Kin:
    """What some past runs lead one to expect of a new one."""

    relatives: tuple[_Relative, ...]
    key: list[tuple[int, int]]

    @classmethod
    def of(cls, past: Sequence[tuple[Posterior, FloatArray]]) -> Self | None:
        """From posteriors of past runs and how unlike they are, (3,); None without any.

        Runs with losses that are not positive are left out: their units do not carry over.
        """
        relatives = tuple(
            _Relative.of(posterior, unlike)
            for posterior, unlike in past
            if posterior.scale.logarithmic and posterior.schedule.peak > 0
        )
        if not relatives:
            return None
        return cls(relatives, sorted({key for each in relatives for key in each.key}))

    @property
    def level(self) -> float:
        """About where their losses ended."""
        return self.relatives[0].posterior.scale.level

    def expected(
        self, schedule: LRSchedule, now: int, level: float, drop_scale: FloatArray
    ) -> Expected:
        """Of the parameters of a run under a schedule, before its losses."""
        share = full_anneal(decaying(schedule))[0]
        n, runs = len(self.key), len(self.relatives)
        weight = np.zeros(n)
        means = np.zeros((runs, n, 3))
        covariances = np.tile(np.eye(3), (runs, n, 1, 1))
        known = np.zeros((runs, n, 1, 1))
        for i, relative in enumerate(self.relatives):
            at = [self.key.index(key) for key in relative.key]
            weight[at] += relative.weight / runs
            means[i, at], covariances[i, at] = relative.seen_from(
                schedule, now, level, share, drop_scale
            )
            known[i, at] = 1.0
        unlike = np.array([each.unlike for each in self.relatives])[:, np.newaxis]
        scores, centres, spreads = [], [], []
        for scale, prior, _ in SCALES:
            apart = _apart(scale, unlike)[..., np.newaxis] ** 2 * np.eye(3)
            precision, log_det = inverse(covariances + (1 - _COMMON) * apart)
            precision *= known
            log_det = np.where(known[..., 0, 0] > 0, -log_det, 0.0).sum(axis=0)
            spread, total_log_det = inverse(precision.sum(axis=0))
            centre = np.einsum("nij,rnjk,rnk->ni", spread, precision, means)
            away = (means - centre) * known[..., 0]
            misfit = np.einsum("rni,rnij,rnj->n", away, precision, away)
            scores.append(np.log(prior * weight) + (log_det - total_log_det - misfit) / 2)
            centres.append(centre)
            own = _apart(scale, np.array(STD_OF_EQUAL_SETUPS))
            spreads.append(spread + np.diag(own**2) + _COMMON * apart.min(axis=0))
        member, alpha = np.array(self.key).T
        score = np.array(scores)
        score -= np.logaddexp.reduce(score, axis=None)
        return Expected(member, alpha, score, np.array(centres), np.array(spreads))

    def besides(self, schedule: LRSchedule, steps: IntArray) -> FloatArray:
        """What is expected of z besides the laws, (m, n): the past runs' own discrepancies."""
        found = np.zeros((steps.size, len(self.key)))
        total = np.zeros(len(self.key))
        for relative in self.relatives:
            at = [self.key.index(key) for key in relative.key]
            share = 1 / float(np.square(relative.unlike).sum())
            found[:, at] += share * relative.discrepancy(schedule, steps)
            total[at] += share
        return found / total


def _apart(scale: float, unlike: FloatArray) -> FloatArray:
    """Standard deviations of the parameters, (..., 3), of runs so many times as unlike as believed.

    What is still to lose and the drop are shares of what is left of a loss, its level is not.
    """
    return np.minimum(scale ** np.array([1.0, _SLOWER, _SLOWER]) * unlike, _UNLIKEST)


def nodes_of_past_runs(
    beliefs: Beliefs,
    nodes: tuple[IntArray, IntArray, IntArray],
    walk: Walk,
    expected: Expected,
    scale: int,
    drop_scale: FloatArray,
    measured: tuple[float, float] | None,
) -> NodeSet:
    """The nodes of past runs, at one scale of how unlike them this one may be."""
    columns = nodes[2]
    node = expected.member * len(beliefs.alphas) + expected.alpha
    beside = np.arange(node.size)
    z = walk.whitened.shape[1] - node.size - 1
    rows = walk.whitened[:, columns[node]].swapaxes(0, 1)  # (k, n, 3)
    value = walk.whitened[:, [z]].T - walk.whitened[:, z + 1 :].T  # (k, n)
    precision, log_det = inverse(expected.covariance[scale])
    centre = expected.mean[scale]
    of_drop = drop_scale[expected.member]
    believed = np.sqrt(expected.covariance[scale][:, 2, 2]) / of_drop
    gram = np.einsum("kni,knj->kij", rows, rows) + precision
    target = np.einsum("kni,kn->ki", rows, value) + np.einsum("kij,kj->ki", precision, centre)
    misfit = np.einsum("kn,kn->k", value, value) + np.einsum(
        "ki,kij,kj->k", centre, precision, centre
    )
    told = np.zeros(node.size)
    if measured is not None:
        drop, error = measured[0] * of_drop, measured[1] * of_drop
        gram[:, 2, 2] += error**-2
        target[:, 2] -= drop * error**-2
        misfit += (drop / error) ** 2
        told = believed**2 / (believed**2 + measured[1] ** 2)
    covariance, posterior_log_det = inverse(gram)
    mean = np.einsum("kij,kj->ki", covariance, target)
    misfit -= np.einsum("ki,ki->k", mean, target)
    score = expected.score[scale] + walk.score - (misfit + posterior_log_det + log_det) / 2
    return NodeSet(
        score=score,
        mean=mean,
        covariance=covariance,
        node=node,
        walk=np.zeros(node.size, np.int64),
        group=np.zeros(node.size, np.int64),
        believed=believed,
        told=told,
        beside=beside,
    )


def weighed_sets(
    parts: Sequence[NodeSet], kin: Sequence[NodeSet], trust: FloatArray
) -> list[NodeSet]:
    """The parts of the laws alone and those of past runs, with weights between them.

    How unlike the past the run is says how far past runs are trusted. How well either foretold the
    losses so far does not: what a run does early says little of which knows better how it ends.
    """
    evidence = np.array([np.logaddexp.reduce(part.score) for part in kin])
    share = evidence - np.logaddexp.reduce(evidence)
    trusted = np.log(np.maximum(trust, 1e-9))
    found = [
        replace(part, score=part.score + share[i] + trusted[i] - evidence[i])
        for i, part in enumerate(kin)
    ]
    left = np.log(-np.expm1(np.logaddexp.reduce(share + trusted)))
    total = np.logaddexp.reduce([np.logaddexp.reduce(part.score) for part in parts] or [0.0])
    return [*(replace(part, score=part.score + left - total) for part in parts), *found]
