"""`code_of` and `few_points`: a schedule to be copied into a training script."""

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.schedule.lr_schedule import DECAY_SHAPES, LRSchedule

__all__ = ["code_of", "few_points"]

_MAX_ERROR = 0.002  # of straight lines between points, as a share of the peak
_MAX_SAMPLED_STEPS = 2049  # beside the knots

_SHAPE_NAMES = {shape: name for name, shape in DECAY_SHAPES.items()}


def code_of(schedule: LRSchedule) -> str:
    """An expression that reproduces a schedule to within 0.2% of its peak.

    A final decay is written with its shape, everything before it as straight lines.

    Example:
        >>> plan = LRSchedule.constant(1_000, 1e-3, warmup=100)
        >>> print(code_of(plan.with_decay(start=800, steps=200, shape="cosine")))
        LRSchedule.from_points([1, 100, 800], [1e-05, 0.001, 0.001], total_steps=800)\
.with_decay(start=800, steps=200, shape="cosine", end=0)
    """
    columns = schedule.to_dict()["pieces"]
    last = {name: column[-1] for name, column in columns.items()}
    start = columns["stop"][-2] if len(columns["stop"]) > 1 else 0
    uncut = (last["x0"], last["x1"]) == (start, last["stop"])
    if start == 0 or not uncut or last["shape"] not in _SHAPE_NAMES:
        return _lines(schedule)
    steps, shape = last["stop"] - start, _SHAPE_NAMES[last["shape"]]
    decay = f'.with_decay(start={start}, steps={steps}, shape="{shape}", end={last["y1"]:.6g})'
    return _lines(schedule.truncated_to(start)) + decay


def few_points(schedule: LRSchedule) -> tuple[list[int], list[float]]:
    """Steps and learning rates of points whose connecting lines are within 0.2% of the peak.

    Example:
        >>> few_points(LRSchedule.linear(1_000, 0.5, warmup=100))
        ([1, 100, 1000], [0.005, 0.5, 0.0])
    """
    total = schedule.total_steps
    even = np.rint(np.linspace(1, total, min(_MAX_SAMPLED_STEPS, total))).astype(np.int64)
    knots = schedule.knots[0]
    at = np.unique(np.concatenate([even, knots[knots >= 1]]))
    rates = schedule.lr(at)
    kept = _simplified(at, rates, _MAX_ERROR * schedule.peak)
    return at[kept].tolist(), rates[kept].tolist()


def _lines(schedule: LRSchedule) -> str:
    """A schedule as straight lines between a few of its points."""
    steps, rates = few_points(schedule)
    values = ", ".join(f"{rate:.6g}" for rate in rates)
    return f"LRSchedule.from_points({steps}, [{values}], total_steps={schedule.total_steps})"


def _simplified(steps: IntArray, rates: FloatArray, max_error: float) -> list[int]:
    """Indices of points whose connecting lines are within `max_error` of all n points.

    The algorithm of Douglas and Peucker (1973): a line is split at the point farthest from it.

    Args:
        steps: increasing, (n,).
        rates: learning rates there, (n,).
        max_error: largest difference between a rate and the line at its step.
    """
    kept, pending = {0, steps.size - 1}, [(0, steps.size - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        inside = slice(first + 1, last)
        ends = [first, last]
        error = np.abs(rates[inside] - np.interp(steps[inside], steps[ends], rates[ends]))
        farthest = first + 1 + int(np.argmax(error))
        if error[farthest - first - 1] > max_error:
            kept.add(farthest)
            pending += [(first, farthest), (farthest, last)]
    return sorted(kept)
