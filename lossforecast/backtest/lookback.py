"""`look_back`: what would have been forecast and advised at each moment of a run that is over."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Action, Policy, Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import Ending, History, RunInfo, ending, observed, points
from lossforecast.schedule import LRSchedule

__all__ = [
    "LookBack",
    "Moment",
    "look_back",
]


_CHECKS = 100


@dataclass(frozen=True)
class Moment:
    """A check of the run.

    Attributes:
        step: optimizer steps taken.
        share: of the planned run.
        forecast: of the final loss, made then.
        advice: given then.
    """

    step: int
    share: float
    forecast: Forecast = field(repr=False)
    advice: Recommendation

    def to_dict(self, truth: float | None) -> dict[str, Any]:
        """Plain JSON-able values, with the error where the outcome is known."""
        mean = self.forecast.mean
        return {
            "share": self.share,
            **self.forecast.summary(),
            "made_at": self.step,
            "error": None if truth is None or mean != mean else mean / truth - 1,
            **self.advice.to_dict(),
        }


@dataclass(frozen=True)
class LookBack:
    """A run looked back on.

    Attributes:
        history: all losses.
        moments: the checks, about 100.
        outcome: the end of the run; None where it broke or did not get to its planned end.
        total_steps: as planned.
        target: the final loss hoped for, if any.
        broke_after: the last step with a finite loss, of a run that ends in nan.
    """

    history: History = field(repr=False)
    moments: list[Moment] = field(repr=False)
    outcome: Ending | None
    total_steps: int
    target: float | None
    broke_after: int | None = None

    @property
    def stop(self) -> Moment | None:
        """When it would have been stopped first, if ever."""
        wanted = (each for each in self.moments if each.advice.action is Action.STOP)
        return next(wanted, None)

    @property
    def saved(self) -> float:
        """Share of the planned compute that stopping would have saved."""
        return 0.0 if self.stop is None else max(1 - self.stop.share, 0.0)

    @property
    def rightly(self) -> bool | None:
        """Whether the run missed the target in the end; None where nobody knows."""
        if self.stop is None or self.target is None or self.outcome is None:
            return None
        return self.outcome.loss > self.target

    def seen(self, moment: Moment) -> History:
        """The losses that had been seen at a moment."""
        steps, losses = points(self.history)
        history = History()
        history.observe_many(steps[steps < moment.step], losses[steps < moment.step])
        return history

    def at(self, share: float) -> Moment:
        """The check nearest to a share of the run."""
        return min(self.moments, key=lambda each: abs(each.share - share))


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
    """Forecast and advise again at about 100 moments of a run, each from what came before it.

    The forecast is of the loss at the step of the outcome, such as the middle of the last 2%.

    Args:
        history: all losses.
        plan: the learning rate of every step.
        run: what is known of the run.
        prior: what is believed beforehand; None is the packaged prior.
        target: the final loss hoped for.
        policies: by default the target miss.
        steps_taken: by the run, where it went on after its last loss.

    Raises:
        ConfigurationError: fewer than two finite losses.
    """
    steps, losses = points(history)
    if steps.size < 2:
        raise ConfigurationError(f"the log has {steps.size} finite losses: at least 2 are needed")
    total, run = plan.total_steps, run or RunInfo()
    broke_after = int(steps[-1]) if history.non_finite_run else None
    end = ending(history, total, steps_taken)
    if end is not None and end.loss == 0:  # there is no error relative to it
        end = None
    steps, losses = observed(history)
    forecaster = Forecaster(plan, run, prior=prior)
    chosen = None if policies is None else list(policies)
    moments: list[Moment] = []
    begin = 0
    for check in np.unique(np.rint(np.linspace(0, total, _CHECKS + 1)[1:]).astype(int)):
        upto = int(np.searchsorted(steps, check, side="left"))
        if upto > begin:
            forecaster.observe_many(steps[begin:upto], losses[begin:upto])
            forecast = forecaster.forecast(step=None if end is None else end.step)
            advice = forecaster.recommend(target, chosen)
            moments.append(Moment(int(check), check / total, forecast, advice))
        begin = upto
    return LookBack(history, moments, end, total, target, broke_after)
