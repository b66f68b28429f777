"""`Listener`: turns the messages of a training loop into forecasts and requests."""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lossforecast.callbacks.distributed import Block, Change, Event, Logged, Message, Request
from lossforecast.callbacks.monitor import RunMonitor, Trail, Update
from lossforecast.callbacks.pipeline.gap_meter import GapMeter
from lossforecast.callbacks.pipeline.plan_watch import Streak
from lossforecast.checks import whole
from lossforecast.errors import StateError
from lossforecast.forecaster import Forecaster
from lossforecast.schedule import OFF_PLAN_TOLERANCE
from lossforecast.status import Caveat

if TYPE_CHECKING:
    from lossforecast.callbacks.lr_schedulers import Steering

__all__ = ["Listener"]


class Listener:
    """Passes messages to the forecasters, and forecasts when a message says that it is due.

    Among several processes it is called in the thread of the `Team`, under its lock.

    Args:
        forecasters: forecasters by metric: "train", "val" or both.
        monitor: monitor of one of the forecasters, whose recommendations count.
        stop: whether a recommendation to stop becomes a request.
        steering: decides which decay is due; None if none may begin.
        horizons: horizons of the annealing probe, in optimizer steps.
    """

    def __init__(
        self,
        forecasters: dict[str, Forecaster],
        monitor: RunMonitor,
        *,
        stop: bool = False,
        steering: "Steering | None" = None,
        horizons: tuple[int, ...] = (),
    ) -> None:
        self.forecasters = forecasters
        self.monitor = monitor
        self.first = True
        """True in process 0, which forecasts."""
        self.has_news = False
        """True if a loss was observed since the latest forecast."""
        self.streak = Streak()
        """The latest checks of the learning rate against the plan."""
        self._stop = stop
        self._steering = steering
        self._meter = GapMeter(horizons)
        self._used: tuple[int, float] | None = None  # latest step with a known rate, and the rate
        # optimizer steps at the latest recommendation, and since the one before it
        self._advised_at = self._between = 0
        self._updates: list[Update] = []  # not passed to the sinks yet

    @property
    def may_request(self) -> str:
        """The possible requests as text: a stop, a decay, or nothing."""
        may_decay = self._steering is not None and self._steering.apply
        return ", may stop" * self._stop + ", may decay" * may_decay

    def deliver(self, message: Message) -> Request:
        """Observe a message, forecast if that is due, and return the resulting request."""
        before = {name: copy.deepcopy(f.history) for name, f in self.forecasters.items()}
        try:
            _observe(self.forecasters, self._meter, message)
        except BaseException:  # interrupted by a signal: observe all of the message or nothing
            for name, history in before.items():
                self.forecasters[name].history = history
            raise
        if isinstance(message, Change) and message.plan is not None:
            self.streak, self._used = Streak(), None
        if isinstance(message, Change | Event):
            return Request()
        self._used = _rate_used(message) or self._used
        self.has_news = self.has_news or not isinstance(message, Block) or message.steps.size > 0
        if message.check is not None:
            self.check(message.step, message.check)
        return self.request(message.may_stop)

    def request(self, may_stop: bool) -> Request:
        """Return the latest recommendation as a request, as far as it is allowed.

        Args:
            may_stop: whether the run is long enough to be stopped.
        """
        stop = self._stop and may_stop and self.monitor.wants_stop
        if self._steering is None:
            return Request(stop)
        # request a decay early: the next check, or the agreement of all processes, may be too late
        every_n = self.monitor.forecaster.every_n_steps
        step, soon = self._advised_at, self._advised_at + 2 * max(every_n, self._between)
        return Request(stop, self._steering.due(self.monitor.recommendation, step, soon))

    def check(self, step: int, rate: float) -> None:
        """Update assumed plans to the present rate and, in process 0, forecast.

        Without any loss, do nothing.

        Args:
            step: optimizer steps taken.
            rate: learning rate of the next optimizer step.
        """
        if self.monitor.forecaster.history.last_step < 0:
            return
        for forecaster in self.forecasters.values():
            forecaster.follow_rate(step, rate)
        self.streak = self.streak.after(self._is_off_plan())
        if self.first:
            self._updates.append(self.monitor.check(step))
            self._between = step - self._advised_at if self._advised_at else 0
            self._advised_at = step
            self.has_news = False

    def notify_sinks(self) -> None:
        """Pass new forecasts to the sinks."""
        while self._updates:
            self.monitor.notify_sinks(self._updates.pop(0))

    def _is_off_plan(self) -> bool:
        """Return whether the latest rate in use was off a plan that is more than assumed."""
        plan = self.monitor.forecaster.schedule
        if self._used is None or Caveat.LR_ASSUMED in plan.caveats:
            return False
        if not 1 <= self._used[0] <= plan.total_steps:
            return False
        step, rate = self._used
        return abs(float(plan.lr(step)) - rate) > OFF_PLAN_TOLERANCE * plan.peak

    # ------------------------------------------------------------------ state

    def state_dict(self, undelivered: Sequence[Message] = ()) -> dict[str, Any]:
        """Return everything observed as plain values, undelivered messages included."""
        forecasters, meter, recorder = self.forecasters, self._meter, self.monitor.recorder
        if undelivered:
            forecasters = {
                name: Forecaster.from_state_dict(forecaster.state_dict())
                for name, forecaster in forecasters.items()
            }
            meter = meter.copy()
            for message in undelivered:
                _observe(forecasters, meter, message)
        return {
            "forecasters": {
                name: forecaster.state_dict() for name, forecaster in forecasters.items()
            },
            "looks": meter.state_dict(),
            "advised": [self._advised_at, self._between],
            "trail": self.monitor.trail.state_dict(),
            "stored": None if recorder is None else recorder.state_dict(),
        }

    def prepare(self, state: dict[str, Any]) -> Callable[[], None]:
        """Return a function that continues from a saved state and cannot fail.

        Raises:
            Exception: of any kind; the state is not that of a run, or is damaged.
        """
        forecasters = {
            name: Forecaster.from_state_dict(state["forecasters"][name])
            for name in self.forecasters
        }
        for name, forecaster in forecasters.items():
            if forecaster.run.metric != name:
                raise StateError(f"the saved forecaster of {name!r} has {forecaster.run!r:.80}")
        advised_at, between = (
            whole("advised", steps, StateError, least=0) for steps in state.get("advised", (0, 0))
        )
        trail = Trail.from_state_dict(state.get("trail", []))
        meter = GapMeter.from_state_dict(self._meter.horizons, state.get("looks", []))
        monitor, metric = self.monitor, self.monitor.forecaster.run.metric
        if monitor.recorder is not None and state.get("stored") is not None:
            monitor.recorder.load_state_dict(state["stored"])

        def restore() -> None:
            self.forecasters, monitor.forecaster = forecasters, forecasters[metric]
            monitor.trail, monitor.recommendation = trail, None
            self._meter, self._advised_at, self._between = meter, advised_at, between
            self.first = True

        return restore


