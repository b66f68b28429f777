"""The protocol by which processes average losses and agree on stops and decays; without torch."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.callbacks.distributed.header import HEADER_SIZE, Header, Request
from lossforecast.schedule import Decay, LRSchedule

__all__ = ["Block", "Change", "Event", "GapBatch", "Logged", "Member", "Message", "Need"]

_NO_ANSWER = "a process did not answer about a stop or a decay, which is cancelled"


@dataclass(frozen=True)
class GapBatch:
    """Gaps measured by the annealing probe.

    Attributes:
        steps: optimizer steps taken before each measurement, (n,).
        gaps: loss of the weights minus loss of their average over each horizon, (n, n_horizons);
            nan where unknown.
    """

    steps: NDArray[np.int64]
    gaps: FloatArray

    @classmethod
    def empty(cls, n_horizons: int = 0) -> Self:
        """Return zero measurements of a probe with `n_horizons` horizons."""
        return cls(np.empty(0, np.int64), np.empty((0, n_horizons)))


@dataclass(frozen=True)
class Block:
    """The training losses since the previous block.

    Attributes:
        steps: optimizer steps taken before each loss, (n,).
        losses: the losses, (n,).
        rates: learning rate of the step before each loss, nan where unknown, (n,).
        step: all losses before this step are in this block or an earlier one.
        check: learning rate of the next step if a forecast is due after this block, else None.
        may_stop: whether the run is long enough to be stopped.
        leaves: whether this is the last block of this process.
        gap_batch: gaps measured since the previous block.
    """

    steps: NDArray[np.int64]
    losses: FloatArray
    rates: FloatArray
    step: int
    check: float | None = None
    may_stop: bool = True
    leaves: bool = False
    gap_batch: GapBatch = field(default_factory=GapBatch.empty)


@dataclass(frozen=True)
class Logged:
    """A single loss after `step` optimizer steps, which needs no averaging.

    Its `metric` is "val" or, for a mean that the framework has reduced already, "train". The other
    fields are those of `Block`.
    """

    step: int
    loss: float
    rate: float | None
    check: float | None = None
    may_stop: bool = True
    metric: str = "val"


@dataclass(frozen=True)
class Change:
    """A change of what this process knows about the rest of the run.

    Attributes:
        step: last step before the change.
        plan: the learning rate of every step; None if it has not changed.
        steps_per_epoch: optimizer steps in one pass over the data; None if they have not changed.
    """

    step: int
    plan: LRSchedule | None = None
    steps_per_epoch: float | None = None


@dataclass(frozen=True)
class Event:
    """A change that the user has marked in this process, after `step` optimizer steps."""

    step: int
    name: str


Message = Block | Logged | Change | Event


class Need(Enum):
    """Something an exchange waits for, other than the sum of an array over all processes."""

    MESSAGE = "the next message of the training loop"
    NEXT_POLL = "the maximum over all processes of the next poll of their loops; None if cancelled"


class Member:
    """One of the processes that train together.

    Its training loop posts blocks and goes on; `exchange` runs beside the loop. Per block there is
    one sum over all processes: a `Header`, and the losses and counts of every step. All processes
    see the same sums, so all draw the same conclusions:

    - If a process leaves, or is at another step than the others, this exchange is the last.
    - If rank 0 requests a stop, the processes agree on the number of optimizer calls after which
      every loop stops: the largest of those at which the loops poll next. A loop that gets there
      before the answer waits for it. The answer does not depend on any loop, so there is no
      deadlock. A decay of the learning rate is agreed on in the same way, once.
    - If an agreement is cancelled, because a process is frozen, this exchange is the last.

    Args:
        rank: rank of this process; rank 0 decides.
        size: number of processes.
        start: optimizer steps taken before the first block.
        capacity: maximum number of steps in a block, the same in all processes.
        deliver: called with every averaged block and every other message; returns the request.
        probe: steps between two measurements of the annealing probe, and its number of horizons.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        start: int,
        capacity: int,
        deliver: Callable[[Message], Request],
        probe: tuple[int, int] = (1, 0),
    ) -> None:
        self.failure: Exception | None = None
        """The exception that `deliver` raised: this process leaves with its next block."""
        self.stop_at: int | None = None
        """Number of optimizer calls after which every process stops, once agreed."""
        self.decay: Decay | None = None
        """The decay that was agreed."""
        self.decay_at: int | None = None
        """Number of optimizer calls after which every process begins it, once agreed."""
        self.agreeing = False
        """True while an agreement is under way, during which the next poll must not move."""
        self._next_poll = 0
        self._rank, self._size, self._capacity = rank, size, capacity
        self._from = start
        self._probe_every, self._n_horizons = probe
        # maximum number of measurements in a block
        self._max_gaps = capacity // self._probe_every + 1 if self._n_horizons else 0
        self._deliver = deliver
        self._request = Request()

    def schedule_poll(self, calls: int) -> int | None:
        """Return the optimizer calls after which the training loop polls next, at most `calls`.

        None while an agreement is under way, for which the loop has to wait.
        """
        if self.agreeing:
            return None
        if self.stop_at is not None:
            return min(calls, self.stop_at)
        self._next_poll = calls
        return calls

    def freeze_poll(self) -> int:
        """Begin an agreement; return the next poll of the loop, in optimizer calls, now fixed."""
        self.agreeing = True
        return self._next_poll

    def exchange(self) -> Generator[Need | FloatArray, Any, str]:
        """Yield each `Need` or array to be summed, and receive the answer; return why it ended."""
        while True:
            message = yield Need.MESSAGE
            if not isinstance(message, Block):
                self._pass_on(message)
                continue
            total = yield self._packed(message)
            header = Header.decode(total[:HEADER_SIZE])
            if not header.leaving and not header.same_step(self._size):
                return "the processes have taken different numbers of optimizer steps"
            # agree before anything else: loops may be waiting
            request = Request() if header.leaving else header.request
            if request.stop and self.stop_at is None:
                agreed = yield Need.NEXT_POLL
                if agreed is None:
                    return _NO_ANSWER
                self.stop_at, self.agreeing = int(agreed), False
            if request.decay is not None and self.decay_at is None and self.stop_at is None:
                agreed = yield Need.NEXT_POLL
                if agreed is None:
                    return _NO_ANSWER
                self.decay = request.decay
                self.decay_at, self.agreeing = int(agreed), False
            self._pass_on(self._averaged(message, total))
            if header.leaving:
                return "" if header.leaving == self._size else "a process has ended or failed"

    def _pass_on(self, message: Message) -> None:
        if self.failure is not None:
            return
        try:
            request = self._deliver(message)
            if not isinstance(message, Change | Event):
                self._request = request
        except Exception as error:
            self.failure, self._request = error, Request()

    def _packed(self, block: Block) -> FloatArray:
        """Return the array to be summed: header, losses and counts by step, gaps and counts.

        The index of a step is its number modulo the capacity, the same in every process. That of a
        measurement is its number modulo the maximum number in a block.
        """
        request = self._request if self._rank == 0 else Request()
        leaving = block.leaves or self.failure is not None
        header = Header.of(block.step, request, leaving=leaving)
        losses = np.zeros((2, self._capacity))
        inside = (block.steps >= self._from) & (block.steps < self._from + self._capacity)
        place = block.steps[inside] % self._capacity
        losses[0, place], losses[1, place] = block.losses[inside], 1
        gaps = np.zeros((2, self._max_gaps, self._n_horizons))
        for step, of_step in zip(block.gap_batch.steps, block.gap_batch.gaps, strict=True):
            known = np.isfinite(of_step)
            index = step // self._probe_every % self._max_gaps
            gaps[0, index, known], gaps[1, index, known] = of_step[known], 1
        return np.concatenate([header.encode(), losses.ravel(), gaps.ravel()])

    def _averaged(self, block: Block, total: FloatArray) -> Block:
        """Return the block with each loss averaged over the processes that have one at its step."""
        end_of_losses = HEADER_SIZE + 2 * self._capacity
        sums, counts = total[HEADER_SIZE:end_of_losses].reshape(2, self._capacity)
        steps = np.arange(self._from, self._from + self._capacity)
        place = steps % self._capacity
        sums, counts = sums[place], counts[place]
        known = counts > 0
        steps, means = steps[known], sums[known] / counts[known]
        rates = np.full(steps.size, np.nan)
        _, ours, in_block = np.intersect1d(steps, block.steps, return_indices=True)
        rates[ours] = block.rates[in_block]
        gap_batch = self._averaged_gaps(total[end_of_losses:])
        self._from = block.step
        return Block(
            steps,
            means,
            rates,
            block.step,
            check=block.check,
            may_stop=block.may_stop,
            leaves=block.leaves,
            gap_batch=gap_batch,
        )

    def _averaged_gaps(self, total: FloatArray) -> GapBatch:
        """Return each gap averaged over the processes that have measured it."""
        sums, counts = total.reshape(2, self._max_gaps, self._n_horizons)
        first = self._from // self._probe_every
        steps = self._probe_every * np.arange(first, first + self._max_gaps)
        place = steps // self._probe_every % max(self._max_gaps, 1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[place]
        known: NDArray[np.bool_] = np.any(counts > 0, axis=1)[place]
        return GapBatch(steps[known], means[known])
