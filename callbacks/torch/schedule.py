"""The plan of a plain PyTorch loop: its learning rates, and the scheduler that steers them."""

from typing import Any

from lossforecast.callbacks.lr_schedulers import PaceMeter, Steering, every, schedule_from_torch
from lossforecast.callbacks.pipeline import PlanSource, Settings
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["plan_source", "steering_of"]


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


def plan_source(
    optimizer: Any, scheduler: Any, settings: Settings, pace: int, group: int
) -> PlanSource:
    """Return where the plan of the run comes from.

    Args:
        optimizer: the torch optimizer.
        scheduler: its scheduler; None if the rate is constant.
        settings: arguments of the callback.
        pace: optimizer steps between two steps of the scheduler.
        group: index of the parameter group.

    Raises:
        ConfigurationError: the length of the run is unknown, or `pace` is not a number of steps.
    """
    schedule, total_steps = settings.schedule, settings.total_steps
    if schedule is not None:
        return PlanSource(read=lambda step: schedule, fixed_rates=True)
    pace = whole("steps_per_scheduler_step", pace, ConfigurationError, least=1)
    if total_steps is None and getattr(scheduler, "total_steps", None) is None:
        raise ConfigurationError(
            "the length of the run is unknown; give total_steps= (optimizer steps)"
        )

    def length() -> int:
        if total_steps is not None:
            return total_steps
        theirs = scheduler.total_steps  # a steered scheduler may have changed it
        return pace * whole("scheduler.total_steps", theirs, ConfigurationError, least=1)

    def constant(step: int) -> LRSchedule:
        rate = float(optimizer.param_groups[group]["lr"])
        return LRSchedule.constant(length(), rate).with_caveats(Caveat.LR_ASSUMED)

    if scheduler is None:
        return PlanSource(read=constant)
    meter = PaceMeter(scheduler, pace)

    def read(step: int) -> LRSchedule:
        stepped, steps = meter.pace(step), length()
        if stepped is None:
            return constant(step)
        return schedule_from_torch(
            scheduler,
            total_steps=steps,
            step=min(step, steps),
            group=group,
            scheduler_steps=every(stepped[0], step=step, times=stepped[1]),
        )

    return PlanSource(
        read=read,
        scheduler=lambda step: None if meter.pace(step) is None else scheduler,
    )
