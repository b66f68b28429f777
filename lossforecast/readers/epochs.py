"""`EpochColumn`: the optimizer steps of an epoch, from a column that counts epochs."""

import math
from collections.abc import Iterable

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["EpochColumn", "steps_by_fractions"]

_MAX_POINTS = 4096  # then every second one is dropped
_MAX_OFFSET = 0.5  # epochs at step 0; more means that the first epoch is numbered 1


class EpochColumn:
    """A column of epochs that grow with the steps, by fractions or by whole numbers.

    Memory does not grow with the log. A step lower than the one before is a restart: earlier points
    from that step on are dropped.
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, int, float]] = []  # first and last step of each value
        self._decreases = False

    def add(self, step: int, epoch: float) -> None:
        """Add a point; one that is not finite is ignored."""
        if not math.isfinite(epoch):
            return
        points = self._points
        while points and points[-1][0] >= step:
            points.pop()
        if points and epoch < points[-1][2]:
            self._decreases = True
        elif points and epoch == points[-1][2]:
            points[-1] = points[-1][0], step, epoch
        else:
            points.append((step, step, epoch))
        if len(points) > _MAX_POINTS:
            del points[1:-1:2]

    def steps_per_epoch(self) -> float | None:
        """Return the optimizer steps of an epoch; None if the column does not tell (yet)."""
        if self._decreases or not self._points:
            return None
        first, last, epoch = np.array(self._points, np.float64).T
        if (epoch != np.floor(epoch)).any():
            steps = steps_by_fractions(zip((first + last) / 2, epoch, strict=True))
        else:
            steps = _steps_by_boundaries(first, last, epoch)
        return steps if steps is not None and steps > 0 else None


def steps_by_fractions(points: Iterable[tuple[float, float]]) -> float | None:
    """Return the steps of an epoch from fractional epochs: the median over the later points.

    Args:
        points: steps, increasing, each with the epoch at that step, which may be rounded.
    """
    positive = [(step, epoch) for step, epoch in points if step > 0 and epoch > 0]
    if not positive:
        return None
    steps, epochs = np.array(positive, np.float64).T
    late = slice(steps.size // 2, None)
    ratio = float(np.median(steps[late] / epochs[late]))
    if steps.size > 1 and epochs[0] - steps[0] / ratio > _MAX_OFFSET:
        return float(np.median((steps[late] - steps[0]) / (epochs[late] - epochs[0])))
    return ratio


def _steps_by_boundaries(first: FloatArray, last: FloatArray, epoch: FloatArray) -> float | None:
    """Return the steps of an epoch from whole epochs; None before the first of them is over.

    Args:
        first: the first logged step of each epoch, (n,).
        last: the last logged step of each epoch, (n,).
        epoch: the epochs, increasing, (n,).
    """
    if epoch.size < 2:
        return None
    between, within = first[1:] - last[:-1], (last - first)[:-1]
    if np.median(between) > np.median(within):  # a row or two an epoch
        return float((first[-1] - first[0]) / (epoch[-1] - epoch[0]))
    begins = (last[:-1] + 1 + first[1:]) / 2  # of each epoch but the first
    if epoch.size > 2:
        return float((begins[-1] - begins[0]) / (epoch[-1] - epoch[1]))
    from_start = first[0] <= 2 * between[0]
    return float(begins[0] / (epoch[1] - epoch[0])) if from_start else None
