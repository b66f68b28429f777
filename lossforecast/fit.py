"""The posterior of the laws given the evidence: a grid, a linear solve at each node, no search.

At a node (law and its relaxation, alpha, component of the drop prior, size of the discrepancy) the
model

    L(t) = level + a * (S1(t) / S1(now))^-alpha - D * arrived(t) + walk(t),    y = L + noise

is linear in (level, a, D) and Gaussian, so posterior, evidence and prediction are closed formulas.
`walk` is the discrepancy between law and run: a random walk in the clock ``-S1(T) / S1(t)`` whose
last state is carried to the step forecast while its variance grows with the distance. Its
covariance does not depend on the law: one Cholesky factor serves all nodes of one size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import log_ndtr

from lossforecast.evidence import Evidence
from lossforecast.prior import Beliefs
from lossforecast.relaxation import arrived
from lossforecast.schedule import LRSchedule

__all__ = ["Mixture", "Posterior", "fit"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LEVEL_SPREAD = 2.0  # of the level around the present loss, in units of it: hardly a constraint
_NEGLIGIBLE = 1e-6  # posterior weight below which a node is dropped


@dataclass(frozen=True)
class Mixture:
    """A mixture of k Gaussians at each of m places."""

    weight: FloatArray
    """Shape (k,), sum 1."""
    mean: FloatArray
    """Shape (k, m)."""
    std: FloatArray
    """Shape (k, m)."""

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the mixture, each (m,)."""
        mean = self.weight @ self.mean
        variance = self.weight @ (self.std**2 + (self.mean - mean) ** 2)
        return mean, np.sqrt(variance)


@dataclass(frozen=True)
class Posterior:
    """What is believed of the laws' parameters after the evidence, over k nodes.

    Losses are in units of `unit` around `level`, so that beliefs about shares of the loss apply.
    """

    beliefs: Beliefs
    schedule: LRSchedule
    now: int
    unit: float
    level: float
    weight: FloatArray
    """Posterior weight of each node, (k,)."""
    member: IntArray
    """Index into ``beliefs.members``, (k,)."""
    alpha: IntArray
    """Index into ``beliefs.alphas``, (k,)."""
    walk: IntArray
    """Index into ``beliefs.walks``, (k,)."""
    mean: FloatArray
    """Mean of (level, a, -D), (k, 3)."""
    covariance: FloatArray
    """Their covariance, (k, 3, 3)."""
    _columns: IntArray  # columns of the basis that a node uses, (k, 3)
    _clock: FloatArray
    _origin: float
    _whitening: tuple[tuple[FloatArray, FloatArray], ...]  # Cholesky factor, whitened basis and y

    def predict(self, schedule: LRSchedule, steps: IntArray) -> Mixture:
        """Distribution of the expected loss at some steps, (m,), under a schedule.

        The schedule may differ from the fitted one after the present step.
        """
        basis, inverse = _basis(self.beliefs, schedule, self.schedule, self.now, steps)
        clock = np.maximum(self._origin - inverse, 0.0)
        mean = np.empty((self.weight.size, steps.size))
        variance = np.empty_like(mean)
        for walk, (size, _) in enumerate(self.beliefs.walks):
            nodes = np.flatnonzero(self.walk == walk)
            if nodes.size == 0:
                continue
            factor, whitened = self._whitening[walk]
            shared = size**2 * np.minimum(self._clock[:, np.newaxis], clock)
            carried = solve_triangular(factor, shared, lower=True, check_finite=False)
            known = carried.T @ whitened  # what the walk's last state takes over from the evidence
            rows = basis[:, self._columns[nodes]] - known[:, self._columns[nodes]]
            rows = rows.transpose(1, 0, 2)  # (nodes, m, 3)
            mean[nodes] = np.einsum("kmi,ki->km", rows, self.mean[nodes]) + known[:, -1]
            spread = np.einsum("kmi,kij,kmj->km", rows, self.covariance[nodes], rows)
            variance[nodes] = spread + size**2 * clock - (carried**2).sum(axis=0)
        std = np.sqrt(np.maximum(variance, 1e-18))
        return Mixture(self.weight, self.level + self.unit * mean, self.unit * std)

    def drop(self, schedule: LRSchedule, start: int, stop: int) -> Mixture:
        """Distribution of the loss lost to annealing between two steps, one place."""
        basis, _ = _basis(
            self.beliefs, schedule, self.schedule, self.now, np.array([start, stop], np.int64)
        )
        share = basis[1, self._columns[:, 2]] - basis[0, self._columns[:, 2]]
        mean = -self.mean[:, 2] * share
        std = np.sqrt(self.covariance[:, 2, 2]) * np.abs(share)
        return Mixture(self.weight, self.unit * mean[:, np.newaxis], self.unit * std[:, np.newaxis])

    def drop_spread(self) -> float:
        """Standard deviation of the full-anneal drop, relative to the one believed before."""
        unaware = [m.relaxation is None for m in self.beliefs.members]
        aware = ~np.array(unaware)[self.member]
        weight = self.weight[aware] / max(self.weight[aware].sum(), 1e-300)
        _, after = Mixture(
            weight, self.mean[aware, 2:], np.sqrt(self.covariance[aware, 2, 2:])
        ).moments()
        believed = np.array([(c.weight, c.mean, c.std) for c in self.beliefs.drops]).T
        _, before = Mixture(
            believed[0], believed[1][:, np.newaxis], believed[2][:, np.newaxis]
        ).moments()
        return float(after[0] / before[0]) if aware.any() else 0.0

    def walk_weights(self) -> FloatArray:
        """Posterior weight of each size of the discrepancy."""
        sizes = np.arange(len(self.beliefs.walks))
        total: FloatArray = (self.walk == sizes[:, np.newaxis]) @ self.weight
        return total


