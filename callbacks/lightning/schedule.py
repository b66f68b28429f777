"""Reads the length of a run and its learning rates from a Lightning ``Trainer``."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.lr_schedulers import (
    Alternative,
    Positions,
    Steering,
    Stepping,
    every,
    harmless,
    inspect,
    schedule_from_torch,
    warn,
)
from lossforecast.log import logger
from lossforecast.schedule import Finding, Flaw, LRSchedule
from lossforecast.status import Caveat

__all__ = ["lint_trainer", "planned_schedule", "run_length", "steerable"]

_NEVER_STEPS = 2**61  # between two calls of a scheduler that is never stepped


def run_length(trainer: Any) -> int | None:
    """Return the steps each optimizer takes in the run; None if the Trainer cannot know.

    It cannot know without a limit, with only a time limit, and if a callback changes the
    accumulation of gradients. Several optimizers are assumed to step in turn.
    """
    if any(hasattr(callback, "get_accumulate_grad_batches") for callback in trainer.callbacks):
        return None
    steps = trainer.estimated_stepping_batches
    if trainer.max_steps > 0:  # the limit counts the steps of all optimizers
        steps = min(steps, math.ceil(trainer.max_steps / len(trainer.optimizers)))
    return int(steps) if math.isfinite(steps) and steps >= 1 else None


def planned_schedule(
    trainer: Any, optimizer: Any, total_steps: int, taken: int, group: int
) -> LRSchedule:
    """Return the plan of an optimizer, from the scheduler that Lightning steps.

    The plan has `LR_ASSUMED` if it may be incomplete: manual optimization without a scheduler may
    set rates by hand, several schedulers may change one rate, and the epochs of an iterable dataset
    have no known length.

    Args:
        trainer: the Trainer, at the start of training.
        optimizer: one of its optimizers.
        total_steps: length of the run in steps of the optimizer.
        taken: steps of the optimizer already taken.
        group: index of the parameter group.
    """
    by_hand = not trainer.lightning_module.automatic_optimization
    taken = min(taken, total_steps)
    configs = _configs(trainer, optimizer)
    if not configs:
        constant = LRSchedule.constant(total_steps, float(optimizer.param_groups[group]["lr"]))
        return constant.with_caveats(Caveat.LR_ASSUMED) if by_hand else constant
    config = configs[0]
    stepped = _scheduler_steps(trainer, config, taken)
    known = by_hand or config.interval == "step" or math.isfinite(trainer.num_training_batches)
    schedule = schedule_from_torch(
        config.scheduler, total_steps=total_steps, step=taken, group=group, scheduler_steps=stepped
    )
    certain = known and len(configs) == 1
    return schedule if certain else schedule.with_caveats(Caveat.LR_ASSUMED)


def steerable(
    trainer: Any, optimizer: Any, group: int, total_steps: int, apply: bool
) -> Steering | None:
    """Return the steering of an optimizer's steerable scheduler; warn if `apply` lacks one."""
    for config in _configs(trainer, optimizer):
        steering = Steering.of(config.scheduler, group, total_steps, apply)
        if steering is not None and (config.interval, config.frequency) == ("step", 1):
            return steering
    if apply and trainer.is_global_zero:
        logger.warning(
            "no decay will be begun: apply=True needs configure_optimizers to return a SteerableLR "
            'stepped after each optimizer step, {"scheduler": SteerableLR(...), "interval": "step"}'
        )
    return None


@harmless
def lint_trainer(
    trainer: Any, optimizer: Any, plan: LRSchedule, group: int, *, given: bool = False
) -> None:
    """Warn, in the first process, of mistakes in the schedule of a new run.

    Args:
        trainer: the Trainer, at the start of training.
        optimizer: one of its optimizers.
        plan: planned learning rate of every step of the optimizer.
        group: index of the parameter group.
        given: whether the user gave the plan, so that it was not read from the scheduler.
    """
    if not trainer.is_global_zero:
        return
    configs = _configs(trainer, optimizer)
    if given or not configs:
        warn(inspect(plan, optimizer))
        return
    config = configs[0]
    stepping = Stepping(
        config.scheduler, _scheduler_steps(trainer, config, 0), plan.total_steps, group
    )
    hint = ""
    if not trainer.lightning_module.automatic_optimization:
        hint = (
            " (It is assumed to be stepped after every optimizer step; if it is not, give "
            "LightningLossForecast(schedule=...).)"
        )
    alternatives = _alternatives(trainer, config, stepping)
    warn(inspect(plan, optimizer, stepping, alternatives, hint=hint))


def _alternatives(trainer: Any, config: Any, stepping: Stepping) -> list[Alternative]:
    """Return the other interval, if the lengths of the scheduler may have been given for it."""
    an_epoch, total = _steps_of_epoch(trainer), stepping.total_steps
    if an_epoch is None or an_epoch < 2 or not trainer.lightning_module.automatic_optimization:
        return []
    name, epochs = type(config.scheduler).__name__, math.ceil(total / an_epoch)
    if config.interval == "epoch":
        message = (
            f"{name} seems made for {total:,} optimizer steps, but is stepped once an epoch, "
            f"{stepping.calls:,} times in the run: return it from configure_optimizers as "
            '{"scheduler": ..., "interval": "step"}, or give its lengths in epochs.'
        )
        return [Alternative(every(1), Finding(Flaw.STEPPED_TOO_SELDOM, message))]
    message = (
        f'{name} seems made for {epochs:,} epochs, but with "interval": "step" it is stepped '
        f"{stepping.calls:,} times in the run: leave the interval at its default, "
        '"epoch", or give its lengths in optimizer steps (trainer.estimated_stepping_batches).'
    )
    return [Alternative(every(an_epoch), Finding(Flaw.STEPPED_TOO_OFTEN, message))]


def _configs(trainer: Any, optimizer: Any) -> list[Any]:
    """Return Lightning's configurations of the schedulers of an optimizer."""
    return [
        config
        for config in trainer.lr_scheduler_configs
        if getattr(config.scheduler, "optimizer", None) is optimizer
    ]


def _steps_of_epoch(trainer: Any) -> int | None:
    """Return the optimizer steps of an epoch; None if the dataset has no length."""
    batches, accumulate = float(trainer.num_training_batches), int(trainer.accumulate_grad_batches)
    return max(math.ceil(batches / accumulate), 1) if math.isfinite(batches) else None


def _scheduler_steps(trainer: Any, config: Any, taken: int) -> Positions:
    """Return `scheduler_steps` of `schedule_from_torch` for a scheduler that Lightning steps."""
    if not trainer.lightning_module.automatic_optimization:
        return every(1, step=taken)  # assumed: most modules step it after each optimizer step
    batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
    frequency, an_epoch = config.frequency, _steps_of_epoch(trainer)
    if an_epoch is None:
        pace = frequency // math.gcd(frequency, accumulate)
        return every(pace if config.interval == "step" else _NEVER_STEPS, step=taken)
    if config.interval == "epoch":
        return every(an_epoch * frequency, step=taken)
    # stepped after an optimizer step if `frequency` divides the batches so far in the epoch
    ends = np.minimum(np.arange(1, an_epoch + 1) * accumulate, batches)
    within = np.concatenate([[0], np.cumsum(ends % frequency == 0)])

    def stepped(steps: NDArray[np.int64]) -> NDArray[np.int64]:
        epochs, rest = np.divmod(np.append(steps - 1, taken), an_epoch)
        total = epochs * within[-1] + within[rest]
        further: NDArray[np.int64] = total[:-1] - total[-1]
        return further

    return stepped
