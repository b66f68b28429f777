"""Published loss laws, fitted in numpy as their authors fit them, for the baselines.

Both papers minimize the Huber loss of the residuals of the log loss, with delta = 1e-3:

    sum_i h(log y_i - log L_i),    h(r) = r^2/2 if |r| < delta, else delta |r| - delta^2/2

Laws that are linear except for alpha, ``L = L0 + A u^-alpha - gain * column`` with L0, A, gain,
alpha >= 0, are solved for the linear part at many alphas at once and refined by L-BFGS-B. The
result is no worse than L-BFGS-B from each of the authors' starting points, at a fraction of the
cost. The multi-power law follows its authors' early-stopped AdamW step by step; the result is
deliberately not a minimum. Several runs share one fit by concatenating their points.

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

_HUBER_DELTA = 1e-3
_ALPHA_GRID = np.concatenate([[0.0], np.geomspace(0.02, 4.0, 23)])
_ALPHA_REFINEMENTS = 2  # times the grid is refined around the best alpha
_ALPHAS_PER_REFINEMENT = 9
_MAX_ALPHA = 20.0
_GRADIENT_TOLERANCE = 1e-6  # of the authors' optimizer
_MIN_PREDICTED_LOSS = 1e-10  # before the logarithm is taken
_LBFGS_RESTARTS = 4  # at most: the kinks of the Huber loss stop it early
_MIN_RELATIVE_GAIN = 1e-5  # of the objective, for another restart
_REWEIGHTINGS = 12  # of the least squares at each alpha
_POSITIVE_SUBSETS = np.array(
    [[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)][1:], dtype=bool
)  # which of (L0, A, gain) are not 0
_ADAMW_STEPS = 200  # at most; this and the following as in the authors' script
_ADAMW_PATIENCE_STEPS = 20  # without a new minimum
_ADAMW_GRADIENT_NORM = 1e-5  # below it AdamW stops
_ADAMW_RATES = (0.05, 0.05, 0.005, 0.05, 0.05, 0.005, 0.005)  # L0, A, alpha, B, C, beta, gamma
_ADAMW_WEIGHT_DECAY = 0.01
_ADAMW_BETAS = (0.9, 0.999)
_ADAMW_EPSILON = 1e-8


@dataclass(frozen=True)
class LinearLaw:
    """The law ``L = L0 + A u^-alpha - gain * column`` with ``u = clock / unit``.

    Attributes:
        L0: irreducible loss.
        A: amplitude at ``u = 1``.
        alpha: exponent.
        gain: C of the annealing law, B of the memoryless law.
        unit: scale of the clock, chosen so that A has the magnitude of the loss.
    """

    L0: float
    A: float
    alpha: float
    gain: float
    unit: float

    def loss(self, clock: FloatArray, column: FloatArray) -> FloatArray:
        """The loss, shape (n,), at a clock (S1 or the step) and a column, each of shape (n,)."""
        return self.L0 + self.A * (clock / self.unit) ** -self.alpha - self.gain * column


def linear_objective(
    parameters: FloatArray, log_clock: FloatArray, column: FloatArray, log_loss: FloatArray
) -> tuple[float, FloatArray]:
    """The Huber objective of (L0, A, alpha, gain) and its gradient, shape (4,).

    Args:
        parameters: (L0, A, alpha, gain).
        log_clock: logarithm of u, shape (n,).
        column: factor of the gain, shape (n,).
        log_loss: logarithms of the observed losses, shape (n,).
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
    """The law with the lowest objective, all parameters non-negative.

    Args:
        clock: S1 or the step, positive, shape (n,).
        column: factor of the gain, shape (n,).
        losses: positive, shape (n,).
        start: the first starting value of the gain in the authors' grid. It is kept where their
            optimizer would not move it: where the gradient in the gain is below its tolerance of
            1e-6 for every possible fit.
    """
    unit = float(np.exp(np.mean(np.log(clock))))
    max_gradient = _HUBER_DELTA * float(np.abs(column / losses).sum())
    gain_is_fixed = max_gradient < _GRADIENT_TOLERANCE
    if gain_is_fixed:
        losses = losses + start * column
    size = 0.0 if gain_is_fixed else float(np.abs(column).max())
    scaled = column / size if size else np.zeros_like(column)
    log_clock, log_loss = np.log(clock / unit), np.log(losses)
    coarse, value = _scan_alphas(log_clock, scaled, losses)
    L0, A, alpha, gain = map(float, _refine(coarse, value, log_clock, scaled, log_loss))
    return LinearLaw(L0=L0, A=A, alpha=alpha, gain=gain / size if size else start, unit=unit)