def fit(
    evidence: Evidence,
    schedule: LRSchedule,
    now: int,
    beliefs: Beliefs,
    measured_drop: tuple[float, float] | None = None,
) -> Posterior:
    """Posterior given at least one observation.

    Args:
        evidence: losses, n >= 1 of them.
        schedule: learning rate of every step, past and planned.
        now: the present step, at most ``schedule.total_steps``.
        beliefs: the prior.
        measured_drop: mean and standard deviation of a measurement of the full-anneal drop, in
            units of the loss.
    """
    loss = evidence.loss
    level = float(np.median(loss[-max(1, loss.size // 4) :]))
    low, high = np.quantile(loss, [0.05, 0.95])
    unit = max(abs(level), float(high - low), 1e-12)
    basis, inverse = _basis(beliefs, schedule, schedule, now, evidence.step)
    clock = inverse[0] - inverse
    design = np.column_stack([basis, (loss - level) / unit])
    noise = evidence.variance / unit**2 + 1e-14
    member, alpha, columns, prior_weight = _nodes(beliefs)
    found: list[tuple[FloatArray, FloatArray, FloatArray, int]] = []
    whitening = []
    for walk, (size, walk_weight) in enumerate(beliefs.walks):
        walked = size**2 * np.minimum(clock[:, np.newaxis], clock)
        least = 1e-12 * walked.max()  # a noise that keeps the matrix positive definite in floats
        factor = cholesky(walked + np.diag(noise + least), lower=True, check_finite=False)
        whitened = solve_triangular(factor, design, lower=True, check_finite=False)
        whitening.append((factor, whitened))
        likelihood = -np.log(np.diag(factor)).sum() + np.log(walk_weight)
        gram = whitened.T @ whitened
        for weight, centre, precision in _component_priors(beliefs, measured_drop, unit):
            score, mean, covariance = _solve(gram, columns, centre, precision)
            score += likelihood + np.log(weight) + np.log(prior_weight)
            found.append((score, mean, covariance, walk))
    scores = np.concatenate([score for score, *_ in found])
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    kept = np.flatnonzero(weights >= min(_NEGLIGIBLE, weights.max()))
    repeats = len(found)
    return Posterior(
        beliefs=beliefs,
        schedule=schedule,
        now=now,
        unit=unit,
        level=level,
        weight=weights[kept] / weights[kept].sum(),
        member=np.tile(member, repeats)[kept],
        alpha=np.tile(alpha, repeats)[kept],
        walk=np.repeat([walk for *_, walk in found], member.size)[kept],
        mean=np.concatenate([mean for _, mean, *_ in found])[kept],
        covariance=np.concatenate([covariance for *_, covariance, _ in found])[kept],
        _columns=np.tile(columns, (repeats, 1))[kept],
        _clock=clock,
        _origin=float(inverse[0]),
        _whitening=tuple(whitening),
    )


def _basis(
    beliefs: Beliefs, schedule: LRSchedule, plan: LRSchedule, now: int, steps: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Columns 1, S1^-alphas, t^-alphas, arrived, 0 at some steps, (m, columns), and S1(T) / S1."""
    at = np.maximum(steps, 1)
    alphas = -np.array([alpha for alpha, _ in beliefs.alphas])
    relaxations = tuple(m.relaxation for m in beliefs.members if m.relaxation is not None)
    s1, s1_now = schedule.s1(at), float(schedule.s1(max(now, 1)))
    total = float(plan.s1(plan.total_steps))
    time = at / max(now, 1)
    if s1_now > 0 and s1.min() > 0:
        travelled, inverse = s1 / s1_now, total / s1
    else:  # a learning rate of 0 from the start: nothing moves, only time passes
        travelled, inverse = time, plan.total_steps / at
    drops = arrived(
        schedule, at, relaxations, total_steps=plan.total_steps, total_s1=max(total, 1e-300)
    )
    columns = [
        np.ones((at.size, 1)),
        travelled[:, np.newaxis] ** alphas,
        time[:, np.newaxis] ** alphas,
        drops.T,
        np.zeros((at.size, 1)),
    ]
    return np.hstack(columns), inverse


def _nodes(beliefs: Beliefs) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Member, alpha, columns of the basis and prior weight of every (member, alpha)."""
    n_alphas = len(beliefs.alphas)
    first_drop = 1 + 2 * n_alphas
    n_relaxations = sum(m.relaxation is not None for m in beliefs.members)
    rows = []
    drop = first_drop
    for index, member in enumerate(beliefs.members):
        lr_unaware = member.relaxation is None
        drop_column = first_drop + n_relaxations if lr_unaware else drop
        drop += not lr_unaware
        for a, (_, weight) in enumerate(beliefs.alphas):
            power_column = 1 + a + n_alphas * lr_unaware
            rows.append((index, a, (0, power_column, drop_column), member.weight * weight))
    members, alphas, columns, weights = zip(*rows, strict=True)
    return np.array(members), np.array(alphas), np.array(columns), np.array(weights)


def _component_priors(
    beliefs: Beliefs, measured_drop: tuple[float, float] | None, unit: float
) -> Iterator[tuple[float, FloatArray, FloatArray]]:
    """Weight, mean (3,) and precision (3,) of (level, a, -D) for each component of the drop."""
    for component in beliefs.drops:
        weight, mean, precision = component.weight, component.mean, component.std**-2
        if measured_drop is not None:
            value, error = (x / unit for x in measured_drop)
            surprise = (value - mean) ** 2 / (error**2 + component.std**2)
            weight *= float(np.exp(-surprise / 2) / np.hypot(error, component.std)) + 1e-300
            mean = (mean * precision + value * error**-2) / (precision + error**-2)
            precision += error**-2
        centre = np.array([0.0, 0.0, -mean])
        yield weight, centre, np.array([_LEVEL_SPREAD**-2, beliefs.reducible**-2, precision])


def _solve(
    gram: FloatArray, columns: IntArray, centre: FloatArray, precision: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log evidence (k,), posterior mean (k, 3) and covariance (k, 3, 3) of all nodes at once."""
    posterior = gram[columns[:, :, np.newaxis], columns[:, np.newaxis, :]] + np.diag(precision)
    target = gram[columns, -1] + precision * centre
    covariance = np.linalg.inv(posterior).astype(np.float64)
    mean = np.einsum("kij,kj->ki", covariance, target)
    misfit = gram[-1, -1] + precision @ centre**2 - np.einsum("ki,ki->k", mean, target)
    volume = np.linalg.slogdet(posterior).logabsdet - np.log(precision).sum()
    # what is still to lose and the drop are positive: nodes that want otherwise count less
    spread = np.sqrt(covariance[:, [1, 2], [1, 2]])
    positive = log_ndtr(mean[:, 1] / spread[:, 0]) + log_ndtr(-mean[:, 2] / spread[:, 1])
    score: FloatArray = positive - (misfit + volume) / 2
    return score, mean, covariance
