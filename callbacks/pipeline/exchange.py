"""`Exchange`: brings messages to the listener, directly or through the other processes."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.distributed import Block, Message, Team, processes
from lossforecast.callbacks.pipeline.actions import Actions
from lossforecast.callbacks.pipeline.listener import Listener
from lossforecast.callbacks.pipeline.losses import no_losses

if TYPE_CHECKING:
    from lossforecast.callbacks.probe import AnnealingProbe

__all__ = ["Exchange"]


class Exchange:
    """Delivers messages: at once where there is one process, through a `Team` among several.

    Args:
        listener: receives the messages.
        actions: carries out what the listener requests.
    """

    def __init__(self, listener: Listener, actions: Actions) -> None:
        self._listener = listener
        self._actions = actions
        self._team: Team | None = None
        self._size = 1  # number of processes in the latest team

    @property
    def is_connected(self) -> bool:
        """True while messages are exchanged with other processes."""
        return self._team is not None

    @property
    def is_complete(self) -> bool:
        """True if the team has all processes that there are now, or this process is alone."""
        return self._size >= processes()[1]

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Context manager during which no thread delivers a message."""
        return nullcontext() if self._team is None else self._team.lock

    @property
    def undelivered(self) -> list[Message]:
        """Messages that wait for the other processes."""
        return [] if self._team is None else self._team.undelivered

    def connect(self, start: int, max_unread: int, probe: "AnnealingProbe | None") -> None:
        """Start a team of all processes, which must have the same settings.

        Args:
            start: optimizer steps whose losses were posted.
            max_unread: steps after which losses are read at the latest.
            probe: an annealing probe that has begun.
        """
        forecaster, may = self._listener.monitor.forecaster, self._listener.may_request
        every_n = forecaster.every_n_steps
        if probe is not None and probe.switched_off:
            probe = None
        pace, horizons = (1, 0) if probe is None else (probe.every, len(probe.horizons))
        if probe is not None:
            may += f", {horizons} horizons every {pace}"
        rank, self._size = processes()
        self._listener.first = self._actions.logs = rank == 0
        self._team = Team(
            forecaster.run.metric,
            start=start,
            capacity=2 * min(every_n, max_unread),
            plan=f"a forecast every {every_n} of {forecaster.total_steps} steps{may}",
            deliver=self._listener.deliver,
            probe=(pace, horizons),
        )

    def post(self, message: Message) -> None:
        """Deliver a message, or enqueue it for the team; notify sinks of new forecasts."""
        if self._team is not None:
            self._team.post(message)
        else:
            self._listener.deliver(message)
            self.apply_request()
        self._listener.notify_sinks()

    def apply_request(self) -> None:
        """Carry out the request of the listener, unless other processes have to agree."""
        if not self._size == 1 == processes()[1]:
            return
        request = self._listener.request(self._actions.may_stop)
        if request.stop:
            self._actions.stop()
        if request.decay is not None:
            self._actions.begin_decay(request.decay)

    def poll(self) -> None:
        """Notify sinks of forecasts made in a thread; go on alone if the exchange has ended."""
        if self._team is not None:
            self._listener.notify_sinks()
            if self._team.over:
                self.disconnect(wait=False)

    def next_poll(self, calls: int, ahead: int) -> int:
        """Carry out due actions; return the calls of the optimizer after which to poll again.

        Args:
            calls: calls of the optimizer so far.
            ahead: further calls until the next poll, if no agreed action comes before.
        """
        poll_at = calls + ahead
        if self._team is not None:
            poll_at = self._team.schedule_poll(calls, ahead)
            self._actions.stop_at, self._actions.decay_at = self._team.stop_at, self._team.decay
        return self._actions.run_due(calls, poll_at, ahead)

    def drain(self) -> None:
        """Wait for a limited time until all messages are delivered."""
        if self._team is not None:
            self._team.drain()

    def disconnect(self, *, wait: bool) -> None:
        """End the exchange and deliver the messages that were not exchanged.

        Args:
            wait: whether to wait a while for the other processes.
        """
        if self._team is None:
            return
        team, left = self._team, self._team.end(wait)
        self._team = None
        self._actions.stop_at, self._actions.decay_at = team.stop_at, team.decay
        if team.failure is not None:
            raise team.failure
        for message in left:
            self._listener.deliver(message)
        self._listener.notify_sinks()

    def announce_leaving(self, step: int) -> None:
        """Post the last block of this process; agreed actions stay due."""
        if self._team is not None:
            self._team.post(Block(*no_losses(), step=step, leaves=True))

    def abort(self) -> None:
        """End the exchange without delivering the remaining messages."""
        if self._team is not None:
            self._team.end()
            self._team = None

    def abandon(self) -> None:
        """Forget the other processes, in a forked child, where the thread does not run."""
        self._team = None

    def reset(self) -> None:
        """Return to the state of a process on its own, for a run that is resumed."""
        if self._team is not None:
            self._team.end()
        self._team, self._size, self._listener.first = None, 1, True
