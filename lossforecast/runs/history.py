"""`History`: the losses and learning rates of a run, in constant memory."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.checks import number, whole, wholes
from lossforecast.errors import ConfigurationError, ObservationError, StateError
from lossforecast.runs.bins import COLUMNS, MAX_DIFFERENCE, Bins, bins_of, difference, merged

__all__ = ["History"]


_MAX_EVENTS = 64  # that are kept; at most one for every four bins
_BINS_PER_EVENT = 4
_MIN_RATE = 1e-100  # a lower learning rate counts as 0: ratios of rates stay finite
_NEW_BIN: list[float] = []
_Before = list[float] | None
"""Values of the columns of the last bin before the latest observation, to undo that observation:
`_NEW_BIN` if it opened the bin, None if it cannot be undone (the bin was merged since) or need not
be (the loss was not finite)."""


class History:
    """Bounded-memory record of (step, loss, learning rate).

    Observations are gathered in bins of equal width in steps; when `max_bins` are full, neighbours
    are merged and the width doubles. A result never depends on how the observations were split
    into calls.

    A loss that is nan or infinite is counted but not stored. If a step is observed twice in a row,
    the later loss replaces the earlier one. A step before the last one is a rewind (a restored
    checkpoint): every bin that touches a later step is dropped, and every event after it.

    An event marks a step from which on losses may lie on another level. No bin holds losses from
    before and after an event that was marked before the losses after it were observed.

    Args:
        max_bins: the largest number of bins, at least 2. Of the events, the latest 64 are kept, and
            at most ``max_bins / 4``.

    Example:
        >>> history = History()
        >>> history.observe_many([0, 1, 2], [4.0, float("nan"), 3.0])
        >>> history.n_observed, history.n_non_finite, history.bins().mean.tolist()
        (2, 1, [4.0, 3.0])
    """

    def __init__(self, max_bins: int = 4096) -> None:
        self.max_bins = whole("max_bins", max_bins, ConfigurationError, least=2)
        self.width = 1
        self.last_step = -1
        """Last step observed, finite or not; -1 before the first."""
        self.n_non_finite = 0
        """Number of losses that were nan or infinite."""
        self.non_finite_run = 0
        """Number of nan or infinite losses since the last finite one."""
        self._size = 0
        self._columns: dict[str, NDArray[Any]] = {
            name: np.zeros(16, dtype=kind) for name, kind in COLUMNS.items()
        }
        self._before: _Before = None
        self._events: tuple[tuple[int, str], ...] = ()
        self._event_steps: list[int] = []

    @property
    def n_observed(self) -> int:
        """Number of finite losses in the bins."""
        return int(self._columns["count"][: self._size].sum())

    def __len__(self) -> int:
        return self._size

    def observe(self, step: int, loss: float, lr: float | None = None) -> None:
        """Record one loss: `step` is 0 or more; `lr` is the rate of optimizer step `step`."""
        at = whole("step", step, ObservationError, least=0)
        value = number("loss", loss, ObservationError)
        self._observe(at, value, math.nan if lr is None else _known_rate(lr))

    def observe_many(
        self, steps: ArrayLike, losses: ArrayLike, lrs: ArrayLike | None = None
    ) -> None:
        """Record many losses, arrays of shape (n,), in the order of the steps taken."""
        at = wholes("steps", steps, ObservationError)
        values, rates = _floats("losses", losses), _floats("lrs", [] if lrs is None else lrs)
        if lrs is None:
            rates = np.full(at.shape, np.nan)
        if at.ndim != 1 or at.shape != values.shape or at.shape != rates.shape:
            raise ObservationError(
                f"steps, losses and lrs have shapes {at.shape}, {values.shape}, {rates.shape}: "
                "give three arrays of one length"
            )
        if at.size and at.min() < 0:
            raise ObservationError(f"step {at.min()} is negative; steps count from 0")
        if (rates < 0).any():
            raise ObservationError(f"lr {rates[rates < 0][0]} is negative")
        rates = np.where(np.isfinite(rates), rates, np.nan)
        rates[rates < _MIN_RATE] = 0.0
        # stretches of increasing steps with finite losses are added in blocks, the rest one by one
        special = ~np.isfinite(values)
        special[1:] |= np.diff(at) <= 0
        special[:1] |= at[:1] <= self.last_step
        start = 0
        for i in [*np.flatnonzero(special).tolist(), at.size]:
            self._extend(at[start:i], values[start:i], rates[start:i])
            if i < at.size:
                self._observe(int(at[i]), float(values[i]), float(rates[i]))
            start = i + 1

    def bins(self) -> Bins:
        """The bins so far."""
        return bins_of(
            {name: column[: self._size].copy() for name, column in self._columns.items()}
        )

    def event(self, step: int, name: str) -> None:
        """Mark a change at a step, past, present or future; the same one twice counts once."""
        at = whole("step", step, ObservationError, least=0)
        if not isinstance(name, str) or not name.strip():
            raise ObservationError(
                f"the name of an event is {name!r:.60}; give some words, such as 'longer sequences'"
            )
        self._set_events({*self.events, (at, name)})

    @property
    def events(self) -> tuple[tuple[int, str], ...]:
        """Steps and names of the events, in the order of the steps."""
        return self._events

    @property
    def event_steps(self) -> IntArray:
        """The different steps of the events, increasing, (m,)."""
        return np.array(self._event_steps, np.int64)

    @property
    def latest_event(self) -> int:
        """Step of the latest event not after the last step; 0 without one."""
        n_passed = bisect_right(self._event_steps, self.last_step)
        return self._event_steps[n_passed - 1] if n_passed else 0

    def rewind(self, step: int) -> None:
        """Drop every bin that touches a step after this one, and every later event."""
        self._size = int(np.searchsorted(self._columns["last"][: self._size], step, side="right"))
        self._before = None
        self._set_events(event for event in self.events if event[0] <= step)
        self.last_step = int(self._columns["last"][self._size - 1]) if self._size else -1

    def thinned(self, max_bins: int) -> "History":
        """A copy with at most `max_bins` bins."""
        copy = History(max_bins)
        for name in ("width", "last_step", "n_non_finite", "non_finite_run", "_size"):
            setattr(copy, name, getattr(self, name))
        copy._set_events(self.events)
        copy._columns = {name: column.copy() for name, column in self._columns.items()}
        while copy._size > copy.max_bins:
            copy._coarsen()
        copy._columns = {name: c[: copy._size].copy() for name, c in copy._columns.items()}
        return copy

    def until(self, step: int) -> "History":
        """A copy with the bins that end at a step or before it; its last step is that of a bin."""
        copy = self.thinned(self.max_bins)
        copy._set_events(event for event in self.events if event[0] <= step)
        copy._size = int(np.searchsorted(copy._columns["last"], step, side="right"))
        copy._columns = {name: c[: copy._size] for name, c in copy._columns.items()}
        copy.last_step = int(copy._columns["last"][-1]) if copy._size else -1
        return copy

    def state_dict(self) -> dict[str, Any]:
        """The history as plain JSON-able values."""
        state = {
            "max_bins": self.max_bins,
            "width": self.width,
            "last_step": self.last_step,
            "n_non_finite": self.n_non_finite,
            "non_finite_run": self.non_finite_run,
            "undo": None if self._before is None else _plain(self._before),
            "bins": {name: _plain(c[: self._size]) for name, c in self._columns.items()},
        }
        return {**state, "events": [list(event) for event in self.events]} if self.events else state

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore a history from its `state_dict`."""
        try:
            history = cls(state["max_bins"])
            history.width = whole("width", state["width"], StateError, least=1)
            history.last_step = whole("last_step", state["last_step"], StateError, least=-1)
            history.n_non_finite = whole("count", state["n_non_finite"], StateError, least=0)
            history.non_finite_run = whole("count", state["non_finite_run"], StateError, least=0)
            columns: dict[str, NDArray[Any]] = {}
            for name, kind in COLUMNS.items():
                saved = state["bins"][name]
                whole_numbers = kind is np.int64
                columns[name] = (
                    wholes(name, saved, StateError) if whole_numbers else _floats(name, saved)
                )
            for step, name in state.get("events", []):
                history.event(step, name)
            if state["undo"] is not None:
                history._before = _floats("undo", state["undo"]).ravel().tolist()
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a saved history: {error!r}") from error
        history._size, history._columns = columns["count"].size, columns
        if not history._sound():
            raise StateError("the saved history is damaged: its bins are impossible")
        return history

    # ------------------------------------------------------------------ inside

    def _sound(self) -> bool:
        """Return whether the bins are consistent; they are not if the saved state is damaged."""
        c, size = self._columns, self._size
        if size > self.max_bins or any(column.shape != (size,) for column in c.values()):
            return False
        sums = np.array([c[name] for name in ("step_sum", "origin", "total", "square")])
        key, mean_step = c["first"] // self.width, c["step_sum"] / np.maximum(c["count"], 1)
        return bool(
            np.isfinite(sums).all()
            and (np.isnan(c["lr"]) | (np.isfinite(c["lr"]) & (c["lr"] >= 0))).all()
            and (c["count"] >= 1).all()
            and ((c["first"] >= 0) & (c["last"] >= c["first"])).all()
            and (c["last"] // self.width == key).all()
            and ((mean_step >= c["first"] - 1) & (mean_step <= c["last"] + 1)).all()
            and (c["square"] >= 0).all()
            and (c["first"][1:] > c["last"][:-1]).all()
            and (size == 0 or c["last"][-1] <= self.last_step)
            and (self._before is None or len(self._before) in (0, len(c)))
        )

    def _observe(self, step: int, loss: float, lr: float) -> None:
        if step < self.last_step:
            self.rewind(step)
        if step == self.last_step:
            self._forget_last()
        self.last_step = step
        if math.isfinite(loss):
            self._add(step, loss, lr)
            self.non_finite_run = 0
        else:
            self._before = None
            self.n_non_finite += 1
            self.non_finite_run += 1

    def _add(self, step: int, loss: float, lr: float) -> None:
        key = self._key(step)
        while self._size == self.max_bins and key != self._last_key():
            self._coarsen()
            key = self._key(step)
        c = self._columns
        if self._size and key == self._last_key():
            i = self._size - 1
            self._before = [float(column[i]) for column in c.values()]
        else:
            i = self._size
            self._reserve(i + 1)
            c = self._columns
            self._size += 1
            self._before = _NEW_BIN
            c["first"][i], c["count"][i], c["origin"][i], c["lr"][i] = step, 0, loss, np.nan
            c["step_sum"][i] = c["total"][i] = c["square"][i] = 0.0
        distance = min(max(loss - float(c["origin"][i]), -MAX_DIFFERENCE), MAX_DIFFERENCE)
        c["total"][i] += distance
        c["square"][i] += distance * distance
        c["last"][i] = step
        c["count"][i] += 1
        c["step_sum"][i] += step
        if not math.isnan(lr):
            c["lr"][i] = lr

    def _extend(self, steps: IntArray, losses: FloatArray, lrs: FloatArray) -> None:
        """Add finite losses at increasing steps after the last one."""
        while steps.size > 1:
            keys = self._keys(steps)
            before = self._last_key() if self._size else -1
            new = np.cumsum(np.diff(keys, prepend=before) != 0)
            fit = int(np.searchsorted(new, self.max_bins - self._size, side="right"))
            fit = min(fit, steps.size - 1)  # the last one is added alone, so it can be undone
            if fit == 0:
                if new[0] + self._size > self.max_bins:
                    self._coarsen()
                    continue
                break
            self._add_block(self._size - 1 + new[:fit], steps[:fit], losses[:fit], lrs[:fit])
            steps, losses, lrs = steps[fit:], losses[fit:], lrs[fit:]
        for step, loss, lr in zip(steps.tolist(), losses.tolist(), lrs.tolist(), strict=True):
            self._observe(step, loss, lr)

    def _add_block(
        self, where: IntArray, steps: IntArray, losses: FloatArray, lrs: FloatArray
    ) -> None:
        old, size = self._size, int(where[-1]) + 1
        self._reserve(size)
        c = self._columns
        c["step_sum"][old:size] = c["total"][old:size] = c["square"][old:size] = 0.0
        c["count"][old:size] = 0
        c["lr"][old:size] = np.nan
        begins = np.searchsorted(where, np.arange(old, size))
        c["first"][old:size] = steps[begins]
        c["origin"][old:size] = losses[begins]
        distance = difference(losses, c["origin"][where])
        # add.at adds in order, so the sums equal those of observations added one by one
        np.add.at(c["total"], where, distance)
        np.add.at(c["square"], where, distance * distance)
        np.add.at(c["step_sum"], where, steps.astype(float))
        np.add.at(c["count"], where, 1)
        c["last"][where] = steps  # the last assignment to a bin wins
        known = ~np.isnan(lrs)
        c["lr"][where[known]] = lrs[known]
        self._size = size
        self.last_step = int(steps[-1])
        self.non_finite_run = 0

    def _key(self, step: int) -> int:
        """Number of the bin of a step, counted in steps and events."""
        return step // self.width + bisect_right(self._event_steps, step)

    def _keys(self, steps: IntArray) -> IntArray:
        """The `_key` of many steps, (n,)."""
        return steps // self.width + np.searchsorted(self._event_steps, steps, side="right")

    def _last_key(self) -> int:
        return self._key(int(self._columns["last"][self._size - 1]))

    def _set_events(self, events: Iterable[tuple[int, str]]) -> None:
        kept = min(_MAX_EVENTS, self.max_bins // _BINS_PER_EVENT)
        self._events = tuple(sorted(events)[-kept:]) if kept else ()
        self._event_steps = sorted({step for step, _ in self._events})

    def _reserve(self, size: int) -> None:
        have = self._columns["first"].size
        if size > have:
            room = min(max(2 * have, size), max(self.max_bins, size))
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate(
                    [column, np.zeros(room - have, dtype=column.dtype)]
                )

    def _coarsen(self) -> None:
        """Double the width and merge the bins that now fall together."""
        self.width *= 2
        c = {name: column[: self._size] for name, column in self._columns.items()}
        apart = self._keys(c["first"][1:]) != self._keys(c["last"][:-1])
        starts = np.flatnonzero(np.append(True, apart))
        self._size = starts.size
        for name, column in merged(c, starts).items():
            self._columns[name][: self._size] = column
        self._before = None

    def _forget_last(self) -> None:
        """Undo the latest observation, if it is finite and was not merged with others since."""
        i = self._size - 1
        if i < 0 or self._columns["last"][i] != self.last_step:
            return  # the latest observation was not finite
        if self._before == _NEW_BIN or self._columns["count"][i] == 1:
            self._size = i
        elif self._before is not None:
            for column, value in zip(self._columns.values(), self._before, strict=True):
                column[i] = value
        self._before = None


def _known_rate(lr: float) -> float:
    rate = number("lr", lr, ObservationError)
    if rate < 0:
        raise ObservationError(f"lr {rate} is negative")
    if not math.isfinite(rate):
        return math.nan
    return rate if rate >= _MIN_RATE else 0.0


def _floats(name: str, values: ArrayLike) -> FloatArray:
    try:
        given = np.asarray(values)
        if given.dtype == object:  # None among the numbers means unknown
            given = np.array([np.nan if x is None else x for x in given.ravel()])
        if given.dtype.kind not in "iuf":
            raise TypeError(f"dtype {given.dtype}")
    except (TypeError, ValueError) as error:
        raise ObservationError(f"{name} must be numbers, not {values!r:.60} ({error})") from error
    return given.astype(np.float64)


def _plain(numbers: Sequence[float] | NDArray[Any]) -> list[Any]:
    """A list for JSON, which has no nan."""
    return [None if x != x else x for x in np.asarray(numbers).tolist()]
