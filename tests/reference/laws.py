"""The loss laws straight from the papers' definitions: slow, in plain Python, and obvious.

``etas`` are the learning rates of steps 1..n; ``eta(k)`` below is the rate of step k, and eta(0) is
that of step 1, so that the first step is no change. Every function returns a list of n values.
"""

import math
from collections.abc import Callable, Sequence


def eta_of(etas: Sequence[float]) -> Callable[[int], float]:
    return lambda k: etas[max(k, 1) - 1]


def lr_sum(etas: Sequence[float]) -> list[float]:
    """``S1(s) = sum_{i<=s} eta_i``."""
    return [math.fsum(etas[:s]) for s in range(1, len(etas) + 1)]


def annealing_area(etas: Sequence[float], lambda_: float) -> list[float]:
    """``S2(s) = sum_{i<=s} sum_{k<=i} (eta_{k-1} - eta_k) lambda^(i-k)``: 2408.11029."""
    eta = eta_of(etas)
    momentum = [
        math.fsum((eta(k - 1) - eta(k)) * lambda_ ** (i - k) for k in range(1, i + 1))
        for i in range(1, len(etas) + 1)
    ]
    return [math.fsum(momentum[:s]) for s in range(1, len(etas) + 1)]


def power_term(A: float, x: float, alpha: float) -> float:
    if A == 0:
        return 0.0
    return math.inf if x == 0 and alpha > 0 else A * x**-alpha


def annealing(
    etas: Sequence[float], L0: float, A: float, alpha: float, C: float, lambda_: float
) -> list[float]:
    """``L(s) = L0 + A S1^-alpha - C S2``: 2408.11029."""
    areas = zip(lr_sum(etas), annealing_area(etas, lambda_), strict=True)
    return [L0 + power_term(A, s1, alpha) - C * s2 for s1, s2 in areas]


def multi_power(
    etas: Sequence[float],
    L0: float,
    A: float,
    alpha: float,
    B: float,
    C: float,
    beta: float,
    gamma: float,
) -> list[float]:
    """``L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t))``: 2503.12811.

    ``G(x) = 1 - (1 + C x)^-beta`` and ``S_k(t) = sum_{i=k..t} eta_i``. Where S_k is 0, all rates
    from step k on are 0 and nothing of step k has arrived.
    """
    eta = eta_of(etas)
    losses = []
    for t, s1 in enumerate(lr_sum(etas), start=1):
        drop = 0.0
        for k in range(1, t + 1):
            S_k = math.fsum(etas[k - 1 : t])
            if S_k == 0 or C == 0 or beta == 0:
                G = 0.0
            elif eta(k) == 0 and gamma > 0:
                G = 1.0  # eta_k^-gamma is infinite
            else:
                G = 1 - (1 + C * eta(k) ** -gamma * S_k) ** -beta
            drop += (eta(k - 1) - eta(k)) * G
        losses.append(L0 + power_term(A, s1, alpha) - B * drop)
    return losses


def memoryless(etas: Sequence[float], L0: float, A: float, alpha: float, B: float) -> list[float]:
    """``L0 + A S1^-alpha - B (eta_1 - eta_t)``: every change of the rate arrives at once."""
    eta = eta_of(etas)
    losses = []
    for t, s1 in enumerate(lr_sum(etas), start=1):
        drop = math.fsum(eta(k - 1) - eta(k) for k in range(1, t + 1))
        losses.append(L0 + power_term(A, s1, alpha) - B * drop)
    return losses


def power(etas: Sequence[float], L0: float, A: float, alpha: float) -> list[float]:
    """``L0 + A t^-alpha``: the learning rate does not matter."""
    return [L0 + power_term(A, float(t), alpha) for t in range(1, len(etas) + 1)]


def arrived(
    etas: Sequence[float], warmup: int, steps: Sequence[int], share: Callable[..., float]
) -> list[float]:
    """``sum_k (eta_{k-1} - eta_k) G_k(t) / eta_peak`` over the changes k after the warm-up.

    Args:
        etas: learning rates of steps 1..n.
        warmup: last step of the warm-up, 0 for none.
        steps: the steps t.
        share: G_k(t) given the age t - k + 1, S_k(t) and eta_k / eta_peak.
    """
    eta, peak = eta_of(etas), max(etas)
    changes = [k for k in range(max(warmup, 1) + 1, len(etas) + 1) if eta(k) != eta(k - 1)]
    running = [0.0]
    for rate in etas:
        running.append(running[-1] + rate)
    return [
        math.fsum(
            (eta(k - 1) - eta(k))
            / peak
            * share(t - k + 1, running[t] - running[k - 1], eta(k) / peak)
            for k in changes
            if k <= t
        )
        for t in steps
    ]
