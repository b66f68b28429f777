"""Scaling laws, fitted to smaller runs: baselines for `lossforecast.ladder`.

    L(N, D) = E + A N^-a + B D^-b          (Hoffmann et al. 2022, arXiv:2203.15556, section 3.3)
    L(N, D) = E + A N^-a + B D^-b + F h    (the same with a term in the learning rate)

N is the number of parameters and D that of tokens. Both are fitted by a Huber loss of the log loss
with delta = 1e-3 from a grid of starts, without a prior: the first to the final losses of runs, the
second to losses along them, with h the learning rate over its peak.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from lossforecast.arrays import FloatArray

__all__ = ["ScalingLaw", "ScalingPoint", "fit_scaling_law"]

_HUBER_DELTA = 1e-3
_STARTS = {"E": (0.0, 0.7), "A": (3.0, 8.0), "B": (3.0, 8.0), "a": (0.2, 0.4), "b": (0.3,)}
_MIN_SIZES = 2


@dataclass(frozen=True)
class ScalingPoint:
    """A loss of a run.

    Attributes:
        n_params: N.
        tokens: D.
        rate: learning rate over its peak.
        loss: the loss, above 0.
    """

    n_params: float
    tokens: float
    rate: float
    loss: float


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law.

    Attributes:
        parameters: log A, log B, log E, a, b and F.
    """

    parameters: FloatArray

    def loss(self, n_params: float, tokens: float, rate: float) -> float:
        """The loss that the law predicts."""
        columns = np.array([[np.log(n_params)], [np.log(tokens)], [rate]])
        return float(np.exp(_log_loss(self.parameters, columns)[0]))


def fit_scaling_law(points: Sequence[ScalingPoint], *, with_rate: bool) -> ScalingLaw | None:
    """Fit the law; None with fewer than two sizes, which say nothing about N.

    Args:
        points: losses of runs.
        with_rate: whether the law has a term in the learning rate.
    """
    if len({point.n_params for point in points}) < _MIN_SIZES:
        return None
    columns = np.array([[np.log(p.n_params), np.log(p.tokens), p.rate] for p in points]).T
    target = np.log([p.loss for p in points])
    bounds = [(None, None)] * 3 + [(0.0, 2.0)] * 2 + [(0.0, 1.0) if with_rate else (0.0, 0.0)]

    def objective(parameters: FloatArray) -> float:
        error = np.abs(_log_loss(parameters, columns) - target) / _HUBER_DELTA
        return float(np.where(error < 1, error**2 / 2, error - 0.5).sum())

    starts = itertools.product(*_STARTS.values())
    fits = [
        minimize(objective, [log_a, log_b, e, a, b, 0.0], method="L-BFGS-B", bounds=bounds)
        for e, log_a, log_b, a, b in starts
    ]
    return ScalingLaw(min(fits, key=lambda fit: float(fit.fun)).x)


def _log_loss(parameters: FloatArray, columns: FloatArray) -> FloatArray:
    """Logarithm of the loss at log N, log D and h, (3, n): (n,)."""
    log_a, log_b, log_e, a, b, f = parameters
    log_n, log_d, rate = columns
    terms = np.array([log_a - a * log_n, log_b - b * log_d, np.full(log_n.shape, log_e)])
    law: FloatArray = np.log(np.exp(logsumexp(terms, axis=0)) + f * rate)
    return law
