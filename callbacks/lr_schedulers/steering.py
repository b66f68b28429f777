"""`Steering`: follows a `SteerableLR` and begins the recommended decay, once."""

from typing import Any, Self

from lossforecast.callbacks.distributed import Change
from lossforecast.callbacks.lr_schedulers.steerable import SteerableLR
from lossforecast.callbacks.lr_schedulers.stepping import steps_per_call, unwrapped
from lossforecast.log import logger
from lossforecast.policies import Action, Recommendation
from lossforecast.schedule import Decay, LRSchedule
from lossforecast.signals import contained

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
        """True if a recommended decay will be begun; False once an attempt has failed."""
        self._scheduler, self._group, self._total = scheduler, group, total_steps
        self._last_plan = scheduler.schedule

    @classmethod
    def of(cls, scheduler: Any, group: int, total_steps: int | None, apply: bool) -> Self | None:
        """Return the steering of a `SteerableLR`, which may be wrapped; None for other schedulers.

        Also None if a wrapper steps it once for each process.
        """
        if scheduler is None or steps_per_call(scheduler) != 1:
            return None
        inner, _ = unwrapped(scheduler)
        return cls(inner, group, total_steps, apply) if isinstance(inner, SteerableLR) else None

    def changed(self) -> Change | None:
        """Return the present plan, if it has changed since the last call; else None."""
        schedule = self._scheduler.schedule
        if schedule is self._last_plan:
            return None
        self._last_plan = schedule
        plan: LRSchedule = schedule.scaled_from(0, float(self._scheduler.base_lrs[self._group]))
        total = self._total or plan.total_steps
        longer = total >= plan.total_steps
        plan = plan.extended_to(total) if longer else plan.truncated_to(total)
        return Change(self._scheduler.changed_at, plan)

    def follow_length(self, total_steps: int) -> None:
        """Adopt a changed length of the run, unless the length follows the scheduler."""
        self._total = None if self._total is None else total_steps

    def due(self, recommendation: Recommendation | None, step: int, soon: int) -> Decay | None:
        """Return the recommended decay if due; None otherwise, and once `begin_decay` was called.

        Args:
            recommendation: the latest recommendation, if any.
            step: optimizer steps taken; a decay that would be over by the next step is not due.
            soon: last step at which a decay that is due begins.
        """
        if not self.apply or self._scheduler.steered or recommendation is None:
            return None
        if recommendation.action is not Action.CHANGE_SCHEDULE or recommendation.decay is None:
            return None
        decay = recommendation.decay
        return decay if decay.start <= soon and step + 1 < decay.start + decay.steps else None

    def begin(self, decay: Decay, *, log: bool) -> bool:
        """Hold the present rate, then decay as recommended, unless `begin_decay` was called before.

        Steps are those of the scheduler, which are the same in all processes. An error is logged,
        and after it no decay is begun.

        Args:
            decay: the recommended decay; if it begins late, it still ends at the same step.
            log: whether this process logs the beginning.

        Returns:
            True if the decay was begun.
        """
        if not self.apply or self._scheduler.steered:
            return False
        now = self._scheduler.last_epoch
        wait = max(decay.start - now, 1)
        steps = max(decay.start + decay.steps - now - wait, 1)
        begun = False
        with contained(self._give_up):
            self._scheduler.begin_decay(steps, decay.shape, after=wait)
            begun = True
        if begun and log:
            logger.warning(
                "the learning rate decays from step %d to %d (%s), as recommended",
                now + wait,
                now + wait + steps,
                decay.shape,
            )
        return begun

    def _give_up(self, error: Exception) -> None:
        self.apply = False
        logger.exception("the decay could not be started; training goes on as planned")
