"""Advice on decays, checked where the truth under every schedule is known: runs that obey a law."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.laws import annealing

from lossforecast import Action, ConfigurationError, Forecaster, LRSchedule, RunInfo, ScheduleError
from lossforecast.advice import SHAPES, decays, endings, first_decay, optimised
from lossforecast.forecast import Estimate
from lossforecast.policies import reschedule

TOTAL, SEEN, PEAK = 4_000, 2_400, 1e-3
HELD = LRSchedule.constant(TOTAL, PEAK, warmup=100)


def truth(seed: int) -> Callable[[LRSchedule], np.ndarray]:
    """Losses after each step of any schedule, by an annealing law drawn at random, about 3."""
    rng = np.random.default_rng(seed)
    lambda_ = 1 - 1 / (TOTAL * rng.uniform(0.01, 0.05))
    drop = 3.2 * 0.06 * np.exp(0.22 * rng.normal())
    parameters = {
        "L0": rng.uniform(2.6, 2.9),
        "A": rng.uniform(0.3, 0.6),
        "alpha": rng.uniform(0.4, 0.5),
        "C": drop / PEAK * (1 - lambda_),
        "lambda_": lambda_,
    }
    return lambda schedule: annealing(schedule.to_array(), **parameters)


def watched(seed: int, plan: LRSchedule = HELD, seen: int = SEEN) -> Forecaster:
    """A run of that truth, validated every 20 steps."""
    steps = np.arange(20, seen + 1, 20)
    noise = 0.003 * np.random.default_rng([seed, 1]).normal(size=steps.size)
    forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
    forecaster.observe_many(steps, truth(seed)(plan)[steps - 1] + noise)
    return forecaster


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return watched(0)


def test_the_advised_decay_is_nearly_the_best_and_gains_what_it_says() -> None:
    """20 laws: at most 0.5% behind the best of a grid under the law; 80% intervals of the gain."""
    inside = 0
    for seed in range(20):
        best, losses = decays(watched(seed).forecast())[0], truth(seed)
        grid = [
            losses(HELD.with_decay(start=start, shape=shape))[-1]
            for start in range(SEEN, TOTAL, 200)
            for shape in SHAPES
        ]
        ends = losses(best.schedule)[-1]
        assert ends <= 1.005 * min(grid)
        inside += best.gain.lower <= losses(HELD)[-1] - ends <= best.gain.upper
    assert inside >= 12, "fewer happen once in a hundred times"


def test_a_gain_is_surer_than_the_difference_of_two_forecasts(forecaster: Forecaster) -> None:
    forecast, other = forecaster.forecast(), HELD.with_decay(start=3_000)
    what_if = forecaster.forecast(schedule=other)
    gain = forecast.gain(other)
    assert gain == pytest.approx(forecast.median - what_if.median, rel=0.1)
    assert gain.lower < gain < gain.upper
    apart = np.hypot(forecast.std, what_if.std)
    assert (gain.upper - gain.lower) / 2.56 < apart
    assert forecast.gain(HELD) == pytest.approx(0, abs=1e-9)
    assert forecast.gains([other, HELD]) == pytest.approx([float(gain), 0], abs=1e-9)
    assert forecast.prob_gain_above(gain, other) == pytest.approx(0.5, abs=1e-3)
    assert forecast.prob_gain_above(gain.lower, other) == pytest.approx(0.9, abs=1e-3)
    assert forecast.under(other) == pytest.approx(what_if.median)


def test_the_gain_to_come_is_what_is_left(forecaster: Forecaster) -> None:
    now = forecaster.forecast(step=SEEN)
    final = forecaster.forecast()
    assert final.gain_to_come == pytest.approx(now.median - final.median, abs=0.002)
    assert now.gain_to_come == pytest.approx(0, abs=1e-9)


def test_the_best_of_each_shape_is_offered_the_best_first(forecaster: Forecaster) -> None:
    options = decays(forecaster.forecast())
    assert {option.decay.shape for option in options if option.decay} == set(SHAPES)
    assert [*options] == sorted(options, key=lambda option: -option.gain)
    for option in options:
        assert option.decay is not None
        assert SEEN <= option.decay.start < TOTAL
        assert option.decay.start + option.decay.steps == option.schedule.total_steps == TOTAL
        assert option.schedule.lr(option.decay.start) == PEAK
        assert option.schedule.lr(TOTAL) <= 0.01 * PEAK * (1 + 1e-9)
    (linear,) = decays(forecaster.forecast(), shapes=["linear"])
    assert linear in options


def test_a_longer_run_may_be_planned(forecaster: Forecaster) -> None:
    best = decays(forecaster.forecast(), total_steps=2 * TOTAL)[0]
    assert best.schedule.total_steps == 2 * TOTAL
    assert best.gain > decays(forecaster.forecast())[0].gain


def test_nothing_is_optimised_away(forecaster: Forecaster) -> None:
    free, best = optimised(forecaster.forecast()), decays(forecaster.forecast())[0]
    assert free is not None
    assert free.gain >= best.gain - 0.001
    rates = free.schedule.lr(np.arange(SEEN, TOTAL + 1))
    assert rates.max() <= PEAK * (1 + 1e-9)
    assert (np.diff(rates) <= 1e-12).all(), "it never rises"
    assert truth(0)(free.schedule)[-1] <= 1.005 * truth(0)(best.schedule)[-1]


def test_what_more_steps_would_give(forecaster: Forecaster) -> None:
    found = endings(forecaster.forecast())
    assert [ending.steps for ending in found][:2] == [0, 32]
    assert found[-1].steps == TOTAL - SEEN
    losses = [float(ending.loss) for ending in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(truth(0)(HELD)[SEEN - 1], rel=0.003)
    assert all(ending.per_step > 0 for ending in found[1:])
    assert all(e.schedule.total_steps == SEEN + e.steps for e in found)
    for ending in found[3:]:
        real = truth(0)(ending.schedule)[-1]
        assert ending.loss.lower - 0.02 < real < ending.loss.upper + 0.02
    (some,) = endings(forecaster.forecast(), [800])
    assert some.steps == 800


def test_a_run_planned_to_decay_gains_little() -> None:
    plan = LRSchedule.wsd(TOTAL, PEAK, warmup=100, decay_fraction=0.3, shape="sqrt")
    assert decays(watched(0, plan).forecast())[0].gain < 0.01


def test_before_anything_is_known_nothing_is_advised() -> None:
    forecast = Forecaster(HELD).forecast()
    assert decays(forecast) == ()
    assert endings(forecast) == ()
    assert optimised(forecast) is None
    for unknown in (forecast.estimate, forecast.gain_to_come, forecast.gain(HELD)):
        assert np.isnan([unknown, unknown.lower, unknown.upper]).all()
    assert np.isnan(forecast.gains([HELD])).all()
    assert np.isnan(forecast.prob_gain_above(0.0))


@pytest.mark.parametrize(
    "plan",
    [
        LRSchedule.linear(TOTAL // 2, PEAK).extended_to(TOTAL),
        LRSchedule.constant(TOTAL, 0.0),
        LRSchedule.constant(TOTAL, PEAK, warmup=3_000),
    ],
    ids=["at 0 before its end", "at 0 throughout", "still warming up"],
)
def test_without_a_rate_to_decay_from_nothing_is_advised(plan: LRSchedule) -> None:
    steps = np.arange(20, SEEN + 1, 20)
    forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
    forecaster.observe_many(steps, 3 + 3 * (steps + 20.0) ** -0.5)
    assert decays(forecaster.forecast()) == ()
    assert optimised(forecaster.forecast()) is None
    assert np.isfinite([float(ending.loss) for ending in endings(forecaster.forecast())]).all()
    assert forecaster.recommend(policy=reschedule()).action is not Action.CHANGE_SCHEDULE


def test_at_the_end_nothing_is_left_to_advise() -> None:
    forecast = watched(0, seen=TOTAL).forecast()
    assert decays(forecast) == ()
    assert optimised(forecast) is None
    assert [ending.steps for ending in endings(forecast)] == [0]


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda f: decays(f, shapes=["round"]), ConfigurationError, r"unknown shapes \['round'\]"),
        (lambda f: decays(f, shapes=[]), ConfigurationError, "unknown shapes"),
        (lambda f: decays(f, total_steps=100), ConfigurationError, "total_steps is 100, but the"),
        (lambda f: endings(f, [-1]), ConfigurationError, "more"),
        (lambda f: f.gain(LRSchedule.constant(100, 1e-3)), ScheduleError, "before the present"),
        (lambda f: f.under(LRSchedule.constant(100, 1e-3)), ScheduleError, "before the present"),
    ],
)
def test_misuse_is_named(
    forecaster: Forecaster, ask: Callable[[Any], Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ask(forecaster.forecast())


def test_losses_below_zero_are_advised_too() -> None:
    plan, steps = HELD, np.arange(20, SEEN + 1, 20)
    forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
    forecaster.observe_many(steps, truth(0)(plan)[steps - 1] - 3.5)
    best = decays(forecaster.forecast())[0]
    assert best.gain > 0
    assert np.isfinite([best.gain.lower, best.gain.upper]).all()


def test_a_run_without_a_decay_is_believed_to_drop_like_one_with() -> None:
    other = HELD.with_decay(start=round(0.8 * TOTAL))
    planned = LRSchedule.wsd(TOTAL, PEAK, warmup=100)
    held = watched(0).forecast().gain(other)
    decaying = watched(0, planned).forecast().gain(HELD)
    assert held == pytest.approx(-decaying, rel=0.1)


def test_an_estimate_is_a_number_that_can_be_copied() -> None:
    estimate = Estimate(2.0, 1.5, 2.5)
    assert estimate + 1 == 3
    assert f"{estimate:.1f}" == "2.0"
    assert repr(estimate) == "2 (1.5 to 2.5)"
    for other in (copy.deepcopy(estimate), pickle.loads(pickle.dumps(estimate))):
        assert (other, other.lower, other.upper) == (2.0, 1.5, 2.5)


def test_a_first_look_comes_close_to_the_best_decay(forecaster: Forecaster) -> None:
    forecast = forecaster.forecast()
    first = first_decay(forecast)
    assert first is not None
    (best,) = decays(forecast, shapes=["linear"])
    width = best.gain.upper - best.gain.lower
    assert best.gain - width / 10 <= first.gain <= best.gain
    assert first_decay(Forecaster(HELD).forecast()) is None
    with pytest.raises(ConfigurationError, match="unknown shapes"):
        first_decay(forecast, "round")
