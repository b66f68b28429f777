"""A run in hindsight: its outcome, and how many intervals of its forecasts contained the truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.runs import History, outcome_of, overran

__all__ = ["broken_at", "coverage_counts", "outcome", "was_stopped"]

_AVERAGE_REACH_SHARE = 0.01  # of the run, on each side of a step where its loss is averaged
_LEVELS = ("80", "95")  # percent


def outcome(history: History, step: int, total_steps: int) -> float | None:
    """The loss that a run ended with; None while it goes on, or if its outcome is unknown.

    Args:
        history: the losses of the run.
        step: optimizer steps taken.
        total_steps: planned length of the run in optimizer steps.
    """
    end = None if step < total_steps else outcome_of(history, total_steps)
    return None if end is None else end.loss


def broken_at(history: History, step: int, total_steps: int) -> int | None:
    """The step after the last finite loss of a run that ended with nan or inf; else None.

    Arguments as in `outcome`.
    """
    if step < total_steps or history.non_finite_run == 0:
        return None
    return int(history.bins().last[-1]) + 1 if len(history) else 0


def was_stopped(trail: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a run was stopped; after the stop there is at most one more forecast."""
    return any(row.get("done") == "stop" for row in trail[-2:])


def coverage_counts(
    trail: Sequence[Mapping[str, Any]], history: History, step: int, total_steps: int
) -> dict[str, dict[str, int]]:
    """Numbers of past forecasts that can be judged, and of intervals that contained the truth.

    Once the run has ended, the truth is its outcome, and forecasts under other plans are not
    judged. Before, a forecast is judged at the latest of its steps that the run has passed; the
    truth is the mean loss over 2% of the run around that step. Forecasts of a broken run are not
    judged.

    Args:
        trail: rows of a `Trail`.
        history: the losses of the run.
        step: optimizer steps taken.
        total_steps: planned length of the run in optimizer steps.

    Returns:
        For the levels "80" and "95" the number of forecasts "judged" and of intervals that "held".
    """
    counts = {level: {"judged": 0, "held": 0} for level in _LEVELS}
    if broken_at(history, step, total_steps) is not None:
        return counts
    end = None if overran(history, total_steps) else outcome(history, step, total_steps)
    curve = _finite_bins(history)
    for row in trail:
        if row["status"] == "no_data" or history.last_step <= row["step"]:
            continue
        if end is None:
            index, truth = _latest_truth(row, history.last_step, curve, total_steps)
        else:
            of_this_plan = row["steps"][-1] == total_steps
            index, truth = len(row["steps"]) - 1, end if of_this_plan else None
        if index < 1 or truth is None:
            continue
        for level in _LEVELS:
            lower, upper = row[f"lower{level}"][index], row[f"upper{level}"][index]
            if lower is not None and upper is not None:
                counts[level]["judged"] += 1
                counts[level]["held"] += lower <= truth <= upper
    return counts


def _finite_bins(history: History) -> tuple[FloatArray, FloatArray, IntArray]:
    """Mean step, mean loss and number of losses of the n finite bins, each (n,)."""
    bins = history.bins()
    finite = np.isfinite(bins.mean)
    return bins.step[finite], bins.mean[finite], bins.count[finite]


def _latest_truth(
    row: Mapping[str, Any],
    last_step: int,
    curve: tuple[FloatArray, FloatArray, IntArray],
    total_steps: int,
) -> tuple[int, float | None]:
    """Index of the latest step of a fan that the run has passed, and the loss around that step.

    The index is 0 or less, and the loss None, if the run has passed no step after the first. The
    loss is None if none was observed around the step.
    """
    index = max((i for i, step in enumerate(row["steps"]) if step <= last_step), default=-1)
    if index < 1:
        return index, None
    steps, losses, counts = curve
    near = np.abs(steps - row["steps"][index]) <= _AVERAGE_REACH_SHARE * total_steps
    return index, float(np.average(losses[near], weights=counts[near])) if near.any() else None
