"""Reads the length of a run and its learning rates from a Lightning ``Trainer``."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.capture import innermost
from lossforecast.callbacks.lightning.pace import steps_of_epoch, trained_epochs
from lossforecast.callbacks.lr_schedulers import (
    Positions,
    Steering,
    every,
    schedule_from_torch,
)
from lossforecast.errors import ConfigurationError
from lossforecast.log import logger
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = [
    "changes_accumulation",
    "declared_positions",
    "measured_positions",
    "planned_schedule",
    "run_length",
    "scheduler_configs",
    "steerable",
]

_NEVER_STEPS = 2**61  # between two calls of a scheduler that is never stepped


def run_length(trainer: Any) -> int | None:
    """Return the steps each optimizer takes in the run; None if the Trainer cannot know.

    It cannot know without a limit, with only a time limit, and if a callback changes the
    accumulation of gradients. Several optimizers are assumed to step in turn.
    """
    if changes_accumulation(trainer):
        return None
    steps = trainer.estimated_stepping_batches
    an_epoch, epochs = steps_of_epoch(trainer), trained_epochs(trainer)
    if an_epoch is not None and epochs > 0:
        steps = min(steps, an_epoch * epochs)
    if trainer.max_steps > 0:  # the limit counts the steps of all optimizers
        steps = min(steps, math.ceil(trainer.max_steps / len(trainer.optimizers)))
    return int(steps) if math.isfinite(steps) and steps >= 1 else None


def changes_accumulation(trainer: Any) -> bool:
    """Return whether a callback changes the accumulation of gradients during the run."""
    return any(hasattr(callback, "get_accumulate_grad_batches") for callback in trainer.callbacks)


def planned_schedule(
    trainer: Any,
    optimizer: Any,
    total_steps: int,
    taken: int,
    group: int,
    positions: Positions | None = None,
) -> LRSchedule:
    """Return the plan of an optimizer, from the scheduler that Lightning steps.

    The plan has `LR_ASSUMED` if it may be incomplete: manual optimization without a scheduler may
    set rates by hand, several schedulers may change one rate, and the epochs of an iterable dataset
    have no known length.

    Args:
        trainer: the Trainer, during training.
        optimizer: one of its optimizers.
        total_steps: length of the run in steps of the optimizer.
        taken: steps of the optimizer already taken.
        group: index of the parameter group.
        positions: `scheduler_steps` of `schedule_from_torch`; default: those that the settings of
            the Trainer declare.
    """
    by_hand = not trainer.lightning_module.automatic_optimization
    taken = min(taken, total_steps)
    configs = scheduler_configs(trainer, optimizer)
    if not configs:
        constant = LRSchedule.constant(total_steps, float(optimizer.param_groups[group]["lr"]))
        return constant.with_caveats(Caveat.LR_ASSUMED) if by_hand else constant
    config = configs[0]
    known = by_hand or config.interval == "step" or math.isfinite(trainer.num_training_batches)
    schedule = schedule_from_torch(
        config.scheduler,
        total_steps=total_steps,
        step=taken,
        group=group,
        scheduler_steps=positions or declared_positions(trainer, config, taken),
    )
    certain = known and len(configs) == 1
    return schedule if certain else schedule.with_caveats(Caveat.LR_ASSUMED)


def steerable(
    trainer: Any, optimizer: Any, group: int, total_steps: int, apply: bool
) -> Steering | None:
    """Return the steering of an optimizer's steerable scheduler; warn if `apply` lacks one."""
    for config in scheduler_configs(trainer, optimizer):
        steering = Steering.of(config.scheduler, group, total_steps, apply)
        if steering is not None and (config.interval, config.frequency) == ("step", 1):
            return steering
    if apply and trainer.is_global_zero:
        logger.warning(
            "no decay will be started: apply=True needs configure_optimizers to return a "
            "SteerableLR stepped after each optimizer step, "
            '{"scheduler": SteerableLR(...), "interval": "step"}'
        )
    return None


def scheduler_configs(trainer: Any, optimizer: Any) -> list[Any]:
    """Return Lightning's configurations of the schedulers of an optimizer."""
    return [
        config
        for config in trainer.lr_scheduler_configs
        if _optimizer_of(config.scheduler) is optimizer
    ]


def declared_positions(trainer: Any, config: Any, taken: int, batches: int = -1) -> Positions:
    """Return `scheduler_steps` of `schedule_from_torch` for a scheduler that Lightning steps.

    Args:
        trainer: the Trainer.
        config: Lightning's configuration of the scheduler.
        taken: steps of the optimizer already taken.
        batches: batches of the present epoch already seen; default: as many as `taken` steps take.
    """
    if not trainer.lightning_module.automatic_optimization:
        return every(1, step=taken)  # assumed, as most modules step it after each optimizer step
    total, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
    frequency, an_epoch = config.frequency, steps_of_epoch(trainer)
    if an_epoch is None:
        pace = frequency // math.gcd(frequency, accumulate)
        return every(pace if config.interval == "step" else _NEVER_STEPS, step=taken)
    # optimizer steps are counted from the start of an epoch
    epoch = taken // an_epoch if batches < 0 else trainer.current_epoch
    inside = taken % an_epoch if batches < 0 else batches // accumulate
    if batches >= total:
        inside = an_epoch
    before = taken - inside
    if config.interval == "epoch":
        earlier = epoch % frequency * an_epoch  # steps of epochs since the scheduler was stepped
        # after the last batch of an epoch, the scheduler is still to be stepped
        stepped = every(an_epoch * frequency, step=earlier + min(inside, an_epoch - 1))
        return lambda steps: stepped(steps - before + earlier)
    # stepped after an optimizer step if `frequency` divides the batches so far in the epoch
    ends = np.minimum(np.arange(1, an_epoch + 1) * accumulate, total)
    within = np.concatenate([[0], np.cumsum(ends % frequency == 0)])

    def positions(steps: NDArray[np.int64]) -> NDArray[np.int64]:
        epochs, rest = np.divmod(np.append(steps - 1, taken) - before, an_epoch)
        count = epochs * within[-1] + within[rest]
        further: NDArray[np.int64] = count[:-1] - count[-1]
        return further

    return positions


def measured_positions(
    trainer: Any, config: Any, taken: int, *, pace: Fraction, epoch: int, batches: int
) -> Positions:
    """Return `scheduler_steps` for an optimizer that steps at a measured pace.

    Args:
        trainer: the Trainer, with automatic optimization and epochs of a known length.
        config: Lightning's configuration of the scheduler, which counts batches or epochs.
        taken: steps of the optimizer already taken.
        pace: optimizer steps per batch.
        epoch: index of the present epoch.
        batches: its batches already seen.
    """
    unit, stepped_at = config.frequency, batches
    if config.interval == "epoch":
        an_epoch = int(trainer.num_training_batches)
        batches += epoch % unit * an_epoch
        unit, stepped_at = unit * an_epoch, batches - 1  # still to be stepped after an epoch

    def positions(steps: NDArray[np.int64]) -> NDArray[np.int64]:
        further = -(-(steps - taken) * pace.denominator // max(pace.numerator, 1)) - 1
        count: NDArray[np.int64] = (batches + further) // unit - stepped_at // unit
        return count

    return positions


def _optimizer_of(scheduler: Any) -> Any:
    """Return the optimizer of a scheduler without wrappers; None if it has none."""
    try:
        return innermost(scheduler.optimizer)
    except (AttributeError, ConfigurationError):
        return None
