"""`PiecewiseSchedule`: learning rates in pieces of known shapes, their sums and saved form."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.checks import non_negatives, reals, wholes
from lossforecast.errors import ScheduleError
from lossforecast.schedule.knots import trace
from lossforecast.schedule.pieces import (
    PIECE,
    SHAPE_NAMES,
    Shape,
    are_valid,
    piece_sums,
    piece_values,
)
from lossforecast.schedule.step_decay import falls_in_steps
from lossforecast.status import Caveat

__all__ = ["PiecewiseSchedule", "pieces_of", "window"]

_MAX_NAMED = 4  # pieces that are named when a schedule is printed


class PiecewiseSchedule:
    """The learning rates of a run in pieces: evaluation, comparison and saved form.

    `LRSchedule` adds the methods that make and edit schedules.

    Args:
        pieces: rows of dtype `PIECE`, in the order of the steps.
        values: learning rates that pieces of shape `ARRAY` point into, (n,).
        caveats: what is uncertain about the schedule.
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
        """Caveats of this schedule itself (`LR_ASSUMED`, `SCHEDULE_APPROXIMATED`)."""

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
        """Step at which the rate first peaks before a fall; 0 if it does not rise before."""
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

    def stepped(self, steps: ArrayLike) -> FloatArray:
        """Fall of the logarithm of the rate by some steps that is due to a step decay.

        Any shape; 0 where the rate has only changed smoothly.
        """
        edges, fallen = self._steps_down
        stepped: FloatArray = fallen[np.searchsorted(edges[1:], steps, side="right")]
        return stepped

    @cached_property
    def _steps_down(self) -> tuple[IntArray, FloatArray]:
        return falls_in_steps(self.lr, self.total_steps, self.peak)

    # ------------------------------------------------------------------ plain values

    def to_dict(self) -> dict[str, Any]:
        """The schedule as plain JSON-able values; `from_dict` gives an equal one back."""
        columns = {name: self._pieces[name].tolist() for name in PIECE.names or ()}
        values, caveats = self._values.tolist(), sorted(str(c) for c in self.caveats)
        return {"pieces": columns, "values": values, "caveats": caveats}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore the schedule that `to_dict` saved."""
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
        if not are_valid(pieces, values):
            raise ScheduleError("the saved schedule is damaged: steps or rates are impossible")
        return cls(pieces, values, caveats)

    def __eq__(self, other: object) -> bool:
        """Same pieces, same values, same caveats."""
        if not isinstance(other, PiecewiseSchedule):
            return NotImplemented
        return (
            self._pieces.tobytes() == other._pieces.tobytes()
            and self._values.tobytes() == other._values.tobytes()
            and self.caveats == other.caveats
        )

    def __hash__(self) -> int:
        return hash((self._pieces.tobytes(), self._values.tobytes(), self.caveats))

    def __repr__(self) -> str:
        names = [SHAPE_NAMES[number] for number in self._pieces["shape"][:_MAX_NAMED]]
        more = ", ..." if self._pieces.size > len(names) else ""
        shapes = ", ".join(names) + more
        return f"LRSchedule(total_steps={self.total_steps}, peak={self.peak:g}, pieces=[{shapes}])"

    def __str__(self) -> str:
        """Its length, and what the learning rate does in the first four pieces."""
        stops = self._pieces["stop"].tolist()
        starts = [1, *stops[:-1]]
        said = []
        for i, stop in list(enumerate(stops))[:_MAX_NAMED]:
            begin, end = self.lr([starts[i], stop]).tolist()
            shape = SHAPE_NAMES[self._pieces["shape"][i]].replace("_", " ")
            how = f"{shape} to {end:.3g} at" if begin != end else f"{end:.3g} to"
            said.append(f"{how} step {stop:,}")
        more = ", ..." if len(stops) > _MAX_NAMED else ""
        return f"{self.total_steps:,} steps: {', '.join(said)}{more}"

    def _replaced(self, pieces: NDArray[np.void]) -> Self:
        return type(self)(pieces, self._values, self.caveats)

    def _cut(self, step: int) -> NDArray[np.void]:
        return window(self._pieces, 0, step)

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
        indices, starts = np.arange(stops.size), self._starts.astype(float)
        sums = piece_sums(self._pieces, indices, starts, stops, self._running)
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


def pieces_of(rows: Sequence[tuple[float, ...]]) -> NDArray[np.void]:
    """Pieces from rows (stop, shape, x0, x1, y0, y1)."""
    return np.array([tuple(row) for row in rows], dtype=PIECE)


def window(pieces: NDArray[np.void], start: int, stop: int) -> NDArray[np.void]:
    """The pieces that cover the steps start+1..stop, the last one cut at `stop`."""
    starts = np.concatenate([[0], pieces["stop"][:-1]])
    seen = pieces[(pieces["stop"] > start) & (starts < stop)].copy()
    if seen.size:
        seen["stop"][-1] = min(seen["stop"][-1], stop)
    return seen
