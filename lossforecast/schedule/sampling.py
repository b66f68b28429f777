"""Piecewise linear approximation of a learning rate that is costly to evaluate."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray, IntArray

__all__ = ["sampled"]

_MAX_POINTS = 12_000  # half a megabyte
_GRID_INTERVALS = 1_000  # equal intervals in which the search for bends begins
_PROBE_FRACTIONS = (0.31, 0.63)  # uneven, so that no regular staircase passes through both
_PROBE_TOLERANCE = 0.7e-6  # relative error at the probes; elsewhere it may be 1.43 times as large
_SMALL_RATE = 1e-6  # share of the peak below which errors are relative to the peak
_UNKNOWN_RATE = -1.0  # stands for nan, so that the end of the known rates is a jump like any other

Rates = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class _Intervals:
    """Intervals between neighbouring points, each with two probes inside.

    Attributes:
        left: first step, (n,).
        right: last step, (n,).
        lr_left: rate at the first step, (n,).
        lr_right: rate at the last step, (n,).
        probes: steps of the probes, (2, n).
        lr_probes: rates there, (2, n).
        error: distance of the rates at the probes from the chord, the larger of the two; 0 where
            it is within the tolerance, (n,).
    """

    left: FloatArray
    right: FloatArray
    lr_left: FloatArray
    lr_right: FloatArray
    probes: FloatArray
    lr_probes: FloatArray
    error: FloatArray

    @classmethod
    def probed(
        cls,
        rates: Rates,
        peak: float,
        left: FloatArray,
        right: FloatArray,
        lr_left: FloatArray,
        lr_right: FloatArray,
    ) -> Self:
        """Return the intervals that have steps inside, with their probes."""
        longer = right - left > 1
        left, right, lr_left, lr_right = (x[longer] for x in (left, right, lr_left, lr_right))
        probes = left + np.rint(np.outer(_PROBE_FRACTIONS, right - left)).clip(min=1)
        values = rates(probes)
        off = np.abs(values - lr_left - (lr_right - lr_left) * (probes - left) / (right - left))
        small = _SMALL_RATE * peak
        highest = np.maximum(values.max(axis=0), np.maximum(lr_left, lr_right))
        scale = np.where(highest > small, np.maximum(values, small), peak)
        intolerable = (off > _PROBE_TOLERANCE * scale).any(axis=0)
        error = np.where(intolerable, off.max(axis=0), 0.0)
        return cls(left, right, lr_left, lr_right, probes=probes, lr_probes=values, error=error)

    def select(self, which: IntArray) -> Self:
        """Return the intervals with these indices."""
        return type(self)(*(getattr(self, field.name)[..., which] for field in fields(self)))

    def without(self, which: IntArray) -> Self:
        """Return the intervals without those with these indices."""
        return self.select(np.delete(np.arange(self.left.size), which))

    def joined(self, other: Self) -> Self:
        """Return these intervals followed by others."""
        names = [field.name for field in fields(self)]
        pairs = ((getattr(self, name), getattr(other, name)) for name in names)
        return type(self)(*(np.concatenate(pair, axis=-1) for pair in pairs))

    def split(self, rates: Rates, peak: float) -> Self:
        """Return the parts into which the probes cut each interval, if they have steps inside."""
        (first, second), (lr_first, lr_second) = self.probes, self.lr_probes
        return self.probed(
            rates,
            peak,
            left=np.concatenate([self.left, first, second]),
            right=np.concatenate([first, second, self.right]),
            lr_left=np.concatenate([self.lr_left, lr_first, lr_second]),
            lr_right=np.concatenate([lr_first, lr_second, self.lr_right]),
        )


def sampled(
    rates: Callable[[IntArray], FloatArray], seeds: IntArray, first: int, last: int
) -> tuple[IntArray, FloatArray]:
    """Return points whose linear interpolation has a relative error of at most 1e-6.

    Intervals are probed at two places and cut there if the rate is off the chord. Those with the
    largest errors come first, so that a rate that needs more than 12,000 points is approximated
    evenly.

    Args:
        rates: the rate at increasing steps, (n,) to (n,); nan where unknown.
        seeds: steps that become points, (m,).
        first: first step.
        last: last step.

    Returns:
        Steps, increasing, and their rates; (k,) each.
    """

    def known(steps: FloatArray) -> FloatArray:
        unique, inverse = np.unique(steps.astype(np.int64), return_inverse=True)
        values = np.nan_to_num(rates(unique), nan=_UNKNOWN_RATE)
        return values[inverse].reshape(steps.shape)

    steps = np.unique(np.append(np.rint(np.linspace(first, last, _GRID_INTERVALS + 1)), seeds))
    lrs = known(steps)
    peak = max(lrs.max(), np.finfo(float).tiny)
    room = _MAX_POINTS - steps.size
    points = [(steps, lrs)]
    intervals = _Intervals.probed(
        known,
        peak,
        left=steps[:-1],
        right=steps[1:],
        lr_left=lrs[:-1],
        lr_right=lrs[1:],
    )
    while room > 1 and intervals.error.any():
        bent = np.flatnonzero(intervals.error > 0.1 * intervals.error.max())
        bent = bent[np.argsort(-intervals.error[bent], kind="stable")][: room // 2]
        room -= 2 * bent.size
        worst = intervals.select(bent)
        points += zip(worst.probes, worst.lr_probes, strict=True)
        intervals = intervals.without(bent).joined(worst.split(known, peak))
    all_steps, all_lrs = (np.concatenate(column) for column in zip(*points, strict=True))
    all_steps, index = np.unique(all_steps, return_index=True)
    return all_steps.astype(np.int64), np.where(all_lrs == _UNKNOWN_RATE, np.nan, all_lrs)[index]
