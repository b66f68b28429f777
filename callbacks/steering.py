"""`Steering`: the decay that a run is given when that is recommended, once."""

import logging
from typing import Any, Self

from lossforecast.callbacks.steerable import SteerableLR
from lossforecast.recommendation import Action, Recommendation
from lossforecast.schedule import Decay

__all__ = ["Steering"]

logger = logging.getLogger("lossforecast")


class Steering:
    """Begins one recommended decay of a scheduler.

    Args:
        scheduler: stepped once after each optimizer step.
    """

    def __init__(self, scheduler: SteerableLR) -> None:
        self.done = False
        """Whether the decay has been set; there is only one."""
        self._scheduler = scheduler

    @classmethod
    def of(cls, scheduler: Any) -> Self | None:
        """Of a scheduler, maybe wrapped, that can be steered; None of any other."""
        while not isinstance(scheduler, SteerableLR) and hasattr(scheduler, "scheduler"):
            scheduler = scheduler.scheduler
        return cls(scheduler) if isinstance(scheduler, SteerableLR) else None

    def due(self, recommendation: Recommendation | None, step: int, soon: int) -> Decay | None:
        """The decay recommended, if it is to begin by some step and not over by the present one."""
        if self.done or recommendation is None:
            return None
        if recommendation.action is not Action.CHANGE_SCHEDULE or recommendation.decay is None:
            return None
        decay = recommendation.decay
        return decay if decay.start <= soon and step + 1 < decay.start + decay.steps else None

    def begin(self, decay: Decay, step: int, *, tell: bool) -> Decay:
        """Set the decay, at the earliest from the step after next; how it came out.

        Args:
            decay: as recommended; its end stays where it is.
            step: optimizer steps taken.
            tell: whether this is the process that logs.
        """
        wait = max(decay.start - step, 1)
        steps = max(decay.start + decay.steps - step - wait, 1)
        self._scheduler.begin_decay(steps, decay.shape, after=wait)
        self.done = True
        begun = Decay(step + wait, steps, decay.shape)
        if tell:
            logger.warning(
                "the learning rate decays from step %d to %d (%s), as recommended",
                begun.start,
                begun.start + begun.steps,
                begun.shape,
            )
        return begun
