"""`LRSchedule`: the learning rate of every optimizer step of a run, past and planned."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.checks import (
    non_negative,
    non_negatives,
    number,
    reals,
    whole,
    wholes,
)
from lossforecast.errors import ScheduleError
from lossforecast.schedule.knots import trace
from lossforecast.schedule.pieces import PIECE, Shape, piece_sums, piece_values, sound
from lossforecast.status import Caveat

__all__ = ["DECAY_SHAPES", "Decay", "LRSchedule", "from_now_on"]


DECAY_SHAPES = {
    "linear": Shape.LINEAR,
    "cosine": Shape.COSINE,
    "sqrt": Shape.SQRT,
    "exp": Shape.EXP,
}
_EXP_FLOOR = 0.01  # an exponential decay cannot reach 0; this share of where it began is customary


@dataclass(frozen=True)
class Decay:
    """A decay to 0, or for "exp" to a hundredth.

    Attributes:
        start: last step before it.
        steps: its length in optimizer steps.
        shape: "linear", "cosine", "sqrt" or "exp".
    """

    start: int
    steps: int
    shape: str


class LRSchedule:
    """The learning rate ``eta_i`` of the optimizer steps i = 1..`total_steps`.

    Made by the class methods, never changed: edits return a new schedule. Learning rates are
    absolute, time is in optimizer steps. Evaluation is exact at every step. A schedule holds its
    shapes, not its steps: ten million steps of a cosine cost no more than ten.

    Example:
        >>> plan = LRSchedule.wsd(total_steps=10_000, peak=1e-3, warmup=500, decay_fraction=0.2)
        >>> plan.lr([1, 500, 8_000, 10_000]).tolist()
        [2e-06, 0.001, 0.001, 0.0]
        >>> plan.with_decay(start=4_000, steps=1_000).total_steps
        5000
    """

    def __init__(
        self,
        pieces: NDArray[np.void],
        values: ArrayLike = (),
        caveats: Iterable[Caveat] = (),
    ) -> None:
        self._pieces = np.asarray(pieces, dtype=PIECE)
        self._values = np.asarray(values, dtype=np.float64)
        self.caveats = _caveats(caveats)
        """What is uncertain about this schedule itself (`LR_ASSUMED`, `SCHEDULE_APPROXIMATED`)."""

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
        return schedule._replaced(np.concatenate([schedule._cut(start), _pieces([tail])]))

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
        top = warmup_fraction * total_steps  # not always a whole step, as in torch
        rows: list[tuple[float, ...]] = [(total_steps, Shape.COSINE, top, total_steps, peak, end)]
        if top > 1:
            rows.insert(0, (math.floor(top), Shape.COSINE, 1, top, start, peak))
        return cls(_pieces(rows))

    @classmethod
    def from_array(cls, lrs: ArrayLike, *, caveats: Iterable[Caveat] = ()) -> Self:
        """The learning rate of each step 1..n, given one by one, shape (n,)."""
        values = non_negatives("lrs", lrs, ScheduleError)
        if values.size == 0:
            raise ScheduleError("lrs is empty; give the learning rate of each step 1..total_steps")
        piece = (values.size, Shape.ARRAY, 0, 1, 1.0, 1.0)
        return cls(_pieces([piece]), values, caveats)

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
            steps: increasing whole steps, shape (n,); a point at step 0 is welcome.
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
        return cls(_window(rows, 0, total_steps), (), caveats)

    # ------------------------------------------------------------------ reading

    @property
    def total_steps(self) -> int:
        """Length of the run in optimizer steps."""
        return int(self._pieces["stop"][-1])

    def lr(self, steps: ArrayLike) -> FloatArray:
        """Learning rate of the given optimizer steps, any shape, each in 1..total_steps."""
        at = self._checked(steps, least=1)
        which = np.searchsorted(self._pieces["stop"], at.ravel())
        flat = piece_values(self._pieces, which, at.ravel().astype(float), self._values)
        return flat.reshape(at.shape)

    def to_array(self) -> FloatArray:
        """Learning rate of every step, shape (total_steps,)."""
        return self.lr(np.arange(1, self.total_steps + 1))

    def s1(self, steps: ArrayLike) -> FloatArray:
        """Sum of the learning rate over the steps 1..step: S1 of the papers, the LR-sum clock.

        Any shape, each step in 0..total_steps; S1(0) is 0.
        """
        at = self._checked(steps, least=0)
        last = at.ravel().astype(float)
        which = np.searchsorted(self._pieces["stop"], at.ravel())
        start = self._starts[which].astype(float)
        part = piece_sums(self._pieces, which, start, last, self._running)
        return (self._sums[which] + part).reshape(at.shape)

    @cached_property
    def peak(self) -> float:
        """Largest learning rate of the run."""
        ends = np.concatenate([self._starts + 1, self._pieces["stop"]])
        peak = float(self.lr(ends).max())  # every shape but ARRAY is monotone
        for piece, start in zip(self._pieces, self._starts, strict=True):
            if piece["shape"] == Shape.ARRAY:
                seen = self.lr(np.arange(start + 1, piece["stop"] + 1))
                peak = max(peak, float(seen.max()))
        return peak

    @cached_property
    def warmup_steps(self) -> int:
        """Steps until the rate first stands as high as before its first fall; 0 without a rise."""
        steps, rates = self.knots
        falls = np.flatnonzero(np.diff(rates) < 0)
        rates = rates[: falls[0] + 1] if falls.size else rates
        top = int(np.argmax(rates))
        return int(steps[top]) if top else 0

    @cached_property
    def knots(self) -> tuple[IntArray, FloatArray]:
        """Steps (n,) and learning rates (n,) that trace the schedule in few straight lines.

        Between two knots the rate is nearly straight and changes by at most about 1/128 of its
        whole variation, whatever the length of the schedule; n is at most about 1,400. Sums over
        them, weighted by a smooth relaxation, are good to 5e-4 of the annealing drop.
        """
        steps = trace(self._pieces, self._starts, self.lr)
        return steps, self.lr(steps)

    @cached_property
    def knot_sums(self) -> FloatArray:
        """S1 at the knots, (n,)."""
        return self.s1(self.knots[0])

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
        return self._replaced(np.concatenate([self._pieces, _pieces([hold])]))

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
            end = begin * _EXP_FLOOR if shape == "exp" else 0.0
        end = non_negative("end", end, ScheduleError)
        if shape == "exp" and (end == 0 or begin == 0):
            raise ScheduleError(
                f"an exponential decay from {begin} to {end} is impossible: give rates above 0"
            )
        tail = (start + length, DECAY_SHAPES[shape], start, start + length, begin, end)
        return self._replaced(np.concatenate([self._cut(start), _pieces([tail])]))

    def scaled_from(self, step: int, factor: float) -> Self:
        """The learning rate of every step after `step` multiplied by `factor`."""
        step = whole("step", step, ScheduleError, least=0)
        if step >= self.total_steps:
            raise ScheduleError(
                f"no step after {step} in a schedule of {self.total_steps}: nothing to scale"
            )
        factor = non_negative("factor", factor, ScheduleError)
        tail = _window(self._pieces, step, self.total_steps)
        with np.errstate(over="ignore"):
            tail["y0"] *= factor
            tail["y1"] *= factor
        if not math.isfinite(self.peak * factor + tail["y0"].max() + tail["y1"].max()):
            raise ScheduleError(f"factor is {factor}: no learning rate is that large")
        # an exponential cannot be 0
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
        tail = _window(other._pieces, step, other.total_steps)
        tail["x0"][tail["shape"] == Shape.ARRAY] -= self._values.size
        pieces = np.concatenate([self._cut(step), tail])
        values = np.concatenate([self._values, other._values])
        return type(self)(pieces, values, other.caveats)

    def with_caveats(self, *caveats: Caveat) -> Self:
        """The same schedule with these caveats added to its own."""
        return type(self)(self._pieces, self._values, self.caveats | _caveats(caveats))

    # ------------------------------------------------------------------ plain values

    def to_dict(self) -> dict[str, Any]:
        """The schedule as plain JSON-able values; `from_dict` gives an equal one back."""
        columns = {name: self._pieces[name].tolist() for name in PIECE.names or ()}
        values, caveats = self._values.tolist(), sorted(str(c) for c in self.caveats)
        return {"pieces": columns, "values": values, "caveats": caveats}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The schedule that `to_dict` wrote."""
        names = PIECE.names or ()
        try:
            columns = {name: reals(name, state["pieces"][name], ScheduleError) for name in names}
            for name in ("stop", "shape"):
                columns[name] = wholes(name, columns[name], ScheduleError)
            values = non_negatives("values", state["values"], ScheduleError)
            caveats = state["caveats"]
            if not isinstance(caveats, list | tuple):
                raise TypeError(f"caveats are {caveats!r:.60}")
        except (KeyError, TypeError, ScheduleError) as error:
            raise ScheduleError(f"not a saved schedule: {error!r}") from error
        pieces = np.zeros(columns["stop"].size, dtype=PIECE)
        if any(column.shape != pieces.shape for column in columns.values()):
            raise ScheduleError("the saved schedule is damaged: its columns have different lengths")
        for name in names:
            pieces[name] = columns[name]
        if not sound(pieces, values):
            raise ScheduleError("the saved schedule is damaged: steps or rates are impossible")
        return cls(pieces, values, caveats)

    def __eq__(self, other: object) -> bool:
        """Same pieces, same values, same caveats."""
        if not isinstance(other, LRSchedule):
            return NotImplemented
        return (
            self._pieces.tobytes() == other._pieces.tobytes()
            and self._values.tobytes() == other._values.tobytes()
            and self.caveats == other.caveats
        )

    def __hash__(self) -> int:
        return hash((self._pieces.tobytes(), self._values.tobytes(), self.caveats))

    def __repr__(self) -> str:
        names = [Shape(s).name.lower() for s in self._pieces["shape"][:4]]
        more = ", ..." if self._pieces.size > len(names) else ""
        shapes = ", ".join(names) + more
        return f"LRSchedule(total_steps={self.total_steps}, peak={self.peak:g}, pieces=[{shapes}])"

    # ------------------------------------------------------------------ inside

    @classmethod
    def _warmed_up(
        cls,
        total_steps: int,
        peak: float,
        warmup: int,
        after: list[tuple[int, Shape, float]],
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
        return cls(_window(_pieces(rows), 0, total_steps))

    def _replaced(self, pieces: NDArray[np.void]) -> Self:
        return type(self)(pieces, self._values, self.caveats)

    def _cut(self, step: int) -> NDArray[np.void]:
        return _window(self._pieces, 0, step)

    @cached_property
    def _starts(self) -> IntArray:
        """The step before the first of every piece."""
        return np.concatenate([[0], self._pieces["stop"][:-1]])

    @cached_property
    def _running(self) -> FloatArray:
        return np.concatenate([[0.0], np.cumsum(self._values)])

    @cached_property
    def _sums(self) -> FloatArray:
        """S1 at the start of every piece."""
        stops = self._pieces["stop"].astype(float)
        each, starts = np.arange(stops.size), self._starts.astype(float)
        sums = piece_sums(self._pieces, each, starts, stops, self._running)
        return np.concatenate([[0.0], np.cumsum(sums)[:-1]])

    def _checked(self, steps: ArrayLike, least: int) -> IntArray:
        at = wholes("steps", steps, ScheduleError)
        if at.size and (at.min() < least or at.max() > self.total_steps):
            bad = int(at.min() if at.min() < least else at.max())
            raise ScheduleError(
                f"step {bad} is outside {least}..{self.total_steps} of this schedule"
            )
        return at


def _caveats(given: Iterable[Caveat]) -> frozenset[Caveat]:
    try:
        return frozenset(Caveat(caveat) for caveat in given)
    except (TypeError, ValueError) as error:
        raise ScheduleError(f"caveats must be members of Caveat: {error}") from error


def _pieces(rows: Sequence[tuple[float, ...]]) -> NDArray[np.void]:
    return np.array([tuple(row) for row in rows], dtype=PIECE)


def _window(pieces: NDArray[np.void], start: int, stop: int) -> NDArray[np.void]:
    """The pieces that show steps start+1..stop, the last one cut at `stop`."""
    starts = np.concatenate([[0], pieces["stop"][:-1]])
    seen = pieces[(pieces["stop"] > start) & (starts < stop)].copy()
    if seen.size:
        seen["stop"][-1] = min(seen["stop"][-1], stop)
    return seen


def from_now_on(now: int, past: LRSchedule, future: LRSchedule) -> LRSchedule:
    """One schedule up to the present step, the other after it.

    Raises:
        ScheduleError: the other one ends before the present step.
    """
    if future.total_steps < now:
        raise ScheduleError(
            f"the schedule ends at step {future.total_steps}, before the present step {now}: "
            "give one for the whole run, its past included"
        )
    if now >= future.total_steps or now > past.total_steps:
        return future
    return past.joined(now, future)