def _scan_alphas(
    log_clock: FloatArray, column: FloatArray, losses: FloatArray
) -> tuple[FloatArray, float]:
    """The best (L0, A, alpha, gain) on a grid of alphas, refined twice, and its objective."""
    alphas = _ALPHA_GRID
    linear, value = _fit_linear_parts(alphas, log_clock, column, losses, None)
    for _ in range(_ALPHA_REFINEMENTS):
        best = int(np.argmin(value))
        low, high = alphas[max(best - 1, 0)], alphas[min(best + 1, alphas.size - 1)]
        alphas = np.linspace(low, high, _ALPHAS_PER_REFINEMENT)
        linear, value = _fit_linear_parts(alphas, log_clock, column, losses, linear[best])
    best = int(np.argmin(value))
    L0, A, gain = linear[best]
    return np.array([L0, A, alphas[best], gain]), value[best]


def _refine(
    parameters: FloatArray,
    lowest: float,
    log_clock: FloatArray,
    column: FloatArray,
    log_loss: FloatArray,
) -> FloatArray:
    """L-BFGS-B on the objective, restarted where it stopped while that helps."""
    for _ in range(_LBFGS_RESTARTS):
        result = minimize(
            linear_objective,
            parameters,
            args=(log_clock, column, log_loss),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None), (0, None), (0, _MAX_ALPHA), (0, None)],
            options={"maxiter": 100, "ftol": 1e-12, "gtol": 1e-10},
        )
        converged = not result.fun < lowest * (1 - _MIN_RELATIVE_GAIN)
        if result.fun < lowest:
            parameters, lowest = result.x, result.fun
        if converged:
            break
    return parameters


@dataclass(frozen=True)
class DropPairs:
    """Pairs (point, learning-rate change before it) that the multi-power sum runs over.

    Attributes:
        row: index of the point, increasing, shape (p,).
        fall: ``eta_{k-1} - eta_k``, negative where the rate rose, shape (p,).
        log_rate: ``log(eta_k)``, the rate after the change, shape (p,).
        travelled: ``S_k(t)``, the sum of rates from the change to the point, shape (p,).
        n_points: number of points n.
    """

    row: NDArray[np.int64]
    fall: FloatArray
    log_rate: FloatArray
    travelled: FloatArray
    n_points: int

    @classmethod
    def joined(cls, parts: "list[DropPairs]") -> "DropPairs":
        """The pairs of several runs, with the points of the runs concatenated."""
        offsets = np.cumsum([0, *(part.n_points for part in parts)])
        rows = [part.row + offset for part, offset in zip(parts, offsets, strict=False)]
        return cls(
            row=np.concatenate(rows),
            fall=np.concatenate([part.fall for part in parts]),
            log_rate=np.concatenate([part.log_rate for part in parts]),
            travelled=np.concatenate([part.travelled for part in parts]),
            n_points=int(offsets[-1]),
        )


@dataclass(frozen=True)
class MultiPowerLaw:
    """``L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma S_k)^-beta)``.

    The sum runs over the steps k up to t, ``S_k(t)`` is the sum of rates from k to t.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    def loss(self, s1: FloatArray, pairs: DropPairs) -> FloatArray:
        """The loss at points with sums of rates `s1`, both of shape (n,)."""
        distance = np.exp(-self.gamma * pairs.log_rate) * pairs.travelled
        with np.errstate(invalid="ignore", divide="ignore"):
            share = -np.expm1(-self.beta * np.log1p(self.C * distance))
        drop = np.bincount(pairs.row, pairs.fall * share, minlength=pairs.n_points)
        return self.L0 + self.A * s1**-self.alpha - self.B * drop


def multi_power_objective(
    parameters: FloatArray, log_s1: FloatArray, pairs: DropPairs, log_loss: FloatArray
) -> tuple[float, FloatArray]:
    """The Huber objective of (L0, A, alpha, B, C, beta, gamma) and its gradient, shape (7,).

    Infinite, with a gradient of nan, where ``1 + C eta_k^-gamma S_k`` is not positive.
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
    """Luo et al.'s fit: AdamW from the memoryless law with early stopping; the best iterate.

    C, beta and gamma start from 1, 0.5 and 0.5. Learning rates are 0.05 (L0, A, B, C) and 0.005
    (alpha, beta, gamma). AdamW ends after 200 steps, after 20 steps without a new minimum, or at a
    gradient norm below 1e-5.

    Args:
        s1: sums of rates at the points, positive, shape (n,).
        pairs: the learning-rate changes before each point.
        losses: positive, shape (n,).
        memoryless: the law to start from.
        weight: observations averaged in each point.
    """
    log_s1, log_loss = np.log(s1), np.log(losses)
    amplitude = memoryless.A * memoryless.unit**memoryless.alpha
    at = np.array([memoryless.L0, amplitude, memoryless.alpha, memoryless.gain, 1.0, 0.5, 0.5])
    rate = np.array(_ADAMW_RATES)
    beta1, beta2 = _ADAMW_BETAS
    best, lowest, stale = at, np.inf, 0
    mean, square = np.zeros(7), np.zeros(7)
    for step in range(_ADAMW_STEPS):
        value, gradient = multi_power_objective(at, log_s1, pairs, log_loss)
        if not np.isfinite(value):
            break
        value, gradient = weight * value, weight * gradient
        if value < lowest:
            best, lowest, stale = at, value, 0
        else:
            stale += 1
        waited = step > _ADAMW_PATIENCE_STEPS and stale >= _ADAMW_PATIENCE_STEPS
        if waited or np.linalg.norm(gradient) < _ADAMW_GRADIENT_NORM:
            break
        mean = beta1 * mean + 0.1 * gradient  # 1 - beta1 is 0.09999999999999998
        square = beta2 * square + 0.001 * gradient**2
        direction = mean / (1 - beta1 ** (step + 1))
        spread = np.sqrt(square / (1 - beta2 ** (step + 1))) + _ADAMW_EPSILON
        at = at * (1 - _ADAMW_WEIGHT_DECAY * rate) - rate * direction / spread
    return MultiPowerLaw(*map(float, best))


