"""The posterior of the laws given the evidence: a grid, a linear solve at each node, no search.

At a node (regime, size of the discrepancy, component of the drop prior, law and its relaxation,
alpha) the model

    z(t) = level + a * (S1(t) / S1(now))^-alpha - D * arrived(t) + walk(t),    z observed with noise

is linear in (level, a, D) and Gaussian, so posterior, evidence and prediction are closed formulas.

z is the logarithm of the loss, or the loss itself in units of its level where some loss is not
positive. walk(t) is the discrepancy between law and run: a random walk whose last state is carried
to the step forecast while its variance grows with the distance, in a clock that runs with
``(S1(T) / S1(t))^0.3`` and with the travel of the learning rate from its peak. Its covariance does
not depend on the law: one Kalman filter serves all nodes of one size.

At an event, which marks a change of the data, the batch size or the like, the walk may jump: the
variance of its step to the first observation at or after the event grows by 0.3^2. So the level
after the event is that of the losses after it, while slope, alpha and drop are still learned from
both sides. Until a loss after the event is seen, the forecast has that variance as well. Slope,
fall and the doubt whether the run follows a law are taken from losses moved to one level.

Notation, for n observations, g pairs of the grid, w walks, c components of the drop prior, k nodes
and p nodes of past runs:

    z                z           (n,)               the losses as `LossTransform` gives them
    sigma^2          variance    (n,)               variance of the observations of z
    X                basis       (n, columns)       1, powers of S1, powers of t, arrived, 0
    [X z offsets]    design      (n, columns+1+p)   everything that a walk filters
    columns          columns     (g, 3)             columns of X that multiply (level, a, -D)
    beta             mean        (k, 3)             posterior mean of (level, a, -D)
    V                covariance  (k, 3, 3)          posterior covariance of (level, a, -D)
    log p(z, node)   log_weight  (k,)               log weight of a node, up to a constant
    slope            slope       scalar             -dz / d log(S1), later half of the losses,
                                                    without their jumps
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.laws import decaying
from lossforecast.numerics import solve
from lossforecast.posterior.design_matrix import (
    Grid,
    QueryPoints,
    columns_at,
    drop_scales,
    log_alpha_weights,
    walk_time,
)
from lossforecast.posterior.loss_transform import MAX_LOG_RATIO, LossTransform
from lossforecast.posterior.node_set import NodeSet
from lossforecast.posterior.posterior import Posterior
from lossforecast.posterior.transfer import DIFFERENCE_SCALES, PastRunTransfer
from lossforecast.posterior.transfer_nodes import nodes_at_scale, with_past_runs
from lossforecast.posterior.unsettled import doubt_about
from lossforecast.posterior.walk import Walk, walks_of
from lossforecast.prior import Beliefs, DropPrior, MeasuredDrop, Regime, drop_prior
from lossforecast.runs import Evidence
from lossforecast.schedule import LRSchedule

__all__ = ["fit"]


_LEVEL_STD = 2.0  # of the level around the present loss, as z: hardly a constraint
# the reducible loss a is about slope / alpha: this many slopes are added to its prior standard
# deviation, so that a loss that falls steeply may go on falling
_SLOPES_IN_REDUCIBLE = 2.0
_VARIANCE_FLOOR = 1e-14  # of an observation of z
_MAX_NOISE = 1.0  # of one observation, as z

# between two runs that differ as little as expected: size of the discrepancy, time of its walk
# while the rate goes to 0, and standard deviation of early differences that do not last
_TRANSFER_WALK, _TRANSFER_LR_TRAVEL, _TRANSFER_NOISE = 0.003, 0.2, 0.004
_MAX_TRANSFER_STD = 0.1
_PROB_ROUGHER = 0.9  # that a run which differs more also follows its laws less closely

_START_STEPS = 100  # length of the start of a run, after the warm-up: measured on small runs
_START_S1_SHARE = 0.05  # the same as a share of the run's S1: measured on recorded curves
_MIN_NODE_WEIGHT = 1e-6  # posterior weight below which a node is dropped
_MIN_SLOPE_POINTS = 6
_MIN_AVERAGED = 3.0  # observations in the mean that a forecast reports
_MAX_RISE = 1e100  # its square stays finite
_TINY = 1e-300


@dataclass(frozen=True)
class _Problem:
    """The data common to all nodes: the observations, the basis at them, and the clock."""

    beliefs: Beliefs
    transform: LossTransform
    variance: FloatArray  # (n,)
    design: FloatArray  # basis and z, (n, columns + 1)
    offsets: FloatArray  # of past runs, (n, p)
    continued: FloatArray  # z without the jumps at events, (n,)
    terms: FloatArray  # clock terms, (2, n)
    jumps: IntArray  # number of events up to each observation, (n,)
    query: QueryPoints  # now and the end of the plan
    grid: Grid
    drop_scale: FloatArray  # D over the drop of a decay to 0, of each member, (members,)
    slope: float
    noise: float  # standard deviation of one observation, as z
    fall: float  # of the loss so far, as z
    measured: tuple[float, float] | None  # the drop and its standard deviation, as z

    @property
    def origin(self) -> tuple[float, float]:
        """Clock terms at the first observation."""
        return float(self.terms[0, 0]), float(self.terms[1, 0])


def fit(
    evidence: Evidence,
    schedule: LRSchedule,
    now: int,
    beliefs: Beliefs,
    measured_drop: MeasuredDrop | None = None,
    rise: float = 0.0,
    past_runs: PastRunTransfer | None = None,
) -> Posterior:
    """Posterior given at least one observation.

    Args:
        evidence: losses, n >= 1 of them.
        schedule: learning rate of every step, past and planned.
        now: the present step, at most ``schedule.total_steps``.
        beliefs: the prior.
        measured_drop: the drop that the annealing probe measured.
        rise: expected rise of an overfitting loss, in units of the loss. No law rises, so it is
            added to the standard deviation.
        past_runs: finished runs like this one; ignored where some loss is not positive.
    """
    transform = LossTransform.of_losses(evidence.loss)
    if not transform.logarithmic:
        past_runs = None
    problem = _problem(evidence, schedule, now, beliefs, transform, measured_drop, past_runs)
    walks, sets = _law_nodes(problem)
    if past_runs is not None:
        transfer_walks, transfer_sets, trust = _past_run_nodes(
            problem, past_runs, schedule, now, first_walk=len(walks)
        )
        walks += transfer_walks
        sets = with_past_runs([] if evidence.is_empty else sets, transfer_sets, trust)
    nodes, weight = _normalised(NodeSet.joined(sets))
    averaged_share = beliefs.window * schedule.total_steps / max(now, 1)
    return Posterior(
        beliefs=beliefs,
        schedule=schedule,
        now=now,
        transform=transform,
        weight=weight,
        nodes=nodes,
        walks=tuple(walks),
        origin=problem.origin,
        now_and_end=problem.query,
        past_run_offsets=None if past_runs is None else past_runs.offsets,
        slope=problem.slope,
        youth=_youth(schedule, now),
        noise=problem.noise,
        fall=problem.fall,
        events=evidence.events,
        unsettled=_prob_unsettled(problem, evidence, now),
        added_variance=_added_variance(evidence, transform, averaged_share, rise),
    )


def _problem(
    evidence: Evidence,
    schedule: LRSchedule,
    now: int,
    beliefs: Beliefs,
    transform: LossTransform,
    measured_drop: MeasuredDrop | None,
    past_runs: PastRunTransfer | None,
) -> _Problem:
    """Evaluate z, basis, clock and offsets at the observations, the present step and the end."""
    z, variance = transform.to_z(evidence.loss, evidence.variance)
    level = evidence.without_jumps()
    continued, _ = transform.to_z(level.loss, evidence.variance)
    steps = np.append(evidence.step, [now, schedule.total_steps])
    points = QueryPoints.at(
        schedule,
        steps,
        beliefs=beliefs,
        plan=schedule,
        now=now,
        events=evidence.events,
        past_runs=None if past_runs is None else past_runs.offsets,
    )
    at_end, annealed = points.basis[-1], decaying(schedule)
    if annealed is not schedule:
        at_end = columns_at(beliefs, annealed, annealed, now, steps[-1:])[0][0]
    return _Problem(
        beliefs=beliefs,
        transform=transform,
        variance=variance + _VARIANCE_FLOOR,
        design=np.column_stack([points.basis[:-2], z]),
        offsets=points.offsets[:-2],
        continued=continued,
        terms=points.terms[:, :-2],
        jumps=points.jumps[:-2],
        query=points.last(2),
        grid=Grid.of(beliefs),
        drop_scale=drop_scales(beliefs, annealed, at_end),
        slope=_slope(continued, points.terms[0, :-2]),
        noise=min(evidence.noise / transform.unit, _MAX_NOISE),
        fall=_fall(level, transform),
        measured=None if measured_drop is None else _as_z(measured_drop, transform),
    )


def _law_nodes(problem: _Problem) -> tuple[list[Walk], list[NodeSet]]:
    """The nodes of the laws alone: for each regime its walks and the posterior at every node."""
    walks: list[Walk] = []
    sets: list[NodeSet] = []
    regimes = problem.beliefs.regimes
    for index, regime in enumerate(regimes):
        regime_walks = walks_of(
            regime,
            walk_time(problem.terms, problem.origin, regime.lr_travel),
            problem.jumps,
            problem.variance,
            problem.design,
            lawful=index == 0,
            last=index == len(regimes) - 1,
        )
        drops = drop_prior(
            regime.drops, problem.slope, problem.noise, problem.fall, problem.measured
        )
        nodes = _nodes_of_regime(problem, regime, regime_walks, drops)
        sets.append(replace(nodes, walk=nodes.walk + len(walks)))
        walks += regime_walks
    return walks, sets


def _nodes_of_regime(
    problem: _Problem, regime: Regime, walks: list[Walk], drops: DropPrior
) -> NodeSet:
    """Every walk, component of the drop prior and pair of the grid.

    The log weight of a node is log(prior weights) + log evidence, and then the evidence of the
    whole regime counts to the power `temper`:

        log p(z, node) + (temper - 1) * log p(z, regime)
    """
    beliefs, grid = problem.beliefs, problem.grid
    drop_scale = problem.drop_scale[grid.member]
    gram = np.array([walk.whitened.T @ walk.whitened for walk in walks])
    reducible_std = math.hypot(regime.reducible, _SLOPES_IN_REDUCIBLE * problem.slope)
    log_weight, mean, covariance = solve(
        gram,
        grid.columns,
        drop_scale,
        np.column_stack([drops.mean, drops.std]),
        (_LEVEL_STD, reducible_std),
    )
    log_weight += np.log([m.weight for m in beliefs.members])[grid.member]
    log_weight += log_alpha_weights(beliefs, regime)[grid.alpha]
    log_weight += drops.log_weight[:, np.newaxis]
    log_weight += np.array([walk.log_evidence for walk in walks])[:, np.newaxis, np.newaxis]
    evidence_of_regime = np.logaddexp.reduce(log_weight, axis=None)
    log_prior = np.log(regime.weight) + drops.log_noise_likelihood
    log_weight += log_prior + (beliefs.temper - 1) * evidence_of_regime
    walk, drop, pair = (index.ravel() for index in np.indices(log_weight.shape))
    return NodeSet(
        log_weight=log_weight.ravel(),
        mean=mean.reshape(-1, 3),
        covariance=covariance.reshape(-1, 3, 3),
        member=grid.member[pair],
        alpha=grid.alpha[pair],
        columns=grid.columns[pair],
        drop_scale=drop_scale[pair],
        walk=walk,
        group=walk * drops.std.size + drop,
        prior_std=drops.std[drop],
        measured_share=drops.measured_share[drop],
        offset_column=np.full(pair.size, -1),
    )


def _past_run_nodes(
    problem: _Problem,
    past_runs: PastRunTransfer,
    schedule: LRSchedule,
    now: int,
    *,
    first_walk: int,
) -> tuple[list[Walk], list[NodeSet], FloatArray]:
    """The nodes of past runs: walks, node sets and the trust in each set, one per scale and walk.

    A run that differs s times as much as expected either follows the laws of its past as closely
    as other runs do, or with a discrepancy and a noise s times as large.
    """
    expected = past_runs.expected(schedule, now, problem.transform.level, problem.drop_scale)
    design = np.column_stack([problem.design, problem.offsets])
    time = walk_time(problem.terms, problem.origin, _TRANSFER_LR_TRAVEL)
    walks: list[Walk] = []
    sets: list[NodeSet] = []
    trust: list[float] = []
    for index, scale in enumerate(DIFFERENCE_SCALES):
        roughness = ((1.0, 1 - _PROB_ROUGHER), (scale.multiplier, _PROB_ROUGHER))
        for rough, probability in ((1.0, 1.0),) if scale.multiplier == 1 else roughness:
            noise = min(_TRANSFER_NOISE * rough, _MAX_TRANSFER_STD)
            size = min(_TRANSFER_WALK * rough, _MAX_TRANSFER_STD)
            regime = Regime(
                alpha=(0, 0),
                reducible=0,
                walks=((size, probability),),
                lr_travel=_TRANSFER_LR_TRAVEL,
            )
            (walk,) = walks_of(regime, time, problem.jumps, problem.variance + noise**2, design)
            nodes = nodes_at_scale(
                expected,
                index,
                walk,
                first_walk + len(walks),
                grid=problem.grid,
                n_alphas=len(problem.beliefs.alphas),
                drop_scale=problem.drop_scale,
                measured=problem.measured,
            )
            walks.append(walk)
            sets.append(nodes)
            trust.append(scale.trust)
    return walks, sets, np.array(trust)


def _normalised(nodes: NodeSet) -> tuple[NodeSet, FloatArray]:
    """The nodes that are not negligible, and their posterior weights, sum 1."""
    weight = np.exp(nodes.log_weight - nodes.log_weight.max())
    weight /= weight.sum()
    kept = np.flatnonzero(weight >= min(_MIN_NODE_WEIGHT, weight.max()))
    return nodes.subset(kept), weight[kept] / weight[kept].sum()


def _as_z(drop: MeasuredDrop, transform: LossTransform) -> tuple[float, float]:
    """A measured drop d and its standard deviation as z.

    On the log scale, with r = 1 - d / level: ``-log(r)`` and ``std / (level r)``.
    """
    if not transform.logarithmic:
        return drop.mean / transform.unit, drop.std / transform.unit
    level = max(drop.level, 1e-9 * transform.unit)
    remaining = max(1 - drop.mean / level, math.exp(-MAX_LOG_RATIO))
    return -math.log(remaining), drop.std / level / remaining


def _added_variance(
    evidence: Evidence, transform: LossTransform, share: float, rise: float
) -> float:
    """Extra variance of z: noise left in the reported mean, and the square of the expected rise.

    The reported mean is that of a share of the observations so far, at least 3; with a share of 0
    the expected loss is reported, which has no noise.
    """
    noise = evidence.noise**2 / max(share * evidence.n_observed, _MIN_AVERAGED) if share else 0.0
    variance = np.array([noise + min(rise, _MAX_RISE) ** 2])
    return float(transform.to_z(evidence.loss[-1:], variance)[1][0])


def _youth(schedule: LRSchedule, now: int) -> float:
    """``1 - min(steps since the warm-up / 100, S1(now) / (0.05 S1(T)))``, from 1 to 0."""
    steps = (now - min(schedule.warmup_steps, now)) / _START_STEPS
    total = float(schedule.s1(schedule.total_steps))
    share = float(schedule.s1(max(now, 1))) / (_START_S1_SHARE * total) if total > 0 else 1.0
    return max(1 - min(steps, share), 0.0)


def _prob_unsettled(problem: _Problem, evidence: Evidence, now: int) -> float:
    """Probability that the run follows no law yet; 0 where the prior excludes it."""
    doubt, query = doubt_about(problem.beliefs), problem.query
    if doubt is None:
        return 0.0
    time, left = evidence.step / max(now, 1), float(query.progress_to(query.terms)[-1])
    return doubt.probability(time, problem.continued, left, query.rate_fall)


def _fall(evidence: Evidence, transform: LossTransform) -> float:
    """Fall of z from the first losses to the present ones, at least 0; 0 if they are unknown.

    The evidence has no jumps.
    """
    if not math.isfinite(evidence.initial) or (transform.logarithmic and evidence.initial <= 0):
        return 0.0
    present = LossTransform.of_losses(evidence.loss).level
    z, _ = transform.to_z(np.array([evidence.initial, present]), np.zeros(2))
    return float(np.clip(z[0] - z[1], 0.0, MAX_LOG_RATIO))


def _slope(z: FloatArray, s1_ratio: FloatArray) -> float:
    """``-dz / d log(S1)`` over the later half of n losses, at least 0, from S1(T) / S1, (n,)."""
    n = max(z.size // 2, min(_MIN_SLOPE_POINTS, z.size))
    x = -np.log(np.maximum(s1_ratio[-n:], _TINY))
    if np.ptp(x) < 1e-6:
        return 0.0
    x = x - x.mean()
    return max(-float(x @ z[-n:] / (x @ x)), 0.0)
