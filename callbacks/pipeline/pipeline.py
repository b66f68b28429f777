"""`Pipeline`: from the losses that a capture keeps to forecasts, on a grid of steps."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.capture import LossCapture
from lossforecast.callbacks.distributed import (
    Block,
    GapBatch,
    Logged,
    Message,
    Team,
    processes,
)
from lossforecast.callbacks.lr_schedulers import Steering
from lossforecast.callbacks.monitor import RunMonitor
from lossforecast.callbacks.pipeline.listener import Listener
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.checks import whole
from lossforecast.errors import StateError
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Action
from lossforecast.schedule import Decay

__all__ = ["Pipeline"]

_READ = 8192  # steps after which losses are read at the latest, so that few are kept

Losses = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


class Pipeline:
    """Passes on what a capture keeps, to a forecaster of this process or of the first of many.

    Forecasts fall on a grid of optimizer steps. On a device the losses before such a step have a
    quarter of the time to the next one to arrive, so the forecast comes late but is the same.

    Among several processes the losses are averaged by step, and only the first one forecasts, in
    a thread (`Team`). Its wish to stop becomes `should_stop`, and a decay that it wants begins,
    after the same call of the optimizer in all of them.

    Args:
        capture: keeps the losses and counts the steps.
        forecasters: by metric: "train", "val" or both.
        monitor: of the forecaster that counts.
        stop: whether `should_stop` may become True.
        at_validations: whether forecasts are made when there is a validation loss, and not on
            steps of the grid.
        steering: follows a scheduler that may be steered, and may begin a decay.
        probe: measures gaps, and has begun.
    """

    def __init__(
        self,
        capture: LossCapture,
        forecasters: dict[str, Forecaster],
        monitor: RunMonitor,
        *,
        stop: bool = False,
        at_validations: bool = False,
        steering: Steering | None = None,
        probe: AnnealingProbe | None = None,
    ) -> None:
        self.capture = capture
        self.stop = stop
        self.next = 0
        """Calls of the optimizer after which there is something to do."""
        self.should_stop = False
        self.may_stop = True
        """Whether the run has come far enough to be stopped."""
        self.checked = 0
        """Steps at which the latest forecast was due."""
        self.monitor = monitor
        self._at_validations = at_validations
        self._steering = steering
        self._probe = probe
        self._horizons = () if probe is None else probe.horizons
        self._listener = Listener(
            forecasters, monitor, stop=stop, steering=steering, horizons=self._horizons
        )
        # a forecast waits for the losses before this step, and for the learning rate of the step
        self._cut: tuple[int, Callable[[], float]] | None = None
        self._sent = 0  # what was recorded before this step is on its way
        self._posted = 0  # what was recorded before this step was passed on
        self._kept = _no_losses()  # taken and not passed on yet
        self._team: Team | None = None
        self._rank, self._size = 0, 1
        self._stop_at: int | None = None
        self._decay: tuple[int, Decay] | None = None  # calls after which it is begun

    def start(self, steps: int) -> None:
        """Begin after some optimizer steps that nobody watched."""
        self.capture.load_state_dict({"steps": steps, "last_rate": None})
        self.checked = self._posted = steps

    # ------------------------------------------------------------------ in the loop

    def turn(self) -> None:
        """Read, prepare a forecast or make it, as the number of steps asks for."""
        self._join()
        self._hear()
        self._notice()
        lag = min(max(1, self._every_n // 4), _READ)
        if self._cut is not None and self.capture.steps >= self._cut[0] + lag:
            self._conclude()
        steps = self.capture.steps
        if self._cut is None:
            if not self._at_validations and steps >= self._next_due():
                self._cut = steps, self.capture.ask_rate()
                if self.capture.send():
                    self._conclude()
            else:
                self._pass_on(*self._take(None if self.capture.send() else self._sent))
            self._sent = steps
        if self._cut is not None:
            following = self._cut[0] + lag
        elif self._at_validations:
            following = (steps // self._every_n + 1) * self._every_n
        else:
            following = self._next_due()
        self._look(min(following, (steps // _READ + 1) * _READ) - steps)

    def validate(self, loss: float) -> None:
        """Pass on a validation loss, measured after the optimizer steps taken so far."""
        self._join()
        self._notice()
        self._conclude()
        rate = self.capture.last_rate()  # after which the number of steps is sure
        step, check = self.capture.steps, None
        if self._at_validations and step // self._every_n > self.checked // self._every_n:
            self.checked, check = step, self.capture.present_rate()
        if self._team is None:
            self._pass_on(*self._take())
        self._post(Logged(step, loss, rate, check, self.may_stop))

    def log(self, step: int, loss: float) -> None:
        """Pass on a training loss of an earlier step, which all processes have alike."""
        self._join()
        self._notice()
        self._conclude()
        last, plan = self.capture.last_rate(), self.monitor.forecaster.schedule
        at = np.clip([step, self.capture.steps], 1, plan.total_steps)
        then, now = plan.lr(at).tolist()
        rate = last * then / now if last is not None and now > 0 else None
        self._post(Logged(step, loss, rate, may_stop=self.may_stop, metric="train"))

    def consider(self) -> None:
        """Do what is wanted, unless other processes have to agree."""
        if not self._size == 1 == processes()[1]:
            return
        wish = self._listener.wish(self.may_stop)
        if wish.stop:
            self._stop()
        if wish.decay is not None:
            self._begin(wish.decay)

    def heed(self) -> None:
        """Leave the other processes, but stop where it was agreed before."""
        if self._team is not None:
            self._team.post(Block(*_no_losses(), step=self.capture.steps, leaves=True))
        self._look(1)

    def leave(self) -> None:
        """Leave the other processes for good."""
        if self._team is not None:
            self.heed()
            self._team.end()
            self._team = None

    def finish(self, *, wait: bool = True) -> None:
        """Read what is left and make the last forecast."""
        self._notice()
        self._conclude()
        self._pass_on(self.capture.take_all(), self.capture.steps, leaves=True)
        if self._team is not None:
            self._disband(wait)
        if self._listener.news or self.monitor.forecast is None:
            self._listener.check(self.capture.steps, self.capture.present_rate())
            self._listener.tell()

    def record_end(self, error: BaseException | None = None, *, watched: bool = True) -> None:
        """Let the store know that the run has ended, and what error ended it.

        Args:
            error: the error, if any.
            watched: whether it was forecast to its end, and not switched off.
        """
        if self.monitor.recorder is not None:
            failed = isinstance(error, Exception)  # and not the person at the keyboard
            steps = self.capture.steps
            self.monitor.recorder.close(
                self.monitor.forecaster, steps, failed=failed, watched=watched
            )

    def abandon(self) -> None:
        """Have the end of a run stored that nobody has closed; an error is nobody's any more.

        Other processes may be gone, so what was not exchanged with them is left out.
        """
        with suppress(Exception):
            if self._team is None:
                self.finish(wait=False)
        with suppress(Exception), self._team.lock if self._team is not None else nullcontext():
            self.record_end()

    @property
    def forecasters(self) -> dict[str, Forecaster]:
        """By metric."""
        return self._listener.forecasters

    def forecaster(self, metric: str) -> Forecaster:
        """The forecaster of a metric; while a thread works with it, a copy."""
        if self._team is None:
            return self.forecasters[metric]
        with self._team.lock:
            return Forecaster.from_state_dict(self.forecasters[metric].state_dict())

    # ------------------------------------------------------------------ state

    def settle(self, *, together: bool = False) -> None:
        """Take in all that is finished, so that it is in the state.

        Args:
            together: whether all processes are here. Then the state is the same in all of them;
                else the losses since the last exchange are those of this one.
        """
        self._notice()
        self._conclude()
        losses, cut = self._take()
        apart = self._team is not None and not together
        if apart or self._size < processes()[1]:  # those have not met yet
            self._kept = _joined(self._kept, losses)
        else:
            self._pass_on(losses, cut, at_once=True)
        if self._team is not None:
            self._team.drain()

    def state_dict(self) -> dict[str, Any]:
        """Everything that is settled, as plain values."""
        with self._team.lock if self._team is not None else nullcontext():
            # the others are long in coming: better losses of this process than none
            left = self._team.undelivered if self._team is not None else []
            return {
                **self._listener.state_dict(left),
                "capture": self.capture.state_dict(),
                "checked": self.checked,
                "cut": self._posted,
                "kept": _plain(self._kept),
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            StateError: the state is not ours, or is damaged.
        """
        if self._team is not None:
            self._team.end()
        self._team, self._rank, self._size = None, 0, 1
        try:
            checked = whole("checked", state["checked"], StateError, least=0)
            cut = whole("cut", state["cut"], StateError, least=0)
            steps, losses, rates = state["kept"]
            kept = np.array(steps, np.int64), np.array(losses, float), np.array(rates, float)
            if not len(steps) == len(losses) == len(rates):
                raise StateError("the kept losses of the saved state are damaged")
            self.capture.load_state_dict(state["capture"])
            self._listener.load_state_dict(state)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a saved run: {error!r}") from error
        self.checked, self._posted, self._kept = checked, cut, kept
        self.next, self._sent, self._cut, self._stop_at, self._decay = 0, 0, None, None, None
        self.should_stop = False

    # ------------------------------------------------------------------ inside

    @property
    def _every_n(self) -> int:
        return self.monitor.forecaster.every_n_steps

    def _next_due(self) -> int:
        """Steps at which the next forecast is due: each `every_n_steps`, and at the end."""
        total = self.monitor.forecaster.total_steps
        following = (self.checked // self._every_n + 1) * self._every_n
        return min(following, total) if self.checked < total else following

    def _take(self, cut: int | None = None) -> tuple[Losses, int]:
        """Losses of finished steps, those before the cut, and the cut as it turns out.

        Steps before it may turn out not to have been taken.
        """
        counted = self.capture.steps
        losses = self.capture.take(cut)
        return losses, (counted if cut is None else cut) - (counted - self.capture.steps)

    def _conclude(self) -> None:
        """Make the forecast that waits for its losses, if any, from those before its step alone."""
        if self._cut is None:
            return
        (cut, rate), self._cut = self._cut, None
        losses, step = self._take(cut)
        self._pass_on(losses, step, rate() if step >= self._next_due() else None)
        self.checked = step

    def _pass_on(
        self,
        losses: Losses,
        cut: int,
        check: float | None = None,
        *,
        at_once: bool = False,
        leaves: bool = False,
    ) -> None:
        """Post the losses as a block; in between two blocks of many processes, keep them."""
        losses = _joined(self._kept, losses)
        paces = (_READ, self._every_n) if self._at_validations else (_READ,)
        due = any(cut // pace > self._posted // pace for pace in paces)
        if self._team is not None and not (due or at_once or leaves or check is not None):
            self._kept = losses
            return
        self._kept, self._posted = _no_losses(), cut
        gap_batch = GapBatch.empty(len(self._horizons))
        if self._probe is not None:
            gap_batch = GapBatch(*self._probe.take(None if leaves else cut))
        self._post(Block(*losses, cut, check, self.may_stop, leaves, gap_batch))

    def _post(self, message: Message) -> None:
        if self._team is not None:
            self._team.post(message)
        else:
            self._listener.deliver(message)
            self.consider()
        self._listener.tell()

    def _notice(self) -> None:
        """Let the forecasters know of a changed schedule, before they hear of what came after."""
        change = self._steering.changed() if self._steering is not None else None
        if change is not None:
            self._post(change)

    # ------------------------------------------------------------------ the other processes

    def _join(self) -> None:
        """Find the other processes, if there are any."""
        rank, size = processes()
        if size <= self._size:
            return
        self._rank, self._size, self._listener.first = rank, size, rank == 0
        total = self.monitor.forecaster.total_steps
        plan = f"a forecast every {self._every_n} of {total} steps" + ", may stop" * self.stop
        plan += ", may decay" * (self._steering is not None and self._steering.apply)
        capacity = 2 * min(self._every_n, _READ)
        kind = self.monitor.forecaster.run.metric
        probe = (1, 0) if self._probe is None else (self._probe.every, len(self._horizons))
        plan += f", {probe[1]} horizons every {probe[0]}" * (self._probe is not None)
        self._team = Team(kind, self._posted, capacity, plan, self._listener.deliver, probe)

    def _hear(self) -> None:
        """Take notice of what happened in the thread."""
        if self._team is None:
            return
        self._listener.tell()
        if self._team.over:
            self._disband(wait=False)

    def _look(self, ahead: int) -> None:
        """Set the next turn, not after the stop that was agreed."""
        calls = self.capture.calls
        self.next = calls + ahead
        if self._team is not None:
            self.next = self._team.schedule_poll(self.next)
            self._stop_at, self._decay = self._team.stop_at, self._team.decay
        if self._decay is not None and self._steering is not None:
            at, decay = self._decay
            if calls >= at:
                self._begin(decay)
            else:
                self.next = min(self.next, at)
        if self._stop_at is not None:
            if calls >= self._stop_at:
                self._stop()
            else:
                self.should_stop = False
            self.next = calls + ahead if self.should_stop else min(self.next, self._stop_at)

    def _stop(self) -> None:
        """Let the loop end."""
        if not self.should_stop:
            self.monitor.trail.note(Action.STOP)
        self.should_stop = True

    def _begin(self, decay: Decay) -> None:
        """Begin a decay, unless one was begun."""
        if self._steering is not None and self._steering.begin(decay, log=self._rank == 0):
            self.monitor.trail.note(Action.CHANGE_SCHEDULE)

    def _disband(self, wait: bool) -> None:
        """Go on alone, with what was not exchanged."""
        assert self._team is not None
        left, failure, self._stop_at = self._team.end(wait), self._team.failure, self._team.stop_at
        self._decay, self._team = self._team.decay, None
        if failure is not None:
            raise failure
        for message in left:
            self._listener.deliver(message)
        self._listener.tell()


def _no_losses() -> Losses:
    return np.empty(0, np.int64), np.empty(0), np.empty(0)


def _joined(first: Losses, then: Losses) -> Losses:
    steps, losses, rates = (np.concatenate(pair) for pair in zip(first, then, strict=True))
    return steps, losses, rates


def _plain(losses: Losses) -> list[list[float | None]]:
    """As JSON has it; None for what is not finite."""
    return [[x if np.isfinite(x) else None for x in column.tolist()] for column in losses]