def _huber(log_loss: FloatArray, predicted: FloatArray) -> tuple[float, FloatArray]:
    """The objective, and its derivative by each predicted loss, shape (n,)."""
    positive = np.maximum(predicted, _MIN_PREDICTED_LOSS)
    residual = log_loss - np.log(positive)
    clipped = np.clip(residual, -_HUBER_DELTA, _HUBER_DELTA)
    value = float(clipped @ (residual - clipped / 2))
    return value, np.where(predicted > _MIN_PREDICTED_LOSS, -clipped / positive, 0.0)


def _fit_linear_parts(
    alphas: FloatArray,
    log_clock: FloatArray,
    column: FloatArray,
    losses: FloatArray,
    start: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:
    """For each alpha (m,) the best (L0, A, gain), shape (m, 3), and the objective, shape (m,).

    Iteratively reweighted least squares for the Huber loss, on residuals of the log loss linearized
    around the previous solution. All parameters stay non-negative: every subset of positive ones is
    tried. Without a `start` (3,), the first iteration is plain least squares.
    """
    power = np.exp(-alphas[:, np.newaxis] * log_clock)
    ones = np.ones_like(power)
    design = np.stack([ones, power, -np.broadcast_to(column, power.shape)], axis=-1)
    predicted = np.broadcast_to(losses, power.shape) if start is None else design @ start
    linear = np.zeros((alphas.size, 3))
    value = np.full(alphas.size, np.inf)
    log_loss = np.log(losses)
    for _ in range(_REWEIGHTINGS):
        around = np.maximum(predicted, 0.05 * losses)
        residual = log_loss - np.log(around)
        weight = 1 / np.maximum(np.abs(residual), _HUBER_DELTA) / around**2
        solution = _non_negative_least_squares(design, weight, around * (1 + residual))
        predicted = (design @ solution[..., np.newaxis])[..., 0]
        residual = log_loss - np.log(np.maximum(predicted, _MIN_PREDICTED_LOSS))
        clipped = np.clip(residual, -_HUBER_DELTA, _HUBER_DELTA)
        objective = (clipped * (residual - clipped / 2)).sum(axis=-1)
        better = objective < value
        linear[better], value[better] = solution[better], objective[better]
    return linear, value


def _non_negative_least_squares(
    design: FloatArray, weight: FloatArray, target: FloatArray
) -> FloatArray:
    """Weighted least squares with non-negative solutions, for m problems at once, shape (m, 3)."""
    weighted = design * weight[..., np.newaxis]
    matrix = np.swapaxes(weighted, -1, -2) @ design
    size = np.sqrt(np.maximum(np.diagonal(matrix, axis1=-2, axis2=-1), 1e-300))
    matrix = matrix / size[:, :, np.newaxis] / size[:, np.newaxis, :]
    right = (np.swapaxes(weighted, -1, -2) @ target[..., np.newaxis])[..., 0] / size
    kept = _POSITIVE_SUBSETS[:, :, np.newaxis] & _POSITIVE_SUBSETS[:, np.newaxis, :]
    systems = np.where(kept, matrix[:, np.newaxis], 0.0)
    systems = systems + np.where(_POSITIVE_SUBSETS, 1e-13, 1.0)[..., np.newaxis] * np.eye(3)
    rights = (right[:, np.newaxis] * _POSITIVE_SUBSETS)[..., np.newaxis]
    solutions = np.linalg.solve(systems, rights)[..., 0]
    cost = -(solutions * right[:, np.newaxis]).sum(axis=-1)  # at a stationary point
    cost = np.where((solutions < 0).any(axis=-1), np.inf, cost)
    best: FloatArray = solutions[np.arange(len(solutions)), np.argmin(cost, axis=1)]
    return best / size
