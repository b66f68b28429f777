"""Hindsight: errors of earlier forecasts of a run, in units of their own standard deviations.

At steps o that grow by a quarter each, the run is fitted with the losses up to o alone, and the
mean loss between 1.25 o and 1.56 o is forecast. With h the error of that forecast over its standard
deviation, noise of the mean included,

    surprise = sqrt(mean of h^2)

over the latest three windows that have ended. These forecasts are not calibrated, so that the
calibration can be learned for forecasts that hindsight has widened.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lossforecast.numerics import NO_CALIBRATION
from lossforecast.posterior import Posterior
from lossforecast.runs import History, effective_schedule, gather
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["Hindsight"]

_RATIO = 1.25  # of an origin to the one before
_FIRST_ORIGIN = 8
_WINDOWS = 3
_MIN_BINS = 6  # of losses, for a forecast
_MAX_ERROR = 20.0  # in standard deviations
_SIDES = np.array([0.1, 0.5, 0.9])
_STDS_BETWEEN_SIDES = 2.563  # of a normal distribution
_TINY = 1e-300

Fit = Callable[[History, LRSchedule], Posterior]


class Hindsight:
    """Errors of earlier forecasts, each computed once.

    The result depends on the losses and the plan alone, not on when forecasts were made.
    """

    def __init__(self) -> None:
        self._plan: LRSchedule | None = None
        self._errors: dict[tuple[int, int], float | None] = {}

    def surprise(self, history: History, plan: LRSchedule, fit: Fit) -> float:
        """Root mean square of the latest errors in standard deviations; 0 if there are none.

        Args:
            history: the losses so far.
            plan: the planned learning rates.
            fit: the posterior given a history and the schedule that it followed.
        """
        assumed = Caveat.LR_ASSUMED in plan.caveats
        if plan is not self._plan and not assumed:
            self._plan, self._errors = plan, {}
        known, self._errors = self._errors, {}
        bins = history.bins()
        for origin, start, end in _windows(history.last_step):
            n_bins = int(np.searchsorted(bins.last, end, side="right"))
            planned, rates = _as_assumed_at(plan, end) if assumed else (plan, b"")
            key = origin, hash((n_bins, history.events, bins.mean[:n_bins].tobytes(), rates))
            if key not in known:
                known[key] = _error(history.until(end), planned, fit, origin, start)
            self._errors[key] = known[key]
        errors = [error for error in self._errors.values() if error is not None]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0


def _as_assumed_at(plan: LRSchedule, step: int) -> tuple[LRSchedule, bytes]:
    """An assumed plan as it was at a step, with its rate there held, and a key that identifies it.

    So a correction of the assumed rate at a later step changes no error.
    """
    then = plan
    if step < plan.total_steps:
        held = LRSchedule.constant(plan.total_steps, float(plan.lr(step)))
        then = plan.joined(step, held.with_caveats(Caveat.LR_ASSUMED))
    return then, b"".join(part.tobytes() for part in then.knots)


def _windows(now: int) -> list[tuple[int, int, int]]:
    """Origin, start and end of the latest windows that are over."""
    if now < _FIRST_ORIGIN:
        return []
    n_steps = int(np.log(now / _FIRST_ORIGIN) / np.log(_RATIO)) + 2
    grid = np.ceil(_FIRST_ORIGIN * _RATIO ** np.arange(n_steps)).astype(int).tolist()
    over = [each for each in zip(grid, grid[1:], grid[2:], strict=False) if each[2] <= now]
    return over[-_WINDOWS:]


def _error(past: History, plan: LRSchedule, fit: Fit, origin: int, start: int) -> float | None:
    """Error of the mean loss after step `start`, forecast at `origin`; None if there is none.

    Args:
        past: the losses up to the end of the window.
        plan: the planned learning rates.
        fit: as in `Hindsight.surprise`.
        origin: step at which the forecast is made.
        start: step after which the losses are averaged.
    """
    seen = past.until(origin)
    if np.isfinite(seen.bins().mean).sum() < _MIN_BINS or (past.event_steps > origin).any():
        return None
    followed = effective_schedule(plan, past)
    posterior = fit(seen, followed)
    bins = past.bins()
    evidence = gather(bins, followed, posterior.beliefs.burn_in, past.event_steps)
    inside = evidence.step > start
    if not inside.any():
        return None
    step, loss, variance = (x[inside] for x in (evidence.step, evidence.loss, evidence.variance))
    least = max(float(variance.min()), np.finfo(float).tiny)
    weight = least / np.maximum(variance, least)
    came = np.average(loss, weights=weight)
    at = round(np.average(step, weights=weight))
    beliefs = replace(posterior.beliefs, calibration=NO_CALIBRATION)
    mixture = replace(posterior, beliefs=beliefs).predict(followed, np.array([at]))
    lower, median, upper = mixture.quantiles(_SIDES)[:, 0]
    noise = evidence.noise / np.sqrt(bins.count[bins.last > start].sum())
    if mixture.logarithmic and came > noise:
        noise /= came
        lower, median, upper, came = np.log(np.maximum([lower, median, upper, came], _TINY))
    error = (came - median) / np.hypot((upper - lower) / _STDS_BETWEEN_SIDES, noise)
    return float(np.clip(error, -_MAX_ERROR, _MAX_ERROR))
