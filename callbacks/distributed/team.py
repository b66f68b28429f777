"""`Team`: the processes of a distributed run, which exchange losses beside their training loops."""

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from lossforecast.callbacks.distributed.channel import Channel
from lossforecast.callbacks.distributed.header import Request
from lossforecast.callbacks.distributed.processes import processes, torch_distributed
from lossforecast.callbacks.distributed.protocol import Block, Member, Message, Need
from lossforecast.log import logger
from lossforecast.schedule import Decay

__all__ = ["Team", "Timeouts"]

_active: "set[Team]" = set()  # started by the training loops of this process, and still active
_CANCELLED = "cancelled"
_NEXT_WAIT_S = 0.1  # at each poll of a loop that has waited for an agreement in vain


@dataclass(frozen=True)
class Timeouts:
    """How long a team waits for the other processes, in seconds.

    Attributes:
        rendezvous: until all processes have started a callback, from the first block of rank 0 on;
            for a process whose run ends before it has met the others, from its start on.
        connection: for an answer of another process, which is then assumed to be gone although the
            network has not reported that.
        drain: for the messages of the others before a state is saved, and for the whole end of the
            exchange at the end of the run.
        exit: for the messages of the others if an exception ends the run; also for the thread.
        agreement: for the answers of the others about a stop or a decay, which is then cancelled.
    """

    rendezvous: float = 30.0
    connection: float = 3600.0
    drain: float = 10.0
    exit: float = 1.0
    agreement: float = 5.0


