"""`Team`: the processes of a distributed run, exchanging losses beside their training loops."""

import atexit
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossforecast.callbacks.distributed.processes import dist, processes
from lossforecast.callbacks.distributed.protocol import Block, Member, Message, Need, Wish
from lossforecast.log import logger
from lossforecast.schedule import Decay

__all__ = [
    "Team",
]


_GRACE = timedelta(seconds=30)  # for the others to have begun when the first block is there
_BROKEN = timedelta(hours=1)  # without an answer: somebody is gone and the network did not tell
_PATIENCE = 10.0  # seconds to wait for the others before a state is saved, and in the end
_HASTE = 1.0  # the same where an exception ends the run, and for the thread to end

_begun: "set[Team]" = set()  # by the training loops of this process, and not ended


class Team:
    """What the training loop of one process has to do with the other processes.

    The loop only leaves messages here. A thread takes them and talks to the threads of the other
    processes, over a gloo group of their own, so nothing waits for the device and nothing is mixed
    with the collectives of the training. The loop itself waits in two cases: at the step where all
    stop, for an answer that threads alone can give; and for a limited time in `drain`.

    Args:
        kind: teams of the same kind meet.
        start: optimizer steps taken.
        capacity: the most steps of a block.
        plan: what else must be the same in all processes, as text.
        deliver: called in the thread with every averaged message; what is wanted of all processes.
        probe: as in `Member`.
    """

    def __init__(
        self,
        kind: str,
        start: int,
        capacity: int,
        plan: str,
        deliver: Callable[[Message], Wish],
        probe: tuple[int, int] = (1, 0),
    ) -> None:
        self.lock = threading.RLock()  # a signal may have a state saved while one is being saved
        """Held while a message is delivered."""
        self.over = False
        """Whether the exchange has ended: nothing more is delivered."""
        self._rank, self._size = processes()
        self._member = Member(self._rank, self._size, start, capacity, self._hand_on, probe)
        self._deliver = deliver
        self.kind = kind
        alike = [team for team in _begun if team.kind == kind]
        self._name = f"{kind} {len(alike)}"  # of those that go on at the same time
        self._announcement = f"step {start} ({plan})"
        self._changed = threading.Condition()  # guards what follows and the member
        self._messages: deque[Message] = deque()
        self._current: Message | None = None  # taken by the thread, not delivered
        self._leaving = False
        self._patience = _PATIENCE
        self._met = False
        _begun.add(self)
        self._thread = threading.Thread(target=self._work, name="lossforecast", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ called by the loop

    @property
    def stop_at(self) -> int | None:
        """Calls of the optimizer after which every process stops, once that is agreed."""
        return self._member.stop_at

    @property
    def decay(self) -> tuple[int, Decay] | None:
        """Calls of the optimizer after which every process begins a decay, once that is agreed."""
        at, decay = self._member.decay_at, self._member.decay
        return None if at is None or decay is None else (at, decay)

    @property
    def failure(self) -> Exception | None:
        """What went wrong when a message was delivered."""
        return self._member.failure

    def post(self, message: Message) -> None:
        """Leave a message to be exchanged; none after one that leaves."""
        with self._changed:
            if not self._leaving:
                self._messages.append(message)
                self._leaving = isinstance(message, Block) and message.leaves
                self._changed.notify_all()

    def look(self, following: int) -> int:
        """Calls of the optimizer after which to look again, at most `following`, or to stop.

        As `Member.look`, and waits for the answer.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.over or self._member.look(following) is not None)
            return self._member.look(following) or following

    def drain(self) -> None:
        """Wait until all messages are delivered, but not forever."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: self.over or not self.undelivered, self._patience
            ):
                self._patience = 0.0  # whoever does not come once need not be waited for again

    def end(self, wait: bool = False) -> list[Message]:
        """End the exchange, after a while of waiting; the messages that were not exchanged."""
        patience = min(self._patience, _PATIENCE if wait else _HASTE)
        with self._changed:
            if self._met or self._rank == 0:
                self._changed.wait_for(lambda: self.over, patience)
            self.over = True
            self._changed.notify_all()
        _begun.discard(self)
        self._thread.join(_HASTE)
        with self.lock:  # what is being delivered will have been
            return self.undelivered

    @property
    def undelivered(self) -> list[Message]:
        """Messages that were not delivered."""
        with self._changed:
            return [*([self._current] if self._current else []), *self._messages]

    # ------------------------------------------------------------------ in the thread

    def _work(self) -> None:
        table, reason = None, ""
        try:
            table = self._table()
            reason = "process 0 does not forecast" if table is None else self._converse(table)
        except Exception as error:
            reason = f"the connection between the processes failed ({error})"
        finally:
            self._leave(table, reason)

    def _leave(self, table: Any, reason: str) -> None:
        if self._rank == 0 and table is not None:
            with suppress(Exception):  # the store may be gone
                table.set("open", "")
        with self._changed:
            if self._rank == 0 and reason and not (self.over or self._leaving or self.failure):
                logger.warning(
                    "%s: from here on forecasts are of the losses of process 0, and stop nothing",
                    reason,
                )
            elif table is None and self._rank and self.undelivered:
                logger.warning("process 0 has no forecasting callback: there are no forecasts")
            self.over = True
            self._changed.notify_all()

    def _converse(self, table: Any) -> str:
        """Do what the conversation needs until it ends; why it did."""
        conversation, channel = self._member.converse(), None
        answer: Any = None
        while True:
            try:
                need = conversation.send(answer)
            except StopIteration as end:
                return str(end.value)
            if need is Need.MESSAGE:
                answer = self._next_message()
                if answer is None:
                    return ""
                continue
            if channel is None:
                reason = self._meet(table)
                if reason:
                    return reason
                channel = _Channel(table, self._rank, self._size, lambda: self.over)
            if need is Need.PROMISE:
                with self._changed:
                    promise = self._member.promise()
                answer = channel.highest(promise)
            else:
                answer = channel.sum(need)

    def _table(self) -> Any:
        """The part of the store where this team meets, after a word of our own; None if nowhere.

        Process 0 lays a table for each of its teams, the others come to the first one open that
        they have not been at: one that missed a team finds the next.
        """
        store: Any = dist.distributed_c10d._get_default_store()
        store = store.clone() if hasattr(store, "clone") else store  # one for each thread
        store = dist.PrefixStore("lossforecast", store)
        mine = f"process {self._rank}"
        if self._rank == 0:
            table = dist.PrefixStore(str(store.add("tables", 1)), store)
            table.set("open", self._name)
            table.set(mine, self._announcement)
            return table
        for _ in self._tries(_BROKEN):
            for number in range(1, store.add("tables", 0) + 1):
                table = dist.PrefixStore(str(number), store)
                there = table.check(["open"]) and table.get("open").decode() == self._name
                if there and not table.check([mine]):
                    table.set(mine, self._announcement)
                    self._met = True
                    return table
        return None

    def _meet(self, table: Any) -> str:
        """Find out whether all processes take part, and alike; why not."""
        if self._rank:
            there = any(table.check(["verdict"]) for _ in self._tries(_BROKEN))
            return str(table.get("verdict").decode()) if there else "process 0 is silent"
        names = [f"process {rank}" for rank in range(self._size)]
        verdict = ""
        if any(table.check(names) for _ in self._tries(_GRACE)):
            for name in names:
                found = table.get(name).decode()
                if found != self._announcement:
                    verdict = f"{name} begins at {found:.200}, process 0 at {self._announcement}"
        else:
            verdict = "not all processes of this run have a forecasting callback"
        table.set("open", "")
        table.set("verdict", verdict)
        return verdict

    def _tries(self, limit: timedelta) -> Iterator[None]:
        """Yield now and then until the limit; a wait of the store's own could not be left."""
        pause, last = 0.01, time.monotonic() + limit.total_seconds()
        while not self.over:
            yield
            if time.monotonic() > last:
                return
            time.sleep(pause)
            pause = min(1.5 * pause, 1.0)

    def _next_message(self) -> Message | None:
        with self._changed:
            self._current = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._messages or self.over)
            if not self.over:
                self._current = self._messages.popleft()
            return self._current

    def _hand_on(self, message: Message) -> Wish:
        with self.lock:
            with self._changed:
                if self.over:
                    return Wish()
                self._current = None
            return self._deliver(message)


class _Channel:
    """Sums and maxima over the processes, through a gloo group of our own."""

    def __init__(self, store: Any, rank: int, size: int, over: Callable[[], bool]) -> None:
        self._group = dist.ProcessGroupGloo(dist.PrefixStore("group", store), rank, size, _BROKEN)
        self._over = over

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._reduced(values, dist.ReduceOp.SUM)

    def highest(self, value: int) -> int:
        return int(self._reduced(np.array([value]), dist.ReduceOp.MAX)[0])

    def _reduced(self, values: NDArray[Any], operation: Any) -> NDArray[Any]:
        options = dist.AllreduceOptions()
        options.reduceOp = operation
        work = self._group.allreduce([torch.from_numpy(values)], options)
        pause = 1e-4
        # a wait could not be left, and would abort a process that exits
        while not work.is_completed():
            if self._over():
                for each in (self._group, work, values):  # their end would wait for the others
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
                raise RuntimeError("left while the others were still to come")
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)
        work.wait()  # raises what went wrong
        return values


@atexit.register
def _end_all() -> None:
    """So that no thread is left that the interpreter would have to kill."""
    for team in list(_begun):
        team.end()
