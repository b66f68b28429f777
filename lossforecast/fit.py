"""The posterior of the laws given the evidence: a grid, a linear solve at each node, no search.

At a node (regime, size of the discrepancy, component of the drop prior, law and its relaxation,
alpha) the model

    z(t) = level + a * (S1(t) / S1(now))^-alpha - D * arrived(t) + walk(t),    z observed with noise

is linear in (level, a, D) and Gaussian, so posterior, evidence and prediction are closed formulas.
z is the logarithm of the loss, or the loss itself in units of its level where some loss is not
positive. `walk` is the discrepancy between law and run: a random walk whose last state is carried
to the step forecast while its variance grows with the distance, in a clock that runs with
``(S1(T) / S1(t))^0.3`` and with the travel of the learning rate from its peak. Its covariance does
not depend on the law: one filter serves all nodes of one size.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lossforecast.design import (
    alpha_weights,
    columns_at,
    drop_scales,
    grid,
    walk_clock,
)
from lossforecast.drops import believed_drops
from lossforecast.evidence import Evidence
from lossforecast.gaps import MeasuredDrop
from lossforecast.posterior import Posterior, Walk
from lossforecast.prior import Beliefs
from lossforecast.relaxation import decaying
from lossforecast.scale import FARTHEST, Scale
from lossforecast.schedule import LRSchedule
from lossforecast.solve import solve
from lossforecast.walk import Filter, filtered, whiten

__all__ = ["fit"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LEVEL_SPREAD = 2.0  # of the level around the present loss, in units of it: hardly a constraint
# what the power law has still to lose is about slope / alpha: this many slopes are added to the
# spread of what is believed of it, so that a steep loss may go on falling
_STEEP = 2.0
_NEGLIGIBLE = 1e-6  # posterior weight below which a node is dropped


def fit(
    evidence: Evidence,
    schedule: LRSchedule,
    now: int,
    beliefs: Beliefs,
    measured_drop: MeasuredDrop | None = None,
    rise: float = 0.0,
) -> Posterior:
    """Posterior given at least one observation.

    Args:
        evidence: losses, n >= 1 of them.
        schedule: learning rate of every step, past and planned.
        now: the present step, at most ``schedule.total_steps``.
        beliefs: the prior.
        measured_drop: what the annealing probe told.
        rise: of a loss that overfits, in its units: no law rises, so it is added to the spread.
    """
    scale = Scale.of_losses(evidence.loss)
    z, variance = scale.of(evidence.loss, evidence.variance)
    steps = np.append(evidence.step, [now, schedule.total_steps])
    basis, hands = columns_at(beliefs, schedule, schedule, now, steps)
    now_and_end = basis[-2:], hands[:, -2:]
    basis, hands = basis[:-2], hands[:, :-2]
    origin = float(hands[0, 0]), float(hands[1, 0])
    member, alpha, columns = grid(beliefs)
    at_end, plan = now_and_end[0][1], decaying(schedule)
    if plan is not schedule:
        at_end = columns_at(beliefs, plan, plan, now, steps[-1:])[0][0]
    drop_scale = drop_scales(beliefs, plan, at_end)[member]
    noise = min(evidence.noise / scale.unit, 1.0)
    slope = _slope(z, schedule.s1(np.maximum(evidence.step, 1)))
    measured = None if measured_drop is None else _measured(measured_drop, scale)
    member_weights = np.array([m.weight for m in beliefs.members])[member]
    walks = _walks(beliefs, hands, origin, variance + 1e-14, np.column_stack([basis, z]))
    parts = []
    for index, regime in enumerate(beliefs.regimes):
        mine = [i for i, walk in enumerate(walks) if walk.regime == index]
        gram = np.array([walks[i].whitened.T @ walks[i].whitened for i in mine])
        drops = believed_drops(regime.drops, slope, noise, measured)
        score, mean, covariance = solve(
            gram,
            columns,
            drop_scale,
            np.column_stack([drops.mean, drops.std]),
            (_LEVEL_SPREAD, math.hypot(regime.reducible, _STEEP * slope)),
        )
        score += np.log(member_weights) + alpha_weights(beliefs, regime)[alpha]
        score += drops.weight[:, np.newaxis]
        score += np.array([walks[i].score for i in mine])[:, np.newaxis, np.newaxis]
        evidence_of_regime = np.logaddexp.reduce(score, axis=None)
        score += np.log(regime.weight) + drops.of_noise + (beliefs.temper - 1) * evidence_of_regime
        flat = score.ravel(), mean.reshape(-1, 3), covariance.reshape(-1, 3, 3)
        of_walk = np.repeat(mine, drops.std.size)
        spreads = np.column_stack([drops.std, drops.told])
        parts.append((*flat, of_walk, np.tile(spreads, (len(mine), 1))))
    score, mean, covariance, of_walk, spreads = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )
    weight = np.exp(score - score.max())
    weight /= weight.sum()
    kept = np.flatnonzero(weight >= min(_NEGLIGIBLE, weight.max()))
    group, node = np.divmod(kept, member.size)
    return Posterior(
        beliefs=beliefs,
        schedule=schedule,
        now=now,
        scale=scale,
        weight=weight[kept] / weight[kept].sum(),
        member=member[node],
        alpha=alpha[node],
        group=group,
        walk=of_walk[group],
        drop_scale=drop_scale[node],
        believed=spreads[group, 0],
        told=spreads[group, 1],
        mean=mean[kept],
        covariance=covariance[kept],
        slope=slope,
        noise=noise,
        added_variance=_added_variance(
            evidence, scale, beliefs.window * schedule.total_steps / max(now, 1), rise
        ),
        _columns=columns[node],
        _origin=origin,
        _walks=tuple(walks),
        _now_and_end=now_and_end,
    )


def _measured(drop: MeasuredDrop, scale: Scale) -> tuple[float, float]:
    """A measured drop and its standard deviation, as z."""
    if not scale.logarithmic:
        return drop.mean / scale.unit, drop.std / scale.unit
    level = max(drop.level, 1e-9 * scale.unit)
    left = max(1 - drop.mean / level, math.exp(-FARTHEST))
    return -math.log(left), drop.std / level / left


def _walks(
    beliefs: Beliefs,
    hands: FloatArray,
    origin: tuple[float, float],
    noise: FloatArray,
    design: FloatArray,
) -> list[Walk]:
    """Every size of the discrepancy in every regime, and the design as it sees it."""
    clocks = [walk_clock(hands, origin, regime.lr_travel) for regime in beliefs.regimes]
    kinds = [
        (index, size, np.log(weight))
        for index, regime in enumerate(beliefs.regimes)
        for size, weight in regime.walks
    ]
    moves = [size**2 * np.diff(clocks[index], prepend=0.0) for index, size, _ in kinds]
    filters = filtered(np.array(moves), noise)
    whitened, state = whiten(filters, design)
    scores = -np.log(filters.std).sum(axis=1)
    last = len(beliefs.regimes) - 1
    largest = max(size for size, _ in beliefs.regimes[last].walks)
    return [
        Walk(
            regime=index,
            size=size,
            misfit=index == last and size == largest,
            score=float(log_weight + scores[i]),
            clock=clocks[index],
            whitened=whitened[i],
            state=state[i],
            filter=Filter(filters.gain[[i]], filters.std[[i]], filters.variance[[i]]),
        )
        for i, (index, size, log_weight) in enumerate(kinds)
    ]


def _added_variance(evidence: Evidence, scale: Scale, share: float, rise: float) -> float:
    """As z: of the mean of a share of the observations so far, at least 3 of them, and of a rise.

    A share of 0 asks for the expected loss.
    """
    noise = evidence.noise**2 / max(share * evidence.n_observed, 3.0) if share else 0.0
    return float(scale.of(evidence.loss[-1:], np.array([noise + min(rise, 1e100) ** 2]))[1][0])


def _slope(z: FloatArray, s1: FloatArray) -> float:
    """``-dz / d log(S1)`` over the later half of the evidence, at least 0."""
    n = max(z.size // 2, min(6, z.size))
    x = np.log(np.maximum(s1[-n:], 1e-300))
    if np.ptp(x) < 1e-6:
        return 0.0
    x = x - x.mean()
    return max(-float(x @ z[-n:] / (x @ x)), 0.0)