def _rate_used(message: Block | Logged) -> tuple[int, float] | None:
    """Return the last step of a message whose learning rate is known, and the rate."""
    if isinstance(message, Logged):
        return None if message.rate is None else (message.step, message.rate)
    known = np.flatnonzero(np.isfinite(message.rates))
    if known.size == 0:
        return None
    return int(message.steps[known[-1]]), float(message.rates[known[-1]])


def _observe(forecasters: dict[str, Forecaster], meter: GapMeter, message: Message) -> None:
    """Pass the losses, gaps, changes or event in a message to the forecasters."""
    if isinstance(message, Logged):
        forecasters[message.metric].observe(message.step, message.loss, message.rate)
    elif isinstance(message, Change):
        for forecaster in forecasters.values():
            if message.plan is not None:
                forecaster.adopt_plan(message.plan, message.step)
            if message.steps_per_epoch is not None:
                forecaster.follow_epochs(message.steps_per_epoch)
    elif isinstance(message, Event):
        for forecaster in forecasters.values():
            # a validation loss of the same step was measured before the event
            forecaster.event(max(message.step, forecaster.history.last_step + 1), message.name)
    else:
        if message.steps.size and "train" in forecasters:
            forecasters["train"].observe_many(message.steps, message.losses, message.rates)
        meter.add(message.gap_batch, forecasters)
