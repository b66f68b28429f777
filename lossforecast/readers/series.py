"""`Series`: the values of one column, in bins so that memory does not grow with the log."""

import math

import numpy as np

from lossforecast.errors import ConfigurationError
from lossforecast.readers.source import Source
from lossforecast.runs import History

__all__ = ["Series"]

_MAX_BINS = 16_384
_CHUNK_POINTS = 4096  # points that enter the history at once
_ALLOWED_REWINDS = 3
_ALLOWED_REWIND_SHARE = 0.02  # of the points; more rewinds mean that several runs are mixed up
_MIN_LATE_INTERVALS = 5  # between two losses, before the first one: the log lacks its beginning
_MIN_COUNT = 20  # values
_MIN_LATE_SHARE = 0.02  # of the steps, likewise


class Series:
    """The values of one column.

    Attributes:
        history: the points so far; complete after `flush`.
        points: number of points.
        rewinds: how often a step was lower than the one before.
        repeats: how often it was the same.
        first_steps: the first two steps.
    """

    def __init__(self) -> None:
        self.history = History(_MAX_BINS)
        self.points = self.rewinds = self.repeats = 0
        self.first_steps: list[int] = []
        self._last_step, self._last_is_finite = -1, False
        self._steps: list[int] = []
        self._values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Add a point. At a step that already has a finite value, nan means a missing cell."""
        finite = math.isfinite(value)
        if step == self._last_step and self._last_is_finite and not finite:
            return
        self.points += 1
        self.repeats += step == self._last_step
        if len(self.first_steps) < 2 and step not in self.first_steps:
            self.first_steps.append(step)
        self._last_step, self._last_is_finite = step, finite
        self._steps.append(step)
        self._values.append(value)
        if len(self._steps) >= _CHUNK_POINTS:
            self.flush()

    @property
    def last_step(self) -> int:
        """The last step; -1 before the first."""
        return self._last_step

    @property
    def falls(self) -> bool:
        """True if the last quarter of the values is lower than the first one, in the mean."""
        means = self.history.bins().mean
        quarter = max(means.size // 4, 1)
        return bool(means[-quarter:].mean() < means[:quarter].mean()) if means.size else False

    @property
    def is_count(self) -> bool:
        """True if each value is the one before plus 1: these are numbers of rows, and no loss."""
        means = self.history.bins().mean
        return means.size >= _MIN_COUNT and bool((np.diff(means) == 1).all())

    @property
    def is_constant(self) -> bool:
        """True if all of many values are the same: such a column is no loss where others change."""
        means = self.history.bins().mean
        return means.size >= _MIN_COUNT and bool((means == means[0]).all())

    @property
    def counts_from_1(self) -> bool:
        """True if the first step is the interval to the second, as in 1, 2 or 10, 20.

        A loop that counts from 0 logs step 0, or 9 and 19.
        """
        return len(self.first_steps) == 2 and 2 * self.first_steps[0] == self.first_steps[1]

    @property
    def begins_late(self) -> bool:
        """True if the first step is many times the interval to the second one."""
        if len(self.first_steps) < 2:
            return False
        first, second = self.first_steps
        late = first > _MIN_LATE_SHARE * self._last_step
        return late and first > _MIN_LATE_INTERVALS * (second - first) > 0

    def rewind(self, step: int) -> None:
        """Drop the points after a step; those that follow are of a restart from there."""
        self.flush()
        self.history.rewind(step)
        self.rewinds += 1
        self._last_step, self._last_is_finite = step, False

    def flush(self) -> None:
        """Put the buffered points into the history."""
        self.history.observe_many(self._steps, self._values)
        self._steps, self._values = [], []

    def check(self, source: Source, name: str) -> None:
        """Check that the points can be those of one run, restarts included.

        Raises:
            ConfigurationError: the steps go back too often.
        """
        if self.rewinds > max(_ALLOWED_REWINDS, _ALLOWED_REWIND_SHARE * self.points):
            raise ConfigurationError(
                f"{source.path}: the steps of {name!r} go back {self.rewinds} times in "
                f"{self.points} points, so several runs are mixed up in it: give the log of one"
            )

    def notes(self) -> list[str]:
        """Remarks for people: restarts and losses that are not finite."""
        notes = []
        if self.begins_late:
            notes.append(
                f"the log begins at step {self.first_steps[0]:,}: what came before is not in it"
            )
        if self.rewinds:
            times = "once" if self.rewinds == 1 else f"{self.rewinds} times"
            notes.append(f"the steps go back {times}: assuming restarts, the later losses count")
        if self.history.n_non_finite:
            notes.append(f"{self.history.n_non_finite} losses are nan or infinite")
        return notes
