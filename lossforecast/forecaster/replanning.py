"""Comparison of two plans from a step on, such as those before and after a run is resumed."""

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["is_constant", "rates_after", "same_future"]

_LR_TOLERANCE = 1e-6  # of the peak: a saved plan and a resumed one differ by rounding


def same_future(saved: LRSchedule, planned: LRSchedule, step: int) -> bool:
    """Return whether two plans agree after a step.

    Two plans that both only assume the rate they hold agree whatever the rate:
    `Forecaster.follow_rate` corrects it.
    """
    if saved.total_steps != planned.total_steps:
        return False
    assumed = Caveat.LR_ASSUMED in saved.caveats & planned.caveats
    if assumed and all(is_constant(rates_after(plan, step)) for plan in (saved, planned)):
        return True
    steps = planned.knots[0]
    steps = steps[steps > step]
    difference = np.abs(saved.lr(steps) - planned.lr(steps))
    return bool((difference <= _LR_TOLERANCE * planned.peak).all())


def rates_after(plan: LRSchedule, step: int) -> FloatArray:
    """Learning rates at the knots of a plan after a step."""
    steps, rates = plan.knots
    return rates[steps > step]


def is_constant(rates: FloatArray) -> bool:
    """Return whether all rates are equal."""
    return bool((rates == rates[0]).all())
