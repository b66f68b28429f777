"""How the forecasts of a run fared: where it ended, and how often their intervals held."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.history import History
from lossforecast.records import at_end, ended, overran

__all__ = ["fared", "outcome"]

_AROUND = 0.01  # share of the run on each side of a step over which its loss is averaged
_LEVELS = ("80", "95")


def outcome(history: History, total_steps: int) -> float | None:
    """The mean of the last 2% of a run; None while it goes on and where that is not finite."""
    if history.last_step < at_end(total_steps):
        return None
    found = ended(history, total_steps)
    return found if math.isfinite(found) else None


def fared(
    trail: Sequence[Mapping[str, Any]], history: History, total_steps: int
) -> dict[str, dict[str, int]]:
    """How many forecasts there are to judge, and how many of their intervals held the truth.

    Once the run has ended the truth is its outcome, for those of that end. Before, it is the latest
    loss of a step that a forecast spoke of, as the mean over 2% of the run around it.

    Returns:
        By "80" and "95", the numbers of forecasts "judged" and "held".
    """
    end = None if overran(history, total_steps) else outcome(history, total_steps)
    bins = history.bins()
    sound = np.isfinite(bins.mean)
    step, loss, count = bins.step[sound], bins.mean[sound], bins.count[sound]
    found = {level: {"judged": 0, "held": 0} for level in _LEVELS}
    for row in trail:
        if row["status"] == "no_data" or history.last_step <= row["step"]:
            continue
        if end is not None and row["steps"][-1] != total_steps:
            continue  # of another plan
        at, truth = (len(row["steps"]) - 1, end) if end is not None else (-1, None)
        if truth is None:
            passed = [i for i, each in enumerate(row["steps"]) if each <= history.last_step]
            at = passed[-1] if passed else -1
            if at > 0:
                truth = _around(step, loss, count, row["steps"][at], _AROUND * total_steps)
        if at < 1 or truth is None:
            continue
        for level in _LEVELS:
            lower, upper = row[f"lower{level}"][at], row[f"upper{level}"][at]
            if lower is not None and upper is not None:
                found[level]["judged"] += 1
                found[level]["held"] += lower <= truth <= upper
    return found


def _around(
    step: NDArray[np.float64],
    loss: NDArray[np.float64],
    count: NDArray[np.int64],
    at: int,
    reach: float,
) -> float | None:
    near = np.abs(step - at) <= reach
    return float(np.average(loss[near], weights=count[near])) if near.any() else None
