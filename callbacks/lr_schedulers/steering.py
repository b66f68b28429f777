"""`Steering`: follows a `SteerableLR` and begins the recommended decay, once."""

from typing import Any, Self

from lossforecast.callbacks.distributed import Change
from lossforecast.callbacks.lr_schedulers.steerable import SteerableLR
from lossforecast.callbacks.lr_schedulers.stepping import steps_per_call, unwrapped
from lossforecast.log import logger
from lossforecast.policies import Action, Recommendation
from lossforecast.schedule import Decay, LRSchedule

__all__ = ["Steering"]


class Steering:
    """Reports changes of a scheduler's plan and, if allowed, begins a recommended decay.

    Args:
        scheduler: the scheduler, stepped once after each optimizer step.
        group: index of the parameter group whose rates are forecast.
        total_steps: length of the run if it is fixed; None if it follows the scheduler's.
        apply: whether to begin a recommended decay.
    """

    def __init__(
        self, scheduler: SteerableLR, group: int, total_steps: int | None, apply: bool
    ) -> None:
        self.apply = apply
        """Whether a recommended decay is begun; False once an attempt has failed."""
        self._scheduler, self._group, self._total = scheduler, group, total_steps
        self._last_plan = scheduler.schedule

    @classmethod
    def of(cls, scheduler: Any, group: int, total_steps: int | None, apply: bool) -> Self | None:
        """The steering of a `SteerableLR`, which may be wrapped; None for any other scheduler.

        Also None if its wrapper steps it once for each process.
        """
        if scheduler is None or steps_per_call(scheduler) != 1:
            return None
        inner, _ = unwrapped(scheduler)
        return cls(inner, group, total_steps, apply) if isinstance(inner, SteerableLR) else None

    def changed(self) -> Change | None:
        """The present plan, if it has changed since the last call; else None."""
        schedule = self._scheduler.schedule
        if schedule is self._last_plan:
            return None
        self._last_plan = schedule
        plan: LRSchedule = schedule.scaled_from(0, float(self._scheduler.base_lrs[self._group]))
        total = self._total or plan.total_steps
        longer = total >= plan.total_steps
        plan = plan.extended_to(total) if longer else plan.truncated_to(total)
        return Change(self._scheduler.changed_at, plan)

    def due(self, recommendation: Recommendation | None, step: int, soon: int) -> Decay | None:
        """The recommended decay if it begins by step `soon` and is not over at `step`; else None.

        None once a decay has begun, whoever began it.
        """
        if not self.apply or self._scheduler.steered or recommendation is None:
            return None
        if recommendation.action is not Action.CHANGE_SCHEDULE or recommendation.decay is None:
            return None
        decay = recommendation.decay
        return decay if decay.start <= soon and step + 1 < decay.start + decay.steps else None

    def begin(self, decay: Decay, *, log: bool) -> bool:
        """Hold the present rate, then decay as recommended, unless a decay has begun already.

        Steps are those of the scheduler, which are the same in all processes. After an error,
        which is logged, no decay is begun any more.

        Args:
            decay: the recommended decay; if it begins late, it still ends at the same step.
            log: whether this process logs the beginning.

        Returns:
            Whether it was begun.
        """
        if not self.apply or self._scheduler.steered:
            return False
        now = self._scheduler.last_epoch
        wait = max(decay.start - now, 1)
        steps = max(decay.start + decay.steps - now - wait, 1)
        try:
            self._scheduler.begin_decay(steps, decay.shape, after=wait)
        except Exception:
            self.apply = False
            logger.exception("the decay could not be begun; training goes on as planned")
            return False
        if log:
            logger.warning(
                "the learning rate decays from step %d to %d (%s), as recommended",
                now + wait,
                now + wait + steps,
                decay.shape,
            )
        return True
