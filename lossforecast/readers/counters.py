"""`Counter`: the column that numbers the rows of a log, and the optimizer step of each row."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import MAX_STEP, has_value, number_in, step_in
from lossforecast.readers.columns import is_epoch, is_loss, listed, split_of
from lossforecast.readers.languages import in_english
from lossforecast.readers.run_starts import RunStarts

__all__ = ["TOTAL", "Counter", "Row", "count_and_total", "is_counter_name"]

Row = Mapping[str, Any]
"""The cells of a row by the names of their columns."""
TOTAL = " total"
"""Suffix of the name of a counter: the cell holds its last number, as in `step 100/2000`."""

_STEP_COLUMNS = (
    "trainer/global_step",
    "train/global_step",
    "global_step",
    "current_steps",
    "current_step",
    "num_updates",
    "step",
    "_step",
    "steps",
    "iteration",
    "iterations",
    "iter",
    "iters",
    "it",
    "time/total_timesteps",
    "timesteps_total",
    "training_iteration",
    "total_train_updates",
    "update",
    "updates",
    "batch",
)
"""Names of the column of optimizer steps in lower case, the surest first."""
_STEP_WORDS = frozenset(_STEP_COLUMNS)
_OTHER_COUNTERS = ("episode", "episodes")
_INDICES = ("", "unnamed: 0", "index")  # names of a column that numbers the rows of a table
_OF_SWEEP = {"trial", "trial_id", "trial id", "trial_name", "trial name", "trial_number"}
_TOTAL_STEPS = frozenset(
    {"total_steps", "max_steps", "total_iters", "max_iters", "num_training_steps"}
)
_TOTAL_EPOCHS = frozenset({"total_epochs", "max_epochs", "num_epochs", "num_train_epochs"})

_RUN = "\0run"  # the length that is named so
_COUNT = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")
_ROUND = 5  # most numbers of epochs are multiples of it
_NO_COLUMN = "\0"  # where rows are counted
_ALLOWED_REWINDS = 3
_ALLOWED_REWIND_SHARE = 0.02  # of the rows; a column that goes back more often counts nothing
_MIN_ROWS_PER_EPOCH = 3  # with a value of a loss, from which on rows are counted, not epochs
_MAX_EPOCHS = 4096  # whose beginnings are kept, for a restart from one of them
_MAX_CACHED = 1024  # names whose meaning is remembered
_MIN_RISING_SHARE = 0.25  # of the rows: the numbers of a column that counts
_MIN_CONSTANT = 3  # rows of the same number, from which on a column is no counter


@dataclass
class Counter:
    """Turns the rows of a log, in order, into optimizer steps, or into epochs if there are none.

    Attributes:
        column: the column that counts.
        epoch: the column of epochs, in each of which `column` may begin anew.
        counts: "steps", "epochs", "episodes" or "rows".
        first: number of the first epoch.
        unit: epochs to count as one, for epochs that are logged as fractions.
        note: a remark for people.
        carry: True if a row without a number has that of the row before.
    """

    column: str
    epoch: str | None = None
    counts: str = "steps"
    first: int = 0
    unit: float = 1.0
    note: str | None = None
    carry: bool = False
    _last: int = -1  # number in `column`
    _interval: int = 0  # from the number before that
    _first: int = 0  # number in the present epoch
    _step: int = 0
    _last_epoch: float | None = None
    _begins: dict[float, int] = field(default_factory=dict)  # first step of each epoch
    _begins_anew: bool | None = None  # False: `column` was seen to go on in the next epoch
    _totals: dict[str, float] = field(default_factory=dict)
    _losses: set[str] = field(default_factory=set)  # in the first row, where rows are counted

    @classmethod
    def of(cls, path: Path, rows: Sequence[Row], given: str | None) -> "Counter | None":
        """The counter of a log, judged by its first rows; None if they have none.

        Args:
            path: the log, for errors.
            rows: the first rows.
            given: name of the column that counts, if the user named one.
        """
        names = list(dict.fromkeys(name for row in rows for name in row))
        epoch = next((name for name in names if is_epoch(name)), None)
        if given is not None:
            if given not in names:
                raise ConfigurationError(f"{path} has no column {given!r}: it has {listed(names)}")
            return _counting_epochs(given, rows) if given == epoch else cls(given, epoch)
        last_words = {name: in_english(name).lower().rpartition("/")[2] for name in names}
        steps = [name for word in _STEP_COLUMNS for name in names if name.lower() == word]
        steps += [
            name
            for word in _STEP_COLUMNS
            for name in names
            if last_words[name] == word and name not in steps and not is_loss(name)
        ]
        pair = next((name for name in steps if _counts_in_total(name, rows)), None)
        if pair is not None:
            return cls(pair + TOTAL, pair)
        counting = [name for name in steps if _is_counter(name, epoch, rows)]
        if counting:
            return cls(counting[0], epoch)
        rising = next((name for name in names if _is_rising_total(name, rows)), None)
        if rising is not None:
            return cls(rising, epoch)
        if epoch is not None and _rows_per_epoch(epoch, rows) >= _MIN_ROWS_PER_EPOCH:
            note = "no optimizer steps logged: counting rows"
            return cls(_NO_COLUMN, epoch, counts="rows", note=note)
        if epoch is not None and _has_numbers(epoch, rows):
            return _counting_epochs(epoch, rows)
        for name in names:
            if name.lower() in _OTHER_COUNTERS and _is_counter(name, None, rows):
                return _counting_epochs(name, rows)
        if steps:
            return cls(steps[0], epoch)
        index = next((name for name in names if _is_index(name, rows)), None)
        if index is not None:
            return _counting_epochs(index, rows)
        if any(name.lower() in _OF_SWEEP for name in names):
            return None  # a row for each trial
        named = [name for name in names if is_loss(name) or len(names) == 1]
        if any(number_in(row.get(name)) is not None for name in named for row in rows):
            note = "no column counts steps or epochs: counting rows"
            return cls(_NO_COLUMN, counts="rows", note=note)
        return None

    @property
    def columns(self) -> frozenset[str]:
        """Names of the cells that hold no values of their own."""
        return frozenset({self.column, self.column + TOTAL, f"{self.epoch}{TOTAL}"})

    def starts(self) -> RunStarts:
        """A finder of the rows at which another run begins, for those of the whole log."""
        counting_rows = self.column == _NO_COLUMN
        return RunStarts(self.epoch if counting_rows else self.column, self.epoch)

    def renewed(self) -> "Counter":
        """A counter of the same columns that has seen no row yet."""
        return Counter(
            self.column, self.epoch, self.counts, self.first, self.unit, self.note, self.carry
        )

    def step(self, row: Row, where: str) -> int | None:
        """The step of a row; None if it has none.

        Raises:
            ConfigurationError: a cell of the column that counts holds no such number.
        """
        if self.counts == "rows":
            losses = {name for name in row if is_loss(name) and has_value(row[name])}
            self._losses = self._losses or losses
            self._last += not losses or not losses.isdisjoint(self._losses)
            return max(self._last, 0)
        cell = row.get(self.column)
        if self.unit != 1:
            part = number_in(cell)
            if part is None or not 0 <= part / self.unit < MAX_STEP:
                return None
            return round(part / self.unit)
        if self.counts != "steps":
            number = step_in(cell, where, self.column)
            if number is not None:
                self._see_totals(row, _TOTAL_EPOCHS)
                self._last = number
            return None if number is None else max(number - self.first, 0)
        number = step_in(cell, where, self.column)
        if number is None:
            return self._step if self.carry and self._last >= 0 else None
        if self._last_epoch is not None and split_of(row) == "val":
            return self._step  # the number may be that of a batch of validation
        self._see_totals(row, _TOTAL_STEPS)
        self._step = number if self.epoch is None else self._begin(row, number) + number
        if number != self._last:
            self._interval, self._last = number - self._last, number
        return self._step

    @property
    def of_trainer(self) -> bool:
        """True if a callback of the Hugging Face Trainer counts: its losses are means."""
        return self.column == "current_steps"

    @property
    def total(self) -> int | None:
        """The planned length of the run, if the log has it."""
        own = self._totals.get(self.column)
        if own is None or not math.isfinite(own):
            own = self._totals.get(_RUN, math.nan) if self.counts == "steps" else math.nan
            return round(own) if 0 < own <= MAX_STEP else None
        epochs = self._totals.get(str(self.epoch), math.nan)
        if self.counts == "steps" and epochs > 0 and self._begins_anew is not False:
            own *= epochs
        if self.counts == "epochs" and self.first == 0 and (own == self._last or _is_last(own)):
            own += 1  # numbered from 0, as `Epoch 59/59` of YOLOv5
        return round(own) if 0 < own <= MAX_STEP else None

    @property
    def total_epochs(self) -> float | None:
        """The planned number of epochs beside the steps, if the log has it."""
        epochs = self._totals.get(str(self.epoch), math.nan)
        return epochs if self.counts == "steps" and 0 < epochs < math.inf else None

    def _begin(self, row: Row, number: int) -> int:
        """The step at which the numbers of the present epoch begin."""
        value = number_in(row.get(str(self.epoch)))
        if value is None or not math.isfinite(value):
            self._first = number if self._last < 0 else self._first
            return self._begins.get(self._last_epoch or 0.0, 0)
        epoch, last = float(math.floor(value)), self._last_epoch
        first = self._first
        if epoch != last:
            self._last_epoch, self._first = epoch, number
        if last is None:  # of the first epoch, or of the second one if it is named at its end
            anew = 2 * number <= self._last and number < self._last
            self._begins_anew = anew or self._begins_anew
            self._begins[epoch] = int(self._epoch_length(first)) if anew else 0
        elif epoch > last:
            begin = self._begins.get(last, 0)
            all_of_them = number == self._last == self._totals.get(self.column)
            if self._begins_anew or number <= self._last / 2 or all_of_them:
                self._begins_anew = True
                begin += int(self._epoch_length(first) * (epoch - last))
            else:
                self._begins_anew = False
            self._begins[epoch] = begin
            if len(self._begins) > _MAX_EPOCHS:
                del self._begins[next(iter(self._begins))]
        return self._begins.setdefault(epoch, self._begins.get(last or 0.0, 0))

    def _epoch_length(self, first: int) -> float:
        """The steps of the epoch that ended with the last row, the first of which was `first`."""
        total = self._totals.get(self.column, math.nan)
        end = self._last + (self._interval if first == 0 else 0)
        return end if math.isnan(total) else max(total, self._last)

    def _see_totals(self, row: Row, named: frozenset[str]) -> None:
        """Note the lengths in a row; one that changes is none."""
        own = self.column + TOTAL
        if own in row:
            self._see_total(self.column, row[own])
        for name in named & row.keys() if own not in row else ():
            self._see_total(_RUN if self.counts == "steps" else self.column, row[name])
        own = f"{self.epoch}{TOTAL}"
        for name in _TOTAL_EPOCHS & row.keys() if own not in row else (own,):
            self._see_total(str(self.epoch), row[name])

    def _see_total(self, counter: str, cell: Any) -> None:
        total = number_in(cell)
        if total is not None and math.isfinite(total):
            same = self._totals.setdefault(counter, total) == total
            self._totals[counter] = total if same else math.nan


def _is_last(number: float) -> bool:
    """True if a total is more likely the number of the last epoch, from 0: 59, but not 60."""
    return (number + 1) % _ROUND == 0


@lru_cache(_MAX_CACHED)
def is_counter_name(name: str) -> bool:
    """True if a column is named like a counter of optimizer steps."""
    word = in_english(name).lower()
    return word in _STEP_WORDS or word.rpartition("/")[2] in _STEP_WORDS


def count_and_total(name: str, cell: Any) -> dict[str, str]:
    """The count and its total in a cell such as `3/30` of a column that counts; {} in others."""
    count = _COUNT.fullmatch(cell) if isinstance(cell, str) else None
    first, slash, _ = name.partition("/")
    if count is None or not (is_counter_name(first if slash else name) or is_epoch(first)):
        return {}
    return {first: count[1], first + TOTAL: count[2]}


def _counting_epochs(column: str, rows: Sequence[Row]) -> Counter:
    """The counter of a log without optimizer steps."""
    numbers = _numbers(column, rows)
    counts = f"{column.lower().rstrip('s')}s" if column.lower() in _OTHER_COUNTERS else "epochs"
    differences = [b - a for a, b in pairwise(numbers) if b > a]
    if counts == "epochs" and any(number != int(number) for number in numbers):
        unit = 10.0 ** math.floor(math.log10(min([*differences, numbers[0] or 1.0, 1.0])) + 1e-9)
        note = f"no optimizer steps logged: counting {unit:g} epochs as one step"
        return Counter(column, unit=unit, note=note)
    first = int(bool(numbers) and numbers[0] == 1)
    note = f"no optimizer steps logged: counting {counts}"
    return Counter(column, counts=counts, first=first, note=note)


def _numbers(column: str, rows: Iterable[Row]) -> list[float]:
    numbers = (number_in(row.get(column)) for row in rows)
    return [number for number in numbers if number is not None and 0 <= number < math.inf]


def _has_numbers(column: str, rows: Iterable[Row]) -> bool:
    """True unless all cells of a column hold something else."""
    cells = [row[column] for row in rows if has_value(row.get(column))]
    return not cells or any(number_in(cell) is not None for cell in cells)


def _rows_per_epoch(epoch: str, rows: Sequence[Row]) -> float:
    """The number of values that a loss has in each epoch of whole numbers, in the mean."""
    epochs: dict[str, list[float]] = {}
    for row in rows:
        number = number_in(row.get(epoch))
        for name in row if number is not None else ():
            if is_loss(name) and has_value(row[name]):
                epochs.setdefault(name, []).append(number or 0.0)
    lengths = (len(each) / len(list(groupby(each))) for each in epochs.values())
    return max(lengths, default=0.0)


def _is_counter(column: str, epoch: str | None, rows: Sequence[Row]) -> bool:
    """True if the numbers in a column go on, perhaps anew in each epoch."""
    training = [row for row in rows if has_value(row.get(column)) and split_of(row) != "val"]
    losses = [row for row in training if any(is_loss(n) and has_value(row[n]) for n in row)]
    rows = losses or training
    numbers = [number_in(row[column]) for row in rows]
    if any(number is not None and number % 1 for number in numbers):
        return False
    if len(numbers) >= _MIN_CONSTANT and len(set(numbers)) == 1:
        return epoch is None or len({number_in(row.get(epoch)) for row in rows}) == 1
    epochs = [number_in(row.get(str(epoch))) for row in rows]
    anew = [None not in (a, b) and a != b for a, b in pairwise(epochs)]
    if sum(anew) > len(anew) / 2:  # a row or two an epoch: in these nothing begins anew
        anew = [False] * len(anew)
    steps = [-1 if number is None else number for number in numbers]
    backs = sum(b < a and not new for (a, b), new in zip(pairwise(steps), anew, strict=True))
    return backs <= max(_ALLOWED_REWINDS, _ALLOWED_REWIND_SHARE * len(rows))


def _is_rising_total(column: str, rows: Sequence[Row]) -> bool:
    """True if a column such as `total_steps` is not a length: it is the number of steps so far."""
    if column.lower() not in _TOTAL_STEPS or not _is_counter(column, None, rows):
        return False
    n_numbers = len(set(_numbers(column, rows)))
    return n_numbers >= _MIN_CONSTANT and n_numbers > _MIN_RISING_SHARE * len(rows)


def _counts_in_total(column: str, rows: Sequence[Row]) -> bool:
    """True if the total of a column is what counts, as in `Batch 0/100`, `Batch 0/200` of WeNet."""
    cells = [(row[column], number_in(row[column + TOTAL])) for row in rows if column + TOTAL in row]
    pairs = [(a[1], b[1]) for a, b in pairwise(cells) if a[0] == b[0]]
    rising = sum(a is not None and b is not None and a < b for a, b in pairs)
    return len(pairs) >= _MIN_CONSTANT and 2 * rising > len(pairs)


def _is_index(column: str, rows: Sequence[Row]) -> bool:
    """True if a column without a name of its own numbers the rows from 0 or 1."""
    if column.lower() not in _INDICES:
        return False
    numbers = [number_in(row.get(column)) for row in rows]
    first = numbers[0]
    return first in (0, 1) and numbers == [first + i for i in range(len(numbers))]