class Team:
    """The exchange of one process with the other processes of the run.

    The training loop posts messages here and goes on. A thread takes them and exchanges them with
    the threads of the other processes over a gloo group of its own, so nothing waits for the
    device and nothing interferes with the collectives of the training. The loop itself waits in two
    cases, for a limited time: at the step of a stop or a decay that is being agreed on, for an
    answer that the threads give without any loop; and in `drain` and `end`.

    A process may freeze while an agreement is under way. Whoever has waited too long for its answer
    cancels the agreement, and whoever has all answers confirms it, both under one key of torch's
    key-value store, where the first to write decides for all. If the store itself does not answer,
    because its host is frozen, the loop goes on and asks again after each optimizer step.

    Args:
        kind: teams of the same kind meet.
        start: optimizer steps taken.
        capacity: maximum number of steps in a block.
        plan: settings that must be the same in all processes, as text.
        deliver: called in the thread with every averaged message; returns the request of this
            process, which counts on rank 0.
        probe: as in `Member`.
    """

    timeouts: ClassVar[Timeouts] = Timeouts()
    """Timeouts of all teams of this process."""

    def __init__(
        self,
        kind: str,
        start: int,
        capacity: int,
        plan: str,
        deliver: Callable[[Message], Request],
        probe: tuple[int, int] = (1, 0),
    ) -> None:
        self.lock = threading.RLock()  # a signal handler may save a state during another save
        """Held while a message is delivered."""
        self.over = False
        """True once the exchange has ended: nothing more is delivered."""
        self._rank, self._size = processes()
        self._member = Member(
            rank=self._rank,
            size=self._size,
            start=start,
            capacity=capacity,
            deliver=self._deliver_locked,
            probe=probe,
        )
        self._deliver = deliver
        self.kind = kind
        same_kind = [team for team in _active if team.kind == kind]
        self._name = f"{kind} {len(same_kind)}"  # unique among the active teams
        self._announcement = f"step {start} ({plan})"
        # guards the fields below and the member; entered as such, not through the condition, whose
        # `__enter__` could be interrupted by a signal after it has locked
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._messages: deque[Message] = deque()
        self._current: Message | None = None  # taken by the thread, not delivered yet
        self._leaving = False
        self._drain_timeout = self.timeouts.drain
        self._agreement_timeout = self._first_agreement_timeout
        self._n_agreements = 0
        self._joined = False
        self._channel: Channel | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="lossforecast", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the thread limit is reached
            reason = f"process {self._rank} exchanges nothing ({error})"
            if self._rank:
                logger.warning(reason)
            self._close(None, reason)
        else:
            _active.add(self)

    # ------------------------------------------------------------------ called by the loop

    @property
    def stop_at(self) -> int | None:
        """Number of optimizer calls after which every process stops, once agreed."""
        return self._member.stop_at

    @property
    def decay(self) -> tuple[int, Decay] | None:
        """Number of optimizer calls after which every process begins a decay, once agreed."""
        at, decay = self._member.decay_at, self._member.decay
        return None if at is None or decay is None else (at, decay)

    @property
    def failure(self) -> Exception | None:
        """The exception that the delivery of a message raised."""
        return self._member.failure

    def post(self, message: Message) -> None:
        """Enqueue a message; ignored after a block with `leaves`."""
        with self._mutex:
            if not self._leaving:
                self._messages.append(message)
                self._leaving = isinstance(message, Block) and message.leaves
                self._changed.notify_all()

    def schedule_poll(self, calls: int, ahead: int) -> int:
        """Return the optimizer calls after which to poll again or to stop.

        It waits while an agreement is under way, for a limited time.

        Args:
            calls: optimizer calls so far.
            ahead: maximum number of further calls until the poll.
        """
        then = calls + ahead
        with self._mutex:
            if not self._changed.wait_for(
                lambda: self.over or self._member.schedule_poll(then) is not None,
                self._agreement_timeout,
            ):
                self._agreement_timeout = _NEXT_WAIT_S
                return calls + 1
            self._agreement_timeout = self._first_agreement_timeout
            return self._member.schedule_poll(then) or then

    def drain(self) -> None:
        """Wait until all messages are delivered, for a limited time."""
        with self._mutex:
            if not self._changed.wait_for(
                lambda: self.over or not self.undelivered, self._drain_timeout
            ):
                self._drain_timeout = 0.0  # do not wait a second time for a process that was late

    def end(self, wait: bool = False) -> list[Message]:
        """End the exchange and return the messages that were not delivered.

        Args:
            wait: whether the run ends normally, so that the others' last blocks are worth waiting
                for; otherwise the wait is short.
        """
        exit_time = self.timeouts.exit
        limit = max(self.timeouts.drain, exit_time) if wait else 2 * exit_time
        with self._mutex:
            if wait and self._rank:  # a short run may end before its thread has met the others
                young = self._began + self.timeouts.rendezvous - time.monotonic()
                self._changed.wait_for(lambda: self.over or self._joined, max(young, 0.0))
            last = time.monotonic() + limit
            if self._joined or self._rank == 0:
                others = min(self._drain_timeout, limit - exit_time)
                self._changed.wait_for(lambda: self.over, others)
            self.over = True
            self._changed.notify_all()
        _active.discard(self)
        if self._thread.is_alive():
            self._thread.join(exit_time)
        # a delivery may be under way
        if not self.lock.acquire(timeout=max(last - time.monotonic(), 0.0)):
            self._member.failure = RuntimeError(f"a forecast has not ended after {limit:g} s")
            return []
        try:
            return self.undelivered
        finally:
            self.lock.release()

    @property
    def undelivered(self) -> list[Message]:
        """Messages that are not delivered yet."""
        with self._mutex:
            return [*([self._current] if self._current else []), *self._messages]

    # ------------------------------------------------------------------ in the thread

    @property
    def _first_agreement_timeout(self) -> float:
        return self.timeouts.agreement + self.timeouts.exit

    def _run(self) -> None:
        namespace, reason = None, ""
        try:
            namespace = self._open_rendezvous() if self._rank == 0 else self._find_rendezvous()
            reason = (
                "process 0 does not forecast" if namespace is None else self._exchange(namespace)
            )
        except Exception as error:
            reason = f"the connection between the processes failed ({error})"
        finally:
            self._close(namespace, reason)

    def _close(self, namespace: Any, reason: str) -> None:
        if self._rank == 0 and namespace is not None:
            with suppress(Exception):  # the store may be gone
                namespace.set("open", "")
        with self._mutex:
            if self._rank == 0 and reason and not (self.over or self._leaving or self.failure):
                logger.warning(
                    "%s: from here on, forecasts use the losses of process 0 alone and stop "
                    "no process",
                    reason,
                )
            elif namespace is None and self._rank and self.undelivered:
                logger.warning("process 0 has no forecasting callback: there are no forecasts")
            self.over = True
            self._changed.notify_all()

    def _exchange(self, namespace: Any) -> str:
        """Supply what `Member.exchange` needs until it ends; return the reason for the end."""
        exchange = self._member.exchange()
        answer: Any = None
        while True:
            try:
                need = exchange.send(answer)
            except StopIteration as end:
                return str(end.value)
            if need is Need.MESSAGE:
                answer = self._next_message()
                if answer is None:
                    return ""
                continue
            if self._channel is None:
                reason = self._barrier(namespace)
                if reason:
                    return reason
                timeout = timedelta(seconds=self.timeouts.connection)
                self._channel = Channel(
                    namespace,
                    rank=self._rank,
                    size=self._size,
                    timeout=timeout,
                    over=lambda: self.over,
                )
            if need is Need.NEXT_POLL:
                answer = self._agree(namespace, self._channel)
            else:
                answer = self._channel.sum(need)

    def _agree(self, namespace: Any, channel: Channel) -> int | None:
        """Return the maximum of the next polls, the same in all processes; None if cancelled."""
        with self._mutex:
            next_poll = self._member.freeze_poll()
        self._n_agreements += 1
        at = channel.maximum(next_poll, self.timeouts.agreement)
        ours = _CANCELLED if at is None else str(at)
        key = f"agreement {self._n_agreements}"
        decided = namespace.compare_set(key, "", ours).decode()  # the first value written
        return None if decided == _CANCELLED else int(decided)

    def _open_rendezvous(self) -> Any:
        """On rank 0, open a namespace of torch's key-value store where the processes meet."""
        store = _own_store()
        namespace = torch_distributed().PrefixStore(str(store.add("rendezvous", 1)), store)
        namespace.set("open", self._name)
        namespace.set("process 0", self._announcement)
        return namespace

    def _find_rendezvous(self) -> Any:
        """On other ranks, find the namespace where the processes meet; None if rank 0 opens none.

        It is the first open namespace of a team of this name that this process has not joined yet,
        so a process that missed one rendezvous finds the next.
        """
        store, key = _own_store(), f"process {self._rank}"
        for _ in self._poll_until(self.timeouts.connection):
            for number in range(1, store.add("rendezvous", 0) + 1):
                namespace = torch_distributed().PrefixStore(str(number), store)
                is_open = namespace.check(["open"])
                if not is_open or namespace.get("open").decode() != self._name:
                    continue
                if not namespace.check([key]):
                    namespace.set(key, self._announcement)
                    with self._mutex:
                        self._joined = True
                        self._changed.notify_all()
                    return namespace
        return None

    def _barrier(self, namespace: Any) -> str:
        """Wait for all processes; return why they cannot exchange, "" if they can.

        Rank 0 checks that all begin at the same step with the same plan, and publishes the result.
        """
        if self._rank:
            for _ in self._poll_until(self.timeouts.connection):
                if namespace.check(["verdict"]):
                    return str(namespace.get("verdict").decode())
            return "process 0 does not answer"
        names = [f"process {rank}" for rank in range(self._size)]
        verdict = ""
        if any(namespace.check(names) for _ in self._poll_until(self.timeouts.rendezvous)):
            for name in names:
                theirs = namespace.get(name).decode()
                if theirs != self._announcement:
                    verdict = f"{name} begins at {theirs:.200}, process 0 at {self._announcement}"
        else:
            verdict = "not all processes of this run have a forecasting callback"
        namespace.set("open", "")
        namespace.set("verdict", verdict)
        return verdict

    def _poll_until(self, timeout: float) -> Iterator[None]:
        """Yield at growing intervals until the timeout or the end of the team.

        The store's own blocking wait is not used because it cannot be interrupted.
        """
        pause, last = 0.01, time.monotonic() + timeout
        while not self.over:
            yield
            if time.monotonic() > last:
                return
            time.sleep(pause)
            pause = min(1.5 * pause, 1.0)

    def _next_message(self) -> Message | None:
        with self._mutex:
            self._current = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._messages or self.over)
            if not self.over:
                self._current = self._messages.popleft()
            return self._current

    def _deliver_locked(self, message: Message) -> Request:
        with self.lock:
            with self._mutex:
                if self.over:
                    return Request()
                self._current = None
            return self._deliver(message)


def _own_store() -> Any:
    """Return a connection of this thread to torch's key-value store, under a prefix of our own."""
    dist = torch_distributed()
    store: Any = dist.distributed_c10d._get_default_store()
    store = store.clone() if hasattr(store, "clone") else store
    return dist.PrefixStore("lossforecast", store)


def _forget_all() -> None:
    """Forget all teams in a forked child: their threads do not exist there, but may hold locks."""
    _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


@atexit.register
def _end_all() -> None:
    """End all teams, so that the interpreter need not kill their threads."""
    for team in list(_active):
        team.end()
