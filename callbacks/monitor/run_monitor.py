"""What all adapters share: a forecaster inside somebody's training run, which it never harms."""

import logging
from collections.abc import Iterable
from typing import Any, Protocol

from lossforecast.callbacks.monitor.guard import logger
from lossforecast.callbacks.monitor.trail import Trail
from lossforecast.callbacks.monitor.update import Sink, Update
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Action, Policy, Recommendation, checked_target, policy_list
from lossforecast.schedule import LRSchedule

__all__ = ["Recorder", "RunMonitor"]

_SHOWN = 256  # bins of losses that sinks are told


class Recorder(Protocol):
    """Keeps a run in a store while it is trained."""

    @property
    def target(self) -> float | None:
        """Final loss of the best comparable past run, if there is one."""

    def note(self, step: int, forecaster: Forecaster, advice: Recommendation) -> None:
        """Store the latest forecast and recommendation."""

    def close(
        self, forecaster: Forecaster, steps: int, *, failed: bool = False, watched: bool = True
    ) -> None:
        """Store the end of the run."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to continue the same record."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the record that `state_dict` named."""


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
        recorder: Recorder | None = None,
    ) -> None:
        self.policies = policy_list(policy)
        self.forecaster = forecaster
        self._aim = checked_target(target)
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
        self.forecaster.follow_rate(step, present_rate)
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


def adopt_plan(forecaster: Forecaster, planned: LRSchedule, step: int) -> None:
    """Take over the plan of a resumed run, with a warning where it differs from the saved one."""
    saved = forecaster.schedule
    if forecaster.adopt_plan(planned, step):
        logger.warning(
            "resumed at step %d with another schedule (%r, before: %r): the plan is changed",
            step,
            planned,
            saved,
        )
