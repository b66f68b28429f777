"""What a Lightning ``Trainer`` will do: the steps of the run, and the learning rate of each."""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.lr_scheduler import every, schedule_from_torch
from lossforecast.callbacks.monitor import assumed
from lossforecast.callbacks.steering import Steering
from lossforecast.schedule import LRSchedule

__all__ = ["planned_schedule", "run_length", "steerable"]

logger = logging.getLogger("lossforecast")

_NEVER = 2**61


def run_length(trainer: Any) -> int | None:
    """Steps that each of the optimizers takes in the run; None where the Trainer cannot know.

    It cannot if there is no limit, or only one of time, and if a callback changes the accumulation
    of gradients from epoch to epoch. Several optimizers are taken to step in turn.
    """
    if any(hasattr(each, "get_accumulate_grad_batches") for each in trainer.callbacks):
        return None
    steps = trainer.estimated_stepping_batches
    if trainer.max_steps > 0:  # which counts the steps of all optimizers
        steps = min(steps, math.ceil(trainer.max_steps / len(trainer.optimizers)))
    return int(steps) if math.isfinite(steps) and steps >= 1 else None


def planned_schedule(
    trainer: Any, optimizer: Any, total_steps: int, taken: int, group: int
) -> LRSchedule:
    """The learning rate of every step of an optimizer, from the scheduler that Lightning steps.

    `LR_ASSUMED` where that is not all: a module that optimises by hand without a scheduler may set
    its rates by hand, several schedulers may change one rate, and nobody knows the length of the
    epochs of an iterable dataset.

    Args:
        trainer: the Trainer, at the start of training.
        optimizer: one of its optimizers.
        total_steps: length of the run in steps of the optimizer.
        taken: steps of the optimizer already taken.
        group: index of the parameter group.
    """
    by_hand = not trainer.lightning_module.automatic_optimization
    taken = min(taken, total_steps)
    configs = [
        config
        for config in trainer.lr_scheduler_configs
        if getattr(config.scheduler, "optimizer", None) is optimizer
    ]
    if not configs:
        constant = LRSchedule.constant(total_steps, float(optimizer.param_groups[group]["lr"]))
        return assumed(constant) if by_hand else constant
    config = configs[0]
    if by_hand:
        stepped, known = every(1, step=taken), True  # most modules step it after each step
    else:
        stepped = _scheduler_steps(trainer, config, taken)
        known = config.interval == "step" or math.isfinite(trainer.num_training_batches)
    schedule = schedule_from_torch(
        config.scheduler, total_steps=total_steps, step=taken, group=group, scheduler_steps=stepped
    )
    return schedule if known and len(configs) == 1 else assumed(schedule)


def steerable(trainer: Any, optimizer: Any) -> Steering | None:
    """The scheduler of an optimizer that can be steered; a warning where there is none."""
    for config in trainer.lr_scheduler_configs:
        mine = getattr(config.scheduler, "optimizer", None) is optimizer
        steering = Steering.of(config.scheduler) if mine else None
        if steering is not None and (config.interval, config.frequency) == ("step", 1):
            return steering
    logger.warning(
        "no decay will be begun: apply=True needs configure_optimizers to return a SteerableLR "
        'stepped after each optimizer step, {"scheduler": SteerableLR(...), "interval": "step"}'
    )
    return None


def _scheduler_steps(
    trainer: Any, config: Any, taken: int
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """How often Lightning steps a scheduler from now until an optimizer step begins."""
    batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
    frequency = config.frequency
    if not math.isfinite(batches):
        pace = frequency // math.gcd(frequency, accumulate)
        return every(pace if config.interval == "step" else _NEVER, step=taken)
    an_epoch = max(math.ceil(batches / accumulate), 1)
    if config.interval == "epoch":
        return every(an_epoch * frequency, step=taken)
    # stepped after an optimizer step if the number of batches so far in the epoch divides
    ends = np.minimum(np.arange(1, an_epoch + 1) * accumulate, batches)
    within = np.concatenate([[0], np.cumsum(ends % frequency == 0)])

    def stepped(steps: NDArray[np.int64]) -> NDArray[np.int64]:
        epochs, rest = np.divmod(np.append(steps - 1, taken), an_epoch)
        total = epochs * within[-1] + within[rest]
        further: NDArray[np.int64] = total[:-1] - total[-1]
        return further

    return stepped
