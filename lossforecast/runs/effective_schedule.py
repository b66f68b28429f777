"""The learning rates that a run really used: those observed, then those planned."""

import numpy as np
from numpy.typing import NDArray

from lossforecast.runs.history import History
from lossforecast.schedule import LRSchedule

__all__ = ["as_used"]


def as_used(plan: LRSchedule, history: History) -> LRSchedule:
    """The learning rates that were observed where they differ from the plan, then the plan."""
    now = max(history.last_step, 0)
    if now > plan.total_steps:  # a run that outlives its plan
        plan = plan.extended_to(now)
    steps, rates = observed_rates(history)
    if not (np.abs(rates - plan.lr(steps)) > 1e-6 * plan.peak).any():
        return plan
    past = LRSchedule.from_points(steps, rates, total_steps=plan.total_steps)
    return past if now >= plan.total_steps else past.joined(now, plan)


def observed_rates(history: History) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps (n,) at which a learning rate was observed, and the rates (n,)."""
    bins = history.bins()
    known = ~np.isnan(bins.lr) & (bins.last >= 1)
    return bins.last[known], bins.lr[known]
