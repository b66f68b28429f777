"""`patience`: stop a run whose loss has stopped falling, unless it has still to anneal."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from lossforecast.checks import non_negative, whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.policies.recommendation import Policy, Reason, Recommendation, Situation, stopped
from lossforecast.runs import Bins
from lossforecast.status import Caveat, Status

__all__ = ["patience"]

_WINDOWS_PER_PATIENCE = 4
_MAX_WINDOWS_PER_RUN = 128  # a window averages at least this share of the run so far


def patience(steps: int, min_delta: float = 0.0) -> Policy:
    """STOP after `steps` steps without improvement, unless annealing is expected to bring one.

    This is the usual patience, suspended while the drop that the decay of the learning rate is
    still to bring is expected to exceed `min_delta`: a loss may be flat for a long time before the
    decay and still end lowest. Losses are compared as means over windows of steps / 4 or 1/128 of
    the run so far, whichever is longer, which averages out most of the noise of single batches.
    After an event, at which the loss may jump, the patience starts anew.

    Args:
        steps: optimizer steps without an improvement, at least 1.
        min_delta: smallest fall of the loss that counts as an improvement, in units of the loss.

    Raises:
        ConfigurationError: `steps` is not a whole number above 0, or `min_delta` is negative.
    """
    max_steps = whole("steps", steps, ConfigurationError, least=1)
    delta = non_negative("min_delta", min_delta, ConfigurationError)

    return partial(_policy, max_steps=max_steps, delta=delta)


def _is_too_early(forecast: Forecast) -> bool:
    """Return whether the rest of the run will differ from what was seen, whatever the forecast."""
    repeated = {Caveat.REPEATED_DATA, Caveat.MEMORISING} & set(forecast.caveats)
    return forecast.status is Status.TOO_SHORT or bool(repeated)


def _policy(situation: Situation, max_steps: int, delta: float) -> Recommendation | None:
    forecast = situation.forecast
    history = situation.history
    losses, ends = _windows(history.bins().since(history.latest_event), max_steps)
    if losses.size == 0 or _is_too_early(forecast):
        return None
    before = ends <= ends[-1] - max_steps
    if not before.any() or losses[~before].min() < losses[before].min() - delta:
        return None
    drop = forecast.anneal_gain
    if drop.mean > delta:
        return None
    return stopped(
        situation,
        Reason.NO_IMPROVEMENT,
        f"no improvement by more than {delta:g} in {max_steps} steps, and annealing is "
        f"expected to bring no more than {drop.mean:.3g}",
        confidence=1.0,
    )


def _windows(bins: Bins, steps: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean losses (n,) of windows counted back from the last step, and their last steps (n,)."""
    finite = np.isfinite(bins.mean)
    loss, last, count = bins.mean[finite], bins.last[finite], bins.count[finite]
    if loss.size == 0:
        return loss, last
    width = max(steps // _WINDOWS_PER_PATIENCE, int(last[-1]) // _MAX_WINDOWS_PER_RUN, 1)
    windows_ago = (last[-1] - last) // width
    sizes = np.bincount(windows_ago, count)
    filled = np.flatnonzero(sizes)[::-1]
    means = np.bincount(windows_ago, count * loss)[filled] / sizes[filled]
    return means, last[-1] - width * filled
