"""Policies that always apply: `non_finite` and `diverged` stop a run that is broken."""

import numpy as np

from lossforecast.policies.recommendation import Reason, Recommendation, Situation, stopped
from lossforecast.runs import Bins

__all__ = ["diverged", "non_finite"]

_NON_FINITE_IN_A_ROW = 10  # losses; a gradient scaler that skips steps recovers from fewer
_NON_FINITE_IN_A_ROW_SPARSE = 3  # losses, on a metric that has been logged only a few times
_SPARSE_BELOW = 30  # bins in the history
_DIVERGED_BINS = 10  # latest bins that must all be high; fewer in a short history
_MIN_DIVERGED_BINS = 3
_DIVERGED_GAIN_LOST = 0.5  # share of the improvement so far, as a rise above the start
_DIVERGED_JUMPS = 10  # the same rise in typical differences between neighbouring bins
_DIVERGED_RATIO = 1.5  # the latest losses over the typical one before
_RECOVERING_SHARE = 0.1  # of the rise, won back within the latest bins: it may well go on
_MAX_PROB_RECOVERED = 0.25  # of ending below the first losses; forecasts after a rise are wide


def non_finite(situation: Situation) -> Recommendation | None:
    """STOP when the last ten losses are nan or infinite; the last three on a sparse metric."""
    run = situation.history.non_finite_run
    sparse = len(situation.history) < _SPARSE_BELOW and situation.history.n_observed
    if run < (_NON_FINITE_IN_A_ROW_SPARSE if sparse else _NON_FINITE_IN_A_ROW):
        return None
    message = f"the last {run} losses are nan or infinite: the run is broken"
    return stopped(situation, Reason.NON_FINITE, message, confidence=1.0)


def diverged(situation: Situation) -> Recommendation | None:
    """STOP when the loss has risen far, and is not forecast to fall back below its first values.

    With m the means of the bins, s their running median of three, d the median of
    |m[i + 1] - m[i]| and l the median of |m| before the latest bins, the loss has risen far if

        min(m[-10:]) > max(s[0] + max((s[0] - min s) / 2, 10 d), 1.5 l)

    and the last five of these bins have not won back a tenth of the rise. A new warm-up, a new
    schedule after annealed weights, or other data raise the loss for a while, too; there, the
    forecast knows that the rate will fall again. After an event, at which the loss may jump, all of
    this must hold for the bins since then as well.
    """
    bins, event = situation.history.bins(), situation.history.latest_event
    found = _rise(bins)
    if found is not None and event:
        found = _rise(bins.since(event))
    if found is None:
        return None
    start, recent, best = found
    prob_recovered = situation.forecast.prob_below(start)
    if prob_recovered > _MAX_PROB_RECOVERED:
        return None
    message = f"diverged: the loss is at {recent:.4g} or more, from a best of {best:.4g}"
    return stopped(situation, Reason.DIVERGED, message, confidence=1 - prob_recovered)


def _rise(bins: Bins) -> tuple[float, float, float] | None:
    """The first, the lowest of the latest and the best loss of a run that has risen far."""
    mean = bins.mean[np.isfinite(bins.mean)]
    n_latest = min(_DIVERGED_BINS, mean.size // 4)
    if n_latest < _MIN_DIVERGED_BINS:
        return None
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(mean, 3), axis=-1)
    best, start, recent = float(smooth.min()), float(smooth[0]), float(mean[-n_latest:].min())
    jump = float(np.median(np.abs(np.diff(mean))))
    limit = start + max(_DIVERGED_GAIN_LOST * (start - best), _DIVERGED_JUMPS * jump)
    level = float(np.median(np.abs(mean[:-n_latest])))
    earlier, later = np.array_split(mean[-n_latest:], 2)
    won_back = float(np.median(earlier) - np.median(later))
    recovering = won_back > _RECOVERING_SHARE * (float(np.median(earlier)) - start)
    high = recent > max(limit, _DIVERGED_RATIO * level) and not recovering
    return (start, recent, best) if high else None
