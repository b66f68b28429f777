"""`Steering`: follows a `SteerableLR`, and begins the decay that is recommended, once."""

from typing import Any, Self

from lossforecast.callbacks.distributed import Change
from lossforecast.callbacks.lr_schedulers.from_torch import steps_per_call, unwrapped
from lossforecast.callbacks.lr_schedulers.steerable import SteerableLR
from lossforecast.log import logger
from lossforecast.policies import Action, Recommendation
from lossforecast.schedule import Decay, LRSchedule

__all__ = ["Steering"]


class Steering:
    """Tells of changes to a scheduler, whoever makes them, and may make one itself.

    Args:
        scheduler: stepped once after each optimizer step.
        group: index of the parameter group whose rates are forecast.
        total_steps: length of the run, if that does not change with the scheduler's.
        apply: whether a decay that is recommended is begun.
    """

    def __init__(
        self, scheduler: SteerableLR, group: int, total_steps: int | None, apply: bool
    ) -> None:
        self.apply = apply
        """Whether a decay is begun; no more once that has failed."""
        self._scheduler, self._group, self._total = scheduler, group, total_steps
        self._seen = scheduler.schedule

    @classmethod
    def of(cls, scheduler: Any, group: int, total_steps: int | None, apply: bool) -> Self | None:
        """Of a scheduler, maybe wrapped, that can be steered; None of any other.

        Nor of one that its wrapper steps once for each process.
        """
        if scheduler is None or steps_per_call(scheduler) != 1:
            return None
        inner, _ = unwrapped(scheduler)
        return cls(inner, group, total_steps, apply) if isinstance(inner, SteerableLR) else None

    def changed(self) -> Change | None:
        """What is planned now, if that has changed since the last time."""
        schedule = self._scheduler.schedule
        if schedule is self._seen:
            return None
        self._seen = schedule
        plan: LRSchedule = schedule.scaled_from(0, float(self._scheduler.base_lrs[self._group]))
        total = self._total or plan.total_steps
        longer = total >= plan.total_steps
        plan = plan.extended_to(total) if longer else plan.truncated_to(total)
        return Change(self._scheduler.changed_at, plan)

    def due(self, recommendation: Recommendation | None, step: int, soon: int) -> Decay | None:
        """The decay recommended, if it is to begin by some step and not over by the present one.

        None once a decay was begun, by whomever.
        """
        if not self.apply or self._scheduler.steered or recommendation is None:
            return None
        if recommendation.action is not Action.CHANGE_SCHEDULE or recommendation.decay is None:
            return None
        decay = recommendation.decay
        return decay if decay.start <= soon and step + 1 < decay.start + decay.steps else None

    def begin(self, decay: Decay, *, tell: bool) -> bool:
        """Hold the present rate, then decay as recommended, unless a decay was begun already.

        Steps are those of the scheduler, which are the same in all processes. An error is logged,
        and nothing is begun any more.

        Args:
            decay: as recommended; its end stays where it is.
            tell: whether this is the process that logs.

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
        if tell:
            logger.warning(
                "the learning rate decays from step %d to %d (%s), as recommended",
                now + wait,
                now + wait + steps,
                decay.shape,
            )
        return True
