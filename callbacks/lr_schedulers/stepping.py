"""How often a scheduler is stepped in a run, directly or inside wrappers such as accelerate's."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.optim import lr_scheduler as torch_lr

from lossforecast.arrays import IntArray
from lossforecast.callbacks.distributed import processes
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError

__all__ = [
    "PaceMeter",
    "Positions",
    "every",
    "first_steps",
    "is_near",
    "measured_pace",
    "position_of",
    "steps_per_call",
    "unwrapped",
]

_CHECKS = 4  # the latest ones, between which the pace of a scheduler is measured
_MIN_SCHEDULER_STEPS = 3  # planned between them, before a scheduler that stands still is given up
_PACE_TOLERANCE = 0.1  # of the planned pace; steps that a gradient scaler skips explain less

Positions = Callable[[IntArray], IntArray]
"""Function from optimizer steps, (n,), to the scheduler steps from now to each of them, (n,)."""


def every(n_steps: int, *, step: int = 0, times: int = 1) -> Positions:
    """Return `scheduler_steps` for a scheduler stepped after every `n_steps` optimizer steps.

    ``scheduler_steps(i) = times * ((i - 1) // n_steps - step // n_steps)`` for optimizer step i.

    Args:
        n_steps: optimizer steps between two scheduler steps, such as those of an epoch; at least 1.
        step: optimizer steps already taken.
        times: scheduler steps taken at a time; see `steps_per_call`.

    Raises:
        ConfigurationError: `n_steps`, `step` or `times` is not a number of steps.

    Example:
        >>> import numpy as np
        >>> every(3)(np.array([1, 3, 4, 7])).tolist()
        [0, 0, 1, 2]
    """
    n_steps = whole("n_steps", n_steps, ConfigurationError, least=1)
    already = whole("step", step, ConfigurationError, least=0) // n_steps
    times = whole("times", times, ConfigurationError, least=1)
    return lambda steps: times * ((steps - 1) // n_steps - already)


def steps_per_call(scheduler: Any) -> int:
    """Return the number of steps of the wrapped scheduler for each ``step()`` of its wrapper.

    It is 1 except for accelerate's ``AcceleratedScheduler``, which steps once for each process,
    unless it splits batches among the processes or does not step with the optimizer.
    """
    once = getattr(scheduler, "split_batches", True)
    return processes()[1] if getattr(scheduler, "step_with_optimizer", False) and not once else 1


def unwrapped(scheduler: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return the scheduler inside wrappers such as accelerate's, and its optimizer's groups.

    Raises:
        ConfigurationError: the scheduler has no optimizer.
    """
    given = scheduler
    while not hasattr(scheduler, "optimizer") and hasattr(scheduler, "scheduler"):
        scheduler = scheduler.scheduler
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", None)
    if not groups:
        raise ConfigurationError(
            f"{given!r:.60} ({type(given).__name__}) has no optimizer: give a scheduler with an "
            "optimizer as .optimizer, or describe the schedule with LRSchedule"
        )
    return scheduler, groups


def position_of(scheduler: Any) -> int | None:
    """Return the steps that a scheduler has counted; None if it has no count or uses losses."""
    if isinstance(scheduler, torch_lr.ReduceLROnPlateau):
        return None
    if isinstance(scheduler, torch_lr.ChainedScheduler):
        scheduler = scheduler._schedulers[0]
    counted = getattr(scheduler, "last_epoch", None)
    return math.floor(counted) if isinstance(counted, int | float) else None


def is_near(moved: int, planned: int) -> bool:
    """Return whether a scheduler has moved as planned, except for skipped steps."""
    return abs(moved - planned) <= 1 + _PACE_TOLERANCE * planned


def measured_pace(taken: int, moved: int) -> tuple[int, int]:
    """Return the pace, as `PaceMeter.pace` does, of a scheduler that moved `moved` steps."""
    return (round(taken / moved), 1) if taken >= moved else (1, round(moved / max(taken, 1)))


class PaceMeter:
    """Measures how often a scheduler is stepped where a loop does so by hand.

    Args:
        scheduler: a torch scheduler, or a wrapper of one.
        pace: optimizer steps between two scheduler steps, as declared.
    """

    def __init__(self, scheduler: Any, pace: int = 1) -> None:
        self.scheduler = scheduler
        self._pace, self._times = pace, steps_per_call(scheduler)
        self._first: tuple[int, int] | None = None  # optimizer and scheduler steps at the start
        self._latest: deque[tuple[int, int]] = deque(maxlen=_CHECKS)
        # the same at the first and the latest check at which the scheduler had moved
        self._moves: tuple[tuple[int, int], tuple[int, int]] | None = None

    def check(self, steps: int) -> None:
        """Note the position of the scheduler after `steps` optimizer steps."""
        position = position_of(unwrapped(self.scheduler)[0])
        if position is None:
            return
        if self._first is None or steps < self._first[0]:
            self._first = steps, position
            self._latest.clear()
            self._moves = None
        if self._latest and position > self._latest[-1][1]:
            first_move = (steps, position) if self._moves is None else self._moves[0]
            self._moves = first_move, (steps, position)
        if not self._latest or steps > self._latest[-1][0]:
            self._latest.append((steps, position))

    def seen(self, steps: int) -> tuple[int, int, int] | None:
        """Return the steps of the optimizer at the first check, and of both since; None if unknown.

        The second and third are the optimizer steps and the scheduler steps taken since then.
        """
        self.check(steps)
        if self._first is None:
            return None
        return self._first[0], steps - self._first[0], self._latest[-1][1] - self._first[1]

    def pace(self, steps: int) -> tuple[int, int] | None:
        """Return how often the scheduler is stepped, as seen after `steps` optimizer steps.

        Returns:
            Optimizer steps between two times at which it is stepped, and its steps at each time:
            as declared, unless it has moved at another pace. None while it stands still.
        """
        self.check(steps)
        if self._first is None:
            return self._pace, self._times
        planned, moved, taken = self._moved_since(self._first, steps)
        lately_planned, lately_moved, lately_taken = self._moved_since(self._latest[0], steps)
        expected = lately_taken * moved / taken if moved > 0 else lately_planned
        if lately_moved <= 0 and expected >= _MIN_SCHEDULER_STEPS:
            return None
        if moved <= 0 or is_near(moved, planned):
            return self._pace, self._times
        if self._moves is not None and self._moves[1][1] > self._moves[0][1]:
            (begin, start), (end, position) = self._moves
            taken, moved = end - begin, position - start
        return measured_pace(taken, moved)

    def _moved_since(self, start: tuple[int, int], steps: int) -> tuple[int, int, int]:
        """Return the scheduler steps planned and taken since then, and the optimizer steps."""
        declared = every(self._pace, step=start[0], times=self._times)
        planned = int(declared(np.array([steps + 1]))[0])
        return planned, self._latest[-1][1] - start[1], steps - start[0]


def first_steps(positions: Positions, at: IntArray, first: int, last: int) -> IntArray:
    """Return the first optimizer step at each position of the scheduler, by bisection, (n,).

    Args:
        positions: function from optimizer steps to positions of the scheduler; never decreasing.
        at: positions, increasing, all of them reached by step `last`, (n,).
        first: lowest step.
        last: highest step.
    """
    low, high = np.full(at.shape, first), np.full(at.shape, last)
    while np.any(low < high):
        middle = (low + high) // 2
        reached = positions(middle) >= at
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        low = np.minimum(low, high)
    return low
