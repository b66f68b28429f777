"""`Listener`: what becomes of the losses of a run, wherever they are: forecasts and wishes."""

from collections.abc import Sequence
from typing import Any

from lossforecast.callbacks.distributed import Block, Change, Logged, Message, Wish
from lossforecast.callbacks.lr_schedulers import Steering
from lossforecast.callbacks.monitor import RunMonitor, Trail, Update
from lossforecast.callbacks.pipeline.gap_meter import GapMeter
from lossforecast.checks import whole
from lossforecast.errors import StateError
from lossforecast.forecaster import Forecaster

__all__ = ["Listener"]


class Listener:
    """Lets forecasters know of messages, and forecasts when one asks for it.

    Among several processes it is called in the thread of the `Team`, under its lock.

    Args:
        forecasters: by metric: "train", "val" or both.
        monitor: of the forecaster that counts.
        stop: whether a recommendation to stop becomes a wish.
        steering: says which decay is due, if any may be begun.
        horizons: of the annealing probe.
    """

    def __init__(
        self,
        forecasters: dict[str, Forecaster],
        monitor: RunMonitor,
        *,
        stop: bool = False,
        steering: Steering | None = None,
        horizons: tuple[int, ...] = (),
    ) -> None:
        self.forecasters = forecasters
        self.monitor = monitor
        self.first = True
        """Whether this process is the first, which forecasts."""
        self.news = False
        """Whether anything was observed since the latest forecast."""
        self._stop = stop
        self._steering = steering
        self._meter = GapMeter(horizons)
        self._advised_at = self._between = 0  # step of the latest recommendation, and since when
        self._updates: list[Update] = []  # that no sink knows of yet

    def deliver(self, message: Message) -> Wish:
        """Observe what was averaged, forecast if that is due; what is wanted then."""
        _take_in(self.forecasters, self._meter, message)
        if isinstance(message, Change):
            return Wish()
        self.news = self.news or not isinstance(message, Block) or message.steps.size > 0
        if message.check is not None:
            self.check(message.step, message.check)
        return self.wish(message.may_stop)

    def wish(self, may_stop: bool) -> Wish:
        """What the latest recommendation asks for, as far as that is allowed."""
        stop = self._stop and may_stop and self.monitor.wants_stop
        if self._steering is None:
            return Wish(stop)
        # at the next check, or when other processes have answered, it may be too late
        every_n = self.monitor.forecaster.every_n_steps
        step, soon = self._advised_at, self._advised_at + 2 * max(every_n, self._between)
        return Wish(stop, self._steering.due(self.monitor.recommendation, step, soon))

    def check(self, step: int, rate: float) -> None:
        """Forecast, if there are losses.

        Args:
            step: optimizer steps taken.
            rate: learning rate of the next one.
        """
        if self.monitor.forecaster.history.last_step < 0:
            return
        for forecaster in self.forecasters.values():
            forecaster.follow_rate(step, rate)
        if self.first:
            self._updates.append(self.monitor.judge(step, rate))
            self._between = step - self._advised_at if self._advised_at else 0
            self._advised_at = step
            self.news = False

    def tell(self) -> None:
        """Let the sinks know of what was forecast."""
        while self._updates:
            self.monitor.tell(self._updates.pop(0))

    # ------------------------------------------------------------------ state

    def state_dict(self, left: Sequence[Message] = ()) -> dict[str, Any]:
        """What was heard, and messages that were not, as plain values."""
        forecasters, meter, recorder = self.forecasters, self._meter, self.monitor.recorder
        if left:
            forecasters = {
                name: Forecaster.from_state_dict(each.state_dict())
                for name, each in forecasters.items()
            }
            meter = meter.copy()
            for message in left:
                _take_in(forecasters, meter, message)
        return {
            "forecasters": {name: each.state_dict() for name, each in forecasters.items()},
            "looks": meter.state_dict(),
            "advised": [self._advised_at, self._between],
            "trail": self.monitor.trail.state_dict(),
            "stored": None if recorder is None else recorder.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            KeyError, TypeError, ValueError: the state is not ours, or is damaged.
        """
        forecasters = {
            name: Forecaster.from_state_dict(state["forecasters"][name])
            for name in self.forecasters
        }
        advised_at, between = (
            whole("advised", each, StateError, least=0) for each in state.get("advised", (0, 0))
        )
        trail = Trail.from_state_dict(state.get("trail", []))
        meter = GapMeter.from_state_dict(self._meter.horizons, state.get("looks", []))
        monitor, metric = self.monitor, self.monitor.forecaster.run.metric
        if monitor.recorder is not None and state.get("stored") is not None:
            monitor.recorder.load_state_dict(state["stored"])
        self.forecasters, monitor.forecaster = (
            forecasters,
            forecasters[metric],
        )
        monitor.trail, monitor.recommendation = trail, None
        self._meter, self._advised_at, self._between = meter, advised_at, between
        self.first = True


def _take_in(forecasters: dict[str, Forecaster], meter: GapMeter, message: Message) -> None:
    """Let a message be known to the forecasters that it is for."""
    if isinstance(message, Logged):
        forecasters[message.metric].observe(message.step, message.loss, message.rate)
    elif isinstance(message, Change):
        for forecaster in forecasters.values():
            forecaster.adopt_plan(message.plan, message.step)
    else:
        if message.steps.size and "train" in forecasters:
            forecasters["train"].observe_many(message.steps, message.losses, message.rates)
        meter.take_in(message.looks, forecasters)
