"""The learning rate of every step of a run of the Hugging Face ``Trainer``."""

from typing import Any

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.lr_schedulers import (
    Stepping,
    every,
    harmless,
    inspect,
    per_process,
    schedule_from_torch,
    steps_per_call,
    unwrapped,
    warn,
    warn_if_assumed,
)
from lossforecast.log import logger
from lossforecast.schedule import LRSchedule

__all__ = ["lint_run", "planned"]


def planned(
    given: LRSchedule | None, scheduler: Any, total_steps: int, taken: int, group: int
) -> LRSchedule:
    """Return the given plan, fitted to the length of the run, or the plan of the scheduler.

    Args:
        given: the plan given by the user, if any.
        scheduler: the Trainer's scheduler, stepped once after each optimizer step.
        total_steps: length of the run.
        taken: optimizer steps taken.
        group: index of the parameter group.
    """
    if given is None:
        positions = every(1, step=taken, times=steps_per_call(scheduler))
        return schedule_from_torch(
            scheduler, total_steps=total_steps, step=taken, group=group, scheduler_steps=positions
        )
    length = given.total_steps
    if length == total_steps:
        return given
    longer = length < total_steps
    if processes()[0] == 0:
        logger.warning(
            "schedule= has %d steps, but the Trainer will take %d: %s",
            length,
            total_steps,
            "its last rate is assumed to be held" if longer else "the rest of it is ignored",
        )
    return given.extended_to(total_steps) if longer else given.truncated_to(total_steps)


@harmless
def lint_run(plan: LRSchedule, optimizer: Any, scheduler: Any, group: int) -> None:
    """Warn, in the first process, of mistakes in the schedule of a new run.

    Args:
        plan: planned learning rate of every step.
        optimizer: the torch optimizer.
        scheduler: the scheduler whose plan it is; None if the plan was given.
        group: index of the parameter group.
    """
    if processes()[0] != 0:
        return
    if scheduler is None:
        warn(inspect(plan, optimizer))
        return
    warn_if_assumed(scheduler, plan)
    times, total = steps_per_call(scheduler), plan.total_steps
    stepping = Stepping(scheduler, every(1, times=times), total, group)
    name = type(unwrapped(scheduler)[0]).__name__
    alternatives = [per_process(name, times, 1, total)] if times > 1 else []
    warn(inspect(plan, optimizer, stepping, alternatives))
