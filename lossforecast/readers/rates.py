"""`rate_column`: the column of the learning rate that counts, among several."""

from collections.abc import Mapping

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.readers.columns import is_rate, run_of
from lossforecast.readers.series import Series

__all__ = ["rate_column"]

_SAME = 1e-3  # of the peak: rates that differ by less are equal


def rate_column(series: Mapping[str, Series], loss: str, notes: list[str]) -> str | None:
    """The learning rate of the run of a loss; None if there is none.

    Parameter groups may have rates of their own. One that starts at its peak and falls while
    another rises, as the rate of biases may, only warms down: it is not taken. Of the others it is
    the first with the highest peak. `notes` gets a remark if the choice matters.

    Args:
        series: the columns that were read.
        loss: the column of the loss.
        notes: remarks for people, to which one may be added.
    """
    names = [name for name in series if is_rate(name) and run_of(name) in ("", run_of(loss))]
    columns = {name: _points(series[name]) for name in names}
    filled = {name: points for name, points in columns.items() if points[1].size}
    if not filled:
        return names[0] if names else None
    usual = [name for name, (_, rates) in filled.items() if not _warms_down(rates)]
    rises = any(filled[name][1].argmax() > 0 for name in usual)
    candidates = usual if rises else list(filled)
    chosen = max(candidates, key=lambda name: float(filled[name][1].max()))
    others = [name for name in filled if name != chosen]
    if any(_differ(filled[chosen], filled[name]) for name in others):
        listed = ", ".join(map(repr, others))
        notes.append(
            f"using {chosen!r} as the learning rate, the largest of {len(filled)}; name another "
            f"with --lr-column: {listed}"
            if len(candidates) == len(filled)
            else f"using {chosen!r} as the learning rate; others fall while it warms up, or are "
            f"smaller. Name another with --lr-column: {listed}"
        )
    return chosen


def _points(column: Series) -> tuple[FloatArray, FloatArray]:
    """Steps and rates, without those that are not finite, (n,) each."""
    bins = column.history.bins()
    finite = np.isfinite(bins.mean)
    return bins.step[finite].astype(float), bins.mean[finite]


def _warms_down(rates: FloatArray) -> bool:
    """True if a rate starts at its peak and falls at once."""
    return bool(rates.size > 1 and rates[0] == rates.max() and rates[1] < (1 - _SAME) * rates[0])


def _differ(chosen: tuple[FloatArray, FloatArray], other: tuple[FloatArray, FloatArray]) -> bool:
    """True if another rate is a different one after the chosen one has warmed up."""
    steps, rates = chosen
    peak = float(rates.max())
    after = steps >= steps[rates.argmax()]
    there = np.interp(steps[after], *other)
    return bool((np.abs(there - rates[after]) > _SAME * peak).any())
