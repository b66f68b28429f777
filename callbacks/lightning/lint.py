"""Lint of the schedulers under a Lightning ``Trainer``, once the pace of the run is known."""

import math
from typing import Any

from lossforecast.callbacks.lightning.pace import steps_of_epoch
from lossforecast.callbacks.lightning.schedule import scheduler_configs
from lossforecast.callbacks.lr_schedulers import (
    Alternative,
    Positions,
    Stepping,
    clone_of,
    every,
    harmless,
    inspect,
    unwrapped,
    warn,
    warn_if_assumed,
)
from lossforecast.log import logger
from lossforecast.schedule import Finding, Flaw, LRSchedule
from lossforecast.signals import contained

__all__ = ["TrainerLint"]


class TrainerLint:
    """Checks the schedule of a new run, in the first process, once the pace of its steps is known.

    Until then it keeps a copy of the scheduler as it was at the start.

    Args:
        trainer: the Trainer, at the start of training.
        optimizer: one of its optimizers.
        plan: planned learning rate of every step of the optimizer.
        group: index of the parameter group.
        given: whether the user gave the plan, so that it was not read from the scheduler.
    """

    def __init__(
        self, trainer: Any, optimizer: Any, plan: LRSchedule, group: int, *, given: bool = False
    ) -> None:
        self.is_open = bool(trainer.is_global_zero)
        """True until the schedule is checked."""
        self._trainer, self._optimizer, self._plan, self._group = trainer, optimizer, plan, group
        self._batches = trainer.num_training_batches
        self._scheduler: Any = None
        self._config: Any = None
        configs = [] if given else scheduler_configs(trainer, optimizer)
        if configs and self.is_open:
            self._config, self.is_open = configs[0], False
            with contained():  # a scheduler that cannot be copied is not checked
                self._scheduler = clone_of(unwrapped(configs[0].scheduler)[0])
                self.is_open = True

    @property
    def needs_no_pace(self) -> bool:
        """True if no scheduler is checked."""
        return self._scheduler is None

    @harmless
    def check(self, total_steps: int, positions: Positions | None) -> None:
        """Warn of mistakes in the schedule.

        Args:
            total_steps: length of the run in steps of the optimizer.
            positions: `scheduler_steps` of `schedule_from_torch` from the start of the run; None
                without a scheduler, or for one that is never stepped.
        """
        self.is_open = False
        if self._trainer.num_training_batches != self._batches:
            return  # loaders grow or shrink: the length of the run is not known
        if self._scheduler is None:
            warn(inspect(self._plan, self._optimizer))
            return
        if self._config.interval == "step" or math.isfinite(self._batches):
            warn_if_assumed(self._config.scheduler, self._plan)
        if positions is None:
            logger.warning(
                "%s is never stepped, so the learning rate is not that of its plan: call its "
                "step() in the module, as automatic_optimization is off",
                type(self._config.scheduler).__name__,
            )
            return
        stepping = Stepping(self._scheduler, positions, total_steps, self._group)
        plan = stepping.plan().with_caveats(*self._plan.caveats)
        alternatives = _alternatives(self._trainer, self._config, stepping)
        warn(inspect(plan, self._optimizer, stepping, alternatives))


def _alternatives(trainer: Any, config: Any, stepping: Stepping) -> list[Alternative]:
    """Return the other interval, if the lengths of the scheduler may have been given for it."""
    an_epoch, total = steps_of_epoch(trainer), stepping.total_steps
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
