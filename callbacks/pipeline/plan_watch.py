"""`PlanWatch`: reads the plan again when the training loop no longer follows it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lossforecast.callbacks.distributed import Change, processes
from lossforecast.log import logger
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["PlanSource", "PlanWatch", "Streak"]

_CHECKS_IN_A_ROW = 3  # after which the learning rate has left the plan, or follows it, for good
_LENGTH_TOLERANCE = 0.01  # of the plan; steps that a gradient scaler skips explain less
_GIVEN_LENGTH_TOLERANCE = 0.1  # the same for a length that the user gave
_EARLY_END_SHARE = 0.9  # of the plan: a run that ends earlier has ended early


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanSource:
    """Source of a plan.

    Attributes:
        read: returns the plan after some optimizer steps, read anew.
        scheduler: returns the object that sets the learning rates after some optimizer steps: a
            scheduler, the optimizer, or None. The plan is read again when that object changes.
        length: returns the length of the run in optimizer steps, as it seems after some of them;
            None if there is nothing new about it.
        steps_per_epoch: the same for the optimizer steps in one pass over the data.
        fixed_length: whether the user gave the length.
        fixed_rates: whether the user gave the learning rates, so that nothing is read.
    """

    read: Callable[[int], LRSchedule]
    scheduler: Callable[[int], Any] = lambda steps: None
    length: Callable[[int], int | None] = lambda steps: None
    steps_per_epoch: Callable[[int], float | None] = lambda steps: None
    fixed_length: bool = False
    fixed_rates: bool = False


@dataclass(frozen=True)
class Streak:
    """The latest checks of the learning rate against the plan, all with the same result.

    Attributes:
        off_plan: whether the learning rate was off the plan.
        length: number of checks in a row.
    """

    off_plan: bool = False
    length: int = 0

    def after(self, off_plan: bool) -> "Streak":
        """Return the streak after one more check."""
        return Streak(off_plan, self.length + 1 if off_plan == self.off_plan else 1)


class PlanWatch:
    """Compares the plan with what the training loop does, at every check.

    The plan is read again when the length of the run or the scheduler has changed, and when the
    learning rate was off the plan at three checks in a row. If it leaves the new plan as well, the
    present rate is held from then on, with `Caveat.LR_ASSUMED`. Whatever the user gave is kept, and
    a warning says how the run differs from it.

    Args:
        source: what the plan is read from.
        plan: the plan at the start.
        run: what was known about the run at the start.
        steps: optimizer steps taken before.
    """

    def __init__(self, source: PlanSource, plan: LRSchedule, run: RunInfo, steps: int = 0) -> None:
        self._source = source
        self._total = plan.total_steps
        self._steps_per_epoch = run.steps_per_epoch
        self._scheduler = source.scheduler(steps)
        self._is_reread = self._is_held = False
        self._said: set[str] = set()  # warnings that are logged only once

    def changed(
        self, steps: int, streak: Streak, present_rate: Callable[[], float]
    ) -> Change | None:
        """Return the new plan and the new steps of an epoch, if there are any; else None.

        Args:
            steps: optimizer steps taken.
            streak: the latest checks of the learning rate.
            present_rate: returns the learning rate of the next step.
        """
        plan = None
        if self._length_changed(steps) or self._scheduler_changed(steps):
            self._is_reread = self._is_held = False
            plan = self._source.read(steps)
        elif streak.length >= _CHECKS_IN_A_ROW:
            if not streak.off_plan:
                self._is_reread = False
            elif not self._is_held:
                plan = self._followed(steps, present_rate)
        an_epoch = self._changed_epoch(steps)
        if plan is not None or an_epoch is not None:
            self._total = self._total if plan is None else plan.total_steps
            return Change(steps, plan, an_epoch)
        if steps > (1 + _LENGTH_TOLERANCE) * self._total + 1:
            self._warn_once(
                "step %d: the run goes on after the last step of its plan, %d: forecasts were made "
                "for that step. Give the length of the run in optimizer steps, total_steps=",
                steps,
                self._total,
            )
        return None

    def follow_length(self, total_steps: int) -> None:
        """Adopt the length of a plan that was changed elsewhere."""
        self._total = total_steps

    def finish(self, steps: int) -> None:
        """Log that a run has ended early, after `steps` optimizer steps."""
        if steps < _EARLY_END_SHARE * self._total:
            _log(
                logging.INFO,
                "the run ended after %d of %d planned optimizer steps: the forecasts were made for "
                "step %d",
                steps,
                self._total,
                self._total,
            )

    # ------------------------------------------------------------------ inside

    def _length_changed(self, steps: int) -> bool:
        length = self._source.length(steps)
        if length is None or length <= steps:
            return False
        tolerance = _GIVEN_LENGTH_TOLERANCE if self._source.fixed_length else _LENGTH_TOLERANCE
        # a pace measured over `steps` may be one step off
        if abs(length - self._total) <= self._total * max(tolerance, 1 / max(steps, 1)):
            return False
        if self._source.fixed_length:
            self._warn_once(
                "step %d: the run was declared to have %d optimizer steps, but at its present pace "
                "will take about %d: correct total_steps= or schedule=",
                steps,
                self._total,
                length,
            )
            return False
        _log(
            logging.INFO,
            "step %d: the run will have %d optimizer steps instead of %d; forecasts are now made "
            "for that step",
            steps,
            length,
            self._total,
        )
        return True

    def _changed_epoch(self, steps: int) -> float | None:
        """Return the optimizer steps of an epoch if they differ from the ones assumed."""
        before, an_epoch = self._steps_per_epoch, self._source.steps_per_epoch(steps)
        if an_epoch is None:
            return None
        if before is not None and abs(an_epoch - before) <= _LENGTH_TOLERANCE * before:
            return None
        self._steps_per_epoch = an_epoch
        _log(logging.INFO, "step %d: an epoch has about %.0f optimizer steps", steps, an_epoch)
        return an_epoch

    def _scheduler_changed(self, steps: int) -> bool:
        before, self._scheduler = self._scheduler, self._source.scheduler(steps)
        if self._scheduler is before or self._source.fixed_rates:
            return False
        if hasattr(self._scheduler, "optimizer") or hasattr(self._scheduler, "scheduler"):
            name = type(self._scheduler).__name__
            _log(logging.INFO, "step %d: %s sets the learning rate from now on", steps, name)
        else:
            _log(
                logging.INFO,
                "step %d: no scheduler is stepped: the present learning rate is assumed to be held",
                steps,
            )
        return True

    def _followed(self, steps: int, present_rate: Callable[[], float]) -> LRSchedule | None:
        """Return a plan that the learning rate may follow: read again, or else the present rate."""
        if self._source.fixed_rates:
            self._warn_once(
                "step %d: the learning rate differs from the given schedule: the next one is %.4g",
                steps,
                present_rate(),
            )
            return None
        if not self._is_reread:
            self._is_reread = True
            _log(
                logging.INFO,
                "step %d: the learning rate left the plan, which is read again from the scheduler",
                steps,
            )
            return self._source.read(steps)
        self._is_held = True
        rate = present_rate()
        self._warn_once(
            "step %d: the learning rate does not follow its scheduler: the present rate, %.4g, is "
            "assumed to be held. Give the planned rates as schedule=",
            steps,
            rate,
        )
        held = LRSchedule.constant(max(self._total, steps + 1), rate)
        return held.with_caveats(Caveat.LR_ASSUMED)

    def _warn_once(self, message: str, *values: object) -> None:
        if message not in self._said:
            self._said.add(message)
            _log(logging.WARNING, message, *values)


def _log(level: int, message: str, *values: object) -> None:
    """Log a message in process 0."""
    if processes()[0] == 0:
        logger.log(level, message, *values)
