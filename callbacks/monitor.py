"""What all adapters share: a forecaster inside somebody's training run, which it never harms."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.trail import Trail
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.recommend import Action, Policy, Recommendation, aimed, listed
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

if TYPE_CHECKING:
    from lossforecast.callbacks.recorder import RunRecorder

__all__ = [
    "RunMonitor",
    "Sink",
    "Update",
    "adopt",
    "assumed",
    "follow",
    "guarded",
    "listed_sinks",
    "released",
    "switch_off",
]

logger = logging.getLogger("lossforecast")

_SHOWN = 256  # bins of losses that sinks are told

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Update:
    """A new forecast and what to do about it, as sinks get them.

    Attributes:
        step: optimizer steps taken when the forecast was made.
        forecast: of the final loss.
        recommendation: what to do.
        target: the final loss hoped for, if any.
        forecaster: a copy of it as it was then, its losses thinned.
        trail: all forecasts so far, this one last, as rows of a `Trail`.
    """

    step: int
    forecast: Forecast
    recommendation: Recommendation
    target: float | None
    forecaster: Forecaster = field(repr=False)
    trail: tuple[dict[str, Any], ...] = field(repr=False)


Sink = Callable[[Update], None]


def guarded(method: Callable[P, R]) -> Callable[P, R | None]:
    """Let no exception out of a method: log the first with its traceback and switch off.

    The object's `switched_off` is set, and from then on guarded methods return None at once.
    """

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        owner: Any = args[0]
        if owner.switched_off:
            return None
        try:
            return method(*args, **kwargs)
        except Exception:
            switch_off(owner)
            return None

    return call


def switch_off(owner: Any) -> None:
    """Forecast no more, and log the exception that is being handled."""
    owner.switched_off = True
    logger.exception("forecasting failed and is switched off; training goes on")


def listed_sinks(sinks: Iterable[Sink]) -> list[Sink]:
    """The sinks; a ConfigurationError if they cannot be called."""
    each = list(sinks) if isinstance(sinks, Iterable) else [None]
    if not all(map(callable, each)):
        raise ConfigurationError(
            f"sinks must be functions of an update, in a list such as [print], not {sinks!r:.60}"
        )
    return each


def released(*steps: Callable[[], object]) -> None:
    """Do each of these at the end of a run, whatever becomes of the others; log what they raise."""
    for step in steps:
        try:
            step()
        except Exception:
            logger.exception("the end of a run was not taken note of; all else goes on")


class RunMonitor:
    """Forecasts, recommends and tells the sinks.

    Args:
        forecaster: the forecaster.
        target: the final loss hoped for.
        policy: one or more policies instead of the default.
        sinks: called with every `Update`; one that raises is dropped, and logged once.
        recorder: writes what is forecast into a store, whose best run is the target if none is
            given.

    Raises:
        ConfigurationError: a target that is no finite loss, or policies that cannot be called.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        target: float | None = None,
        policy: Policy | Iterable[Policy] | None = None,
        sinks: Iterable[Sink] = (),
        recorder: "RunRecorder | None" = None,
    ) -> None:
        self.policies = listed(policy)
        self.forecaster = forecaster
        self._aim = aimed(target)
        self.recorder = recorder
        self.sinks = list(sinks)
        self.trail = Trail()
        self.forecast: Forecast | None = None
        self.recommendation: Recommendation | None = None

    @property
    def target(self) -> float | None:
        """The final loss hoped for: as given, or where the best comparable past run ended."""
        if self._aim is None and self.recorder is not None:
            return self.recorder.target
        return self._aim

    def judge(self, step: int, present_rate: float) -> Update:
        """Forecast, recommend, log a change of mind.

        Args:
            step: optimizer steps taken.
            present_rate: learning rate of the next step; a plan that only assumes the rate follows.
        """
        follow(self.forecaster, step, present_rate)
        before = self.recommendation
        self.forecast = self.forecaster.forecast()
        self.recommendation = self.forecaster.recommend(self.target, self.policies)
        if before is None or before.action != self.recommendation.action:
            level = logging.INFO
            if self.recommendation.action in (Action.STOP, Action.CHANGE_SCHEDULE):
                level = logging.WARNING
            logger.log(level, "step %d: %s", step, self.recommendation.message)
        if self.recorder is not None:
            self.recorder.note(step, self.forecaster, self.recommendation)
        self.trail.add(step, self.forecast, self.recommendation)
        seen, trail = self.forecaster.thinned(_SHOWN), tuple(self.trail.rows)
        return Update(step, self.forecast, self.recommendation, self.target, seen, trail)

    def tell(self, update: Update) -> None:
        """Let every sink know of a forecast."""
        for sink in list(self.sinks):
            try:
                sink(update)
            except Exception:
                self.sinks.remove(sink)
                logger.exception("a forecast could not be logged; this log gets no more of them")

    @property
    def wants_stop(self) -> bool:
        """Whether the latest recommendation is to stop."""
        return self.recommendation is not None and self.recommendation.action is Action.STOP


def follow(forecaster: Forecaster, step: int, present_rate: float) -> None:
    """Hold the present rate from `step` on, where the plan assumes that another one is held."""
    plan = forecaster.schedule
    if Caveat.LR_ASSUMED not in plan.caveats or step >= plan.total_steps:
        return
    ahead = _ahead(plan, step)
    if ahead[0] != present_rate and _held(ahead):
        held = LRSchedule.constant(plan.total_steps, present_rate)
        forecaster.replan(assumed(plan.joined(step, held)))


def adopt(forecaster: Forecaster, planned: LRSchedule, step: int, *, warn: bool = True) -> None:
    """On resume: keep the saved plan if the new one goes on alike, else replan and say so.

    The new plan knows nothing of the time before `step`, so the saved one stands there.
    """
    saved = forecaster.schedule
    if step >= planned.total_steps or _same_future(saved, planned, step):
        return
    if warn:
        logger.warning(
            "resumed at step %d with another schedule (%r, before: %r): the plan is changed",
            step,
            planned,
            saved,
        )
    forecaster.replan(saved.joined(step, planned) if step <= saved.total_steps else planned)


def assumed(schedule: LRSchedule) -> LRSchedule:
    """The same schedule, marked as assumed."""
    state: Mapping[str, Any] = schedule.to_dict()
    return LRSchedule.from_dict({**state, "caveats": [*state["caveats"], Caveat.LR_ASSUMED]})


def _same_future(saved: LRSchedule, planned: LRSchedule, step: int) -> bool:
    if saved.total_steps != planned.total_steps:
        return False
    before, after = _ahead(saved, step), _ahead(planned, step)
    if Caveat.LR_ASSUMED in saved.caveats & planned.caveats and _held(before) and _held(after):
        return True  # `follow` will see to the rate
    ahead = planned.knots[0]
    ahead = ahead[ahead > step]
    return bool((abs(saved.lr(ahead) - planned.lr(ahead)) <= 1e-6 * planned.peak).all())


def _ahead(plan: LRSchedule, step: int) -> NDArray[np.float64]:
    steps, rates = plan.knots
    return rates[steps > step]


def _held(rates: NDArray[np.float64]) -> bool:
    return bool((rates == rates[0]).all())
