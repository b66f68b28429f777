"""`points_of_rows`: the logged values of a format that yields rows of named cells."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, islice

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.cells import has_value, value_in
from lossforecast.readers.columns import SPLIT_COLUMNS, is_loss, listed, metric_of, split_of
from lossforecast.readers.counters import TOTAL, Counter, Row
from lossforecast.readers.source import Points, Source, Wanted

__all__ = ["Rows", "points_of_rows"]

Rows = Iterator[tuple[str, Row]]
"""Rows, each after its place in the log for error messages."""
_SAMPLE_ROWS = 512  # by which the column that counts is chosen


def points_of_rows(
    source: Source,
    wanted: Wanted,
    *,
    rows: Callable[[Source], Rows],
    step_column: str | None,
    carry: bool = False,
) -> Points:
    """The points of the rows of a log; also fills `source.columns`, its length and its notes.

    Args:
        source: the log.
        wanted: the columns to read.
        rows: reads the rows from the beginning.
        step_column: the column of optimizer steps, if it was given.
        carry: True if a row without a step has that of the row before.

    Raises:
        ConfigurationError: no column counts, or a cell is not a number.
    """
    stream = rows(source)
    sample, counter = _counted(source, stream, step_column)
    counter.carry = carry
    source.losses_are_means |= counter.of_trainer
    source.counts = "steps" if counter.counts == "rows" else counter.counts
    if counter.unit != 1:
        source.steps_per_epoch = 1 / counter.unit
    source.notes += [counter.note] if counter.note else []
    for name in counter.columns:
        source.columns.pop(name, None)
    has_splits = any(name.lower() in SPLIT_COLUMNS for _, row in sample for name in row)
    any_step = False

    @cache
    def plan(name: str, validation: bool) -> tuple[str, bool] | None:
        """The column of a cell, and whether it is read; None for a cell that counts."""
        if name in counter.columns or name.endswith(TOTAL):
            return None
        column = (
            f"val/{name}" if validation and is_loss(name) and metric_of(name) != "val" else name
        )
        return column, wanted(column)

    starts, lengths = counter.starts(), counter
    for where, row in chain(sample, stream):
        if starts.at(row):
            source.begin_run()
            counter = counter.renewed()
        step = counter.step(row, where)
        if step is None:
            continue
        source.longest = max(source.longest, step)
        if source.skips:
            continue
        any_step, lengths = True, counter
        validation = has_splits and split_of(row) == "val"
        for name, cell in row.items():
            if (planned := plan(name, validation)) is None:
                continue
            column, read = planned
            if has_value(cell):
                source.columns[column] = step
            elif column not in source.columns:
                source.columns[column] = -1
            value = value_in(cell, where, name) if read else None
            if value is not None:
                yield column, step, value
    source.check_run()
    if not any_step:
        raise NothingLoggedError(
            f"no column of {source.path} ({source.format}) has values yet; it has "
            f"{listed(source.columns)}"
        )
    if source.total_steps is None:
        last = max(source.columns.values(), default=-1)
        source.total_steps = lengths.total if (lengths.total or 0) >= last else None
    source.total_epochs = lengths.total_epochs


def _counted(
    source: Source, stream: Rows, step_column: str | None
) -> tuple[list[tuple[str, Row]], Counter]:
    """The first rows that are counted, and their counter.

    Raises:
        ConfigurationError: no row is counted.
    """
    names = dict.fromkeys(source.columns)
    while sample := list(islice(stream, _SAMPLE_ROWS)):
        names |= dict.fromkeys(name for _, row in sample for name in row)
        missing = step_column is not None and step_column not in names
        rows = [row for _, row in sample]
        counter = None if missing else Counter.of(source.path, rows, step_column)
        if counter is not None:
            return sample, counter
    if step_column is not None and step_column not in names:
        raise ConfigurationError(
            f"{source.path} has no column {step_column!r}: it has {listed(names)}"
        )
    counter = Counter.of(source.path, [names], step_column) if names else None
    if counter is not None or not names:
        rest = [name for name in names if counter is None or name not in counter.columns]
        raise NothingLoggedError(
            f"no column of {source.path} ({source.format}) has values yet; it has {listed(rest)}"
        )
    raise ConfigurationError(
        f"{source.path} has no column of optimizer steps or epochs: it has {listed(names)}. Name "
        "one with --step-column"
    )
