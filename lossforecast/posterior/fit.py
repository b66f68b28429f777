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
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.laws import decaying
from lossforecast.numerics import Filter, filtered, solve, whiten
from lossforecast.posterior.design_matrix import (
    alpha_weights,
    columns_at,
    drop_scales,
    grid,
    walk_clock,
)
from lossforecast.posterior.loss_transform import FARTHEST, Scale
from lossforecast.posterior.node_set import NodeSet
from lossforecast.posterior.posterior import Places, Posterior, Walk
from lossforecast.posterior.transfer import SCALES, Kin, nodes_of_past_runs, weighed_sets
from lossforecast.prior import Beliefs, BelievedDrops, MeasuredDrop, Regime, believed_drops
from lossforecast.runs import Evidence
from lossforecast.schedule import LRSchedule

__all__ = ["fit"]


_LEVEL_SPREAD = 2.0  # of the level around the present loss, in units of it: hardly a constraint
# what the power law has still to lose is about slope / alpha: this many slopes are added to the
# spread of what is believed of it, so that a steep loss may go on falling
_STEEP = 2.0
# of runs that are as alike as believed: the discrepancy between two, its travel, and what losses
# observed early differ by for no lasting reason
_OWN_WALK, _TRAVEL, _OWN_NOISE = 0.003, 0.2, 0.004
_WIDEST_WALK = 0.1
_AS_ROUGH = 0.9  # probability that a run which is less alike also follows its laws less closely
_START_STEPS = 100  # after which the start of a run is over: found on small runs
_START_SHARE = 0.05  # of the run's S1, likewise: found on recorded curves
_NEGLIGIBLE = 1e-6  # posterior weight below which a node is dropped


def fit(
    evidence: Evidence,
    schedule: LRSchedule,
    now: int,
    beliefs: Beliefs,
    measured_drop: MeasuredDrop | None = None,
    rise: float = 0.0,
    kin: Kin | None = None,
) -> Posterior:
    """Posterior given at least one observation.

    Args:
        evidence: losses, n >= 1 of them.
        schedule: learning rate of every step, past and planned.
        now: the present step, at most ``schedule.total_steps``.
        beliefs: the prior.
        measured_drop: what the annealing probe told.
        rise: of a loss that overfits, in its units: no law rises, so it is added to the spread.
        kin: past runs that are like this one.
    """
    scale = Scale.of_losses(evidence.loss)
    z, variance = scale.of(evidence.loss, evidence.variance)
    steps = np.append(evidence.step, [now, schedule.total_steps])
    basis, hands = columns_at(beliefs, schedule, schedule, now, steps)
    besides = np.empty((steps.size, 0))
    if kin is not None and scale.logarithmic:
        besides = kin.besides(schedule, steps)
    places = Places(basis[-2:], hands[:, -2:], besides[-2:])
    basis, hands, besides = basis[:-2], hands[:, :-2], besides[:-2]
    origin = float(hands[0, 0]), float(hands[1, 0])
    nodes = grid(beliefs)
    at_end, plan = places.basis[1], decaying(schedule)
    if plan is not schedule:
        at_end = columns_at(beliefs, plan, plan, now, steps[-1:])[0][0]
    drop_scale = drop_scales(beliefs, plan, at_end)
    noise = min(evidence.noise / scale.unit, 1.0)
    slope = _slope(z, schedule.s1(np.maximum(evidence.step, 1)))
    measured = None if measured_drop is None else _measured(measured_drop, scale)
    variance = variance + 1e-14
    design = np.column_stack([basis, z])
    walks: list[Walk] = []
    parts: list[NodeSet] = []
    for index, regime in enumerate(beliefs.regimes):
        clock = walk_clock(hands, origin, regime.lr_travel)
        last = index == len(beliefs.regimes) - 1
        mine = _walks(regime, clock, variance, design, lawful=index == 0, last=last)
        drops = believed_drops(regime.drops, slope, noise, measured)
        reducible = math.hypot(regime.reducible, _STEEP * slope)
        part = _of_regime(beliefs, regime, nodes, mine, drops, drop_scale, reducible)
        parts.append(replace(part, walk=part.walk + len(walks)))
        walks += mine
    if besides.size:
        assert kin is not None
        expected = kin.expected(schedule, now, scale.level, drop_scale)
        of_kin, trust = [], []
        clock = walk_clock(hands, origin, _TRAVEL)
        for index, (size, _, trusted) in enumerate(SCALES):
            alike = ((1.0, 1.0),) if size == 1 else ((1.0, 1 - _AS_ROUGH), (size, _AS_ROUGH))
            for rough, share in alike:
                own = variance + min(_OWN_NOISE * rough, _WIDEST_WALK) ** 2
                walked = min(_OWN_WALK * rough, _WIDEST_WALK)
                wide = Regime((0, 0), 0, ((walked, share),), _TRAVEL)
                (walk,) = _walks(wide, clock, own, np.column_stack([design, besides]))
                part = nodes_of_past_runs(
                    beliefs, nodes, walk, expected, index, drop_scale, measured
                )
                of_kin.append(replace(part, walk=part.walk + len(walks)))
                walks.append(walk)
                trust.append(trusted)
        parts = weighed_sets([] if evidence.says_nothing else parts, of_kin, np.array(trust))
    member, alpha, columns = nodes
    score = np.concatenate([part.score for part in parts])
    weight = np.exp(score - score.max())
    weight /= weight.sum()
    kept = np.flatnonzero(weight >= min(_NEGLIGIBLE, weight.max()))
    groups = np.cumsum([0, *(part.group.max() + 1 for part in parts)])

    def of(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])[kept]

    node = of("node")
    return Posterior(
        beliefs=beliefs,
        schedule=schedule,
        now=now,
        scale=scale,
        weight=weight[kept] / weight[kept].sum(),
        member=member[node],
        alpha=alpha[node],
        group=np.concatenate(
            [part.group + first for part, first in zip(parts, groups[:-1], strict=True)]
        )[kept],
        walk=of("walk"),
        drop_scale=drop_scale[member[node]],
        believed=of("believed"),
        told=of("told"),
        mean=of("mean"),
        covariance=of("covariance"),
        slope=slope,
        youth=_youth(schedule, now),
        noise=noise,
        added_variance=_added_variance(
            evidence, scale, beliefs.window * schedule.total_steps / max(now, 1), rise
        ),
        columns=columns[node],
        origin=origin,
        walks=tuple(walks),
        _now_and_end=places,
        _besides=kin.besides if kin is not None and besides.size else None,
        _beside=of("beside"),
    )


