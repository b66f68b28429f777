"""Checks of what users hand in: each returns the clean value or raises an error that helps."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.errors import LossForecastError

__all__ = ["non_negative", "non_negatives", "number", "whole", "wholes"]

ErrorType = type[LossForecastError]


def number(name: str, value: object, error: ErrorType) -> float:
    """A real number (nan and inf pass), not a bool, a string or an array."""
    if isinstance(value, bool | str) or not isinstance(value, int | float | np.number):
        raise error(f"{name} must be a number, not {value!r:.60} ({type(value).__name__})")
    try:
        return float(value)
    except OverflowError:  # an int beyond the floats
        return math.copysign(math.inf, value)
    except TypeError as problem:
        raise error(f"{name} must be a real number, not {value!r}") from problem


def non_negative(name: str, value: object, error: ErrorType) -> float:
    """A finite number, 0 or more."""
    clean = number(name, value, error)
    if not math.isfinite(clean) or clean < 0:
        raise error(f"{name} is {value}: it must be finite and 0 or more")
    return clean


def whole(name: str, value: object, error: ErrorType, *, least: int) -> int:
    """A whole number of at least `least`; 3.0 will do, 3.5 will not."""
    clean = number(name, value, error)
    if not math.isfinite(clean) or clean != math.floor(clean):
        raise error(f"{name} is {value}; it must be a whole number")
    if clean < least:
        raise error(f"{name} is {value}; it must be at least {least}")
    if abs(clean) >= 2**62:
        raise error(f"{name} is {value}; it is too large for a number of steps")
    return int(clean)


def wholes(name: str, values: ArrayLike, error: ErrorType) -> NDArray[np.int64]:
    """Whole finite numbers of any shape."""
    given = np.asarray(values)
    if given.size == 0:
        return given.astype(np.int64)
    if not (np.issubdtype(given.dtype, np.integer) or np.issubdtype(given.dtype, np.floating)):
        raise error(f"{name} must be whole numbers, not {given.dtype} ({values!r:.60})")
    if np.issubdtype(given.dtype, np.floating):
        bad = ~np.isfinite(given) | (given != np.floor(given))
        if bad.any():
            raise error(f"{name} has {given[bad][0]}; it must be whole and finite: round it")
    if np.abs(given.astype(float)).max() >= 2**62:
        raise error(f"{name} has {given.max()}; it is too large for a number of steps")
    return given.astype(np.int64)


def non_negatives(name: str, values: ArrayLike, error: ErrorType) -> NDArray[np.float64]:
    """Finite numbers of 0 or more, shape (n,)."""
    try:
        clean = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as problem:
        raise error(f"{name} must be numbers, not {values!r:.60}") from problem
    if clean.ndim != 1:
        raise error(f"{name} must have one dimension, not shape {clean.shape}")
    bad = ~np.isfinite(clean) | (clean < 0)
    if bad.any():
        where = int(np.argmax(bad))
        raise error(f"{name}[{where}] is {clean[where]}: it must be finite and 0 or more")
    return clean
