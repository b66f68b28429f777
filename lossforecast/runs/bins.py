"""`Bins`: groups of losses, and the columns of sums that a `History` keeps of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.arrays import FloatArray, IntArray

__all__ = ["COLUMNS", "MAX_DIFFERENCE", "Bins", "bins_of", "difference", "merged"]

COLUMNS: dict[str, type] = {
    "first": np.int64,  # first and last step seen in the bin
    "last": np.int64,
    "count": np.int64,
    "step_sum": np.float64,
    "origin": np.float64,  # the bin's first loss; sums are of differences from it
    "total": np.float64,
    "square": np.float64,
    "lr": np.float64,  # the last learning rate known in the bin, or nan
}
"""Columns of n bins, each (n,), by name, with their types."""
MAX_DIFFERENCE = 1e120
"""Differences of losses are clipped there: sums of squares stay finite."""


@dataclass(frozen=True)
class Bins:
    """Consecutive groups of observations, in the order of their steps; every array is (n,)."""

    first: IntArray
    last: IntArray
    count: IntArray
    step: FloatArray
    """Mean step."""
    mean: FloatArray
    """Mean loss."""
    variance: FloatArray
    """Sample variance of the losses inside the bin; nan where count is 1."""
    lr: FloatArray
    """Learning rate at `last`, nan where it was not given."""

    def since(self, step: int) -> "Bins":
        """The bins that begin at `step` or later."""
        kept = self.first >= step
        return Bins(**{name: values[kept] for name, values in vars(self).items()})


def bins_of(columns: Mapping[str, NDArray[Any]]) -> Bins:
    """The bins whose sums are in these columns, (n,) each."""
    c = columns
    count = np.maximum(c["count"], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = c["origin"] + c["total"] / count
        variance = (c["square"] - c["total"] ** 2 / count) / (c["count"] - 1)
        variance = np.where(c["count"] > 1, np.maximum(variance, 0.0), np.nan)
    step = c["step_sum"] / count
    return Bins(
        first=c["first"],
        last=c["last"],
        count=c["count"],
        step=step,
        mean=mean,
        variance=variance,
        lr=c["lr"],
    )


def merged(columns: Mapping[str, NDArray[Any]], starts: IntArray) -> dict[str, NDArray[Any]]:
    """The columns of groups of neighbouring bins, each merged into one bin, (m,) each.

    Args:
        columns: the columns of n bins.
        starts: index of the first bin of each group, increasing from 0, (m,).
    """
    c = columns
    size = c["first"].size
    ends = np.append(starts[1:], size) - 1
    shift = difference(c["origin"], np.repeat(c["origin"][starts], ends - starts + 1))
    n, total, square = c["count"], c["total"], c["square"]
    sums = {
        "count": n,
        "step_sum": c["step_sum"],
        "total": total + n * shift,
        "square": square + 2 * shift * total + n * shift * shift,
    }
    latest = np.maximum.accumulate(np.where(np.isnan(c["lr"]), 0, np.arange(size)))[ends]
    return {
        "first": c["first"][starts],
        "last": c["last"][ends],
        "origin": c["origin"][starts],
        "lr": np.where(latest >= starts, c["lr"][latest], np.nan),
        **{name: np.add.reduceat(values, starts) for name, values in sums.items()},
    }


def difference(loss: ArrayLike, origin: ArrayLike) -> FloatArray:
    """Differences of losses from the origins of their bins, clipped."""
    with np.errstate(over="ignore"):
        return np.clip(np.subtract(loss, origin), -MAX_DIFFERENCE, MAX_DIFFERENCE)
