"""`patience`: stop a run whose loss has stopped falling, unless it has still to anneal."""

import numpy as np
from numpy.typing import NDArray

from lossforecast.checks import non_negative, whole
from lossforecast.errors import ConfigurationError
from lossforecast.policies.recommendation import Policy, Reason, Recommendation, Situation, stopped
from lossforecast.runs import Bins
from lossforecast.status import Status

__all__ = ["patience"]


def patience(steps: int, min_delta: float = 0.0) -> Policy:
    """STOP when the loss has not fallen by `min_delta` for so many steps, on credit of the anneal.

    Patience as everybody knows it, but suspended while the drop that the decay of the learning rate
    is still to bring is expected to exceed `min_delta`: before the decay a loss may stand still for
    long and yet end lowest. Losses are compared as means over windows, a quarter of `steps` or
    1/128 of the run so far, so that the noise of single batches decides little.

    Args:
        steps: optimizer steps without an improvement, at least 1.
        min_delta: what counts as an improvement, in units of the loss.

    Raises:
        ConfigurationError: `steps` is no whole number above 0, or `min_delta` is negative.
    """
    most = whole("steps", steps, ConfigurationError, least=1)
    least = non_negative("min_delta", min_delta, ConfigurationError)

    def policy(situation: Situation) -> Recommendation | None:
        forecast = situation.forecast
        losses, ends = _windows(situation.history.bins(), most)
        if losses.size == 0 or forecast.status is Status.TOO_SHORT:
            return None
        before = ends <= ends[-1] - most
        if not before.any() or losses[~before].min() < losses[before].min() - least:
            return None
        credit = forecast.anneal_gain
        if credit.mean > least:
            return None
        return stopped(
            situation,
            Reason.NO_IMPROVEMENT,
            f"no improvement by more than {least:g} in {most} steps, and annealing is expected to "
            f"bring no more than {credit.mean:.3g}",
            confidence=1.0,
        )

    return policy


def _windows(bins: Bins, steps: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean losses of windows and their last steps, (n,) each; counted back from the present."""
    finite = np.isfinite(bins.mean)
    loss, at, count = bins.mean[finite], bins.last[finite], bins.count[finite]
    if loss.size == 0:
        return loss, at
    width = max(steps // 4, int(at[-1]) // 128, 1)
    ago = (at[-1] - at) // width
    sizes = np.bincount(ago, count)
    seen = np.flatnonzero(sizes)[::-1]
    means = np.bincount(ago, count * loss)[seen] / sizes[seen]
    return means, at[-1] - width * seen
