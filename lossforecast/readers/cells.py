"""Steps and values in the cells of a table or of an object."""

import math
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.columns import is_epoch, listed

__all__ = ["NO_VALUE", "known_step_column", "number_in", "step_column_of", "step_in", "value_in"]

_STEP_COLUMNS = (
    "trainer/global_step",
    "train/global_step",
    "global_step",
    "step",
    "_step",
    "steps",
    "iteration",
    "iter",
)
"""Names of the column of optimizer steps in lower case, the surest first."""

_EMPTY = ("", "none", "null", "na", "n/a")
NO_VALUE = (*_EMPTY, "nan")
"""Cells, in lower case, that hold no finite value."""


def step_column_of(path: Path, header: list[str], given: str | None) -> str:
    """The column of optimizer steps.

    Raises:
        ConfigurationError: no column has a usual name, or there is none of the name given.
    """
    names = listed(header)
    if given is not None:
        if given not in header:
            raise ConfigurationError(f"{path} has no column {given!r}: it has {names}")
        return given
    column = known_step_column(header)
    if column is None:
        raise ConfigurationError(
            f"{path} has no column of optimizer steps: it has {names}. Name one with --step-column"
        )
    return column


def known_step_column(header: list[str]) -> str | None:
    """The column of optimizer steps, by its name; None if no column has a usual name."""
    by_word = {name.lower(): name for name in reversed(header)}
    return next((by_word[word] for word in _STEP_COLUMNS if word in by_word), None)


def step_in(cell: Any, where: str, column: str) -> int | None:
    """The step in a cell; None if the cell is empty.

    Raises:
        ConfigurationError: it is not a whole number of at least 0.
    """
    value = _number_or_none(cell, where, column)
    if value is None:
        return None
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise ConfigurationError(f"{where}: {column} is {cell!r}, not a whole number from 0 on")
    return int(value)


def value_in(cell: Any, where: str, column: str) -> float | None:
    """The number in a cell; None if the cell is empty, or is an epoch in words, such as "1/3".

    Raises:
        ConfigurationError: it is not a number.
    """
    return number_in(cell) if is_epoch(column) else _number_or_none(cell, where, column)


def number_in(cell: Any) -> float | None:
    """The cell as a number; None if it is not one."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def _number_or_none(cell: Any, where: str, column: str) -> float | None:
    """The number in a cell; None if the cell is empty.

    Raises:
        ConfigurationError: it is not a number.
    """
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _EMPTY):
        return None
    value = number_in(cell)
    if value is None:
        raise ConfigurationError(f"{where}: {column} is {cell!r:.60}, not a number")
    return value
