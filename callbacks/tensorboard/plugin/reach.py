"""When the loss of a run will be below its target."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossforecast.numerics import first_below

__all__ = ["steps_below"]

_PROBABILITIES = {"lower80": "10", "median": "50", "upper80": "90"}  # percent, by line of the fan


def steps_below(fan: Mapping[str, Any], target: float | None) -> dict[str, int | None] | None:
    """The first steps at which the expected loss is below the target with 10, 50 and 90%.

    They are where the ends and the median of the 80% interval cross the target, interpolated
    between the steps of the fan. None for a line that stays above the target, and in place of all
    without a target or a forecast. Where a line begins below, it is the first step of the fan.

    Args:
        fan: the present forecast, from now to the end, as written by `Trail`.
        target: the loss to reach.
    """
    if target is None or None in fan["median"]:
        return None
    return {
        probability: _first_below(fan["steps"], fan[line], target)
        for line, probability in _PROBABILITIES.items()
    }


def _first_below(steps: Sequence[int], losses: Sequence[float | None], target: float) -> int | None:
    step = first_below(np.array(steps, float), np.array(losses, float), target)
    return None if math.isnan(step) else round(step)
