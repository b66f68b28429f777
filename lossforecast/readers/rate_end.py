"""`implied_end`: the step at which logged learning rates reach 0, for a log without a length."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.readers.rate_shape import SHAPES

__all__ = ["RateEnd", "implied_end"]

_TOLERANCE = 1e-3  # of the peak: largest distance of a logged rate from the decay
_SURELY_BETTER = 4.0  # times nearer than the decay of another shape
_ROUNDING = 2.5e-4  # of the peak: logged rates may have four digits only
_SAME_END = 0.02  # of the length: ends that differ by less are the same
_MIN_POINTS = 8  # of the decay
_MIN_FALL = 0.1  # of the peak
_MAX_RATIO = 50.0  # of the end to the last step
_PEAKS = np.linspace(1.0, 1.02, 21)  # of the largest logged rate: the peak may lie between two logs
_USUAL_ENDS = (0.1, 0.2, 0.05, 0.02, 0.01, 0.005)  # as shares of the peak: such a run is over
_ELAPSED: dict[str, Callable[[FloatArray], FloatArray]] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: np.arccos(2 * share - 1) / np.pi,
}
"""The share of the decay that is over, by the share of the fall that is left: `SHAPES` reversed."""


@dataclass(frozen=True)
class RateEnd:
    """Where a decay of logged learning rates ends.

    Attributes:
        step: the step at which they reach 0.
        shape: "linear" or "cosine".
        distance: largest distance of a logged rate from the decay, as a share of the peak.
    """

    step: int
    shape: str
    distance: float


def implied_end(steps: IntArray, rates: FloatArray) -> RateEnd | None:
    """The end of a linear or cosine decay to 0 that logged rates lie on.

    The share u of the decay that is over, ``1 - r`` or ``arccos(2 r - 1) / pi`` for a rate of r
    times the peak, is a line over the steps: the decay ends where that line reaches 1.

    Args:
        steps: steps of the rates, increasing, (n,).
        rates: the logged learning rates, (n,).

    Returns:
        None if no such decay was seen for long enough, if both shapes fit, or if the last rate is a
        usual one for the end of a run.
    """
    peak = float(rates.max(initial=0.0))
    if not 0 < peak < np.inf:
        return None
    last = int(np.flatnonzero(rates >= peak * (1 - _ROUNDING))[-1])
    at, shares = steps[last + 1 :].astype(float), rates[last + 1 :] / peak
    if at.size < _MIN_POINTS or shares[-1] > 1 - _MIN_FALL or shares[-1] <= _TOLERANCE:
        return None
    if (np.diff(shares) >= 0).any() or np.min(np.abs(shares[-1] - _USUAL_ENDS)) < _TOLERANCE:
        return None
    found = [end for shape in _ELAPSED if (end := _fit(shape, at, shares)) is not None]
    found.sort(key=lambda end: end.distance)
    if not found or found[0].distance > _TOLERANCE or found[0].step > _MAX_RATIO * at[-1]:
        return None
    best, others = found[0], found[1:]
    limit = max(_SURELY_BETTER * best.distance, _ROUNDING)
    unlike = [end for end in others if abs(end.step - best.step) > _SAME_END * best.step]
    return None if any(end.distance <= limit for end in unlike) else best


def _fit(shape: str, steps: FloatArray, shares: FloatArray) -> RateEnd | None:
    """The nearest decay of one shape to shares of the peak, (n,)."""
    elapsed_of, share_of = _ELAPSED[shape], SHAPES[shape]
    best: RateEnd | None = None
    for peak in _PEAKS:
        elapsed = elapsed_of(np.clip(shares / peak, 0.0, 1.0))
        slope, start = np.polyfit(steps - steps[0], elapsed, 1)
        if not slope > 0:
            continue
        fitted = peak * share_of(np.clip(start + slope * (steps - steps[0]), 0.0, 1.0))
        distance = float(np.abs(fitted - shares).max())
        end = steps[0] + (1 - start) / slope
        if end > steps[-1] and (best is None or distance < best.distance):
            best = RateEnd(round(end), shape, distance)
    return best
