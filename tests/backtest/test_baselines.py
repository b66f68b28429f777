import numpy as np
import pytest
from numpy.typing import NDArray
from support.laws import annealing, flat_warmup, multi_power, power

from lossforecast import LRSchedule, ObservationError
from lossforecast.backtest.baselines import BASELINES, last_value

PLAN = LRSchedule.wsd(10_000, 5e-4, warmup=500, decay_fraction=0.5)
LAWS_FITTED = sorted(set(BASELINES) - {"last value"})


def curve(law: str) -> NDArray[np.float64]:
    """The losses of steps 1..10,000 if a law were true."""
    rates = PLAN.to_array()
    match law:
        case "power law in steps":
            return power(rates, L0=2.5, A=20.0, alpha=0.45)
        case "annealing law":
            rates = flat_warmup(rates, PLAN.warmup_steps)
            return annealing(rates, L0=2.5, A=0.4, alpha=0.5, C=0.3, lambda_=0.999)
        case "multi-power law":
            return multi_power(rates, L0=2.5, A=0.4, alpha=0.5, B=250.0, C=2.0, beta=0.6, gamma=0.6)
    raise ValueError(law)


@pytest.mark.parametrize("law", LAWS_FITTED)
@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 0.004), (0.02, 0.015)])
def test_each_law_predicts_its_own_curve(law: str, noise: float, tolerance: float) -> None:
    steps = np.arange(20, 8_501, 20)
    losses = curve(law)
    errors = noise * np.random.default_rng(1).normal(size=steps.size)
    predict = BASELINES[law](steps, losses[steps - 1] * np.exp(errors), PLAN)
    assert predict([10_000])[0] == pytest.approx(losses[-1], rel=tolerance)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_predictions_are_finite_whatever_was_seen(name: str) -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(0, 3_000, 50)
    odd = {
        "nothing sound": np.full(60, np.nan),
        "constant": np.full(60, 2.0),
        "rising": np.linspace(1, 3, 60),
        "noise": rng.uniform(0.1, 10, 60),
        "tiny": 1e-12 * curve("power law in steps")[steps],
        "huge": 1e12 * curve("power law in steps")[steps],
        "holes": np.where(steps % 100, np.nan, 2.0 + 3 / np.sqrt(steps + 1)),
        "negative": -np.linspace(1, 3, 60),
        "spike": np.where(steps == 1_000, np.inf, 2.0 + 3 / np.sqrt(steps + 1)),
    }
    for plan in (PLAN, LRSchedule.constant(10_000, 4.2), LRSchedule.from_array(np.zeros(10_000))):
        for seen, losses in odd.items():
            found = BASELINES[name](steps, losses, plan)([0, 3_000, 10_000])
            assert found.shape == (3,)
            assert np.isfinite(found).all() == (seen != "nothing sound"), (seen, plan)


@pytest.mark.parametrize("name", LAWS_FITTED)
@pytest.mark.parametrize("n", [1, 4])
def test_too_few_points_give_the_last_value(name: str, n: int) -> None:
    steps = np.arange(1, n + 1) * 1_000
    assert BASELINES[name](steps, 3.0 / np.arange(1, n + 1), PLAN)([9_999])[0] == 3.0 / n


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_the_same_again_is_the_same_and_shapes_are_kept(name: str) -> None:
    steps = np.arange(0, 5_000, 10)
    losses = curve("annealing law")[steps]
    at = [[6_000, 7_000], [8_000, 10_000]]
    first, second = (BASELINES[name](steps, losses, PLAN)(at) for _ in range(2))
    assert first.shape == (2, 2)
    np.testing.assert_array_equal(first, second)


def test_the_unit_of_the_loss_matters_to_no_power_law() -> None:
    steps = np.arange(10, 5_000, 10)
    losses = curve("power law in steps")[steps - 1]
    one, ten = (BASELINES["power law in steps"](steps, u * losses, PLAN)([10_000]) for u in (1, 10))
    assert ten[0] == pytest.approx(10 * one[0], rel=1e-3)


def test_a_loss_that_cannot_be_is_not_predicted() -> None:
    # before any decay B stays at 100: a drop of 100 * 4.2, far below 0
    plan = LRSchedule.wsd(1_000, 4.2, decay_fraction=0.2)
    steps = np.arange(10, 500, 10)
    losses = 2 + 3 / np.sqrt(steps)
    assert BASELINES["multi-power law"](steps, losses, plan)([1_000])[0] == losses[-1]


def test_the_last_finite_value_is_the_last_value() -> None:
    assert last_value([1, 2, 3], [4.0, 3.0, np.nan], PLAN)(10_000) == 3.0
    assert np.isnan(last_value([], [], PLAN)([5])).all()


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_misuse_is_an_error_of_ours(name: str) -> None:
    with pytest.raises(ObservationError, match="two arrays"):
        BASELINES[name]([1, 2, 3], [1.0, 2.0], PLAN)
    with pytest.raises(ObservationError, match="whole"):
        BASELINES[name]([1.5, 2, 3], [1.0, 2.0, 3.0], PLAN)
