"""The plan of a plain PyTorch loop: its learning rates, and the scheduler that steers them."""

from collections.abc import Callable
from typing import Any

from lossforecast.callbacks.lr_schedulers import (
    Steering,
    every,
    schedule_from_torch,
    steps_per_call,
)
from lossforecast.callbacks.pipeline import Settings
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["planner_of", "steering_of"]


def steering_of(scheduler: Any, settings: Settings, pace: int, group: int) -> Steering | None:
    """Return the steering of a steerable scheduler; None for any other scheduler.

    Raises:
        ConfigurationError: there is none, but ``apply=True`` needs one.
    """
    steering = None
    if settings.schedule is None and pace == 1:
        steering = Steering.of(scheduler, group, settings.total_steps, settings.apply)
    if settings.apply and steering is None:
        raise ConfigurationError(
            "apply=True needs a SteerableLR as the scheduler, SteerableLR(optimizer, "
            "total_steps), stepped once after each optimizer step and not once a process, and "
            f"no other schedule=; this is {type(scheduler).__name__} stepped every {pace}"
        )
    return steering


def planner_of(
    optimizer: Any, scheduler: Any, settings: Settings, pace: int, group: int
) -> Callable[[int], LRSchedule]:
    """Return a function from the optimizer steps taken to the plan of the run.

    Args:
        optimizer: the torch optimizer.
        scheduler: its scheduler; None if the rate is constant.
        settings: arguments of the callback.
        pace: optimizer steps between two steps of the scheduler.
        group: index of the parameter group.
    """
    schedule, total_steps = settings.schedule, settings.total_steps
    if schedule is not None:
        return lambda step: schedule
    pace = whole("steps_per_scheduler_step", pace, ConfigurationError, least=1)
    if total_steps is None and getattr(scheduler, "total_steps", None) is None:
        raise ConfigurationError(
            "the length of the run is unknown; give total_steps= (optimizer steps)"
        )

    def planned(step: int) -> LRSchedule:
        if total_steps is not None:
            steps = total_steps
        else:  # a steered scheduler may have changed it
            theirs = scheduler.total_steps
            steps = pace * whole("scheduler.total_steps", theirs, ConfigurationError, least=1)
        if scheduler is None:
            rate = float(optimizer.param_groups[group]["lr"])
            return LRSchedule.constant(steps, rate).with_caveats(Caveat.LR_ASSUMED)
        return schedule_from_torch(
            scheduler,
            total_steps=steps,
            step=min(step, steps),
            group=group,
            scheduler_steps=every(pace, step=step, times=steps_per_call(scheduler)),
        )

    return planned
