"""The laws fitted the way their authors fit them, in numpy: the engine of the baselines.

The objective is that of both papers, Huber of the residuals of the log loss with delta = 1e-3,

    sum_i h(log y_i - log L_i),    h(r) = r^2/2 if |r| < delta, else delta |r| - delta^2/2

Laws that are linear but for alpha, ``L = L0 + A u^-alpha - gain * column`` with L0, A, gain,
alpha >= 0, are solved for the linear part at many alphas at once and polished by L-BFGS-B: the
answer is no worse than L-BFGS-B from each of the authors' starts, at a fraction of the cost. The
multi-power law follows its authors' early-stopped AdamW step by step, which is no minimum and must
not be one. Many runs may share one fit: their points are simply joined.

Sources: Tissue et al. 2024 (arXiv:2408.11029), Luo et al. 2025 (arXiv:2503.12811).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lossforecast.arrays import FloatArray

__all__ = [
    "DropPairs",
    "LinearLaw",
    "MultiPowerLaw",
    "fit_linear_law",
    "fit_multi_power_law",
    "linear_objective",
    "multi_power_objective",
]


_DELTA = 1e-3  # of the Huber loss
_ALPHAS = np.concatenate([[0.0], np.geomspace(0.02, 4.0, 23)])
_TOLERANCE = 1e-6  # of the authors' optimizer, on the gradient
_STEEPEST = 20.0  # alpha
_LOWEST = 1e-10  # of a predicted loss, before its logarithm
_SUBSETS = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)][1:], dtype=bool)


@dataclass(frozen=True)
class LinearLaw:
    """``L0 + A u^-alpha - gain * column``; u is the clock in units of `unit`.

    Attributes:
        L0: irreducible loss.
        A: amplitude at ``u = 1``.
        alpha: exponent.
        gain: C of the annealing law, B of the memoryless law.
        unit: of the clock, so that A stays of the order of the loss.
    """

    L0: float
    A: float
    alpha: float
    gain: float
    unit: float

    def loss(self, clock: FloatArray, column: FloatArray) -> FloatArray:
        """The loss, shape (n,), where the clock and the column have shape (n,)."""
        return self.L0 + self.A * (clock / self.unit) ** -self.alpha - self.gain * column


def linear_objective(
    parameters: FloatArray, log_clock: FloatArray, column: FloatArray, log_loss: FloatArray
) -> tuple[float, FloatArray]:
    """The Huber objective of (L0, A, alpha, gain) and its gradient, shape (4,).

    Args:
        parameters: shape (4,).
        log_clock: logarithm of the clock in its unit, shape (n,).
        column: what the gain multiplies, shape (n,).
        log_loss: logarithms of the losses observed, shape (n,).
    """
    L0, A, alpha, gain = parameters
    power = np.exp(-alpha * log_clock)
    value, slope = _huber(log_loss, L0 + A * power - gain * column)
    by_alpha = -A * float(slope @ (power * log_clock))
    gradient = np.array([slope.sum(), slope @ power, by_alpha, -(slope @ column)])
    return value, gradient


def fit_linear_law(
    clock: FloatArray, column: FloatArray, losses: FloatArray, start: float
) -> LinearLaw:
    """The law with the lowest objective, all parameters 0 or more.

    Args:
        clock: S1 or the step, above 0, shape (n,).
        column: what the gain multiplies, shape (n,).
        losses: above 0, shape (n,).
        start: the gain the authors start from first. It stays where their optimizer would not move
            it: where the gradient in the gain is below its tolerance of 1e-6 whatever the fit.
    """
    unit = float(np.exp(np.mean(np.log(clock))))
    unknown = _DELTA * float(np.abs(column / losses).sum()) < _TOLERANCE
    if unknown:
        losses = losses + start * column
    size = 0.0 if unknown else float(np.abs(column).max())
    scaled = column / size if size else np.zeros_like(column)
    log_clock, log_loss = np.log(clock / unit), np.log(losses)
    alphas, linear, value = _scan(_ALPHAS, log_clock, scaled, losses, None)
    for _ in range(2):  # closer around the best
        best = int(np.argmin(value))
        low, high = alphas[max(best - 1, 0)], alphas[min(best + 1, alphas.size - 1)]
        near = np.linspace(low, high, 9)
        alphas, linear, value = _scan(near, log_clock, scaled, losses, linear[best])
    best = int(np.argmin(value))
    answer = np.array([linear[best, 0], linear[best, 1], alphas[best], linear[best, 2]])
    lowest = value[best]
    for _ in range(4):  # the kinks of the Huber loss stop it early: again from where it stopped
        found = minimize(
            linear_objective,
            answer,
            args=(log_clock, scaled, log_loss),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None), (0, None), (0, _STEEPEST), (0, None)],
            options={"maxiter": 100, "ftol": 1e-12, "gtol": 1e-10},
        )
        settled = not found.fun < lowest * (1 - 1e-5)
        if found.fun < lowest:
            answer, lowest = found.x, found.fun
        if settled:
            break
    L0, A, alpha, gain = map(float, answer)
    return LinearLaw(L0, A, alpha, gain / size if size else start, unit)


@dataclass(frozen=True)
class DropPairs:
    """Which learning-rate changes the multi-power sum of each point runs over.

    Attributes:
        row: the point of each pair, increasing, shape (p,).
        fall: how much the rate fell, shape (p,); negative where it rose.
        log_rate: logarithm of the rate after the change, shape (p,).
        travelled: ``S_k(t)``, the LR-sum from the change to the point, shape (p,).
        n_points: n.
    """

    row: NDArray[np.int64]
    fall: FloatArray
    log_rate: FloatArray
    travelled: FloatArray
    n_points: int

    @classmethod
    def joined(cls, parts: "list[DropPairs]") -> "DropPairs":
        """The pairs of several runs, their points one after the other."""
        offsets = np.cumsum([0, *(part.n_points for part in parts)])
        rows = [part.row + offset for part, offset in zip(parts, offsets, strict=False)]
        return cls(
            np.concatenate(rows),
            np.concatenate([part.fall for part in parts]),
            np.concatenate([part.log_rate for part in parts]),
            np.concatenate([part.travelled for part in parts]),
            int(offsets[-1]),
        )


@dataclass(frozen=True)
class MultiPowerLaw:
    """``L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma S_k)^-beta)``."""

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    def loss(self, s1: FloatArray, pairs: DropPairs) -> FloatArray:
        """The loss, shape (n,), at points with LR-sums `s1`, shape (n,)."""
        distance = np.exp(-self.gamma * pairs.log_rate) * pairs.travelled
        with np.errstate(invalid="ignore", divide="ignore"):
            share = -np.expm1(-self.beta * np.log1p(self.C * distance))
        drop = np.bincount(pairs.row, pairs.fall * share, minlength=pairs.n_points)
        return self.L0 + self.A * s1**-self.alpha - self.B * drop


def multi_power_objective(
    parameters: FloatArray, log_s1: FloatArray, pairs: DropPairs, log_loss: FloatArray
) -> tuple[float, FloatArray]:
    """The Huber objective of (L0, A, alpha, B, C, beta, gamma) and its gradient, shape (7,).

    Not finite where ``1 + C eta_k^-gamma S_k`` is not positive.
    """
    L0, A, alpha, B, C, beta, gamma = parameters
    power = np.exp(-alpha * log_s1)
    distance = np.exp(-gamma * pairs.log_rate) * pairs.travelled
    stretched = 1 + C * distance
    if stretched.size and not stretched.min() > 0:
        return np.inf, np.full(7, np.nan)
    log_stretched = np.log(stretched)
    left = pairs.fall * np.exp(-beta * log_stretched)
    total = np.bincount(pairs.row, pairs.fall - left, minlength=pairs.n_points)
    value, slope = _huber(log_loss, L0 + A * power - B * total)
    pull = slope[pairs.row] * left
    by_C = pull * distance / stretched
    gradient = np.array(
        [
            slope.sum(),
            slope @ power,
            -A * float(slope @ (power * log_s1)),
            -(slope @ total),
            -B * beta * by_C.sum(),
            -B * float(pull @ log_stretched),
            B * beta * C * float(by_C @ pairs.log_rate),
        ]
    )
    return value, gradient


def fit_multi_power_law(
    s1: FloatArray,
    pairs: DropPairs,
    losses: FloatArray,
    memoryless: LinearLaw,
    *,
    weight: float = 1.0,
) -> MultiPowerLaw:
    """Luo et al.'s fit: from the memoryless law, AdamW with early stopping, the best iterate.

    C, beta and gamma start from 1, 0.5, 0.5. Learning rates 0.05 (L0, A, B, C) and 0.005 (alpha,
    beta, gamma), at most 200 steps, an end after 20 without a new minimum or at a gradient norm
    below 1e-5.

    Args:
        s1: LR-sums of the points, above 0, shape (n,).
        pairs: the changes that each point sums over.
        losses: above 0, shape (n,).
        memoryless: the starting point.
        weight: observations per point, where the curve was thinned.
    """
    log_s1, log_loss = np.log(s1), np.log(losses)
    amplitude = memoryless.A * memoryless.unit**memoryless.alpha
    at = np.array([memoryless.L0, amplitude, memoryless.alpha, memoryless.gain, 1.0, 0.5, 0.5])
    rate = np.array([0.05, 0.05, 0.005, 0.05, 0.05, 0.005, 0.005])
    best, lowest, stale = at, np.inf, 0
    mean, square = np.zeros(7), np.zeros(7)
    for step in range(200):
        value, gradient = multi_power_objective(at, log_s1, pairs, log_loss)
        if not np.isfinite(value):
            break
        value, gradient = weight * value, weight * gradient
        if value < lowest:
            best, lowest, stale = at, value, 0
        else:
            stale += 1
        if (step > 20 and stale >= 20) or np.linalg.norm(gradient) < 1e-5:
            break
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        ahead = mean / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
        at = at * (1 - 0.01 * rate) - rate * ahead / spread
    return MultiPowerLaw(*map(float, best))


def _huber(log_loss: FloatArray, predicted: FloatArray) -> tuple[float, FloatArray]:
    """The objective, and its slope in each predicted loss, shape (n,)."""
    inside = np.maximum(predicted, _LOWEST)
    residual = log_loss - np.log(inside)
    clipped = np.clip(residual, -_DELTA, _DELTA)
    value = float(clipped @ (residual - clipped / 2))
    return value, np.where(predicted > _LOWEST, -clipped / inside, 0.0)


def _scan(
    alphas: FloatArray,
    log_clock: FloatArray,
    column: FloatArray,
    losses: FloatArray,
    began: FloatArray | None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For each alpha (m,) the best (L0, A, gain), shape (m, 3), and the objective, shape (m,).

    Reweighted least squares for the Huber loss, on residuals of the log loss linearised around the
    last answer; the linear part is kept at 0 or more by trying every set of positive parameters.
    """
    power = np.exp(-alphas[:, np.newaxis] * log_clock)
    ones = np.ones_like(power)
    design = np.stack([ones, power, -np.broadcast_to(column, power.shape)], axis=-1)
    # without an answer to begin from, the first is plain least squares
    predicted = np.broadcast_to(losses, power.shape) if began is None else design @ began
    linear = np.zeros((alphas.size, 3))
    value = np.full(alphas.size, np.inf)
    log_loss = np.log(losses)
    for _ in range(12):
        inside = np.maximum(predicted, 0.05 * losses)
        residual = log_loss - np.log(inside)
        weight = 1 / np.maximum(np.abs(residual), _DELTA) / inside**2
        answer = _non_negative(design, weight, inside * (1 + residual))
        predicted = (design @ answer[..., np.newaxis])[..., 0]
        residual = log_loss - np.log(np.maximum(predicted, _LOWEST))
        clipped = np.clip(residual, -_DELTA, _DELTA)
        now = (clipped * (residual - clipped / 2)).sum(axis=-1)
        better = now < value
        linear[better], value[better] = answer[better], now[better]
    return alphas, linear, value


