"""`LRSchedule`: the learning rate of every optimizer step of a run, past and planned."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from lossforecast.checks import (
    non_negative,
    non_negatives,
    number,
    whole,
    wholes,
)
from lossforecast.errors import ScheduleError
from lossforecast.schedule.pieces import PIECE, Shape, pruned
from lossforecast.schedule.piecewise import PiecewiseSchedule, pieces_of, window
from lossforecast.status import Caveat

__all__ = ["DECAY_SHAPES", "OFF_PLAN_TOLERANCE", "Decay", "LRSchedule"]

OFF_PLAN_TOLERANCE = 0.01
"""Share of the peak by which a learning rate may differ from the plan and still follow it."""


DECAY_SHAPES = {
    "linear": Shape.LINEAR,
    "cosine": Shape.COSINE,
    "sqrt": Shape.SQRT,
    "exp": Shape.EXP,
}
# last rate of an exponential decay relative to its first, by custom: it cannot reach 0
_EXP_END_RATIO = 0.01


@dataclass(frozen=True)
class Decay:
    """A decay of the learning rate to 0, or for "exp" to a hundredth.

    Attributes:
        start: last step before the decay.
        steps: length of the decay in optimizer steps.
        shape: "linear", "cosine", "sqrt" or "exp".
    """

    start: int
    steps: int
    shape: str

    def __str__(self) -> str:
        end = self.start + self.steps
        return f"{self.shape} decay from step {self.start:,} to step {end:,}"


class LRSchedule(PiecewiseSchedule):
    """The learning rate ``eta_i`` of the optimizer steps i = 1..`total_steps`.

    Immutable: class methods make a schedule, and edits return a new one. Learning rates are
    absolute, time is in optimizer steps. Evaluation is exact at every step. A schedule stores its
    shapes, not its steps: ten million steps of a cosine take no more memory than ten.

    Example:
        >>> plan = LRSchedule.wsd(total_steps=10_000, peak=1e-3, warmup=500, decay_fraction=0.2)
        >>> plan.lr([1, 500, 8_000, 10_000]).tolist()
        [2e-06, 0.001, 0.001, 0.0]
        >>> plan.with_decay(start=4_000, steps=1_000).total_steps
        5000
    """

    # ------------------------------------------------------------------ named shapes

    @classmethod
    def constant(cls, total_steps: int, peak: float, *, warmup: int = 0) -> Self:
        """Linear warm-up from 0, then `peak` to the end."""
        return cls._warmed_up(total_steps, peak, warmup, [(total_steps, Shape.LINEAR, peak)])

    @classmethod
    def linear(cls, total_steps: int, peak: float, *, end: float = 0.0, warmup: int = 0) -> Self:
        """Linear warm-up from 0, then a straight line from `peak` to `end`."""
        return cls._warmed_up(total_steps, peak, warmup, [(total_steps, Shape.LINEAR, end)])

    @classmethod
    def cosine(cls, total_steps: int, peak: float, *, end: float = 0.0, warmup: int = 0) -> Self:
        """Linear warm-up from 0, then half a cosine wave from `peak` to `end`."""
        return cls._warmed_up(total_steps, peak, warmup, [(total_steps, Shape.COSINE, end)])

    @classmethod
    def wsd(
        cls,
        total_steps: int,
        peak: float,
        *,
        decay_fraction: float = 0.2,
        shape: str = "linear",
        end: float | None = None,
        warmup: int = 0,
    ) -> Self:
        """Warm-up, stable, decay: `peak` held until the last `decay_fraction` of the run.

        Args:
            total_steps: length of the run in optimizer steps.
            peak: learning rate of the stable phase.
            decay_fraction: share of `total_steps` in the decay, above 0 and at most 1.
            shape: "linear", "cosine", "sqrt" (falls as 1 - sqrt(u)) or "exp".
            end: learning rate of the last step; 0, or a hundredth of the peak for "exp".
            warmup: steps of linear warm-up from 0.
        """
        if not 0 < number("decay_fraction", decay_fraction, ScheduleError) <= 1:
            raise ScheduleError(
                f"decay_fraction is {decay_fraction!r}; give the share of the run that decays, "
                "above 0 and at most 1 (0.2 is common)"
            )
        total_steps = whole("total_steps", total_steps, ScheduleError, least=1)
        warmup = whole("warmup", warmup, ScheduleError, least=0)
        start = min(max(total_steps - round(decay_fraction * total_steps), warmup), total_steps - 1)
        stable = cls.constant(total_steps, peak, warmup=warmup)
        return stable.with_decay(start=start, steps=total_steps - start, shape=shape, end=end)

    @classmethod
    def step_decay(
        cls,
        total_steps: int,
        peak: float,
        *,
        milestones: Iterable[int],
        factor: float = 0.1,
        warmup: int = 0,
    ) -> Self:
        """`peak`, multiplied by `factor` after each of the steps in `milestones`."""
        if not isinstance(milestones, Iterable):
            raise ScheduleError(f"milestones must be a list of steps, not {milestones!r:.60}")
        marks = [whole("milestone", m, ScheduleError, least=1) for m in milestones]
        warmup = whole("warmup", warmup, ScheduleError, least=0)
        if marks != sorted(set(marks)) or (marks and not warmup <= marks[0]):
            raise ScheduleError(
                f"milestones are {marks}; give increasing steps after the warm-up of {warmup}"
            )
        non_negative("factor", factor, ScheduleError)
        schedule = cls.constant(total_steps, peak, warmup=warmup)
        for mark in marks:
            if mark < total_steps:
                schedule = schedule.scaled_from(mark, factor)
        return schedule

    @classmethod
    def inverse_sqrt(cls, total_steps: int, peak: float, *, warmup: int = 1) -> Self:
        """Linear warm-up from 0 over `warmup` >= 1 steps, then ``peak * sqrt(warmup / i)``."""
        total_steps = whole("total_steps", total_steps, ScheduleError, least=1)
        warmup = whole("warmup", warmup, ScheduleError, least=1)
        start = min(warmup, total_steps)
        schedule = cls.constant(total_steps, peak, warmup=warmup)
        if start == total_steps:
            return schedule
        tail = (total_steps, Shape.INVERSE_SQRT, warmup, warmup + 1, peak, peak)
        return schedule._replaced(np.concatenate([schedule._cut(start), pieces_of([tail])]))

    @classmethod
    def one_cycle(
        cls,
        total_steps: int,
        peak: float,
        *,
        warmup_fraction: float = 0.3,
        start_factor: float = 1 / 25,
        end_factor: float = 4e-6,
    ) -> Self:
        """Cosine up from ``start_factor * peak`` to `peak`, cosine down to ``end_factor * peak``.

        The defaults are those of ``torch.optim.lr_scheduler.OneCycleLR``.
        """
        total_steps = whole("total_steps", total_steps, ScheduleError, least=2)
        peak = non_negative("peak", peak, ScheduleError)
        start = non_negative("start_factor", start_factor, ScheduleError) * peak
        end = non_negative("end_factor", end_factor, ScheduleError) * peak
        if not 0 < number("warmup_fraction", warmup_fraction, ScheduleError) < 1:
            raise ScheduleError(f"warmup_fraction is {warmup_fraction!r}; it must be in (0, 1)")
        top = warmup_fraction * total_steps  # may lie between two steps, as in torch
        rows: list[tuple[float, ...]] = [(total_steps, Shape.COSINE, top, total_steps, peak, end)]
        if top > 1:
            rows.insert(0, (math.floor(top), Shape.COSINE, 1, top, start, peak))
        return cls(pieces_of(rows))

    @classmethod
    def from_array(cls, lrs: ArrayLike, *, caveats: Iterable[Caveat] = ()) -> Self:
        """The schedule with the given learning rate of each step 1..n, shape (n,)."""
        values = non_negatives("lrs", lrs, ScheduleError)
        if values.size == 0:
            raise ScheduleError("lrs is empty; give the learning rate of each step 1..total_steps")
        piece = (values.size, Shape.ARRAY, 0, 1, 1.0, 1.0)
        return cls(pieces_of([piece]), values, caveats)

    @classmethod
    def from_points(
        cls,
        steps: ArrayLike,
        lrs: ArrayLike,
        *,
        total_steps: int,
        caveats: Iterable[Caveat] = (),
    ) -> Self:
        """Straight lines between points; the first and last value hold outside of them.

        Args:
            steps: increasing whole steps from 0 on, shape (n,).
            lrs: learning rates, shape (n,).
            total_steps: length of the run; points beyond it only shape the lines.
            caveats: what is uncertain about the points.
        """
        values, at = non_negatives("lrs", lrs, ScheduleError), wholes("steps", steps, ScheduleError)
        total_steps = whole("total_steps", total_steps, ScheduleError, least=1)
        if values.size == 0:
            raise ScheduleError("no points given; give at least one (step, learning rate)")
        if at.shape != values.shape:
            raise ScheduleError(
                f"steps has shape {at.shape} and lrs {values.shape}; give one rate for each step"
            )
        if at[0] < 0 or np.any(np.diff(at) <= 0):
            bad = int(at[0]) if at[0] < 0 else int(at[1:][np.diff(at) <= 0][0])
            raise ScheduleError(
                f"steps must be 0 or more and strictly increasing; step {bad} is not: "
                "sort the points and drop duplicates"
            )
        rows = np.zeros(at.size + 1, dtype=PIECE)
        rows["shape"] = Shape.LINEAR
        rows["stop"] = np.append(at, np.iinfo(np.int64).max)
        rows["x0"] = np.insert(at, 0, at[0] - 1)
        rows["x1"] = np.append(at, at[-1] + 1)
        rows["y0"] = np.insert(values, 0, values[0])
        rows["y1"] = np.append(values, values[-1])
        return cls(window(rows, 0, total_steps), (), caveats)

    # ------------------------------------------------------------------ edits

    def extended_to(self, total_steps: int) -> Self:
        """The same schedule, longer: the last learning rate is held until `total_steps`."""
        total_steps = whole("total_steps", total_steps, ScheduleError, least=1)
        now = self.total_steps
        if total_steps < now:
            raise ScheduleError(
                f"cannot extend a schedule of {now} steps to {total_steps}: "
                "use truncated_to() to end early, or with_decay() to decay early"
            )
        if total_steps == now:
            return self
        last = float(self.lr(now))
        hold = (total_steps, Shape.LINEAR, now, total_steps, last, last)
        return self._replaced(np.concatenate([self._pieces, pieces_of([hold])]))

    def truncated_to(self, total_steps: int) -> Self:
        """The first `total_steps` steps of this schedule."""
        total_steps = whole("total_steps", total_steps, ScheduleError, least=1)
        if total_steps > self.total_steps:
            raise ScheduleError(
                f"cannot truncate a schedule of {self.total_steps} steps to {total_steps}: "
                "use extended_to()"
            )
        return self._replaced(self._cut(total_steps))

    def with_decay(
        self,
        *,
        start: int,
        steps: int | None = None,
        shape: str = "linear",
        end: float | None = None,
    ) -> Self:
        """Follow this schedule to step `start`, then decay to `end` and finish.

        Args:
            start: last step before the decay, in 0..total_steps.
            steps: length of the decay; by default what is left of the schedule.
            shape: "linear", "cosine", "sqrt" or "exp".
            end: learning rate of the last step; 0, or a hundredth of the present one for "exp".
        """
        start = whole("start", start, ScheduleError, least=0)
        if start > self.total_steps:
            raise ScheduleError(
                f"the decay starts at step {start}, after the end of the schedule "
                f"({self.total_steps}): use extended_to({start}) first"
            )
        if start == self.total_steps and steps is None:
            raise ScheduleError(
                f"the decay starts at step {start}, the end of the schedule: give its length, steps"
            )
        length = self.total_steps - start if steps is None else steps
        length = whole("steps of the decay", length, ScheduleError, least=1)
        if not isinstance(shape, str) or shape not in DECAY_SHAPES:
            raise ScheduleError(f"unknown decay shape {shape!r}: one of {sorted(DECAY_SHAPES)}")
        begin = float(self.lr(max(start, 1)))
        if end is None:
            end = begin * _EXP_END_RATIO if shape == "exp" else 0.0
        end = non_negative("end", end, ScheduleError)
        if shape == "exp" and (end == 0 or begin == 0):
            raise ScheduleError(
                f"an exponential decay from {begin} to {end} is impossible: give rates above 0"
            )
        tail = (start + length, DECAY_SHAPES[shape], start, start + length, begin, end)
        return self._replaced(np.concatenate([self._cut(start), pieces_of([tail])]))

    def scaled_from(self, step: int, factor: float) -> Self:
        """The learning rate of every step after `step` multiplied by `factor`."""
        step = whole("step", step, ScheduleError, least=0)
        if step >= self.total_steps:
            raise ScheduleError(
                f"no step after {step} in a schedule of {self.total_steps}: nothing to scale"
            )
        factor = non_negative("factor", factor, ScheduleError)
        tail = window(self._pieces, step, self.total_steps)
        with np.errstate(over="ignore"):
            tail["y0"] *= factor
            tail["y1"] *= factor
        if not math.isfinite(self.peak * factor + tail["y0"].max() + tail["y1"].max()):
            raise ScheduleError(f"factor is {factor}: no learning rate is that large")
        # rates that underflow to 0 cannot be exponential
        vanished = (tail["shape"] == Shape.EXP) & (np.minimum(tail["y0"], tail["y1"]) == 0)
        tail["shape"][vanished] = Shape.LINEAR
        return self._replaced(np.concatenate([self._cut(step), tail]))

    def joined(self, step: int, other: "LRSchedule") -> Self:
        """This schedule up to `step`, `other` and its caveats after it."""
        step = whole("step", step, ScheduleError, least=0)
        if not isinstance(other, LRSchedule):
            raise ScheduleError(f"other must be an LRSchedule, not {other!r:.60}")
        if step >= other.total_steps or step > self.total_steps:
            raise ScheduleError(
                f"cannot join at step {step}: this schedule has {self.total_steps} steps, "
                f"the other {other.total_steps}; join at an earlier one"
            )
        tail = window(other._pieces, step, other.total_steps)
        tail["x0"][tail["shape"] == Shape.ARRAY] -= self._values.size
        pieces = np.concatenate([self._cut(step), tail])
        values = np.concatenate([self._values, other._values])
        return type(self)(*pruned(pieces, values), other.caveats)

    def with_caveats(self, *caveats: Caveat) -> Self:
        """The same schedule with these caveats added to its own."""
        return type(self)(self._pieces, self._values, [*self.caveats, *caveats])

    def replanned_from(self, step: int, plan: "LRSchedule") -> "LRSchedule":
        """This schedule up to the present step, `plan` and its caveats after it.

        The result is `plan` itself if it ends at `step`, or if this schedule ends before `step`.

        Raises:
            ScheduleError: `plan` ends before `step`.
        """
        if plan.total_steps < step:
            raise ScheduleError(
                f"the schedule ends at step {plan.total_steps}, before the present step {step}: "
                "give one for the whole run, its past included"
            )
        if step >= plan.total_steps or step > self.total_steps:
            return plan
        return self.joined(step, plan)

    # ------------------------------------------------------------------ inside

    @classmethod
    def _warmed_up(
        cls,
        total_steps: int,
        peak: float,
        warmup: int,
        after: list[tuple[int, int, float]],
    ) -> Self:
        total_steps = whole("total_steps", total_steps, ScheduleError, least=1)
        warmup = whole("warmup", warmup, ScheduleError, least=0)
        non_negative("peak", peak, ScheduleError)
        for _, _, value in after:
            non_negative("end", value, ScheduleError)
        rows: list[tuple[float, ...]] = []
        if warmup:
            rows.append((warmup, Shape.LINEAR, 0, warmup, 0.0, peak))
        start = warmup
        for stop, shape, value in after:
            if stop > start:
                rows.append((stop, shape, start, stop, peak, value))
                start = stop
        return cls(window(pieces_of(rows), 0, total_steps))
