"""`RunMonitor`: forecasts and recommends during a training run, and notifies sinks."""

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

from lossforecast.callbacks.monitor.trail import Trail
from lossforecast.callbacks.monitor.update import Sink, Update
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster, plan_difference
from lossforecast.log import logger
from lossforecast.policies import Action, Policy, Recommendation, checked_target, policy_list
from lossforecast.schedule import LRSchedule
from lossforecast.signals import contained

__all__ = ["Recorder", "RunMonitor"]

_LOUD = (Action.STOP, Action.CHANGE_SCHEDULE)
_QUIET_SHARE = 0.1  # of the run, between two lines that ask for nothing: near a threshold,
# "go on" and "no advice yet" alternate at every check
_SINK_BINS = 256  # losses in an `Update` are averaged into at most this many bins


class Recorder(Protocol):
    """Records a run in a store while it is trained."""

    @property
    def target(self) -> float | None:
        """Final loss of the best comparable past run; None if there is none."""

    def record(self, step: int, forecaster: Forecaster, advice: Recommendation) -> None:
        """Enqueue the latest forecast and recommendation."""

    def close(
        self, forecaster: Forecaster, steps: int, *, failed: bool = False, watched: bool = True
    ) -> None:
        """Record the end of the run."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same record."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the record that `state_dict` named."""


class RunMonitor:
    """Forecasts, recommends, records and notifies sinks.

    Args:
        forecaster: the forecaster.
        target: the final loss to reach.
        policy: one or more policies; default: those of `Forecaster.recommend`.
        sinks: functions called with every `Update`.
        recorder: records the run in a store; the best comparable run there is the default target.

    Raises:
        ConfigurationError: the target is not finite, or a policy cannot be called.
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
        self._logged: tuple[int, Action] | None = None  # step and action logged last
        self._departed = False  # whether a warning that the run left its ladder was logged

    @property
    def target(self) -> float | None:
        """The final loss to reach: as given, or that of the best comparable past run."""
        if self._aim is None and self.recorder is not None:
            return self.recorder.target
        return self._aim

    def check(self, step: int) -> Update:
        """Forecast and recommend after `step` optimizer steps; log the action if it is new."""
        self.forecast = self.forecaster.forecast()
        self.recommendation = self.forecaster.recommend(self.target, self.policies)
        self._log(step, self.recommendation)
        if self.forecast.departure is not None and not self._departed:
            self._departed = True
            logger.warning("step %d: the loss is %s", step, self.forecast.departure)
        if self.recorder is not None:
            self.recorder.record(step, self.forecaster, self.recommendation)
        drawn = any(getattr(sink, "reads_trail", True) for sink in self.sinks)
        self.trail.add(step, self.forecast, self.recommendation, drawn=drawn)
        return Update(
            step=step,
            forecast=self.forecast,
            recommendation=self.recommendation,
            target=self.target,
            forecaster=self.forecaster.thinned(_SINK_BINS),
            trail=tuple(self.trail.rows),
        )

    def notify_sinks(self, update: Update) -> None:
        """Call every sink with an update; drop a sink that raises, and log its exception."""
        for sink in list(self.sinks):
            with contained(partial(self._drop_sink, sink)):
                sink(update)

    def _log(self, step: int, advice: Recommendation) -> None:
        """Log a recommendation whose action is not the one logged last."""
        is_loud = advice.action in _LOUD
        if self._logged is not None:
            at, action = self._logged
            pause = 0.0
            if not is_loud and action not in _LOUD:
                pause = _QUIET_SHARE * self.forecaster.total_steps
            if advice.action is action or step - at < pause:
                return
        self._logged = step, advice.action
        level = logging.WARNING if is_loud else logging.INFO
        logger.log(level, "step %d: %s", step, advice.message)

    def _drop_sink(self, sink: Sink, error: Exception) -> None:
        self.sinks.remove(sink)
        logger.exception("a sink failed and gets no more forecasts: %r", sink)

    def record_end(
        self, steps: int, error: BaseException | None = None, *, watched: bool = True
    ) -> None:
        """Record the end of the run in the store, if there is one.

        Args:
            steps: optimizer steps taken.
            error: the exception that ended the run, if any.
            watched: whether forecasting was still on at the end of the run.
        """
        if self.recorder is not None:
            failed = isinstance(error, Exception)  # KeyboardInterrupt is the user's decision
            self.recorder.close(self.forecaster, steps, failed=failed, watched=watched)

    @property
    def wants_stop(self) -> bool:
        """True if the latest recommendation is to stop."""
        return self.recommendation is not None and self.recommendation.action is Action.STOP


def adopt_plan(forecaster: Forecaster, planned: LRSchedule, step: int) -> None:
    """Adopt the plan of a resumed run, with a warning if it differs from the saved one."""
    saved = forecaster.schedule
    if forecaster.adopt_plan(planned, step):
        logger.warning(
            "resumed at step %d with another schedule: the plan is changed (%s)",
            step,
            plan_difference(saved, planned, step),
        )
