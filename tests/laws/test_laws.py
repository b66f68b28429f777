"""The laws that tests draw runs from against slow references, and the papers' conventions."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.laws import LAWS, annealing_area, flat_warmup, lr_sum

from lossforecast import laws
from lossforecast.schedule.lr_schedule import LRSchedule

Rates = NDArray[np.float64]

PARAMETERS: dict[str, dict[str, float]] = {  # of the size the papers report
    "annealing": {"L0": 2.6, "A": 0.5, "alpha": 0.5, "C": 0.4, "lambda_": 0.97},
    "multi-power": {
        "L0": 2.5,
        "A": 0.6,
        "alpha": 0.45,
        "B": 320.0,
        "C": 1.5,
        "beta": 0.6,
        "gamma": 0.5,
    },
    "memoryless": {"L0": 2.5, "A": 0.6, "alpha": 0.45, "B": 300.0},
    "power": {"L0": 2.5, "A": 6.0, "alpha": 0.3},
}
T, PEAK = 160, 1e-3
COSINE = LRSchedule.cosine(T, PEAK, warmup=20).to_array()
SCHEDULES: dict[str, Rates] = {
    "cosine with warm-up": COSINE,
    "wsd to 0": LRSchedule.wsd(T, PEAK, warmup=20).to_array(),
    "wsd to 0, then 0": LRSchedule.wsd(T, PEAK, warmup=20).extended_to(T + 30).to_array(),
    "restarts": np.tile(LRSchedule.cosine(T // 4, PEAK, end=PEAK / 50).to_array(), 4),
    "restarts from 0": np.tile(LRSchedule.cosine(T // 4, PEAK).to_array(), 4),
    "constant": np.full(T, PEAK),
    "step decay": LRSchedule.step_decay(T, PEAK, milestones=[50, 90], factor=0.3).to_array(),
    "one step": np.array([PEAK]),
    "a pause at the start": np.concatenate([[0.0, 0.0], COSINE]),
}


def reference_loss(laws: ModuleType, law: str, rates: Rates, **parameters: Any) -> list[float]:
    slow = getattr(laws, law.replace("-", "_"))
    losses: list[float] = slow(rates.tolist(), **parameters)
    return losses


@pytest.fixture
def slow(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("laws")


def test_every_law_is_tested() -> None:
    assert list(LAWS) == list(laws.LAWS)
    assert set(PARAMETERS) == set(LAWS)


@pytest.mark.parametrize("rates", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("law", PARAMETERS)
def test_a_law_is_its_reference(slow: ModuleType, law: str, rates: Rates) -> None:
    expected = reference_loss(slow, law, rates, **PARAMETERS[law])
    loss = LAWS[law](rates, **PARAMETERS[law])
    assert loss.shape == rates.shape
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


@settings(max_examples=300, deadline=None)
@given(
    rates=st.lists(st.floats(1e-6, 1e-2) | st.just(0.0), min_size=1, max_size=40),
    law=st.sampled_from(sorted(PARAMETERS)),
    zero=st.sampled_from(["", "A", "alpha", "B", "C", "beta", "gamma", "lambda_"]),
)
@example(rates=[0.0, 1e-3, 0.0, 1e-3], law="multi-power", zero="C")
@example(rates=[0.0, 1e-3, 0.0, 1e-3], law="multi-power", zero="beta")
@example(rates=[0.0, 1e-3], law="annealing", zero="A")
def test_a_law_is_its_reference_for_any_rates(
    reference: Callable[[str], ModuleType], rates: list[float], law: str, zero: str
) -> None:
    parameters = dict(PARAMETERS[law])
    if zero in parameters:
        parameters[zero] = 0.0
    whole = LAWS[law](rates, **parameters)
    expected = reference_loss(reference("laws"), law, np.array(rates), **parameters)
    np.testing.assert_allclose(whole, expected, rtol=1e-10)


# ------------------------------------------------------------------ S1, S2 and the warm-up


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("rates", SCHEDULES.values(), ids=SCHEDULES)
def test_s1_and_s2_are_those_of_the_paper(slow: ModuleType, rates: Rates, lambda_: float) -> None:
    np.testing.assert_allclose(lr_sum(rates), slow.lr_sum(rates.tolist()), rtol=1e-12)
    expected = slow.annealing_area(rates.tolist(), lambda_)
    np.testing.assert_allclose(
        annealing_area(rates, lambda_), expected, rtol=1e-12, atol=1e-12 * PEAK
    )


def test_s2_of_one_drop_by_hand() -> None:
    """m = 3, 3/2, 3/4 after a drop by 3: S2 = 3, 4.5, 5.25."""
    assert annealing_area([4.0, 4.0, 1.0, 1.0, 1.0], 0.5).tolist() == [0, 0, 3, 4.5, 5.25]
    assert lr_sum([4.0, 4.0, 1.0]).tolist() == [4, 8, 9]


def test_a_rise_is_a_drop_the_other_way_round() -> None:
    up, down = np.array([1.0, 4.0, 4.0]), np.array([4.0, 1.0, 1.0])
    assert annealing_area(up, 0.9).tolist() == (-annealing_area(down, 0.9)).tolist()


def test_the_warm_up_is_replaced_by_the_rate_that_ends_it() -> None:
    rates = [1.0, 2.0, 3.0, 3.0, 2.0]
    assert flat_warmup(rates, 3).tolist() == [3.0, 3.0, 3.0, 3.0, 2.0]
    assert flat_warmup([1.0, 2.0, 5.0], 2).tolist() == [2.0, 2.0, 5.0]
    assert flat_warmup(rates, 0).tolist() == rates
    assert flat_warmup(rates[:2], 3).tolist() == [2.0, 2.0]  # still in the warm-up
    assert rates == [1.0, 2.0, 3.0, 3.0, 2.0]


def test_a_flat_warm_up_has_no_annealing() -> None:
    rates = flat_warmup(COSINE, 20)
    assert annealing_area(rates, 0.99)[:20].tolist() == [0.0] * 20
    assert lr_sum(rates)[19] == pytest.approx(20 * PEAK)
    assert (annealing_area(COSINE, 0.99)[1:20] < 0).all()  # left as it is, a warm-up is a rise


# ------------------------------------------------------------------ how the laws hang together


def test_the_annealing_law_is_one_of_the_family() -> None:
    """``C S2 = sum_k (eta_{k-1} - eta_k) B (1 - lambda^(t-k+1))`` with ``B = C / (1 - lambda)``."""
    parameters = {"L0": 0.0, "A": 0.0, "alpha": 0.5, "C": 0.4, "lambda_": 0.9}
    B = 0.4 / (1 - 0.9)
    t, k = np.arange(1, T + 1)[:, np.newaxis], np.arange(2, T + 1)
    share = np.where(k <= t, 1 - 0.9 ** np.maximum(t - k + 1, 0.0), 0.0)
    family = -B * (share * -np.diff(COSINE)).sum(axis=1)
    np.testing.assert_allclose(
        LAWS["annealing"](COSINE, **parameters), family, rtol=1e-10, atol=1e-15
    )


def test_everything_arrives_at_once_in_the_limits() -> None:
    common = {"L0": 2.0, "A": 0.5, "alpha": 0.5}
    rates = LRSchedule.cosine(T, PEAK, end=PEAK / 10).to_array()
    memoryless = LAWS["memoryless"](rates, **common, B=300.0)
    steep = LAWS["multi-power"](rates, **common, B=300.0, C=1e30, beta=1.0, gamma=0.0)
    short = LAWS["annealing"](rates, **common, C=300.0, lambda_=0.0)
    np.testing.assert_allclose(steep, memoryless, rtol=1e-12)
    np.testing.assert_allclose(short, memoryless, rtol=1e-12)


def test_annealing_to_0_lowers_the_loss_and_then_rests() -> None:
    rates = SCHEDULES["wsd to 0, then 0"]
    for law in ("multi-power", "memoryless"):
        loss = LAWS[law](rates, **PARAMETERS[law])
        assert loss[T - 1] < loss[T - 40]
        assert loss[T - 1 :].tolist() == pytest.approx([loss[T - 1]] * 31, rel=1e-14)
    still_relaxing = LAWS["annealing"](rates, **PARAMETERS["annealing"])
    assert (np.diff(still_relaxing[T - 1 :]) < 0).all()  # its clock is steps


def test_the_loss_is_infinite_until_the_first_rate_above_0() -> None:
    for law in ("annealing", "multi-power", "memoryless"):
        loss = LAWS[law]([0.0, 0.0, 1e-3], **PARAMETERS[law])
        assert loss[:2].tolist() == [math.inf, math.inf]
        assert math.isfinite(loss[2])
