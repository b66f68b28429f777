"""Where a curve through given points crosses a level."""

import math

from lossforecast.arrays import FloatArray

__all__ = ["first_below"]


def first_below(at: FloatArray, values: FloatArray, level: float) -> float:
    """Return where the polyline through n points first falls below a level; nan if it never does.

    Args:
        at: ascending places of the points, (n,).
        values: their values, (n,); points of value nan are left out.
        level: the level.
    """
    before: tuple[float, float] | None = None
    for place, value in zip(at.tolist(), values.tolist(), strict=True):
        if math.isnan(value):
            continue
        if value < level:
            if before is None:
                return float(place)
            share = (before[1] - level) / (before[1] - value)
            # the difference of huge values overflows
            return before[0] + share * (place - before[0]) if math.isfinite(share) else float(place)
        before = place, value
    return math.nan
