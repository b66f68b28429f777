"""The first crossing of a level by a polyline."""

import math

import numpy as np

from lossforecast.numerics import first_below

AT = np.array([100.0, 200.0, 300.0])


def test_the_first_crossing_is_interpolated() -> None:
    values = np.array([2.0, 1.5, 1.0])
    assert first_below(AT, values, 1.25) == 250
    assert first_below(AT, values, 3.0) == 100
    assert math.isnan(first_below(AT, values, 1.0))
    assert first_below(AT, np.array([2.0, 1.0, 2.0]), 1.5) == 150


def test_missing_values_are_left_out() -> None:
    assert first_below(AT, np.array([2.0, np.nan, 1.0]), 1.5) == 200
    assert first_below(AT, np.array([np.nan, 1.0, 0.5]), 1.5) == 200
    assert math.isnan(first_below(AT, np.full(3, np.nan), 1.0))


def test_huge_values_do_not_overflow() -> None:
    assert first_below(AT, np.array([1.7e308, -1.7e308, 0.0]), -1.6e308) == 200
