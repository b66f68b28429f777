"""A run's own earlier forecasts, and how far they were off what came."""

import json

import numpy as np
import pytest

from lossforecast import Action, Caveat, Forecaster, LRSchedule, RunInfo
from lossforecast.forecaster import Hindsight
from lossforecast.policies import Outlook, dominated, target_miss

TOTAL = 4_000
PLAN = LRSchedule.cosine(TOTAL, 1e-3, warmup=50)
STEPS = np.arange(TOTAL)
NOISE = np.exp(0.01 * np.random.default_rng(0).normal(size=TOTAL))
LAWFUL = (2 + 3 * (STEPS + 5.0) ** -0.5) * NOISE
FALLS_LATE = 4 / (1 + 3 / (1 + np.exp((1_000 - STEPS) / 60))) * NOISE
"""A plateau, and a fall to a quarter around step 1,000, which nothing announced."""


def forecaster(losses: np.ndarray, seen: int, plan: LRSchedule = PLAN) -> Forecaster:
    found = Forecaster(plan, RunInfo("train", "adamw"))
    found.observe_many(STEPS[:seen], losses[:seen])
    return found


def surprise(watch: Forecaster) -> float:
    return Hindsight().surprise(watch.history, watch.schedule, watch._posterior)


def width(watch: Forecaster) -> float:
    lower, upper = np.log(watch.forecast().interval())
    return float(upper - lower)


def test_a_run_that_follows_a_law_surprises_nobody() -> None:
    for seen in (200, 600, 2_000):
        watch = forecaster(LAWFUL, seen)
        assert 0 < surprise(watch) < 1
        assert Caveat.FORECASTS_FAILED not in watch.forecast().caveats


def test_a_jump_that_nobody_announced_surprises_until_its_windows_are_past() -> None:
    jumps = np.where(STEPS < 900, LAWFUL, 2 * LAWFUL)
    before, after, long_after = (forecaster(jumps, seen) for seen in (900, 1_250, 3_400))
    assert surprise(before) < 1
    assert surprise(after) > 2
    assert surprise(long_after) < 1
    assert Caveat.FORECASTS_FAILED in after.forecast().caveats
    assert Caveat.FORECASTS_FAILED not in long_after.forecast().caveats


def test_where_forecasts_failed_the_next_one_is_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = forecaster(FALLS_LATE, 1_250)
    found, expected = width(watch), np.sqrt(surprise(watch))
    monkeypatch.setattr(Hindsight, "surprise", lambda *_: 0.0)
    unaware = width(forecaster(FALLS_LATE, 1_250))
    # bounds on a forecast keep it from growing by all of the factor
    assert 1.2 * unaware < found < 1.05 * expected * unaware


def test_without_earlier_forecasts_there_is_no_surprise() -> None:
    assert surprise(forecaster(LAWFUL, 0)) == 0
    assert surprise(forecaster(LAWFUL, 8)) == 0


def test_it_is_the_same_however_often_one_asks() -> None:
    often = forecaster(FALLS_LATE, 0)
    for end in range(50, 1_301, 50):
        often.observe_many(STEPS[end - 50 : end], FALLS_LATE[end - 50 : end])
        often.forecast()
    once = forecaster(FALLS_LATE, 1_300)
    resumed = Forecaster.from_state_dict(json.loads(json.dumps(often.state_dict())))
    forecasts = [watch.forecast() for watch in (often, once, resumed)]
    assert len({forecast.at_levels for forecast in forecasts}) == 1
    assert {forecast.caveats for forecast in forecasts} == {(Caveat.FORECASTS_FAILED,)}


def test_a_rewound_run_forgets_what_was_dropped() -> None:
    watch = forecaster(FALLS_LATE, 1_250)
    watch.forecast()
    watch.observe_many(STEPS[700:900], LAWFUL[700:900])
    fresh = forecaster(FALLS_LATE, 700)
    fresh.observe_many(STEPS[700:900], LAWFUL[700:900])
    assert watch.forecast().at_levels == fresh.forecast().at_levels


