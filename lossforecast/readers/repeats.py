"""`Repeats`: leaves out what the lines of a text log say again."""

from collections.abc import Mapping

from lossforecast.readers.cells import number_in
from lossforecast.readers.counters import TOTAL
from lossforecast.readers.text_lines import rank_at_start, rank_within

__all__ = ["EPOCH", "Repeats"]

EPOCH = frozenset({"epoch", "epoch" + TOTAL})
"""The counters of a line that are those of its epoch."""


class Repeats:
    """Leaves out what lines say again: of other processes, of the best step, of the last one."""

    def __init__(self) -> None:
        self._ranks: dict[str, str] = {}  # the process that was the first to log a name
        self._last: dict[str, tuple[float, float]] = {}  # epoch and step of each name
        self._counted: set[str] = set()  # names in a line with the present step
        self._place = (0.0, 0.0)
        self._best = False  # after a line that tells of the best step
        self._left_out = False

    def heed(self, line: str) -> None:
        """Note a line without a loss."""
        self._best = _tells_of_best(line)

    def is_behind(self, counted: Mapping[str, str]) -> bool:
        """True if counters with a step go back, in the epoch of the last ones or before."""
        return "step" in counted and _place_of(counted) < self._place

    def without(
        self, line: str, values: dict[str, str], counted: Mapping[str, str], own: bool
    ) -> dict[str, str]:
        """The values of a line that are new.

        Args:
            line: the line.
            values: its values.
            counted: its counters, or those of lines above.
            own: True if they are its own, or those of a header.
        """
        place = _place_of(counted)
        best = (self._best or _tells_of_best(line)) and own and not self._left_out
        self._best = False
        rank = rank_at_start(line, not counted.keys() <= EPOCH)
        goes_on = place > self._place and values.keys() <= self._last.keys()
        if rank is None and own and not goes_on:
            rank = rank_within(line)
        if own and rank is None and not best:
            self._note(place, values)
            return values
        kept = {}
        for name, value in values.items():
            first = self._ranks.setdefault(name, rank) if rank is not None else None
            ahead = place > self._last.get(name, (-1.0, -1.0))
            if (first != rank or best) and not ahead:
                continue
            if not own and name in self._counted:
                continue
            kept[name] = value
            self._last[name] = place
        if own:
            self._note(place, kept)
        self._left_out = not kept
        return kept

    def _note(self, place: tuple[float, float], values: Mapping[str, str]) -> None:
        """Note the values of a line with a place of its own."""
        self._last |= dict.fromkeys(values, place)
        self._counted = (self._counted if place == self._place else set()) | values.keys()
        self._place, self._left_out = place, False


def _tells_of_best(line: str) -> bool:
    return "best" in line or "Best" in line


def _place_of(counted: Mapping[str, str]) -> tuple[float, float]:
    """The epoch and the step of a line, 0 without one."""
    epoch, step = (number_in(counted.get(name)) or 0.0 for name in ("epoch", "step"))
    return epoch, step
