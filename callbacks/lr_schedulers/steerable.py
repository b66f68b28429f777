"""`SteerableLR`: a torch scheduler whose stable phase can be ended or extended during the run."""

from typing import Any

import torch

from lossforecast.checks import non_negative, whole
from lossforecast.errors import ScheduleError, StateError
from lossforecast.schedule import LRSchedule

__all__ = ["SteerableLR"]


class SteerableLR(torch.optim.lr_scheduler.LRScheduler):
    """Warm-up, stable phase and decay of the learning rate; the decay can be moved during the run.

        scheduler = SteerableLR(optimizer, total_steps=24_000, warmup=500)
        ...
        scheduler.begin_decay(4_000)    # decay now, over the last 4,000 steps of the run
        scheduler.extend_to(30_000)     # or make the run longer

    Step it after each optimizer step. Without steering the run ends as planned, with a decay over
    the last `decay_fraction` of it. Past the end the last rate is held. The state consists of plain
    values: a run resumed in the middle of a decay continues with the same rates to the bit.

    Args:
        optimizer: the optimizer; the rate of each group is the rate of its stable phase.
        total_steps: length of the run in optimizer steps.
        warmup: steps of linear warm-up from 0.
        decay_fraction: share of the run in the planned decay, 0..1.
        shape: shape of the planned decay: "linear", "cosine", "sqrt" or "exp".
        end: rate at its end as a share of the stable rate; default: 0, or for "exp" 1% of the rate
            at its start.
        last_epoch: as in torch.

    Raises:
        ScheduleError: an argument is impossible.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        >>> scheduler = SteerableLR(optimizer, total_steps=100)
        >>> scheduler.begin_decay(4)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates += scheduler.get_last_lr()
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 0.375, 0.25, 0.125, 0.0]
        >>> scheduler.total_steps
        5
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        *,
        warmup: int = 0,
        decay_fraction: float = 0.2,
        shape: str = "linear",
        end: float | None = None,
        last_epoch: int = -1,
    ) -> None:
        total = whole("total_steps", total_steps, ScheduleError, least=1)
        share = non_negative("decay_fraction", decay_fraction, ScheduleError)
        self.schedule = LRSchedule.constant(total, 1.0, warmup=warmup)
        """Rates of all steps as shares of the stable rate."""
        self.steered = False
        """True once `begin_decay` has been called."""
        self.changed_at = 0
        """The last step before the latest change."""
        self._warmup = warmup
        self._planned: tuple[int, str, float | None] | None = None
        decay = round(share * total)
        if decay > total:
            raise ScheduleError(f"decay_fraction is {share}; give a share of the run, 0..1")
        if decay:
            self._planned = decay, shape, end
            self.schedule = self.schedule.with_decay(start=total - decay, shape=shape, end=end)
        super().__init__(optimizer, last_epoch)

    @property
    def total_steps(self) -> int:
        """Length of the schedule in steps; steering changes it."""
        return self.schedule.total_steps

    @property
    def begun(self) -> bool:
        """True once the planned decay has begun or `begin_decay` has been called."""
        if self._planned is None:
            return self.steered
        return self.last_epoch >= self.total_steps - self._planned[0]

    def begin_decay(
        self,
        steps: int | None = None,
        shape: str = "linear",
        end: float | None = None,
        *,
        after: int = 1,
    ) -> None:
        """Decay from the present rate after the next step, in place of the planned decay.

        Args:
            steps: length of the decay, with which the run ends; default: until the planned end.
            shape: "linear", "cosine", "sqrt" or "exp".
            end: rate at its end as a share of the stable rate; default: 0, or for "exp" 1% of the
                present rate.
            after: steps for which the present rate is held, at least 1, because the rate of the
                next step is set already.

        Raises:
            ScheduleError: an argument is impossible, or the run ends before the decay would begin.
        """
        wait = whole("after", after, ScheduleError, least=1)
        start = self.last_epoch + wait
        if start >= self.total_steps and steps is None:
            raise ScheduleError(
                f"the schedule is over at step {self.total_steps}: give the length of the decay "
                "as `steps`"
            )
        now = min(self.last_epoch + 1, self.total_steps)
        length = self.total_steps - start if steps is None else steps
        held = self.schedule.truncated_to(now).extended_to(start)
        self.schedule = held.with_decay(start=start, steps=length, shape=shape, end=end)
        self.steered, self.changed_at, self._planned = True, now, None

    def extend_to(self, total_steps: int) -> None:
        """Make the run longer: the stable phase is extended and the planned decay moved to its end.

        Raises:
            ScheduleError: a decay has begun, or the run would get shorter.
        """
        total = whole("total_steps", total_steps, ScheduleError, least=1)
        if total == self.total_steps:
            return
        if total < self.total_steps:
            raise ScheduleError(
                f"cannot extend a run of {self.total_steps} steps to {total}: to end it earlier, "
                "use begin_decay()"
            )
        if self.begun:
            raise ScheduleError(
                f"the decay has begun by step {self.last_epoch}: in a longer run the rate would "
                "rise again; continue with a new scheduler"
            )
        decay, shape, end = self._planned or (0, "linear", None)
        held = LRSchedule.constant(total, 1.0, warmup=self._warmup)
        if decay:
            held = held.with_decay(start=total - decay, shape=shape, end=end)
        self.schedule, self.changed_at = held, self.last_epoch + 1

    def get_lr(self) -> list[Any]:
        """Return the rates of the next optimizer step, one per group."""
        share = self.share(self.last_epoch + 1)
        return [base * share for base in self.base_lrs]

    def share(self, step: int) -> float:
        """Return the rate of an optimizer step as a share of the stable rate."""
        return float(self.schedule.lr(min(max(step, 1), self.total_steps)))

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the optimizer, as plain values."""
        return {**super().state_dict(), "schedule": self.schedule.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            StateError: the state is not that of a `SteerableLR`.
        """
        try:
            schedule = LRSchedule.from_dict(state_dict["schedule"])
            planned = state_dict["_planned"] and tuple(state_dict["_planned"])
        except (KeyError, TypeError, ScheduleError) as error:
            raise StateError(f"not a saved SteerableLR: {error!r}") from error
        super().load_state_dict({**state_dict, "schedule": schedule, "_planned": planned})
