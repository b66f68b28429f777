"""Luo et al.'s fit of the multi-power law, slow and as it reads in their paper and repository.

Every learning-rate change of every step is summed for every point, the memoryless law is fitted by
L-BFGS-B with finite differences from all 135 starts, and torch takes the gradients and the AdamW
steps. Only the best iterate is kept where theirs keeps the one after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import linregress

FloatArray = NDArray[np.float64]
DELTA = 1e-3


@dataclass(frozen=True)
class Curve:
    """A run: `lrs` of steps 1, 2, ... (n_steps,), and losses (n,) at `steps` (n,)."""

    lrs: FloatArray
    steps: NDArray[np.int64]
    losses: FloatArray


def huber(residual: FloatArray) -> float:
    size = np.abs(residual)
    each = np.where(size < DELTA, residual**2 / 2, DELTA * size - DELTA**2 / 2)
    return float(each.sum())


def memoryless_objective(parameters: FloatArray, curves: Sequence[Curve]) -> float:
    L0, A, alpha, B = parameters
    total = 0.0
    for curve in curves:
        s1 = np.cumsum(curve.lrs)[curve.steps - 1]
        below = curve.lrs.max() - curve.lrs[curve.steps - 1]
        with np.errstate(all="ignore"):  # a line search may go far
            predicted = np.clip(L0 + A * s1**-alpha - B * below, 1e-10, 1e10)
        total += huber(np.log(curve.losses) - np.log(predicted))
    return total


def memoryless_starts(curves: Sequence[Curve]) -> list[tuple[float, ...]]:
    """5 x 3 x 3 x 3, around the straight line of log(loss - lowest + 0.01) against log S1."""
    lowest = min(float(curve.losses.min()) for curve in curves)
    s1 = np.concatenate([np.cumsum(curve.lrs)[curve.steps - 1] for curve in curves])
    above = np.concatenate([curve.losses for curve in curves]) - lowest + 0.01
    line = linregress(np.log(s1), np.log(above))
    A, alpha = float(np.exp(line.intercept)), float(-line.slope)
    return list(
        product(
            np.linspace(lowest - 0.2, lowest + 0.2, 5),
            np.linspace(A - 0.1, A + 0.1, 3),
            np.linspace(alpha - 0.1, alpha + 0.1, 3),
            np.linspace(100, 1000, 3),
        )
    )


def fit_memoryless(curves: Sequence[Curve]) -> tuple[FloatArray, float]:
    best, lowest = np.zeros(4), np.inf
    for start in memoryless_starts(curves):
        found = minimize(
            memoryless_objective,
            np.array(start),
            args=(curves,),
            method="L-BFGS-B",
            bounds=[(0, np.inf)] * 4,
            options={"maxiter": 100_000, "ftol": 1e-9, "gtol": 1e-6, "eps": 1e-8},
        )
        if found.fun < lowest:
            best, lowest = found.x, float(found.fun)
    return best, lowest


def multi_power_objective(values: Sequence[torch.Tensor], curves: Sequence[Curve]) -> torch.Tensor:
    L0, A, alpha, B, C, beta, gamma = values
    total = torch.zeros((), dtype=torch.float64)
    for curve in curves:
        lrs = torch.tensor(curve.lrs)
        s1 = torch.cumsum(lrs, 0)
        predicted = []
        for t in curve.steps:
            fall = lrs[: t - 1] - lrs[1:t]
            travelled = s1[t - 1] - s1[: t - 1]  # the rates of steps k..t, for k = 2..t
            share = 1 - (1 + C * lrs[1:t] ** -gamma * travelled) ** -beta
            predicted.append(L0 + A * s1[t - 1] ** -alpha - B * (fall * share).sum())
        logs = torch.log(torch.stack(predicted).clamp(min=1e-10))
        residual = torch.log(torch.tensor(curve.losses)) - logs
        total = total + torch.nn.functional.huber_loss(
            residual, torch.zeros_like(residual), reduction="sum", delta=DELTA
        )
    return total


def fit_multi_power(curves: Sequence[Curve]) -> tuple[list[float], float]:
    """(L0, A, alpha, B, C, beta, gamma) of the lowest objective on the way, and that objective."""
    start = [*fit_memoryless(curves)[0], 1.0, 0.5, 0.5]
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in start]
    slow = (2, 5, 6)  # alpha, beta, gamma
    optimizer = torch.optim.AdamW(
        [
            {"params": [v for i, v in enumerate(values) if i not in slow], "lr": 5e-2},
            {"params": [values[i] for i in slow], "lr": 5e-3},
        ]
    )
    best, lowest, stale = start, np.inf, 0
    for step in range(200):
        optimizer.zero_grad()
        objective = multi_power_objective(values, curves)
        objective.backward()  # type: ignore[no-untyped-call]
        if objective.item() < lowest:
            best, lowest, stale = [v.item() for v in values], objective.item(), 0
        else:
            stale += 1
        gradients = torch.stack([v.grad for v in values if v.grad is not None])
        if (step > 20 and stale >= 20) or gradients.norm() < 1e-5:
            break
        optimizer.step()
    return best, lowest
