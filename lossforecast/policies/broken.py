"""Policies that stop a run which is broken: `non_finite` and `diverged`."""

import numpy as np

from lossforecast.policies.recommendation import Reason, Recommendation, Situation, stopped

__all__ = ["diverged", "non_finite"]

_BROKEN_RUN = 10  # non-finite losses in a row: a loss scaler recovers from fewer
_DIVERGED_RUN = 10  # bins in a row above every sensible level


def non_finite(situation: Situation) -> Recommendation | None:
    """STOP when the last ten losses (all of them, on a sparse metric: three) are not finite."""
    run = situation.history.non_finite_run
    sparse = len(situation.history) < 3 * _BROKEN_RUN
    if run < (3 if sparse and situation.history.n_observed else _BROKEN_RUN):
        return None
    message = f"the last {run} losses are nan or infinite: the run is broken"
    return stopped(situation, Reason.NON_FINITE, message, confidence=1.0)


def diverged(situation: Situation) -> Recommendation | None:
    """STOP when the latest losses all lie far above the best and above where the run began."""
    bins = situation.history.bins()
    mean = bins.mean[np.isfinite(bins.mean)]
    run = min(_DIVERGED_RUN, mean.size // 4)
    if run < 3:
        return None
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(mean, 3), axis=-1)
    best, start, recent = float(smooth.min()), float(smooth[0]), float(mean[-run:].min())
    usual = float(np.median(np.abs(np.diff(mean))))
    # above the start by half of all that was gained, and by far more than neighbours differ
    if recent <= start + max(0.5 * (start - best), 10 * usual):
        return None
    message = f"diverged: the loss is at {recent:.4g} or more, from a best of {best:.4g}"
    return stopped(situation, Reason.DIVERGED, message, confidence=1.0)