def _non_negative(design: FloatArray, weight: FloatArray, target: FloatArray) -> FloatArray:
    """Weighted least squares with answers of 0 or more, for m problems at once, shape (m, 3)."""
    weighted = design * weight[..., np.newaxis]
    matrix = np.swapaxes(weighted, -1, -2) @ design
    size = np.sqrt(np.maximum(np.diagonal(matrix, axis1=-2, axis2=-1), 1e-300))
    matrix = matrix / size[:, :, np.newaxis] / size[:, np.newaxis, :]
    right = (np.swapaxes(weighted, -1, -2) @ target[..., np.newaxis])[..., 0] / size
    kept = _SUBSETS[:, :, np.newaxis] & _SUBSETS[:, np.newaxis, :]
    systems = np.where(kept, matrix[:, np.newaxis], 0.0)
    systems = systems + np.where(_SUBSETS, 1e-13, 1.0)[..., np.newaxis] * np.eye(3)
    answers = np.linalg.solve(systems, (right[:, np.newaxis] * _SUBSETS)[..., np.newaxis])[..., 0]
    cost = -(answers * right[:, np.newaxis]).sum(axis=-1)  # at a stationary point
    cost = np.where((answers < 0).any(axis=-1), np.inf, cost)
    best: FloatArray = answers[np.arange(len(answers)), np.argmin(cost, axis=1)]
    return best / size
