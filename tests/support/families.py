"""Runs of one recipe at several sizes, made up: the laws that a ladder assumes, with noise."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast import LRSchedule, RunInfo
from lossforecast.prior import PastRun
from lossforecast.runs import History

STEPS_PER_PARAM = 1e-4
PEAK = 1e-3


def plan_of(n_params: float, *, length: float = 1.0) -> LRSchedule:
    """A cosine of equal tokens per parameter; the batch is the same for all sizes."""
    total = round(length * STEPS_PER_PARAM * n_params)
    return LRSchedule.cosine(total, PEAK, end=PEAK / 10, warmup=total // 50)


def info_of(n_params: float) -> RunInfo:
    return RunInfo("val", "adamw", "family", "language modelling", dataset="web", n_params=n_params)


def losses_of(
    n_params: float, plan: LRSchedule, steps: ArrayLike, *, seed: int = 0, noise: float = 0.0005
) -> NDArray[np.float64]:
    """``1.8 + 62 N^-0.22 + reducible - drop``: the same shape at equal tokens per parameter."""
    at = np.asarray(steps, float)
    share = at / (STEPS_PER_PARAM * n_params)
    drop = 0.12 * (1 - plan.lr(np.maximum(at, 1).astype(int)) / PEAK)
    scale = 1.8 + 62 * n_params**-0.22
    clean = scale * (1 + 0.06 * share**-0.4 - drop)
    losses: NDArray[np.float64] = clean * np.exp(
        np.random.default_rng(seed).normal(0, noise, at.size)
    )
    return losses


def run_of(
    n_params: float, *, length: float = 1.0, n: int = 80, seed: int = 0
) -> tuple[LRSchedule, NDArray[np.int64], NDArray[np.float64]]:
    """Plan, n steps and losses of a run."""
    plan = plan_of(n_params, length=length)
    steps = np.unique(np.linspace(plan.total_steps / n, plan.total_steps, n).astype(np.int64))
    return plan, steps, losses_of(n_params, plan, steps, seed=seed)


def past_of(n_params: float, *, length: float = 1.0, seed: int = 0) -> PastRun:
    """A finished run."""
    plan, steps, losses = run_of(n_params, length=length, seed=seed)
    history = History()
    history.observe_many(steps, losses)
    past = PastRun.of(f"{n_params:g}, {length:g}", info_of(n_params), plan, history)
    assert past is not None
    return past
