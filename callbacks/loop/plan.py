"""The plan of a run whose learning rate is a number or a function of the step."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.schedule import LRSchedule, sampled
from lossforecast.signals import contained
from lossforecast.status import Caveat

__all__ = ["LearningRate", "plan_of"]

LearningRate = float | Callable[[int], Any] | LRSchedule
"""A constant rate, a function of the number of steps taken before, or the planned schedule."""
_MAX_EXACT_STEPS = 100_000  # in longer runs, the function is called for some steps only
_CHECKED_SHARES = (0.0, 0.01, 1 / 3, 0.5, 0.9, 1.0)  # of the run


def plan_of(lr: LearningRate, total_steps: int | None) -> LRSchedule:
    """Return the learning rate of the optimizer steps 1..total_steps.

    A function is called with the number of steps taken before, as those of Optax, MLX and Keras
    are: step 1 has the rate ``lr(0)``. If it takes arrays, it is called with all steps at once. If
    it accepts no arrays and returns no plain numbers, or beyond 100,000 steps, it is called for
    some steps and interpolated, with the caveat `SCHEDULE_APPROXIMATED` and a relative error of at
    most 1e-6.

    Args:
        lr: a number, a function, or an `LRSchedule`, whose length prevails.
        total_steps: length of the run in optimizer steps; None with an `LRSchedule`.

    Raises:
        ConfigurationError: the length is missing, or a rate is not a number of 0 or more.

    Example:
        >>> plan_of(lambda step: 0.1 / (1 + step), 4).to_array().round(3).tolist()
        [0.1, 0.05, 0.033, 0.025]
    """
    if isinstance(lr, LRSchedule):
        if total_steps not in (None, lr.total_steps):
            raise ConfigurationError(
                f"total_steps is {total_steps}, but the schedule has {lr.total_steps} steps: "
                "give one of them"
            )
        return lr
    if total_steps is None:
        raise ConfigurationError("the length of the run is unknown; give total_steps=")
    total = whole("total_steps", total_steps, ConfigurationError, least=1)
    if not callable(lr):
        return LRSchedule.constant(total, _checked(lr, 0))
    rates = _rates(lr)
    if total <= _MAX_EXACT_STEPS:
        exact = _at_once(lr, total)
        if exact is None and isinstance(lr(0), float | int):
            exact = rates(np.arange(1, total + 1))
        if exact is not None:
            return LRSchedule.from_array(exact)
    steps, values = sampled(rates, np.array([1, total]), 1, total)
    return LRSchedule.from_points(
        steps, values, total_steps=total, caveats=[Caveat.SCHEDULE_APPROXIMATED]
    )


def _at_once(lr: Callable[[Any], Any], total_steps: int) -> FloatArray | None:
    """Return the rates of all steps, (total_steps,), from one call; None without arrays."""
    values = np.empty(0)
    with contained():  # a function of numbers may do anything with an array
        values = np.asarray(lr(np.arange(total_steps)), dtype=np.float64)
    if values.shape != (total_steps,):
        return None
    at = [round(share * (total_steps - 1)) for share in _CHECKED_SHARES]
    single = [_checked(lr(step), step) for step in at]
    if not np.allclose(values[at], single, rtol=1e-5, atol=1e-6 * max(single)):
        return None
    return np.array([_checked(value, step) for step, value in enumerate(values.tolist())])


def _rates(lr: Callable[[int], Any]) -> Callable[[IntArray], FloatArray]:
    """Return the function of optimizer steps, (n,) to (n,), with one call for each."""
    return lambda steps: np.array([_checked(lr(step - 1), step - 1) for step in steps.tolist()])


def _checked(value: Any, step: int) -> float:
    """Return a learning rate as a number.

    Raises:
        ConfigurationError: it is not a number, or it is negative.
    """
    try:
        rate = float(value)
    except (TypeError, ValueError):
        rate = np.nan
    if not 0 <= rate < np.inf:
        raise ConfigurationError(
            f"the learning rate at step {step} is {value!r:.60}; give a number of 0 or more, a "
            "function lr(step) that returns one, or an LRSchedule"
        )
    return rate
