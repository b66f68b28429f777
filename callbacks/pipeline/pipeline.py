"""`Pipeline`: turns captured losses into forecasts on a grid of optimizer steps."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lossforecast.callbacks.distributed import Block, Event, GapBatch, Logged
from lossforecast.callbacks.monitor import RunMonitor, clean_up, state_errors
from lossforecast.callbacks.pipeline.actions import Actions
from lossforecast.callbacks.pipeline.capture import Capture
from lossforecast.callbacks.pipeline.exchange import Exchange
from lossforecast.callbacks.pipeline.listener import Listener
from lossforecast.callbacks.pipeline.losses import (
    Losses,
    joined,
    losses_from_state,
    losses_state,
    no_losses,
)
from lossforecast.callbacks.pipeline.plan_watch import PlanSource, PlanWatch
from lossforecast.checks import whole
from lossforecast.errors import StateError
from lossforecast.forecaster import Forecaster
from lossforecast.schedule import LRSchedule
from lossforecast.signals import contained

if TYPE_CHECKING:
    from lossforecast.callbacks.lr_schedulers import Steering
    from lossforecast.callbacks.probe import AnnealingProbe

__all__ = ["Pipeline"]

_MAX_UNREAD_STEPS = 8192  # losses are read from the device at least this often, to bound memory


class Pipeline:
    """Passes captured losses to the forecasters, in this process or in process 0 of several.

    Forecasts are made for a grid of optimizer steps. The losses before such a step have a quarter
    of the grid spacing to arrive from the device, so a forecast is made late, but from the same
    losses on every device.

    Several processes average their losses by step, and only process 0 forecasts, in a thread
    (`Team`). A stop or a decay that it requests is carried out after the same call of the optimizer
    in all of them.

    Args:
        capture: keeps the losses and counts the steps.
        forecasters: forecasters by metric: "train", "val" or both.
        monitor: monitor of one of the forecasters, whose recommendations count.
        stop: whether `should_stop` may become True.
        at_validations: whether to forecast at validation losses instead of at steps of the grid.
        steering: reports changes of a steerable scheduler, and may begin a decay.
        probe: an annealing probe that has begun.
    """

    def __init__(
        self,
        capture: Capture,
        forecasters: dict[str, Forecaster],
        monitor: RunMonitor,
        *,
        stop: bool = False,
        at_validations: bool = False,
        steering: "Steering | None" = None,
        probe: "AnnealingProbe | None" = None,
    ) -> None:
        self.capture = capture
        self.monitor = monitor
        self.stop = stop
        self.poll_at = 0
        """Calls of the optimizer after which to poll."""
        self.checked = 0
        """Optimizer steps at which the latest forecast was due."""
        self.has_ended = False
        """True once the run is closed."""
        self.actions = Actions(monitor, steering)
        self._at_validations = at_validations
        self._steering = steering
        self._plan_watch: PlanWatch | None = None
        self._total = monitor.forecaster.total_steps  # that in a thread may be ahead of the loop
        self._probe = probe
        horizons = () if probe is None else probe.horizons
        self._listener = Listener(
            forecasters, monitor, stop=stop, steering=steering, horizons=horizons
        )
        self._exchange = Exchange(self._listener, self.actions)
        # step of a forecast that waits for earlier losses, and the learning rate of that step
        self._pending: tuple[int, Callable[[], float]] | None = None
        self._sent = 0  # losses before this step were sent from the device
        self._posted = 0  # losses before this step were posted
        self._kept = no_losses()  # read, but not posted yet

    def watch_plan(self, source: PlanSource, plan: LRSchedule) -> None:
        """Watch a plan that was read from `source` after the optimizer steps taken so far."""
        self._plan_watch = PlanWatch(source, plan, self.monitor.forecaster.run, self.capture.steps)
        self._total = plan.total_steps

    def skip_to(self, steps: int) -> None:
        """Begin after optimizer steps that were taken before."""
        self.capture.load_state_dict({"steps": steps, "last_rate": None})
        self.checked = self._posted = steps

    @property
    def is_due(self) -> bool:
        """True when the optimizer has been called often enough to poll."""
        return self.capture.calls >= self.poll_at

    @property
    def should_stop(self) -> bool:
        """True when the training loop should end now."""
        return self.actions.should_stop

    def poll(self) -> None:
        """Read losses, and prepare or make a forecast if one is due."""
        self._connect()
        self._exchange.poll()
        self._post_schedule_change()
        lag = min(max(1, self._every_n // 4), _MAX_UNREAD_STEPS)
        if self._pending is not None and self.capture.steps >= self._pending[0] + lag:
            self._complete_forecast()
        steps = self.capture.steps
        if self._pending is None:
            if not self._at_validations and steps >= self._next_due():
                self._pending = steps, self.capture.ask_rate()
                if self.capture.send():
                    self._complete_forecast()
            else:
                self._post_losses(*self._take(None if self.capture.send() else self._sent))
            self._sent = steps
        if self._pending is not None:
            following = self._pending[0] + lag
        elif self._at_validations:
            following = (steps // self._every_n + 1) * self._every_n
        else:
            following = self._next_due()
        next_read = (steps // _MAX_UNREAD_STEPS + 1) * _MAX_UNREAD_STEPS
        self._schedule_poll(min(following, next_read) - steps)

    def validate(self, loss: float) -> None:
        """Post a validation loss, measured after the optimizer steps taken so far."""
        self._connect()
        self._post_schedule_change()
        self._complete_forecast()
        rate = self.capture.last_rate()  # this also corrects `steps` by those the device skipped
        step, check = self.capture.steps, None
        if self._at_validations and step // self._every_n > self.checked // self._every_n:
            self.checked, check = step, self.capture.present_rate()
        if not self._exchange.is_connected:
            self._post_losses(*self._take())
        self._exchange.post(Logged(step, loss, rate, check=check, may_stop=self.actions.may_stop))

    def log(self, step: int, loss: float) -> None:
        """Post a training loss of an earlier step, already reduced over all processes."""
        self._connect()
        self._post_schedule_change()
        self._complete_forecast()
        last, plan = self.capture.last_rate(), self.monitor.forecaster.schedule
        at = np.clip([step, self.capture.steps], 1, plan.total_steps)
        then, now = plan.lr(at).tolist()
        rate = last * then / now if last is not None and now > 0 else None
        self._exchange.post(
            Logged(step, loss, rate, may_stop=self.actions.may_stop, metric="train")
        )

    def event(self, name: str) -> None:
        """Post a change that the user has marked, after the forecast that is pending."""
        self._complete_forecast()
        self._exchange.post(Event(self.capture.steps, name))

    def apply_request(self) -> None:
        """Carry out the latest recommendation, unless other processes have to agree."""
        self._exchange.apply_request()

    def withdraw(self) -> None:
        """Post the last block to the other processes; agreed actions stay due."""
        self._exchange.announce_leaving(self.capture.steps)
        self._schedule_poll(1)

    def finish(self, *, wait: bool = True) -> None:
        """Read the remaining losses and make the last forecast.

        Args:
            wait: whether to wait a while for the other processes.
        """
        self._post_schedule_change()
        self._complete_forecast()
        self._post_losses(self.capture.take_all(), self.capture.steps, leaves=True)
        self._exchange.disconnect(wait=wait)
        if self._listener.has_news or self.monitor.forecast is None:
            self._listener.check(self.capture.steps, self.capture.present_rate())
            self._listener.notify_sinks()

    def warn_at_end(self) -> None:
        """Warn if the last steps were not seen, or if the run ended early and nobody stopped it."""
        unseen = self.capture.warn_if_not_stepped(at_end=True)
        if self._plan_watch is not None and not (unseen or self.should_stop):
            self._plan_watch.finish(self.capture.steps)

    def leave(self) -> None:
        """Leave the other processes for good."""
        if self._exchange.is_connected:
            self.withdraw()
            self._exchange.abort()

    def abandon(self) -> None:
        """Leave the run to the parent of this process, which is a forked child."""
        self._exchange.abandon()
        self.monitor.recorder = None
        self.monitor.sinks.clear()

    def close(self) -> None:
        """Remove all hooks from the optimizer; drop the averages of the probe and the scheduler."""
        self._plan_watch, self.has_ended = None, True
        self.capture.close()
        if self._probe is not None:
            self._probe.close()

    def record_end(self, error: BaseException | None = None, *, watched: bool = True) -> None:
        """Record the end of the run in the store, as `RunMonitor.record_end` does."""
        self.monitor.record_end(self.capture.steps, error, watched=watched)

    def finalize(self) -> None:
        """End a run that was never closed: record it, remove all hooks; ignore errors.

        Losses that were not exchanged are left out: the other processes may be gone.
        """
        with contained():
            if self.monitor.recorder is not None and not self._exchange.is_connected:
                self.finish(wait=False)
        with contained(), self._exchange.lock:
            self.record_end()
        clean_up(self.leave, self.close)

    @property
    def has_losses(self) -> bool:
        """True if any loss of the monitor's metric was observed."""
        return self.monitor.forecaster.history.last_step >= 0

    @property
    def forecasters(self) -> dict[str, Forecaster]:
        """The forecasters by metric; not safe to read while a thread works with them."""
        return self._listener.forecasters

    def forecaster(self, metric: str | None = None) -> Forecaster:
        """Return the forecaster of a metric; while a thread works with it, a copy.

        Args:
            metric: "train" or "val"; None is the metric of the monitor.
        """
        metric = metric or self.monitor.forecaster.run.metric
        if not self._exchange.is_connected:
            return self.forecasters[metric]
        with self._exchange.lock:
            return Forecaster.from_state_dict(self.forecasters[metric].state_dict())

    # ------------------------------------------------------------------ state

    def flush(self, *, together: bool = False) -> None:
        """Read the losses of all finished steps, so that they are in the state.

        Args:
            together: whether all processes call this at the same step. If so, their states are the
                same; if not, each state has the losses of its own process since the last exchange.
        """
        self._post_schedule_change()
        self._complete_forecast()
        losses, cut = self._take()
        apart = self._exchange.is_connected and not together
        if apart or not self._exchange.is_complete:
            self._kept = joined(self._kept, losses)
        else:
            self._post_losses(losses, cut, at_once=True)
        self._exchange.drain()

    def state_dict(self) -> dict[str, Any]:
        """Return the state after `flush`, as plain values."""
        with self._exchange.lock:
            # for undelivered messages, the losses of this process stand for the mean over all
            return {
                **self._listener.state_dict(self._exchange.undelivered),
                "capture": self.capture.state_dict(),
                "checked": self.checked,
                "cut": self._posted,
                "kept": losses_state(self._kept),
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            StateError: the state is not that of a run, or is damaged; nothing is changed then.
        """
        with state_errors():
            checked = whole("checked", state["checked"], StateError, least=0)
            cut = whole("cut", state["cut"], StateError, least=0)
            kept = losses_from_state(state["kept"])
            self.capture.checked_state(state["capture"])
            restore = self._listener.prepare(state)
        self._exchange.reset()
        restore()
        self.capture.load_state_dict(state["capture"])
        self.checked, self._posted, self._kept = checked, cut, kept
        self.poll_at, self._sent, self._pending = 0, 0, None
        self._total = self.monitor.forecaster.total_steps
        self.actions.reset()

    # ------------------------------------------------------------------ inside

    @property
    def _every_n(self) -> int:
        return self.monitor.forecaster.every_n_steps

    def _next_due(self) -> int:
        """Return the next multiple of `every_n_steps`, or the planned end if that comes first."""
        following = (self.checked // self._every_n + 1) * self._every_n
        return min(following, self._total) if self.checked < self._total else following

    def _schedule_poll(self, ahead: int) -> None:
        """Poll after `ahead` more calls of the optimizer, or earlier for an agreed action."""
        self.poll_at = self._exchange.next_poll(self.capture.calls, ahead)

    def _take(self, cut: int | None = None) -> tuple[Losses, int]:
        """Return the losses of finished steps before `cut`, and the corrected cut.

        The cut is reduced by the steps before it that the device turns out to have skipped.
        """
        counted = self.capture.steps
        losses = self.capture.take(cut)
        return losses, (counted if cut is None else cut) - (counted - self.capture.steps)

    def _complete_forecast(self) -> None:
        """Make the pending forecast, if any, only from the losses before its step."""
        if self._pending is None:
            return
        (cut, rate), self._pending = self._pending, None
        losses, step = self._take(cut)
        self._post_losses(losses, step, rate() if step >= self._next_due() else None)
        self.checked = step

    def _post_losses(
        self,
        losses: Losses,
        cut: int,
        check: float | None = None,
        *,
        at_once: bool = False,
        leaves: bool = False,
    ) -> None:
        """Post losses as a block; keep them between two blocks of several processes.

        Args:
            losses: losses of steps before `cut`.
            cut: optimizer steps.
            check: learning rate of the next step if a forecast is due, else None.
            at_once: whether to post even between two blocks.
            leaves: whether this is the last block.
        """
        losses = joined(self._kept, losses)
        paces = (_MAX_UNREAD_STEPS, *((self._every_n,) if self._at_validations else ()))
        due = any(cut // pace > self._posted // pace for pace in paces)
        if self._exchange.is_connected and not (due or at_once or leaves or check is not None):
            self._kept = losses
            return
        self._kept, self._posted = no_losses(), cut
        taken = None if self._probe is None else self._probe.take(None if leaves else cut)
        gap_batch = GapBatch.empty(0) if taken is None else GapBatch(*taken)
        self._exchange.post(
            Block(
                *losses,
                step=cut,
                check=check,
                may_stop=self.actions.may_stop,
                leaves=leaves,
                gap_batch=gap_batch,
            )
        )

    def _post_schedule_change(self) -> None:
        """Post a changed schedule before the losses that were reached under it."""
        steering, watch, capture = self._steering, self._plan_watch, self.capture
        change = None if steering is None else steering.changed()
        if change is None and watch is not None:
            change = watch.changed(capture.steps, self._listener.streak, capture.present_rate)
        if change is None:
            return
        if change.plan is not None:
            self._total = change.plan.total_steps
            for follower in (each for each in (steering, watch) if each is not None):
                follower.follow_length(self._total)
        self._exchange.post(change)

    def _connect(self) -> None:
        """Connect to the other processes as soon as there are any."""
        if not self._exchange.is_complete:
            self._exchange.connect(self._posted, _MAX_UNREAD_STEPS, self._probe)
