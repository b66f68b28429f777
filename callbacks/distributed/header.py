"""`Header`: the flags and the step that every process adds to a sum over all processes."""

from dataclasses import astuple, dataclass, fields
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.schedule import DECAY_SHAPES, Decay

__all__ = ["HEADER_SIZE", "Header", "Request", "all_equal"]

_DIGIT_BASE = 4096  # squares of smaller digits, summed over a million processes, are exact
_SHAPES = tuple(sorted(DECAY_SHAPES))


@dataclass(frozen=True)
class Request:
    """A request of rank 0 to all processes.

    Attributes:
        stop: end the training loop.
        decay: begin this decay of the learning rate.
    """

    stop: bool = False
    decay: Decay | None = None


@dataclass(frozen=True)
class Header:
    """One process's flags and step, or their sums over all processes.

    The step is sent in two digits of base 4096, ``step = 4096 high + low``, each with its square,
    so that the sums show whether all steps are equal. Only rank 0 sends a request, so in a sum the
    decay is its decay.

    Attributes:
        leaving: number of processes that send their last block.
        stop: number of processes that request a stop: 0 or 1.
        step_low: low digit of the step.
        step_low_squared: its square.
        step_high: high digit of the step.
        step_high_squared: its square.
        decay: number of processes that request a decay: 0 or 1.
        decay_start: step after which it begins.
        decay_steps: its length.
        decay_shape: index of its shape among the sorted names of shapes.
    """

    leaving: int
    stop: int
    step_low: int
    step_low_squared: int
    step_high: int
    step_high_squared: int
    decay: int = 0
    decay_start: int = 0
    decay_steps: int = 0
    decay_shape: int = 0

    @classmethod
    def of(cls, step: int, request: Request, *, leaving: bool) -> Self:
        """Return the header of one process after `step` optimizer steps."""
        high, low = divmod(step, _DIGIT_BASE)
        decay = request.decay
        return cls(
            leaving=int(leaving),
            stop=int(request.stop),
            step_low=low,
            step_low_squared=low**2,
            step_high=high,
            step_high_squared=high**2,
            decay=0 if decay is None else 1,
            decay_start=0 if decay is None else decay.start,
            decay_steps=0 if decay is None else decay.steps,
            decay_shape=0 if decay is None else _SHAPES.index(decay.shape),
        )

    def encode(self) -> FloatArray:
        """Return the numbers to be summed over all processes, (HEADER_SIZE,)."""
        return np.array(astuple(self), dtype=np.float64)

    @classmethod
    def decode(cls, summed: FloatArray) -> Self:
        """Return the header whose numbers are these sums, (HEADER_SIZE,)."""
        return cls(*map(int, summed.tolist()))

    def same_step(self, n_processes: int) -> bool:
        """Return whether all processes sent the same step."""
        return all_equal(n_processes, self.step_low, self.step_low_squared) and all_equal(
            n_processes, self.step_high, self.step_high_squared
        )

    @property
    def request(self) -> Request:
        """The request of rank 0."""
        decay = None
        if self.decay:
            decay = Decay(self.decay_start, self.decay_steps, _SHAPES[self.decay_shape])
        return Request(bool(self.stop), decay)


HEADER_SIZE = len(fields(Header))
"""Length of an encoded header."""


def all_equal(n: int, total: int, total_of_squares: int) -> bool:
    """Return whether n whole numbers x_i are equal, given ``sum(x_i)`` and ``sum(x_i**2)``.

    They are if and only if ``n sum(x_i**2) = sum(x_i)**2``, because the difference of the two sides
    is ``sum((x_i - x_j)**2)`` over all pairs i < j.
    """
    return n * total_of_squares == total**2
