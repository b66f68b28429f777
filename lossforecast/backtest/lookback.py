"""`look_back`: replay a finished run, with the forecast and the advice at each moment."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Action, Policy, Reason, Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import (
    History,
    Outcome,
    RunInfo,
    lowest_loss,
    observed,
    outcome_of,
    points,
)
from lossforecast.schedule import LRSchedule

__all__ = [
    "LookBack",
    "Moment",
    "Tally",
    "look_back",
]

_CHECKS_PER_RUN = 100


@dataclass(frozen=True)
class Moment:
    """One check of the run.

    Attributes:
        step: optimizer steps taken.
        share: share of the planned steps taken.
        forecast: forecast of the final loss at that moment.
        advice: recommendation at that moment.
        last_value: the latest finite loss by then.
    """

    step: int
    share: float
    forecast: Forecast = field(repr=False)
    advice: Recommendation
    last_value: float

    def to_dict(self, truth: float | None) -> dict[str, Any]:
        """Plain JSON-able values, with errors ``value / truth - 1`` if the outcome is known."""
        return {
            "share": self.share,
            **self.forecast.summary(),
            "made_at": self.step,
            "error": _relative_error(self.forecast.median, truth),
            "last_value": self.last_value,
            "last_value_error": _relative_error(self.last_value, truth),
            **self.advice.to_dict(),
        }


@dataclass(frozen=True)
class Tally:
    """How the forecasts of a run compare with its last values and with its outcome.

    Attributes:
        n: number of checks before the end of the run.
        forecast_nearer: how often the forecast was nearer to the outcome than the last value.
        last_value_nearer: how often the last value was nearer.
        inside80: how often the 80% interval held the outcome.
        inside95: how often the 95% interval held it.
    """

    n: int
    forecast_nearer: int
    last_value_nearer: int
    inside80: int
    inside95: int


@dataclass(frozen=True)
class LookBack:
    """A replayed run.

    Attributes:
        history: all losses.
        moments: the checks, about 100.
        outcome: the end of the run; None if it diverged or did not reach its planned end.
        total_steps: planned number of optimizer steps.
        target: the final loss to reach, if any.
        broke_after: the last step with a finite loss, if the losses after it are not finite.
    """

    history: History = field(repr=False)
    moments: list[Moment] = field(repr=False)
    outcome: Outcome | None
    total_steps: int
    target: float | None
    broke_after: int | None = None

    @property
    def stop(self) -> Moment | None:
        """The first moment at which the advice is to stop, if any."""
        stops = (moment for moment in self.moments if moment.advice.action is Action.STOP)
        return next(stops, None)

    @property
    def saved(self) -> float:
        """Share of the planned steps that stopping would have saved; 0 if there is no stop."""
        return 0.0 if self.stop is None else max(1 - self.stop.share, 0.0)

    @property
    def rightly(self) -> bool | None:
        """True if the stop was right; None if that is unknown.

        It was if the run missed the target or, where it was stopped for overfitting, if no later
        mean of three validation losses was below the lowest one before.
        """
        if self.stop is None:
            return None
        if self.stop.advice.reason is Reason.OVERFITTING:
            minimum = self.stop.forecast.minimum
            later = lowest_loss(self.history.bins().since(self.stop.step))
            return None if minimum is None or later is None else later[1] >= minimum.so_far
        if self.target is None or self.outcome is None:
            return None
        return self.outcome.loss > self.target

    @property
    def tally(self) -> Tally | None:
        """The forecasts before the end against the last values; None without an outcome."""
        if self.outcome is None:
            return None
        truth, first = self.outcome.loss, self.outcome.first_step
        before = [moment for moment in self.moments if moment.step <= first]
        by_forecast = [abs(moment.forecast.median - truth) for moment in before]
        by_last = [abs(moment.last_value - truth) for moment in before]
        inside = [
            [low <= truth <= high for low, high in (m.forecast.interval(level) for m in before)]
            for level in (0.8, 0.95)
        ]
        return Tally(
            n=len(before),
            forecast_nearer=sum(a < b for a, b in zip(by_forecast, by_last, strict=True)),
            last_value_nearer=sum(a > b for a, b in zip(by_forecast, by_last, strict=True)),
            inside80=sum(inside[0]),
            inside95=sum(inside[1]),
        )

    def seen(self, moment: Moment) -> History:
        """The losses seen before a moment, and the events until then."""
        steps, losses = points(self.history)
        history = History()
        for step, name in self.history.events:
            if step <= moment.step:
                history.event(step, name)
        history.observe_many(steps[steps < moment.step], losses[steps < moment.step])
        return history

    def at(self, share: float) -> Moment:
        """The check nearest to a share of the planned steps."""
        return min(self.moments, key=lambda moment: abs(moment.share - share))


def look_back(
    history: History,
    plan: LRSchedule,
    run: RunInfo | None = None,
    *,
    prior: Prior | None = None,
    target: float | None = None,
    policies: Iterable[Policy] | None = None,
    steps_taken: int | None = None,
) -> LookBack:
    """Forecast and advise at about 100 moments of a run, each from the losses before it.

    The forecast is of the loss at the step of the outcome, such as the middle of the last 2%. The
    last moment of a run that has not finished is the present one.

    Args:
        history: all losses, and the events; each is visible from its step on.
        plan: the learning rate of every step.
        run: description of the run.
        prior: beliefs before the first loss; None is the packaged prior.
        target: the final loss to reach.
        policies: policies to ask; by default `lossforecast.policies.DEFAULT_POLICIES`.
        steps_taken: optimizer steps the run took, if it continued after its last loss.

    Raises:
        ConfigurationError: fewer than two finite losses.
    """
    steps, losses = points(history)
    if steps.size < 2:
        raise ConfigurationError(f"the log has {steps.size} finite losses; at least 2 are needed")
    total, run = plan.total_steps, run or RunInfo()
    broke_after = int(steps[-1]) if history.non_finite_run else None
    end = outcome_of(history, total, steps_taken)
    steps, losses = observed(history)
    forecaster = Forecaster(plan, run, prior=prior)
    chosen = None if policies is None else list(policies)
    moments: list[Moment] = []
    checks = np.unique(np.rint(np.linspace(0, total, _CHECKS_PER_RUN + 1)[1:]).astype(int))
    n_seen = np.searchsorted(steps, checks, side="left")
    due = np.diff(n_seen, prepend=0) > 0
    if end is None and broke_after is None:  # not finished: the last check is at the present step
        now = min(max(history.last_step, steps_taken or 0), total)
        due &= checks < now
        checks, n_seen = np.append(checks[due], now), np.append(n_seen[due], steps.size)
        due = np.ones(checks.size, bool)
    before = 0
    for check, n in zip(checks[due].tolist(), n_seen[due].tolist(), strict=True):
        for step, name in history.events:
            if step <= check:
                forecaster.event(step, name)
        forecaster.observe_many(steps[before:n], losses[before:n])
        forecast = forecaster.forecast(step=None if end is None else end.step)
        advice = forecaster.recommend(target, chosen)
        last = float(losses[:n][np.isfinite(losses[:n])][-1])
        moments.append(Moment(check, check / total, forecast, advice, last))
        before = n
    return LookBack(
        history=history,
        moments=moments,
        outcome=end,
        total_steps=total,
        target=target,
        broke_after=broke_after,
    )


def _relative_error(value: float, truth: float | None) -> float | None:
    """The error as a share of the outcome; None if either is missing, or the outcome is 0."""
    return None if not truth or not math.isfinite(value) else value / truth - 1
