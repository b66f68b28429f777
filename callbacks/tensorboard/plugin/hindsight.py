"""How the forecasts of a run fared: where it ended, and how often their intervals held."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.runs import History, outcome_of, overran

__all__ = ["broke", "fared", "outcome", "stopped"]

_AROUND = 0.01  # share of the run on each side of a step over which its loss is averaged
_LEVELS = ("80", "95")


def outcome(history: History, step: int, total_steps: int) -> float | None:
    """The loss that a run ended with; None while it goes on, or if its outcome is unknown.

    Args:
        history: its losses.
        step: optimizer steps taken.
        total_steps: planned.
    """
    end = None if step < total_steps else outcome_of(history, total_steps)
    return None if end is None else end.loss


def broke(history: History, step: int, total_steps: int) -> int | None:
    """The step after the last finite loss of a run that ended nan or infinite, else None."""
    if step < total_steps or history.non_finite_run == 0:
        return None
    return int(history.bins().last[-1]) + 1 if len(history) else 0


def stopped(trail: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run was stopped; after the stop there is at most one more forecast."""
    return any(row.get("done") == "stop" for row in trail[-2:])


def fared(
    trail: Sequence[Mapping[str, Any]], history: History, step: int, total_steps: int
) -> dict[str, dict[str, int]]:
    """Coverage of past forecasts: how many can be judged, and how many intervals were right.

    Once the run has ended, a forecast of the final loss under the final plan is compared with the
    outcome. Before, a forecast is compared with the loss at the latest of its steps that the run
    has passed: the mean over 2% of the run around it. In a run that broke none can be judged.

    Returns:
        For the levels "80" and "95" the numbers of forecasts "judged" and of intervals that "held".
    """
    found = {level: {"judged": 0, "held": 0} for level in _LEVELS}
    if broke(history, step, total_steps) is not None:
        return found
    end = None if overran(history, total_steps) else outcome(history, step, total_steps)
    bins = history.bins()
    sound = np.isfinite(bins.mean)
    at_step, loss, count = bins.step[sound], bins.mean[sound], bins.count[sound]
    for row in trail:
        if row["status"] == "no_data" or history.last_step <= row["step"]:
            continue
        if end is not None and row["steps"][-1] != total_steps:
            continue  # made for another plan
        at, truth = (len(row["steps"]) - 1, end) if end is not None else (-1, None)
        if truth is None:
            passed = [i for i, at_i in enumerate(row["steps"]) if at_i <= history.last_step]
            at = passed[-1] if passed else -1
            if at > 0:
                truth = _around(at_step, loss, count, row["steps"][at], _AROUND * total_steps)
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
