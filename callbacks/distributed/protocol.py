"""How the processes of a run average their losses and agree on where to stop. No torch here."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.schedule import DECAY_SHAPES, Decay, LRSchedule

__all__ = [
    "Block",
    "Change",
    "Logged",
    "Looks",
    "Member",
    "Message",
    "Need",
    "Wish",
    "no_looks",
]


_DIGIT = 4096  # squares of smaller numbers, added over a million processes, are exact
# who leaves, who wants to stop; the step's low and high digit, each with its square; who wants a
# decay, and its start, length and shape
_HEADER = 10
_SHAPES = tuple(sorted(DECAY_SHAPES))


@dataclass(frozen=True)
class Looks:
    """What the annealing probe found.

    Attributes:
        steps: optimizer steps taken before each look, (n,).
        gaps: how much higher the loss was than with averaged weights, (n, horizons); nan where
            unknown.
    """

    steps: NDArray[np.int64]
    gaps: FloatArray


def no_looks(horizons: int = 0) -> Looks:
    """None of the looks of a probe with some horizons."""
    return Looks(np.empty(0, np.int64), np.empty((0, horizons)))


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
        looks: those of the annealing probe since the block before.
    """

    steps: NDArray[np.int64]
    losses: FloatArray
    rates: FloatArray
    step: int
    check: float | None = None
    may_stop: bool = True
    leaves: bool = False
    looks: Looks = field(default_factory=no_looks)


@dataclass(frozen=True)
class Logged:
    """A loss of the first process alone, or alike in all of them, after `step` optimizer steps.

    The metric is "val" or, of a mean that the host has reduced, "train"; the rest as in `Block`.
    """

    step: int
    loss: float
    rate: float | None
    check: float | None = None
    may_stop: bool = True
    metric: str = "val"


@dataclass(frozen=True)
class Change:
    """The schedule has changed, for this process to take notice of.

    Attributes:
        step: last step before the change.
        plan: the learning rate of every step.
    """

    step: int
    plan: LRSchedule


@dataclass(frozen=True)
class Wish:
    """What the first process wants all of them to do.

    Attributes:
        stop: to stop.
        decay: of the learning rate, to begin.
    """

    stop: bool = False
    decay: Decay | None = None


Message = Block | Logged | Change


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
      waits for it; conversations give it without waiting for any loop, so it comes. The same goes
      for one decay of the learning rate.

    Args:
        rank: of this process; that of rank 0 decides.
        size: number of processes.
        start: optimizer steps taken before the first block.
        capacity: the most steps of a block, the same in all processes.
        deliver: takes every averaged block and every other message; what is wanted.
        probe: steps between two looks of the annealing probe and the number of its horizons.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        start: int,
        capacity: int,
        deliver: Callable[[Message], Wish],
        probe: tuple[int, int] = (1, 0),
    ) -> None:
        self.failure: Exception | None = None
        """What `deliver` raised: this process leaves with its next block."""
        self.stop_at: int | None = None
        """Calls of the optimizer after which every process stops, once that is agreed."""
        self.decay: Decay | None = None
        """The decay that was agreed on."""
        self.decay_at: int | None = None
        """Calls of the optimizer after which it is begun in every process."""
        self.asked = False
        """Whether something is being agreed, so that what was promised stands."""
        self._promise = 0
        self._rank, self._size, self._capacity = rank, size, capacity
        self._from = start
        self._every, self._horizons = probe
        self._looks = capacity // self._every + 1 if self._horizons else 0  # the most in a block
        self._deliver = deliver
        self._wish = Wish()

    def look(self, following: int) -> int | None:
        """When the training loop is to look again: a number of optimizer calls.

        At most `following`; while something is being agreed, what was promised last time stands,
        and None says that the answer has to be waited for.
        """
        if self.asked:
            return None
        if self.stop_at is not None:
            return min(following, self.stop_at)
        self._promise = following
        return following

    def promise(self) -> int:
        """When the training loop will look again: from now on this stands."""
        self.asked = True
        return self._promise

    def converse(self) -> Generator[Need | FloatArray, Any, str]:
        """Yield what is waited for, be sent it; return why the exchange has ended."""
        while True:
            message = yield Need.MESSAGE
            if not isinstance(message, Block):
                self._pass_on(message)
                continue
            total = yield self._packed(message)
            leaving, stop = total[:2]
            decay, start, length, shape = (int(value) for value in total[6:_HEADER])
            if not self._together(total):
                return "the processes have taken different numbers of optimizer steps"
            # at once: loops may wait for it
            if stop and not leaving and self.stop_at is None:
                self.stop_at = int((yield Need.PROMISE))
                self.asked = False
            if decay and not leaving and self.decay_at is None and self.stop_at is None:
                self.decay = Decay(start, length, _SHAPES[shape])
                self.decay_at = int((yield Need.PROMISE))
                self.asked = False
            self._pass_on(self._averaged(message, total))
            if leaving:
                return "" if leaving == self._size else "a process has ended or failed"

    def _pass_on(self, message: Message) -> None:
        if self.failure is not None:
            return
        try:
            wish = self._deliver(message)
            if not isinstance(message, Change):
                self._wish = wish
        except Exception as error:
            self.failure, self._wish = error, Wish()

    def _packed(self, block: Block) -> FloatArray:
        """Header, sums by step and counts by step; a step has its place, whatever the block."""
        high, low = divmod(block.step, _DIGIT)
        wish = self._wish if self._rank == 0 else Wish()
        leaves = block.leaves or self.failure is not None
        gaps = np.zeros((2, self._looks, self._horizons))
        packed = np.zeros(_HEADER + 2 * self._capacity + gaps.size)
        packed[:6] = leaves, wish.stop, low, low**2, high, high**2
        if wish.decay is not None:
            decay = wish.decay
            packed[6:_HEADER] = 1, decay.start, decay.steps, _SHAPES.index(decay.shape)
        inside = (block.steps >= self._from) & (block.steps < self._from + self._capacity)
        place = _HEADER + block.steps[inside] % self._capacity
        packed[place] = block.losses[inside]
        packed[place + self._capacity] = 1
        for step, found in zip(block.looks.steps, block.looks.gaps, strict=True):
            known = np.isfinite(found)
            gaps[:, step // self._every % self._looks, known] = found[known], np.ones(known.sum())
        packed[packed.size - gaps.size :] = gaps.ravel()
        return packed

    def _together(self, total: FloatArray) -> bool:
        """Whether all are at the same step: then its digits have no variance."""
        leaving, _, low, low2, high, high2 = total[:6]
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
        looks = self._averaged_looks(total[_HEADER + 2 * self._capacity :])
        self._from = block.step
        return Block(
            steps, means, rates, block.step, block.check, block.may_stop, block.leaves, looks
        )

    def _averaged_looks(self, total: FloatArray) -> Looks:
        """The means of the gaps over the processes that know them."""
        both: FloatArray = total.reshape(2, self._looks, self._horizons)
        sums, counts = both[0], both[1]
        first = self._from // self._every
        steps = self._every * np.arange(first, first + self._looks)
        place = steps // self._every % max(self._looks, 1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[place]
        known: NDArray[np.bool_] = np.any(counts > 0, axis=1)[place]
        return Looks(steps[known], means[known])
