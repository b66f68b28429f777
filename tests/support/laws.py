"""The loss laws of the papers over whole arrays, fast enough to draw long runs from.

``rates`` are the learning rates of steps 1..n; every function returns the values at these steps,
shape (n,). They are checked against `tests/reference/laws.py`, which follows the papers word by
word.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float64]


def flat_warmup(rates: ArrayLike, warmup_steps: int) -> Floats:
    """The warm-up rates replaced by the rate that ends it, as Tissue et al. 2024 do."""
    flat = np.array(rates, dtype=np.float64)
    if warmup_steps:
        flat[:warmup_steps] = flat[min(warmup_steps, flat.size) - 1]
    return flat


def lr_sum(rates: ArrayLike) -> Floats:
    """``S1(s) = sum_{i<=s} eta_i``."""
    return np.cumsum(np.asarray(rates, dtype=np.float64))


def annealing_area(rates: ArrayLike, lambda_: float) -> Floats:
    """``S2(s) = sum_{i<=s} m_i`` with ``m_i = lambda m_{i-1} + (eta_{i-1} - eta_i)``, m_0 = 0."""
    return np.cumsum(lfilter([1.0], [1.0, -lambda_], decrements(rates)))


def annealing(
    rates: ArrayLike, *, L0: float, A: float, alpha: float, C: float, lambda_: float
) -> Floats:
    """``L0 + A S1^-alpha - C S2``: Tissue et al. 2024, arXiv:2408.11029."""
    return L0 + power_term(A, lr_sum(rates), alpha) - C * annealing_area(rates, lambda_)


def multi_power(
    rates: ArrayLike,
    *,
    L0: float,
    A: float,
    alpha: float,
    B: float,
    C: float,
    beta: float,
    gamma: float,
) -> Floats:
    """``L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) G(k, t)``: Luo et al. 2025, 2503.12811.

    ``G(k, t) = 1 - (1 + C eta_k^-gamma S_k(t))^-beta`` with ``S_k(t) = eta_k + ... + eta_t``.
    """
    etas = np.asarray(rates, dtype=np.float64)
    s1, falls = lr_sum(etas), decrements(etas)
    drop = np.zeros(etas.size)
    for k in np.flatnonzero(falls):
        travelled = s1[k:] - s1[k - 1]
        if C and beta:
            with np.errstate(divide="ignore", invalid="ignore"):
                share = -np.expm1(-beta * np.log1p(C * etas[k] ** -gamma * travelled))
            drop[k:] += falls[k] * np.where(travelled > 0, share, 0.0)
    return L0 + power_term(A, s1, alpha) - B * drop


def memoryless(rates: ArrayLike, *, L0: float, A: float, alpha: float, B: float) -> Floats:
    """``L0 + A S1^-alpha - B (eta_1 - eta_t)``."""
    etas = np.asarray(rates, dtype=np.float64)
    return L0 + power_term(A, lr_sum(etas), alpha) - B * (etas[:1] - etas)


def power(rates: ArrayLike, *, L0: float, A: float, alpha: float) -> Floats:
    """``L0 + A t^-alpha``: the learning rate does not matter."""
    return L0 + A * np.arange(1.0, np.size(rates) + 1) ** -alpha


LAWS: dict[str, Callable[..., Floats]] = {
    "annealing": annealing,
    "multi-power": multi_power,
    "memoryless": memoryless,
    "power": power,
}
"""The laws by the names of `lossforecast.laws.LAWS`."""


def decrements(rates: ArrayLike) -> Floats:
    """``eta_{k-1} - eta_k`` for k = 1..n, 0 for the first."""
    etas = np.asarray(rates, dtype=np.float64)
    return -np.diff(etas, prepend=etas[:1])


def power_term(A: float, s1: Floats, alpha: float) -> Floats:
    """``A S1^-alpha``: infinite as long as every rate was 0, but 0 where A is."""
    if A == 0:
        return np.zeros(s1.size)
    with np.errstate(divide="ignore"):
        return A * s1**-alpha
