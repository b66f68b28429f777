"""`Actions`: stops a training loop and begins a decay."""

from typing import TYPE_CHECKING

from lossforecast.callbacks.monitor import RunMonitor
from lossforecast.policies import Action
from lossforecast.schedule import Decay

if TYPE_CHECKING:
    from lossforecast.callbacks.lr_schedulers import Steering

__all__ = ["Actions"]


class Actions:
    """Carries out requests of the listener in the training loop.

    A process on its own acts at once. Several processes act after the number of calls of the
    optimizer that they agreed on.

    Args:
        monitor: records the actions in its trail.
        steering: begins a decay; None without a steerable scheduler.
    """

    def __init__(self, monitor: RunMonitor, steering: "Steering | None") -> None:
        self.should_stop = False
        """True when the loop should end now."""
        self.may_stop = True
        """True if the run is long enough to be stopped."""
        self.stop_at: int | None = None
        """Calls of the optimizer after which all processes stop, once agreed."""
        self.decay_at: tuple[int, Decay] | None = None
        """Calls of the optimizer after which all processes begin a decay, once agreed."""
        self.logs = True
        """True if this process logs the beginning of a decay."""
        self._monitor = monitor
        self._steering = steering

    def run_due(self, calls: int, poll_at: int, ahead: int) -> int:
        """Carry out the agreed actions that are due.

        Args:
            calls: calls of the optimizer so far.
            poll_at: calls of the optimizer after which to poll, if no action comes before.
            ahead: further calls until the poll if the loop goes on after a stop.

        Returns:
            Calls of the optimizer after which to poll: `poll_at`, or those of the next action.
        """
        if self.decay_at is not None and self._steering is not None:
            at, decay = self.decay_at
            if calls >= at:
                self.begin_decay(decay)
            else:
                poll_at = min(poll_at, at)
        if self.stop_at is None:
            return poll_at
        if calls < self.stop_at:
            self.should_stop = False
            return min(poll_at, self.stop_at)
        self.stop()
        return calls + ahead

    def stop(self) -> None:
        """Ask the loop to end."""
        if not self.should_stop:
            self._monitor.trail.note(Action.STOP)
        self.should_stop = True

    def begin_decay(self, decay: Decay) -> None:
        """Begin a decay, unless one has begun."""
        if self._steering is not None and self._steering.begin(decay, log=self.logs):
            self._monitor.trail.note(Action.CHANGE_SCHEDULE)

    def reset(self) -> None:
        """Forget all agreed actions and the stop, for a run that is resumed."""
        self.should_stop, self.stop_at, self.decay_at, self.logs = False, None, None, True
