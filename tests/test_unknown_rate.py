"""Runs whose learning rate is not known."""

import math
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from lossforecast import Action, Caveat, Forecaster, LRSchedule, RunInfo
from lossforecast.numerics import Mixture
from lossforecast.policies import dominated, no_room, reschedule, target_miss
from lossforecast.prior import PastRun, Prior
from lossforecast.runs import History

TOTAL = 1_000
HELD = LRSchedule.constant(TOTAL, 1.0)
UNKNOWN = HELD.with_caveats(Caveat.LR_UNKNOWN)


def losses(n: int) -> NDArray[np.float64]:
    noise = 0.01 * np.random.default_rng(0).normal(size=n)
    return np.asarray(2 + 3 * (np.arange(n) + 5) ** -0.5 + noise)


def half_way(plan: LRSchedule, prior: Prior | None = None) -> Forecaster:
    forecaster = Forecaster(plan, RunInfo("train", project="p"), prior=prior)
    forecaster.observe_many(range(500), losses(500))
    return forecaster


def test_the_forecast_covers_a_held_rate_and_a_decay() -> None:
    unknown, held = half_way(UNKNOWN).forecast(), half_way(HELD).forecast()
    decayed = half_way(HELD).forecast(schedule=HELD.with_decay(start=499))
    assert unknown.caveats == (Caveat.LR_UNKNOWN,)
    for value in (1.9, 2.05, 2.1, 2.15):
        both = (held.prob_below(value) + decayed.prob_below(value)) / 2
        assert unknown.prob_below(value) == pytest.approx(both, abs=1e-9)
    assert decayed.median < unknown.median < held.median
    lower, upper = unknown.interval()
    assert lower < held.interval()[0]
    assert upper > decayed.interval()[1]
    assert unknown.anneal_gain.source == "prior"
    assert unknown.anneal_gain.mean == pytest.approx(decayed.anneal_gain.mean / 2)


def test_its_curve_ends_at_the_forecast() -> None:
    forecast = half_way(UNKNOWN).forecast()
    curve = forecast.curve()
    assert curve.median[-1] == pytest.approx(forecast.median, rel=1e-6)
    assert (curve.lower[-1], curve.upper[-1]) == pytest.approx(forecast.interval(), rel=1e-6)
    fall = forecast.gain_to_come
    assert fall.lower < fall < fall.upper
    assert pickle.loads(pickle.dumps(forecast)).interval() == forecast.interval()


def test_a_decay_that_is_asked_for_is_certain() -> None:
    decay = UNKNOWN.with_decay(start=600)
    asked = half_way(UNKNOWN).forecast(schedule=decay)
    told = half_way(HELD).forecast(schedule=HELD.with_decay(start=600))
    assert asked.median == told.median
    gain = half_way(UNKNOWN).forecast().gain(decay)
    assert gain.lower < 0 < gain.upper  # the plan may decay as well


def test_no_policy_acts() -> None:
    for policy in (target_miss(), no_room(0.01), reschedule(), dominated()):
        forecaster = half_way(UNKNOWN)
        for _ in range(3):
            advice = forecaster.recommend(0.1, policy)
        assert advice.action is Action.ABSTAIN
        assert "no learning rate is known" in advice.message


def test_at_the_end_nothing_is_left_to_decay() -> None:
    forecaster = half_way(UNKNOWN)
    forecaster.observe_many(range(500, TOTAL + 1), losses(TOTAL + 1)[500:])
    forecast = forecaster.forecast()
    assert forecast.anneal_gain.source == "none"
    assert forecast.median == pytest.approx(2 + 3 * (TOTAL + 5) ** -0.5, rel=0.01)
    early = forecaster.forecast(step=200)
    assert early.median == pytest.approx(2 + 3 * 205**-0.5, rel=0.02)


def test_before_the_first_loss_there_is_no_forecast() -> None:
    forecast = Forecaster(UNKNOWN).forecast()
    assert math.isnan(forecast.median)
    assert forecast.caveats == (Caveat.LR_UNKNOWN,)


def test_it_is_resumed() -> None:
    forecaster = half_way(UNKNOWN)
    again = Forecaster.from_state_dict(forecaster.state_dict())
    assert again.forecast().interval() == forecaster.forecast().interval()


def test_only_runs_with_as_unknown_a_rate_are_learned_from() -> None:
    run = RunInfo("train", project="p")
    history = History()
    history.observe_many(range(TOTAL), losses(TOTAL))
    for plan, other in ((UNKNOWN, HELD), (HELD, UNKNOWN)):
        past = PastRun.of("a", run, plan, history)
        assert past is not None
        assert past.expected_differences(run, plan) is not None
        assert past.expected_differences(run, other) is None


def test_mixtures_are_joined_with_equal_weights() -> None:
    one = Mixture(np.array([1.0]), np.array([[0.0]]), np.array([[1.0]]))
    two = Mixture(np.array([0.5, 0.5]), np.array([[2.0], [4.0]]), np.array([[1.0], [1.0]]))
    joined = Mixture.joined([one, two])
    np.testing.assert_allclose(joined.weight, [0.5, 0.25, 0.25])
    assert joined.moments()[0][0] == pytest.approx(1.5)
    assert Mixture.joined([one]) is one
