"""`code_of`: a schedule as a line of Python, to be copied into a training script."""

import numpy as np
from numpy.typing import NDArray

from lossforecast.schedule.lr_schedule import DECAY_SHAPES, LRSchedule

__all__ = ["code_of"]

_NEAR = 0.002  # of the peak: how far straight lines between points may be off
_LOOKED_AT = 2049  # steps

_SHAPES = {shape: name for name, shape in DECAY_SHAPES.items()}


def code_of(schedule: LRSchedule) -> str:
    """An expression that makes a schedule again, to 0.2% of its peak.

    A last decay is made by its shape, what is before it by straight lines.

    Example:
        >>> plan = LRSchedule.constant(1_000, 1e-3, warmup=100)
        >>> print(code_of(plan.with_decay(start=800, steps=200, shape="cosine")))
        LRSchedule.from_points([1, 100, 800], [1e-05, 0.001, 0.001], total_steps=800)\
.with_decay(start=800, steps=200, shape="cosine", end=0)
    """
    columns = schedule.to_dict()["pieces"]
    last = {name: column[-1] for name, column in columns.items()}
    start = columns["stop"][-2] if len(columns["stop"]) > 1 else 0
    whole = (last["x0"], last["x1"]) == (start, last["stop"])
    if start == 0 or not whole or last["shape"] not in _SHAPES:
        return _lines(schedule)
    steps, shape = last["stop"] - start, _SHAPES[last["shape"]]
    decay = f'.with_decay(start={start}, steps={steps}, shape="{shape}", end={last["y1"]:.6g})'
    return _lines(schedule.truncated_to(start)) + decay


def _lines(schedule: LRSchedule) -> str:
    total = schedule.total_steps
    even = np.rint(np.linspace(1, total, min(_LOOKED_AT, total))).astype(np.int64)
    bends = schedule.knots[0]
    at = np.unique(np.concatenate([even, bends[bends >= 1]]))
    rates = schedule.lr(at)
    kept = _bends(at, rates, _NEAR * schedule.peak)
    steps = at[kept].tolist()
    values = ", ".join(f"{rate:.6g}" for rate in rates[kept].tolist())
    return f"LRSchedule.from_points({steps}, [{values}], total_steps={total})"


def _bends(steps: NDArray[np.int64], rates: NDArray[np.float64], near: float) -> list[int]:
    """Which points straight lines need to come near to all of them (Douglas and Peucker 1973)."""
    kept, open_ = {0, steps.size - 1}, [(0, steps.size - 1)]
    while open_:
        first, last = open_.pop()
        if last - first < 2:
            continue
        inside = slice(first + 1, last)
        ends = [first, last]
        off = np.abs(rates[inside] - np.interp(steps[inside], steps[ends], rates[ends]))
        farthest = first + 1 + int(np.argmax(off))
        if off[farthest - first - 1] > near:
            kept.add(farthest)
            open_ += [(first, farthest), (farthest, last)]
    return sorted(kept)
