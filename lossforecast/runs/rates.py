"""The learning rates of a run, observed and planned."""

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.runs.history import History
from lossforecast.schedule import LRSchedule

__all__ = ["effective_schedule", "observed_rates"]

_SAME_RATE_TOLERANCE = 1e-6  # share of the peak: smaller differences are rounding


def effective_schedule(plan: LRSchedule, history: History) -> LRSchedule:
    """The observed learning rates where they differ from the plan, then the plan."""
    now = max(history.last_step, 0)
    if now > plan.total_steps:  # the run took more steps than planned
        plan = plan.extended_to(now)
    steps, rates = observed_rates(history)
    if not (np.abs(rates - plan.lr(steps)) > _SAME_RATE_TOLERANCE * plan.peak).any():
        return plan
    past = LRSchedule.from_points(steps, rates, total_steps=plan.total_steps)
    return past if now >= plan.total_steps else past.joined(now, plan)


def observed_rates(history: History) -> tuple[IntArray, FloatArray]:
    """Steps (n,) at which a learning rate was observed, and the rates (n,)."""
    bins = history.bins()
    known = ~np.isnan(bins.lr) & (bins.last >= 1)
    return bins.last[known], bins.lr[known]
