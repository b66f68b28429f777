"""`RunStarts`: where another run begins in a log to which several runs were appended."""

import math
from collections.abc import Mapping
from typing import Any

from lossforecast.readers.cells import has_value, number_in
from lossforecast.readers.columns import is_loss, split_of

__all__ = ["RunStarts"]


class RunStarts:
    """Finds the rows at which a log begins anew, at its first number or before.

    A row that goes back, but not as far as that, belongs to a run that was resumed.

    Args:
        column: the column that counts, if there is one.
        epoch: the column of epochs, in each of which `column` may begin anew.
    """

    def __init__(self, column: str | None, epoch: str | None) -> None:
        self._column, self._epoch = column, epoch
        self._first: tuple[float, float] | None = None  # epoch and number
        self._last = (math.nan, math.nan)
        self._losses: set[str] = set()  # in the first row that has one
        self._begins_anew = False  # in each epoch

    def at(self, row: Mapping[str, Any]) -> bool:
        """True if another run begins with this row, which follows the one of the last call."""
        number, epoch = _number(row, self._column), _number(row, self._epoch)
        if math.isnan(number):
            return False
        place = (math.floor(epoch) if math.isfinite(epoch) else math.nan, number)
        if not self._losses:
            self._losses = set(_losses(row))
        if self._first is None:
            self._first = self._last = place
            return False
        begins = self._is_start(place) and not self._losses.isdisjoint(_losses(row))
        if begins:
            self._first = place
        self._last = place
        return begins

    def _is_start(self, place: tuple[float, float]) -> bool:
        (epoch, number), (last_epoch, last) = place, self._last
        first_epoch, first = self._first or place
        known = not math.isnan(epoch + last_epoch + first_epoch)
        if known and epoch > last_epoch:
            self._begins_anew |= number < last
            return False
        if math.isnan(last_epoch) and not math.isnan(epoch):  # an epoch is named at its end
            self._begins_anew |= number < last
            return False
        if self._begins_anew and not known:
            return False
        back = number < last or (known and epoch < last_epoch)
        return back and number <= first and not (known and epoch > first_epoch)


def _number(row: Mapping[str, Any], column: str | None) -> float:
    number = None if column is None else number_in(row.get(column))
    return math.nan if number is None else number


def _losses(row: Mapping[str, Any]) -> list[str]:
    """The losses of a row, without those of a validation whose number counts its own batches."""
    if split_of(row) == "val":
        return []
    return [name for name in row if is_loss(name) and has_value(row[name])]
