"""`look_back`: replay a finished run, with the forecast and the advice of each moment."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Action, Policy, Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import History, Outcome, RunInfo, observed, outcome_of, points
from lossforecast.schedule import LRSchedule

__all__ = [
    "LookBack",
    "Moment",
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
    """

    step: int
    share: float
    forecast: Forecast = field(repr=False)
    advice: Recommendation

    def to_dict(self, truth: float | None) -> dict[str, Any]:
        """Plain JSON-able values, with ``median / truth - 1`` if the outcome `truth` is known."""
        median = self.forecast.median
        return {
            "share": self.share,
            **self.forecast.summary(),
            "made_at": self.step,
            "error": None if truth is None or median != median else median / truth - 1,
            **self.advice.to_dict(),
        }


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
        """True if the stop was right: the run missed the target; None if that is unknown."""
        if self.stop is None or self.target is None or self.outcome is None:
            return None
        return self.outcome.loss > self.target

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
    """Forecast and advise at about 100 moments of a finished run, each from the losses before it.

    The forecast is of the loss at the step of the outcome, such as the middle of the last 2%.

    Args:
        history: all losses, and the events; each is known from its step on.
        plan: the learning rate of every step.
        run: description of the run.
        prior: beliefs before the first loss; None is the packaged prior.
        target: the final loss to reach.
        policies: policies to ask; by default `target_miss`.
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
    if end is not None and end.loss == 0:  # there is no error relative to it
        end = None
    steps, losses = observed(history)
    forecaster = Forecaster(plan, run, prior=prior)
    chosen = None if policies is None else list(policies)
    moments: list[Moment] = []
    before = 0
    for check in np.unique(np.rint(np.linspace(0, total, _CHECKS_PER_RUN + 1)[1:]).astype(int)):
        n_seen = int(np.searchsorted(steps, check, side="left"))
        if n_seen > before:
            for step, name in history.events:
                if step <= check:
                    forecaster.event(step, name)
            forecaster.observe_many(steps[before:n_seen], losses[before:n_seen])
            forecast = forecaster.forecast(step=None if end is None else end.step)
            advice = forecaster.recommend(target, chosen)
            moments.append(Moment(int(check), check / total, forecast, advice))
        before = n_seen
    return LookBack(
        history=history,
        moments=moments,
        outcome=end,
        total_steps=total,
        target=target,
        broke_after=broke_after,
    )
