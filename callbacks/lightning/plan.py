"""`TrainerPlan`: the optimizer, the length and the learning rates of a run, as they are now."""

import math
from typing import Any

import numpy as np

from lossforecast.callbacks.capture import innermost
from lossforecast.callbacks.lightning.pace import TrainerPace
from lossforecast.callbacks.lightning.schedule import (
    changes_accumulation,
    declared_positions,
    measured_positions,
    planned_schedule,
    run_length,
    scheduler_configs,
)
from lossforecast.callbacks.lr_schedulers import (
    PaceMeter,
    Positions,
    every,
    is_near,
    measured_pace,
    widest_group,
)
from lossforecast.callbacks.pipeline import PlanSource, Settings
from lossforecast.errors import ConfigurationError
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["TrainerPlan"]


class TrainerPlan:
    """Reads the plan of a run from the Trainer, at its start and whenever it changes.

    Args:
        trainer: the Trainer, at the start of training.
        settings: arguments of the callback.
        optimizer_index: index of the optimizer whose steps count.

    Raises:
        ConfigurationError: the module has no such optimizer.
    """

    def __init__(self, trainer: Any, settings: Settings, optimizer_index: int) -> None:
        if optimizer_index >= len(trainer.optimizers):
            raise ConfigurationError(
                f"optimizer_index is {optimizer_index}, but the module has "
                f"{len(trainer.optimizers)} optimizers"
            )
        self.pace = TrainerPace(trainer)
        self.group = 0
        """Index of the parameter group whose learning rate counts."""
        self._trainer, self._settings, self._index = trainer, settings, optimizer_index
        self._given = trainer.optimizers[optimizer_index]
        self.optimizer = innermost(self._given)
        """The optimizer without wrappers."""
        self.declared: int | None = None
        """Length of the run as the settings of the Trainer declare it."""
        self._total = 0
        self._meter: PaceMeter | None = None  # of the scheduler
        self._by_hand = not trainer.lightning_module.automatic_optimization

    def at_start(self, taken: int, saved: dict[str, Any] | None = None) -> LRSchedule | None:
        """Return the plan at the start of training; None if the length of the run is unknown.

        A resumed run has the length that was found before, unless the settings of the Trainer now
        declare another length than they did then.

        Args:
            taken: steps of the optimizer already taken.
            saved: state of the callback in the checkpoint that is resumed, if any.
        """
        if self._settings.schedule is not None:
            return self._settings.schedule
        length = self._settings.total_steps
        if length is None:
            length = self.declared = run_length(self._trainer)
        if length is None:
            return None
        if saved is not None and saved.get("declared") == length:
            plan = saved["forecasters"][self._settings.metric]["schedule"]
            length = LRSchedule.from_dict(plan).total_steps
        self._scheduler(taken)
        return planned_schedule(
            self._trainer, self.optimizer, length, taken=taken, group=self.group
        )

    def source(self, plan: LRSchedule) -> PlanSource:
        """Return what the plan is read from.

        Args:
            plan: the plan at the start.
        """
        self._total = plan.total_steps
        given = self._settings.schedule is not None
        run = self._settings.run
        is_epoch_given = run is not None and run.steps_per_epoch is not None
        return PlanSource(
            read=self._read,
            scheduler=self._scheduler,
            length=self._length,
            steps_per_epoch=lambda taken: (
                self.steps_per_epoch(taken) if self.pace.is_known and not is_epoch_given else None
            ),
            fixed_length=given or self._settings.total_steps is not None,
            fixed_rates=given,
        )

    def steps_per_epoch(self, taken: int) -> float | None:
        """Return the optimizer steps in one pass over the training data; None if not known.

        Until the pace is known they are those that the settings of the Trainer declare.

        Args:
            taken: steps of the optimizer so far.
        """
        return None if changes_accumulation(self._trainer) else self.pace.steps_per_pass(taken)

    def optimizer_changed(self) -> bool:
        """Return whether the Trainer has another optimizer now; follow it."""
        optimizers = self._trainer.optimizers
        if self._index >= len(optimizers) or optimizers[self._index] is self._given:
            return False
        self._given = optimizers[self._index]
        before, self.optimizer = self.optimizer, innermost(self._given)
        if self.optimizer is before:
            return False
        self.group = widest_group(self.optimizer.param_groups)
        return True

    def positions_from_start(self, taken: int) -> Positions | None:
        """Return `scheduler_steps` of the whole run, as seen after some steps of the optimizer.

        None without a scheduler, and for one that the module has not stepped.
        """
        return self._positions(taken, from_start=True)

    # ------------------------------------------------------------------ inside

    def _length(self, taken: int) -> int | None:
        """Return the length of the run by its pace; None if a callback changes that."""
        return None if changes_accumulation(self._trainer) else self.pace.length(taken)

    def _scheduler(self, taken: int) -> Any:
        """Return the scheduler of the optimizer, or the optimizer while none is stepped."""
        configs = scheduler_configs(self._trainer, self.optimizer)
        if not configs:
            self._meter = None
            return self.optimizer
        scheduler = configs[0].scheduler
        if self._meter is None or self._meter.scheduler is not scheduler:
            self._meter = PaceMeter(scheduler)
        self._meter.check(taken)
        is_still = self._by_hand and self._meter.pace(taken) is None
        return self.optimizer if is_still else scheduler

    def _read(self, taken: int) -> LRSchedule:
        """Return the plan after some steps of the optimizer."""
        total = self._total
        if self._settings.total_steps is None:
            self._total = total = self._length(taken) or total
        total = max(total, taken + 1)
        positions = self._positions(taken)
        if positions is None and self._by_hand and self._meter is not None:
            rate = float(self.optimizer.param_groups[self.group]["lr"])
            return LRSchedule.constant(total, rate).with_caveats(Caveat.LR_ASSUMED)
        return planned_schedule(
            self._trainer,
            self.optimizer,
            total,
            taken=taken,
            group=self.group,
            positions=positions,
        )

    def _positions(self, taken: int, *, from_start: bool = False) -> Positions | None:
        """Return when the scheduler is stepped, by the declared or the measured pace.

        Args:
            taken: steps of the optimizer so far.
            from_start: whether to count from the start of the run instead of from now.

        Returns:
            `scheduler_steps` of `schedule_from_torch`; None without a scheduler, and for one that
            the module does not step.
        """
        now = 0 if from_start else taken
        if self._meter is not None and self._by_hand:
            by_hand = self._meter.pace(taken)
            if by_hand is None:
                return None
            every_n, times = by_hand
            an_epoch = self.pace.steps_of_epoch(taken)
            if every_n > 1 and an_epoch is not None and is_near(every_n, an_epoch):
                every_n = an_epoch  # a measured pace only approximates it
            return every(every_n, step=now, times=times)
        configs = scheduler_configs(self._trainer, self.optimizer)
        if not configs or self._meter is None:
            return None
        expected = self._positions_of_trainer(configs[0], taken, from_start=True)
        seen = self._meter.seen(taken)
        if seen is not None and seen[1] > 0:
            first, since, moved = seen
            before, after = expected(np.array([first, taken]) + 1).tolist()
            by_steps = configs[0].interval == "step"
            if by_steps and moved > 0 and not is_near(moved, after - before):
                pace, times = measured_pace(since, moved)
                return every(pace, step=now, times=times)
        return expected if from_start else self._positions_of_trainer(configs[0], taken)

    def _positions_of_trainer(
        self, config: Any, taken: int, *, from_start: bool = False
    ) -> Positions:
        """Return when Lightning steps a scheduler; the arguments are those of `_positions`."""
        trainer, pace = self._trainer, self.pace.measured(taken)
        epoch, batches = int(trainer.current_epoch), self.pace.batches
        if from_start:
            taken, epoch, batches = 0, 0, 0
        if pace is None or not math.isfinite(trainer.num_training_batches):
            return declared_positions(trainer, config, taken, batches=-1 if from_start else batches)
        return measured_positions(trainer, config, taken, pace=pace, epoch=epoch, batches=batches)
