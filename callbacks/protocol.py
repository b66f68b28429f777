"""How the processes of a run average their losses and agree on where to stop. No torch here."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "Member", "Need", "Validation"]

FloatArray = NDArray[np.float64]

_DIGIT = 4096  # squares of smaller numbers, added over a million processes, are exact
_HEADER = 6  # who leaves, who wants to stop; the step's low and high digit, each with its square


@dataclass(frozen=True)
class Block:
    """The training losses since the block before.

    Attributes:
        steps: optimizer steps taken before each loss, (n,).
        losses: the losses, (n,).
        rates: learning rates they were reached with, nan where unknown, (n,).
        step: all losses before it are in this block or an earlier one.
        check: learning rate of the next step if a forecast is due after this block, else None.
        may_stop: whether the run has come far enough to be stopped.
        leaves: whether this process has no more to tell.
    """

    steps: NDArray[np.int64]
    losses: FloatArray
    rates: FloatArray
    step: int
    check: float | None = None
    may_stop: bool = True
    leaves: bool = False


@dataclass(frozen=True)
class Validation:
    """A validation loss after `step` optimizer steps; the rest as in `Block`."""

    step: int
    loss: float
    rate: float | None
    check: float | None = None
    may_stop: bool = True


class Need(Enum):
    """What a conversation waits for, when it is not the sum of an array over all processes."""

    MESSAGE = "the next message of the training loop"
    PROMISE = "the maximum over all processes of what their loops promised"


class Member:
    """One process among those that train together.

    Its training loop hands over blocks and goes on; `converse` exchanges them beside the loop. Per
    block there is one sum over all processes, of losses and counts by step and of a few flags.
    Everybody sees the same sums, so everybody draws the same conclusions from them:

    - If a process leaves, or is at another step than the rest, this was the last exchange.
    - If the first process wants to stop, every loop stops after the highest number of optimizer
      calls that any loop has promised to look up at. A loop that gets there before the answer
      waits for it; conversations give it without waiting for any loop, so it comes.

    Args:
        rank: of this process; that of rank 0 decides.
        size: number of processes.
        start: optimizer steps taken before the first block.
        capacity: the most steps of a block, the same in all processes.
        deliver: takes every averaged block and every validation; whether a stop is wanted.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        start: int,
        capacity: int,
        deliver: Callable[[Block | Validation], bool],
    ) -> None:
        self.failure: Exception | None = None
        """What `deliver` raised: this process leaves with its next block."""
        self.stop_at: int | None = None
        """Calls of the optimizer after which every process stops, once that is agreed."""
        self._promise, self._asked = 0, False
        self._rank, self._size, self._capacity = rank, size, capacity
        self._from = start
        self._deliver = deliver
        self._wish = False

    def look(self, following: int) -> int | None:
        """When the training loop is to look again: a number of optimizer calls.

        At most `following`; once somebody wants to stop, what was promised last time stands, and
        None says that the answer has to be waited for.
        """
        if self.stop_at is not None:
            return min(following, self.stop_at)
        if self._asked:
            return None
        self._promise = following
        return following

    def promise(self) -> int:
        """When the training loop will look again: from now on this stands."""
        self._asked = True
        return self._promise

    def converse(self) -> Generator[Need | FloatArray, Any, str]:
        """Yield what is waited for, be sent it; return why the exchange has ended."""
        while True:
            message = yield Need.MESSAGE
            if isinstance(message, Validation):
                self._pass_on(message)
                continue
            total = yield self._packed(message)
            leaving, wanted = total[:2]
            if not self._together(total):
                return "the processes have taken different numbers of optimizer steps"
            if wanted and not leaving and self.stop_at is None:
                self.stop_at = int((yield Need.PROMISE))  # at once: loops may wait for it
            self._pass_on(self._averaged(message, total))
            if leaving:
                return "" if leaving == self._size else "a process has ended or failed"

    def _pass_on(self, message: Block | Validation) -> None:
        if self.failure is not None:
            return
        try:
            self._wish = self._deliver(message)
        except Exception as error:
            self.failure, self._wish = error, False

    def _packed(self, block: Block) -> FloatArray:
        """Header, sums by step and counts by step; a step has its place, whatever the block."""
        high, low = divmod(block.step, _DIGIT)
        wish = self._rank == 0 and self._wish
        leaves = block.leaves or self.failure is not None
        packed = np.zeros(_HEADER + 2 * self._capacity)
        packed[:_HEADER] = leaves, wish, low, low**2, high, high**2
        inside = (block.steps >= self._from) & (block.steps < self._from + self._capacity)
        place = _HEADER + block.steps[inside] % self._capacity
        packed[place] = block.losses[inside]
        packed[place + self._capacity] = 1
        return packed

    def _together(self, total: FloatArray) -> bool:
        """Whether all are at the same step: then its digits have no variance."""
        leaving, _, low, low2, high, high2 = total[:_HEADER]
        same = self._size * low2 == low**2 and self._size * high2 == high**2
        return bool(same or leaving)

    def _averaged(self, block: Block, total: FloatArray) -> Block:
        """The block with the means over the processes that have a loss."""
        steps = np.arange(self._from, self._from + self._capacity)
        place = _HEADER + steps % self._capacity
        sums, counts = total[place], total[place + self._capacity]
        known = counts > 0
        steps, means = steps[known], sums[known] / counts[known]
        rates = np.full(steps.size, np.nan)
        _, here, there = np.intersect1d(steps, block.steps, return_indices=True)
        rates[here] = block.rates[there]
        self._from = block.step
        return Block(steps, means, rates, block.step, block.check, block.may_stop, block.leaves)
