"""Knots of a learning-rate schedule: between two of them it is nearly straight."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import IntArray
from lossforecast.schedule.pieces import Shape

__all__ = ["trace"]


_N_SEGMENTS = 128  # between knots, with equal changes of the learning rate
_MAX_STEPS_ALL_KNOTS = 512  # every step of a shorter schedule is a knot
_MAX_ARRAY_STEPS = 2**17  # steps sampled from a piece given as an array


def trace(
    pieces: NDArray[np.void],
    starts: IntArray,
    lr: Callable[[IntArray], NDArray[np.float64]],
) -> IntArray:
    """Knots: increasing steps from 1 to the last, shape (n,) with n at most about 1,400.

    Between neighbours the rate changes by at most about 1/128 of its whole variation, jumps stay
    jumps, and the (up to 512) largest turning points are kept.
    """
    total = int(pieces["stop"][-1])
    if total <= _MAX_STEPS_ALL_KNOTS:
        return np.arange(1, total + 1)
    steps = _candidates(pieces, starts)
    rates = lr(steps)
    missed = _inside_jumps(steps, rates)
    if missed.size:
        steps = np.union1d(steps, missed)
        rates = lr(steps)
    keep = np.zeros(steps.size, dtype=bool)
    change = np.abs(np.diff(rates, prepend=rates[0]))
    variation = np.cumsum(change)
    if variation[-1] > 0:
        level = np.floor(variation / variation[-1] * _N_SEGMENTS * (1 - 1e-12))
        new_level = np.diff(level, prepend=0) > 0
        keep |= new_level
        keep[:-1] |= new_level[1:]  # the step before a jump
        direction = np.sign(np.diff(rates))
        turning = np.flatnonzero(direction[1:] != direction[:-1]) + 1
        keep[turning[np.argsort(-change[turning], kind="stable")[:_MAX_STEPS_ALL_KNOTS]]] = True
    keep[[0, -1]] = True
    even = np.rint(np.linspace(1, total, _N_SEGMENTS + 1)).astype(np.int64)
    return np.unique(np.concatenate([steps[keep], even]))


def _candidates(pieces: NDArray[np.void], starts: IntArray) -> IntArray:
    """First and last step of every piece, and steps inside those that are not constant."""
    candidates = [starts + 1, pieces["stop"]]
    flat = (pieces["shape"] == Shape.LINEAR) & (pieces["y0"] == pieces["y1"])
    moving = np.flatnonzero(~flat)
    longest = np.argsort(starts[moving] - pieces["stop"][moving], kind="stable")
    moving = moving[longest[: 4 * _N_SEGMENTS]]  # if there are more pieces, the rest are short
    # steps are dense at both ends of a piece, where a cosine and a square root bend
    points = min(4 * _N_SEGMENTS, 128 * _N_SEGMENTS // max(moving.size, 1))
    crowded = (1 - np.cos(np.linspace(0, np.pi, points + 1))) / 2
    for piece, start in zip(pieces[moving], starts[moving], strict=True):
        length = int(piece["stop"] - start)
        if piece["shape"] == Shape.ARRAY:
            stride = -(-length // _MAX_ARRAY_STEPS)
            candidates.append(np.arange(start + 1, piece["stop"] + 1, stride))
        else:
            candidates.append(np.rint(start + 1 + crowded * (length - 1)).astype(np.int64))
    return np.unique(np.concatenate(candidates))


def _inside_jumps(steps: IntArray, rates: NDArray[np.float64]) -> IntArray:
    """Steps between those neighbours, at most 128 pairs, between which the rate changes a lot."""
    gap, change = np.diff(steps), np.abs(np.diff(rates))
    sharp = np.flatnonzero((gap > 1) & (change > 0) & (change * _N_SEGMENTS >= change.sum()))
    inside = [np.arange(steps[j], steps[j + 1], -(-gap[j] // _MAX_STEPS_ALL_KNOTS)) for j in sharp]
    return np.concatenate([np.zeros(0, dtype=np.int64), *inside])
