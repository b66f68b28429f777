"""The losses of a history as arrays."""

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.runs.history import History

__all__ = ["observed", "points", "same_losses"]

_MAX_BROKEN_STEPS = 1_000  # steps with a nan loss that `observed` adds at the end
_SAME_LOSS_TOLERANCE = 1e-4  # relative difference of the losses of one run that is stored twice


def points(history: History) -> tuple[IntArray, FloatArray]:
    """Steps and finite losses, (n,) each: means where a bin holds several."""
    bins = history.bins()
    steps = np.where(bins.count > 1, np.rint(bins.step).astype(np.int64), bins.last)
    sound = np.isfinite(bins.mean)
    return steps[sound], bins.mean[sound]


def same_losses(one: tuple[IntArray, FloatArray], other: tuple[IntArray, FloatArray]) -> bool:
    """Return whether two runs, steps and losses (n,) each, are the same run stored twice."""
    return np.array_equal(one[0], other[0]) and np.allclose(
        one[1], other[1], rtol=_SAME_LOSS_TOLERANCE, atol=0.0
    )


def observed(history: History) -> tuple[IntArray, FloatArray]:
    """The `points`, then nan at (up to 1,000) steps after the last finite loss of a broken run."""
    steps, losses = points(history)
    broken = _broken_end(history, int(steps[-1]) if steps.size else -1)
    return np.append(steps, broken), np.append(losses, np.full(broken.size, np.nan))


def _broken_end(history: History, last: int) -> IntArray:
    """Steps after the last finite loss, if the losses observed there were nan or infinite."""
    n_steps = min(history.non_finite_run, history.last_step - last, _MAX_BROKEN_STEPS)
    steps = np.linspace(last + 1, history.last_step, n_steps).astype(np.int64)
    broken: IntArray = np.unique(steps)
    return broken
