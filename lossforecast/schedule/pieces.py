"""Pieces of a learning-rate schedule: closed formulas for their values and their sums.

A schedule is an array of pieces, `PIECE`. Piece j holds on the steps ``stop[j-1] < i <= stop[j]``,
its window. Its curve is defined over a frame of its own, from step x0 to x1: the position
``u = (i - x0) / (x1 - x0)`` runs from 0 (value y0) to 1 (value y1). Cutting a piece changes its
window but not its frame, so a cosine cut in half is still exactly that cosine.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray

__all__ = ["PIECE", "SHAPE_NAMES", "Shape", "are_valid", "piece_sums", "piece_values", "pruned"]


class Shape:
    """The curves a piece can follow, as numbers.

    They are not an `Enum`: numpy looks up its own methods on the type of the other operand of a
    comparison. On an enumeration that runs Python code, and numpy swallows an exception that a
    signal handler raises there, such as KeyboardInterrupt.
    """

    LINEAR: Final = 0  # y0 + (y1 - y0) u
    COSINE: Final = 1  # y1 + (y0 - y1) (1 + cos(pi u)) / 2
    SQRT: Final = 2  # y0 + (y1 - y0) sqrt(u), the "1-sqrt" cooldown
    EXP: Final = 3  # y0 (y1 / y0)^u
    INVERSE_SQRT: Final = 4  # y0 sqrt(x0 / i)
    ARRAY: Final = 5  # y0 * values[i - x0 - 1]


SHAPE_NAMES = ("linear", "cosine", "sqrt", "exp", "inverse_sqrt", "array")
"""Names of the curves, by number."""


_N_TABULATED = 128  # terms of a power sum; beyond, the neglected ones are below double precision
_MAX_FRAME_STEP = 2**62  # steps are 64-bit integers
_MIN_FRAME_LENGTH = 1e-18  # in steps: keeps positions finite
_MAX_SUM = 1e300  # of the learning rates of a schedule

PIECE = np.dtype(
    [
        ("stop", np.int64),
        ("shape", np.int64),
        ("x0", np.float64),
        ("x1", np.float64),
        ("y0", np.float64),
        ("y1", np.float64),
    ]
)


def piece_values(
    pieces: NDArray[np.void], which: NDArray[np.intp], steps: FloatArray, values: FloatArray
) -> FloatArray:
    """Learning rate at each step, shape (n,).

    Args:
        pieces: `PIECE` of shape (m,).
        which: index of the piece of each step, shape (n,).
        steps: steps, each in the window of its piece, shape (n,).
        values: the numbers that pieces of shape ARRAY index, as multiples of y0.
    """
    out = np.empty(steps.shape)
    for shape, where, piece in _by_shape(pieces, which):
        i, x0, y0, y1 = steps[where], piece("x0"), piece("y0"), piece("y1")
        u = (i - x0) / (piece("x1") - x0)
        match shape:
            case Shape.LINEAR:
                out[where] = np.where(u < 1, y0 + (y1 - y0) * u, y1)
            case Shape.COSINE:
                out[where] = y1 + (y0 - y1) * (1 + np.cos(np.pi * u)) / 2
            case Shape.SQRT:
                out[where] = np.where(u < 1, y0 + (y1 - y0) * np.sqrt(u), y1)
            case Shape.EXP:
                out[where] = np.where(u < 1, y0 * (y1 / y0) ** u, y1)
            case Shape.INVERSE_SQRT:
                out[where] = y0 * np.sqrt(x0 / i)
            case _:
                out[where] = y0 * values[(i - x0).astype(np.int64) - 1]
    return out


def piece_sums(
    pieces: NDArray[np.void],
    which: NDArray[np.intp],
    first: FloatArray,
    last: FloatArray,
    running: FloatArray,
) -> FloatArray:
    """Sums of the learning rate over the steps ``first < i <= last`` of one piece each, shape (n,).

    Args:
        pieces: `PIECE` of shape (m,).
        which: index of the piece of each sum, shape (n,).
        first: at least the start of the piece, shape (n,).
        last: at most the stop of the piece, shape (n,).
        running: running sums 0, v1, v1+v2, ... of the numbers that ARRAY pieces index.
    """
    out = np.empty(first.shape)
    for shape, where, piece in _by_shape(pieces, which):
        a, b, x0, y0, y1 = first[where], last[where], piece("x0"), piece("y0"), piece("y1")
        length, n = piece("x1") - x0, b - a
        middle = (a + b + 1) / 2 - x0  # mean of the steps a+1..b, counted from x0
        match shape:
            case Shape.LINEAR:
                out[where] = n * (y0 + (y1 - y0) * middle / length)
            case Shape.COSINE:
                angle = np.pi / length
                cosines = np.sin(n * angle / 2) / np.sin(angle / 2) * np.cos(angle * middle)
                out[where] = n * (y0 + y1) / 2 + (y0 - y1) / 2 * cosines
            case Shape.SQRT:
                roots = _power_sum(b - x0, 0.5) - _power_sum(a - x0, 0.5)
                out[where] = n * y0 + (y1 - y0) / np.sqrt(length) * roots
            case Shape.EXP:
                rate = np.log(y1 / y0) / length
                with np.errstate(invalid="ignore", divide="ignore"):
                    series = np.exp(rate * (a + 1 - x0)) * np.expm1(rate * n) / np.expm1(rate)
                out[where] = y0 * np.where(rate == 0, n, series)
            case Shape.INVERSE_SQRT:
                roots = _power_sum(b, -0.5) - _power_sum(a, -0.5)
                out[where] = y0 * np.sqrt(x0) * roots
            case _:
                ia, ib = (a - x0).astype(np.int64), (b - x0).astype(np.int64)
                out[where] = y0 * (running[ib] - running[ia])
    return out


def are_valid(pieces: NDArray[np.void], values: FloatArray) -> bool:
    """Return whether all pieces have finite rates of 0 or more on each step, and finite sums.

    Args:
        pieces: `PIECE` of shape (m,), perhaps read from a damaged file.
        values: the numbers that pieces of shape ARRAY index, finite and 0 or more.
    """
    x0, x1, y0, y1 = (pieces[name] for name in ("x0", "x1", "y0", "y1"))
    stop, shape = pieces["stop"].astype(float), pieces["shape"]
    start = np.concatenate([[0.0], stop[:-1]])
    if pieces.size == 0 or not np.all(stop > start):
        return False
    # both comparisons are false for nan
    if not np.all((np.abs([x0, x1]) < _MAX_FRAME_STEP) & (np.array([y0, y1]) >= 0)):
        return False
    if not np.all(x1 - x0 > _MIN_FRAME_LENGTH):
        return False
    with np.errstate(all="ignore"):
        ratio_exists = np.isfinite(np.log(y1 / y0))
        largest = np.maximum(np.maximum(y0, y1), y0 * values.max(initial=0.0)).max()
    within, whole = (x0 <= start) & (stop <= x1), x0 == np.floor(x0)
    fits = {
        Shape.LINEAR: within | (y0 == y1),
        Shape.COSINE: (x0 <= start + 1) & (stop <= x1),
        Shape.SQRT: within & whole,
        Shape.EXP: within & ratio_exists,
        Shape.INVERSE_SQRT: (x0 >= 1) & (x0 <= start),
        Shape.ARRAY: whole & (x0 <= start) & (stop - x0 <= values.size),
    }
    valid = np.select([shape == kind for kind in fits], list(fits.values()), default=False)
    return bool(valid.all() and largest < _MAX_SUM / stop[-1])


def pruned(pieces: NDArray[np.void], values: FloatArray) -> tuple[NDArray[np.void], FloatArray]:
    """Return pieces and values without the values that no piece uses, if those are the most.

    Args:
        pieces: `PIECE` of shape (m,).
        values: the numbers that pieces of shape ARRAY index, shape (n,).
    """
    rows = np.flatnonzero(pieces["shape"] == Shape.ARRAY)
    starts = np.concatenate([[0], pieces["stop"][:-1]])[rows]
    lengths = pieces["stop"][rows] - starts
    if values.size <= 2 * lengths.sum():
        return pieces, values
    pieces, first = pieces.copy(), starts - pieces["x0"][rows].astype(np.int64)
    used = [values[i : i + n] for i, n in zip(first, lengths, strict=True)]
    shift = first - (np.cumsum(lengths) - lengths)
    pieces["x0"][rows] += shift
    pieces["x1"][rows] += shift
    return pieces, np.concatenate([np.zeros(0), *used])


def _by_shape(
    pieces: NDArray[np.void], which: NDArray[np.intp]
) -> Iterator[tuple[int, NDArray[np.intp], Callable[[str], FloatArray]]]:
    """For each shape in use: the shape, the indices (k,) into `which`, and its fields there."""
    shapes = pieces["shape"][which]
    for shape in np.unique(pieces["shape"]):
        where = np.flatnonzero(shapes == shape)
        if where.size:
            rows = which[where]
            yield shape, where, lambda name, rows=rows: pieces[name][rows]  # type: ignore[misc]


def _power_sum(n: FloatArray, p: float) -> FloatArray:
    """``1^p + ... + n^p`` for p = 1/2 or -1/2, any shape.

    Up to m = 128 the sum is tabulated. Beyond, by the formula of Euler and Maclaurin, it is the
    tabulated sum plus ``P(n) - P(m)`` with

        P(x) = x^(p+1) / (p+1) + x^p / 2 + p x^(p-1) / 12 - p (p-1) (p-2) x^(p-3) / 720
    """
    table = np.concatenate([[0.0], np.cumsum(np.arange(1, _N_TABULATED + 1) ** p)])

    def primitive(x: FloatArray) -> FloatArray:
        third = p * (p - 1) * (p - 2)
        return (
            x ** (p + 1) / (p + 1) + x**p / 2 + p * x ** (p - 1) / 12 - third * x ** (p - 3) / 720
        )

    start = np.float64(_N_TABULATED)
    far = table[_N_TABULATED] + primitive(np.maximum(n, start)) - primitive(np.asarray(start))
    return np.where(n <= _N_TABULATED, table[np.minimum(n, _N_TABULATED).astype(np.int64)], far)
