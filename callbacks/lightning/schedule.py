"""What a Lightning ``Trainer`` will do: the steps of the run, and the learning rate of each."""

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.lr_schedulers import (
    Otherwise,
    Positions,
    Steering,
    Stepping,
    every,
    harmless,
    inspect,
    schedule_from_torch,
    warn,
)
from lossforecast.schedule import Finding, Flaw, LRSchedule
from lossforecast.status import Caveat

__all__ = ["lint_trainer", "planned_schedule", "run_length", "steerable"]

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
    """What follows the scheduler of an optimizer, if that can be steered.

    A warning where there is none and a decay is to be begun.
    """
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
    """Warn of what is wrong with the schedule of a run that begins now, in the first process.

    Args:
        trainer: the Trainer, at the start of training.
        optimizer: one of its optimizers.
        plan: the learning rate of every step of the optimizer.
        group: index of the parameter group.
        given: whether the plan was given, not read from the scheduler.
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
            " (It is taken to be stepped after every optimizer step; if it is not, give "
            "LightningLossForecast(schedule=...).)"
        )
    warn(inspect(plan, optimizer, stepping, _otherwise(trainer, config, stepping), hint))


def _otherwise(trainer: Any, config: Any, stepping: Stepping) -> list[Otherwise]:
    """The other interval, for which a scheduler may have been made."""
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
        return [Otherwise(every(1), Finding(Flaw.STEPPED_TOO_SELDOM, message))]
    message = (
        f'{name} seems made for {epochs:,} epochs, but with "interval": "step" it is stepped '
        f"{stepping.calls:,} times in the run: leave the interval at its default, "
        '"epoch", or give its lengths in optimizer steps (trainer.estimated_stepping_batches).'
    )
    return [Otherwise(every(an_epoch), Finding(Flaw.STEPPED_TOO_OFTEN, message))]


def _configs(trainer: Any, optimizer: Any) -> list[Any]:
    """The schedulers of an optimizer, as Lightning has them."""
    return [
        config
        for config in trainer.lr_scheduler_configs
        if getattr(config.scheduler, "optimizer", None) is optimizer
    ]


def _steps_of_epoch(trainer: Any) -> int | None:
    """Optimizer steps of an epoch; None where the dataset has no length."""
    batches, accumulate = float(trainer.num_training_batches), int(trainer.accumulate_grad_batches)
    return max(math.ceil(batches / accumulate), 1) if math.isfinite(batches) else None


def _scheduler_steps(trainer: Any, config: Any, taken: int) -> Positions:
    """How often Lightning steps a scheduler from now until an optimizer step begins."""
    if not trainer.lightning_module.automatic_optimization:
        return every(1, step=taken)  # most modules step it after each step
    batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
    frequency, an_epoch = config.frequency, _steps_of_epoch(trainer)
    if an_epoch is None:
        pace = frequency // math.gcd(frequency, accumulate)
        return every(pace if config.interval == "step" else _NEVER, step=taken)
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
