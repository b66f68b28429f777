"""What users hand in is taken as numbers, or refused with what was given."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from lossforecast.checks import (
    non_negative,
    non_negatives,
    number,
    positive,
    probability,
    reals,
    whole,
    wholes,
)
from lossforecast.errors import ConfigurationError, LossForecastError

E = ConfigurationError


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        (3, 3.0),
        (-2.5, -2.5),
        (np.float32(0.5), 0.5),
        (np.int8(-3), -3.0),
        (math.inf, math.inf),
        (10**400, math.inf),
        (-(10**400), -math.inf),
    ],
)
def test_real_numbers_of_any_type_are_floats(given: Any, clean: float) -> None:
    got = number("x", given, E)
    assert type(got) is float
    assert got == clean


def test_nan_passes_as_a_number() -> None:
    assert math.isnan(number("x", math.nan, E))


@pytest.mark.parametrize(
    "given",
    [True, np.True_, "1", b"1", None, 1j, np.complex64(1), np.timedelta64(1, "s"), [1], np.ones(1)],
)
def test_what_is_no_real_number_is_refused(given: Any) -> None:
    with pytest.raises(E, match=r"^x must be a number, not "):
        number("x", given, E)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (-1e-9, r"x is -1e-09: it must be finite and 0 or more"),
        (math.nan, r"x is nan: it must be finite and 0 or more"),
        (math.inf, r"x is inf: it must be finite and 0 or more"),
        pytest.param(10**5000, r"x is inf: it must be finite", id="too long to print"),
    ],
)
def test_non_negative_is_finite_and_0_or_more(given: float, message: str) -> None:
    assert non_negative("x", 0, E) == 0
    with pytest.raises(E, match=message):
        non_negative("x", given, E)


@pytest.mark.parametrize("given", [0, -2, math.nan, math.inf])
def test_positive_is_finite_and_above_0(given: float) -> None:
    assert positive("x", np.float32(0.5), E) == 0.5
    with pytest.raises(E, match=rf"^x is {float(given)}: it must be finite and above 0$"):
        positive("x", given, E)


@pytest.mark.parametrize("given", [3, 3.0, np.int64(3), np.float32(3)])
def test_whole_numbers_of_any_type_are_ints(given: Any) -> None:
    got = whole("x", given, E, least=3)
    assert type(got) is int
    assert got == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3.5, r"x is 3.5; it must be a whole number"),
        (math.nan, r"x is nan; it must be a whole number"),
        (2, r"x is 2; it must be at least 3"),
        (2**62, r"x is 4611686018427387904; it is too large for a number of steps"),
        pytest.param(10**5000, r"x is inf; it must be a whole number", id="too long to print"),
    ],
)
def test_what_is_no_whole_number_is_refused(given: float, message: str) -> None:
    with pytest.raises(E, match=message):
        whole("x", given, E, least=3)


@pytest.mark.parametrize(
    "given", [[[1, -2]], [[1.0, -2.0]], np.array([[1, -2]], np.int8), torch.tensor([[1, -2]])]
)
def test_whole_numbers_keep_their_shape(given: Any) -> None:
    got = wholes("x", given, E)
    assert got.dtype == np.int64
    assert got.tolist() == [[1, -2]]


def test_no_numbers_are_whole_numbers() -> None:
    assert wholes("x", [], E).dtype == np.int64
    assert wholes("x", np.zeros((0, 3)), E).shape == (0, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2.5], r"x has 2.5; it must be whole and finite: round it"),
        ([1, math.inf], r"x has inf; it must be whole and finite: round it"),
        ([2**62], r"x has 4611686018427387904; it is too large"),
    ],
)
def test_numbers_that_are_not_whole_are_refused(given: Any, message: str) -> None:
    with pytest.raises(E, match=message):
        wholes("x", given, E)


@pytest.mark.parametrize("given", ["12", ["1"], [True], [1j], [None], [10**400], [[1], [1, 2]]])
def test_arrays_of_other_things_are_refused(given: Any) -> None:
    for check in (reals, wholes, non_negatives):
        with pytest.raises(E, match=r"^x must be "):
            check("x", given, E)


def test_non_negatives_are_a_copy_in_one_dimension() -> None:
    given = np.array([0.0, 2.0])
    clean = non_negatives("x", given, E)
    given[0] = 9.0
    assert clean.tolist() == [0.0, 2.0]
    with pytest.raises(E, match=r"x\[1\] is -2.0: it must be finite and 0 or more"):
        non_negatives("x", [1, -2], E)
    with pytest.raises(E, match=r"x must have one dimension, not shape \(1, 2\)"):
        non_negatives("x", [[1, 2]], E)


@pytest.mark.parametrize("given", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_probability_is_between_0_and_1_and_neither(given: float) -> None:
    with pytest.raises(E, match=r"^risk is .*; it must be between 0 and 1, say 0.05$"):
        probability("risk", given, E, example=0.05)
    assert probability("risk", np.float32(0.25), E, example=0.05) == 0.25


def test_a_long_argument_is_shown_in_short() -> None:
    with pytest.raises(LossForecastError) as caught:
        reals("x", ["word"] * 10_000, E)
    assert len(str(caught.value)) < 150
