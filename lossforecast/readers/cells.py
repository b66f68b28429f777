"""Steps and values in the cells of a table or of an object."""

import math
import re
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.columns import is_epoch

__all__ = ["MAX_STEP", "has_value", "number_in", "step_in", "value_in"]

MAX_STEP = 10**15
"""The largest number that is taken for a step."""
_WRAPPED = re.compile(r"(?:[A-Za-z_][\w.]*\()+([^(),]+)[),].*")
"""A number in the words of its type, such as `tensor(2.3, device='cuda:0')`, `np.float64(2.3)`."""
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{,2}(?:,\d{3})+(?:\.\d+)?")
_DIGITS = frozenset("0123456789")
_EMPTY = ("", "-", "--", "none", "null", "na", "n/a", "no log")
_NO_VALUE = (*_EMPTY, "nan")


def has_value(cell: Any) -> bool:
    """True unless a cell is empty, or nan in words."""
    if not isinstance(cell, str):
        return cell is not None and not isinstance(cell, list)
    return cell[:1] in _DIGITS or cell.strip().lower() not in _NO_VALUE


def step_in(cell: Any, where: str, column: str) -> int | None:
    """The step in a cell; None if the cell is empty.

    Raises:
        ConfigurationError: it is not a whole number of at least 0.
    """
    value = _number_or_none(cell, where, column)
    if value is None:
        return None
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise ConfigurationError(f"{where}: {column} is {cell!r:.60}, not a whole number from 0 on")
    if value > MAX_STEP:
        raise ConfigurationError(f"{where}: {column} is {cell!r:.60}, too large for a step")
    return int(value)


def value_in(cell: Any, where: str, column: str) -> float | None:
    """The number in a cell; None if the cell is empty, or is an epoch in words, such as "1/3".

    Raises:
        ConfigurationError: it is not a number.
    """
    return number_in(cell) if is_epoch(column) else _number_or_none(cell, where, column)


def number_in(cell: Any) -> float | None:
    """The cell as a number; None if it is not one."""
    if isinstance(cell, bool):
        return None
    if isinstance(cell, str) and "(" in cell and (match := _WRAPPED.fullmatch(cell.strip())):
        cell = match[1]
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        thousands = _THOUSANDS.fullmatch(cell.strip()) if isinstance(cell, str) else None
        return float(thousands[0].replace(",", "")) if thousands else None


def _number_or_none(cell: Any, where: str, column: str) -> float | None:
    """The number in a cell; None if the cell is empty.

    Raises:
        ConfigurationError: it is not a number.
    """
    value = number_in(cell)
    if value is not None:
        return value
    if (
        cell is None
        or isinstance(cell, list)
        or (isinstance(cell, str) and cell.strip().lower() in _EMPTY)
    ):
        return None
    raise ConfigurationError(f"{where}: {column} is {cell!r:.60}, not a number")
