"""Checks of arguments: each returns the clean value or raises an error that says what is wrong."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.errors import LossForecastError

__all__ = [
    "instance",
    "non_negative",
    "non_negatives",
    "number",
    "positive",
    "probability",
    "reals",
    "whole",
    "wholes",
]

ErrorType = type[LossForecastError]
_REAL = (int, float, np.integer, np.floating)


def instance(name: str, value: object, kind: type, error: ErrorType) -> None:
    """Raise unless `value` is None or an instance of `kind`."""
    if value is not None and not isinstance(value, kind):
        raise error(f"{name} must be of type {kind.__name__}, not {value!r:.60}")


def number(name: str, value: object, error: ErrorType) -> float:
    """A real number (nan and inf pass), not a bool, a string or an array."""
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, _REAL):
        raise error(f"{name} must be a number, not {value!r:.60} ({type(value).__name__})")
    try:
        return float(value)
    except OverflowError:  # an int too large for a float
        return math.inf if value > 0 else -math.inf


def non_negative(name: str, value: object, error: ErrorType) -> float:
    """A finite number, 0 or more."""
    clean = number(name, value, error)
    if not math.isfinite(clean):
        raise error(f"{name} is {clean}: it must be finite and 0 or more")
    if clean < 0:
        raise error(f"{name} is {value}: it must be finite and 0 or more")
    return clean


def positive(name: str, value: object, error: ErrorType) -> float:
    """A finite number above 0."""
    clean = number(name, value, error)
    if not (math.isfinite(clean) and clean > 0):
        raise error(f"{name} is {clean}: it must be finite and above 0")
    return clean


def whole(name: str, value: object, error: ErrorType, *, least: int) -> int:
    """A whole number of at least `least`; 3.0 is accepted, 3.5 is not."""
    clean = number(name, value, error)
    if not math.isfinite(clean):
        raise error(f"{name} is {clean}; it must be a whole number")
    if clean != math.floor(clean):
        raise error(f"{name} is {value}; it must be a whole number")
    if clean < least:
        raise error(f"{name} is {value}; it must be at least {least}")
    if abs(clean) >= 2**62:
        raise error(f"{name} is {value}; it is too large for a number of steps")
    return int(clean)


def wholes(name: str, values: ArrayLike, error: ErrorType) -> NDArray[np.int64]:
    """Whole finite numbers of any shape."""
    given = reals(name, values, error)
    if given.size == 0:
        return np.zeros(given.shape, dtype=np.int64)
    if given.dtype.kind == "f":
        bad = ~np.isfinite(given) | (given != np.floor(given))
        if bad.any():
            raise error(f"{name} has {given[bad][0]}; it must be whole and finite: round it")
    if np.abs(given.astype(float)).max() >= 2**62:
        raise error(f"{name} has {given.max()}; it is too large for a number of steps")
    return given.astype(np.int64)


def non_negatives(name: str, values: ArrayLike, error: ErrorType) -> NDArray[np.float64]:
    """Finite numbers of 0 or more, shape (n,)."""
    clean = reals(name, values, error).astype(np.float64)
    if clean.ndim != 1:
        raise error(f"{name} must have one dimension, not shape {clean.shape}")
    bad = ~np.isfinite(clean) | (clean < 0)
    if bad.any():
        where = int(np.argmax(bad))
        raise error(f"{name}[{where}] is {clean[where]}: it must be finite and 0 or more")
    return clean


def reals(name: str, values: ArrayLike, error: ErrorType) -> NDArray[Any]:
    """Real numbers of any shape; bools, strings, complex numbers and ragged lists are refused."""
    try:
        given = np.asarray(values)
    except ValueError as problem:
        raise error(f"{name} must be an array of numbers, not {values!r:.60}") from problem
    if given.size and given.dtype.kind not in "iuf":
        raise error(f"{name} must be numbers, not {given.dtype} ({values!r:.60})")
    return given


def probability(name: str, value: object, error: ErrorType, *, example: float) -> float:
    """A number above 0 and below 1; `example` is a value that the error message suggests."""
    given = number(name, value, error)
    if not 0 < given < 1:
        raise error(f"{name} is {value}; it must be between 0 and 1, say {example}")
    return given