def _of_regime(
    beliefs: Beliefs,
    regime: Regime,
    nodes: tuple[IntArray, IntArray, IntArray],
    walks: Sequence[Walk],
    drops: BelievedDrops,
    drop_scale: FloatArray,
    reducible: float,
) -> NodeSet:
    """Every walk, component of the drop and node of the grid."""
    member, alpha, columns = nodes
    gram = np.array([walk.whitened.T @ walk.whitened for walk in walks])
    score, mean, covariance = solve(
        gram,
        columns,
        drop_scale[member],
        np.column_stack([drops.mean, drops.std]),
        (_LEVEL_SPREAD, reducible),
    )
    score += np.log([m.weight for m in beliefs.members])[member]
    score += alpha_weights(beliefs, regime)[alpha]
    score += drops.weight[:, np.newaxis]
    score += np.array([walk.score for walk in walks])[:, np.newaxis, np.newaxis]
    evidence_of_regime = np.logaddexp.reduce(score, axis=None)
    score += np.log(regime.weight) + drops.of_noise + (beliefs.temper - 1) * evidence_of_regime
    walk, drop, node = (each.ravel() for each in np.indices(score.shape))
    return NodeSet(
        score=score.ravel(),
        mean=mean.reshape(-1, 3),
        covariance=covariance.reshape(-1, 3, 3),
        node=node,
        walk=walk,
        group=walk * drops.std.size + drop,
        believed=drops.std[drop],
        told=drops.told[drop],
        beside=np.full(node.size, -1),
    )


def _measured(drop: MeasuredDrop, scale: Scale) -> tuple[float, float]:
    """A measured drop and its standard deviation, as z."""
    if not scale.logarithmic:
        return drop.mean / scale.unit, drop.std / scale.unit
    level = max(drop.level, 1e-9 * scale.unit)
    left = max(1 - drop.mean / level, math.exp(-FARTHEST))
    return -math.log(left), drop.std / level / left


def _walks(
    regime: Regime,
    clock: FloatArray,
    noise: FloatArray,
    design: FloatArray,
    *,
    lawful: bool = False,
    last: bool = False,
) -> list[Walk]:
    """Every size of the discrepancy in a regime, and the design as it sees it."""
    moves = [size**2 * np.diff(clock, prepend=0.0) for size, _ in regime.walks]
    filters = filtered(np.array(moves), noise)
    whitened, state = whiten(filters, design)
    scores = -np.log(filters.std).sum(axis=1)
    largest = max(size for size, _ in regime.walks)
    return [
        Walk(
            lawful=lawful,
            lr_travel=regime.lr_travel,
            size=size,
            misfit=last and size == largest,
            score=float(np.log(weight) + scores[i]),
            clock=clock,
            whitened=whitened[i],
            state=state[i],
            filter=Filter(filters.gain[[i]], filters.std[[i]], filters.variance[[i]]),
        )
        for i, (size, weight) in enumerate(regime.walks)
    ]


def _added_variance(evidence: Evidence, scale: Scale, share: float, rise: float) -> float:
    """As z: of the mean of a share of the observations so far, at least 3 of them, and of a rise.

    A share of 0 asks for the expected loss.
    """
    noise = evidence.noise**2 / max(share * evidence.n_observed, 3.0) if share else 0.0
    return float(scale.of(evidence.loss[-1:], np.array([noise + min(rise, 1e100) ** 2]))[1][0])


def _youth(schedule: LRSchedule, now: int) -> float:
    """From 1 to 0: few steps since the warm-up, or a small share of the run's S1."""
    steps = (now - min(schedule.warmup_steps, now)) / _START_STEPS
    total = float(schedule.s1(schedule.total_steps))
    share = float(schedule.s1(max(now, 1))) / (_START_SHARE * total) if total > 0 else 1.0
    return max(1 - min(steps, share), 0.0)


def _slope(z: FloatArray, s1: FloatArray) -> float:
    """``-dz / d log(S1)`` over the later half of the evidence, at least 0."""
    n = max(z.size // 2, min(6, z.size))
    x = np.log(np.maximum(s1[-n:], 1e-300))
    if np.ptp(x) < 1e-6:
        return 0.0
    x = x - x.mean()
    return max(-float(x @ z[-n:] / (x @ x)), 0.0)