def test_a_jump_that_was_announced_surprises_nobody() -> None:
    losses = np.where(STEPS < 900, LAWFUL, 2 * LAWFUL)
    silent, announced = forecaster(losses, 0), forecaster(losses, 0)
    announced.event(900, "stronger augmentation")
    for watch in (silent, announced):
        watch.observe_many(STEPS[:1_200], losses[:1_200])
    assert surprise(silent) > 2
    assert surprise(announced) < 1


def test_no_policy_acts_on_a_forecast_whose_predecessors_failed() -> None:
    watch = forecaster(FALLS_LATE, 0)
    actions = set()
    for end in range(10, 1_300, 10):
        watch.observe_many(STEPS[end - 10 : end], FALLS_LATE[end - 10 : end])
        advice = watch.recommend(
            1e-3, [target_miss(0.5, checks=1), dominated(risk=0.5)], [Outlook.ended(1e-3)]
        )
        if Caveat.FORECASTS_FAILED in watch.forecast().caveats:
            actions.add(advice.action)
            assert "earlier forecasts of this run" in advice.message
    assert actions == {Action.ABSTAIN}


def test_a_spike_is_no_surprise() -> None:
    spiked = LAWFUL + 5.0 * ((STEPS >= 1_100) & (STEPS < 1_120))
    assert surprise(forecaster(spiked, 1_250)) < 1


def test_losses_of_zero_and_below_are_compared_as_well() -> None:
    assert 0 < surprise(forecaster(LAWFUL - 2.5, 1_000)) < 1.5
    assert surprise(forecaster(FALLS_LATE - 2.5, 1_250)) > 2


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_unit_of_the_loss_does_not_matter(scale: float) -> None:
    expected = surprise(forecaster(LAWFUL, 1_000))
    assert surprise(forecaster(scale * LAWFUL, 1_000)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("end", [0.0, -1.0])
def test_a_loss_that_reaches_0_and_below_is_compared(end: float) -> None:
    losses = np.where(STEPS < 700, LAWFUL, end)
    assert surprise(forecaster(losses, 1_100)) > 2


def test_a_rate_that_leaves_the_plan_is_no_fault_of_the_forecasts() -> None:
    halved = np.where(STEPS < 600, 1e-3, 5e-4)
    watch = Forecaster(LRSchedule.constant(TOTAL, 1e-3), RunInfo("train", "adamw"))
    dropped = LAWFUL - 0.05 * (STEPS >= 600)
    watch.observe_many(STEPS[:1_000], dropped[:1_000], halved[:1_000])
    blind = forecaster(dropped, 1_000, LRSchedule.constant(TOTAL, 1e-3))
    assert surprise(watch) < surprise(blind)


def test_a_rate_that_is_followed_changes_no_earlier_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the windows that ended since the last check are forecast, also on resume."""
    fits = 0
    fitted = Forecaster._posterior

    def counted(self: Forecaster, *args: object) -> object:
        nonlocal fits
        fits += 1
        return fitted(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Forecaster, "_posterior", counted)
    assumed = LRSchedule.constant(TOTAL, 1e-3).with_caveats(Caveat.LR_ASSUMED)
    watch = forecaster(LAWFUL, 0, assumed)
    rates = PLAN.lr(STEPS + 1)
    for end in range(50, 2_001, 50):
        watch.observe_many(STEPS[end - 50 : end], LAWFUL[end - 50 : end], rates[end - 50 : end])
        watch.follow_rate(end, float(rates[end]))
        watch.forecast()
    assert fits <= 25  # 22 windows end in 2,000 steps; with 3 at each check it would be 113
    resumed = Forecaster.from_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert surprise(resumed) == surprise(watch) > 0
    assert resumed.forecast().at_levels == watch.forecast().at_levels
