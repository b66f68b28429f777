"""`EpochBars`: the epochs that progress bars without a name of their own belong to."""

from collections.abc import Mapping

from lossforecast.readers.counters import TOTAL

__all__ = ["EpochBars"]


class EpochBars:
    """Counts the epochs of bars where nothing names them, and tells which bars are of validation.

    These follow the full bar of training in the same epoch and are shorter.

    Attributes:
        is_of_validation: True if the count of the last line is one of batches of validation.
    """

    def __init__(self) -> None:
        self.is_of_validation = False
        self._epoch: Mapping[str, str] = {}
        self._length = "0"  # of the bar of training
        self._is_full = False
        self._number: int | None = None  # of the epoch, if nothing names it

    @property
    def counts_epochs(self) -> bool:
        """True if several epochs were counted that nothing names."""
        return bool(self._number)

    def with_epoch(self, epoch: Mapping[str, str], counted: dict[str, str]) -> dict[str, str]:
        """The counters of a bar with a loss, with the number of its epoch if nothing names it.

        Args:
            epoch: the epoch that the line, or one above, names.
            counted: the counters of the line, one without a name among them, with its total.
        """
        number, length = counted[""], counted[TOTAL]
        self.is_of_validation = False
        if not epoch:
            self._number = self._number or 0
        elif epoch != {"epoch": str(self._number)}:
            self._number = None
        if self._number is None and epoch != self._epoch:
            self._epoch, self._length, self._is_full = epoch, length, False
        if int(length) > int(self._length):  # what came before was a check of the validation
            self._length, self._is_full = length, False
        if length != self._length:
            self.is_of_validation = self._is_full
            return counted
        if self._number is not None:
            self._number += self._is_full and number != length
            counted = {**counted, "epoch": str(self._number)}
        self._is_full = number == length
        return counted

    def is_number_of_epoch(self, leading: Mapping[str, str]) -> bool:
        """True for the number before a mean over the epoch of the bar above: `[3] loss: 2.5`."""
        if self._number is None or not self._is_full:
            return False
        return leading.get("step") in (str(self._number), str(self._number + 1))
