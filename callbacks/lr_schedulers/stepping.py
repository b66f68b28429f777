"""How often a scheduler is stepped in a run, also inside wrappers such as accelerate's."""

from collections.abc import Callable
from typing import Any

from lossforecast.arrays import IntArray
from lossforecast.callbacks.distributed import processes
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError

__all__ = ["Positions", "every", "steps_per_call", "unwrapped"]

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
