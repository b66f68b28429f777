"""Runs that follow no law yet: plateaus, and losses that fall faster and faster."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import halfnorm

from lossforecast import Caveat, Forecaster, LRSchedule, Prior, RunInfo, Status
from lossforecast.laws import LAWS
from lossforecast.policies import is_open
from lossforecast.posterior import Posterior, fit
from lossforecast.posterior.unsettled import FALL_WEIGHTS, MEMORISING, SETTLING
from lossforecast.runs import gather

TOTAL = 4_000
PLAN = LRSchedule.cosine(TOTAL, 1e-3, warmup=100)
TIME = np.linspace(0.15, 1.0, 100)


def forecaster(losses: np.ndarray, task: str | None = None) -> Forecaster:
    """A run whose first steps have these losses."""
    watch = Forecaster(PLAN, RunInfo("train", "adamw", task=task))
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=losses.size))
    watch.observe_many(np.arange(losses.size), losses * noise)
    return watch


def fitted(losses: np.ndarray) -> Posterior:
    """The posterior of the same run."""
    beliefs = Prior().for_run(RunInfo("train", "adamw"), PLAN, tuple(LAWS))
    history = forecaster(losses).history
    return fit(gather(history.bins(), PLAN, beliefs.burn_in), PLAN, history.last_step, beliefs)


def first_fall(seen: int, begins: int = 800) -> np.ndarray:
    """A loss on a plateau, and then in a fall to a quarter within a few hundred steps."""
    steps = np.arange(seen)
    return 4.0 / (1 + 3 / (1 + np.exp((begins + 200 - steps) / 60)))


def test_a_loss_that_accelerates_is_more_likely_unsettled() -> None:
    slowing, steady, faster = (
        SETTLING.probability(TIME, z, progress_left=2.0, rate_fall=0.0)
        for z in (1 / TIME, -np.log(TIME), -(TIME**3))
    )
    assert slowing < steady < faster
    assert faster > 0.5


def test_a_flat_loss_and_one_with_few_points_may_be_unsettled() -> None:
    flat = SETTLING.probability(TIME, np.zeros(TIME.size), 2.0, 0.0)
    assert 0.1 < flat < 0.3
    assert SETTLING.probability(np.array([1.0]), np.array([0.0]), 2.0, 0.0) == flat


def test_the_doubt_fades_as_the_run_ends() -> None:
    left = [
        SETTLING.probability(TIME, -(TIME**3), progress, 0.0) for progress in (2.0, 0.5, 0.1, 0.0)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0.0


def test_falls_are_of_any_size_and_in_proportion_to_the_progress() -> None:
    assert FALL_WEIGHTS.sum() == pytest.approx(1.0)
    mean, std = SETTLING.moments(np.array([0.0, 1.0, 2.0]), np.zeros(3), np.zeros(3))
    assert (mean[:, 0] == 0).all()
    assert mean[:, 2] == pytest.approx(2 * mean[:, 1])
    assert std[:, 2] == pytest.approx(2 * std[:, 1])
    expected = halfnorm.mean(scale=0.6)
    assert FALL_WEIGHTS @ mean[:, 1] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("seen", [900, 950, 1_000, 1_050])
def test_in_a_first_fall_the_end_may_be_near_or_far(seen: int) -> None:
    """Whatever a law makes of the fall: it may be over, or go on."""
    posterior = fitted(first_fall(seen))
    doubting, of_laws = (
        given.predict(PLAN, np.array([TOTAL])).quantiles(np.array([0.1, 0.9]))[:, 0]
        for given in (posterior, replace(posterior, unsettled=0.0))
    )
    assert doubting[0] < 0.5 * first_fall(seen)[-1]
    assert doubting[1] > of_laws[1]


def test_a_run_in_its_first_fall_is_too_short_and_later_it_is_not() -> None:
    assert forecaster(first_fall(950)).forecast().status is Status.TOO_SHORT
    assert forecaster(first_fall(3_000)).forecast().status is not Status.TOO_SHORT


def test_large_language_models_are_settled_from_their_start() -> None:
    losses = first_fall(1_000)
    assert forecaster(losses, "language modelling").forecast().status is not Status.TOO_SHORT
    told = forecaster(losses, "language modelling").forecast().interval(0.8)
    assert np.ptp(told) < np.ptp(forecaster(losses).forecast().interval(0.8))


def test_what_a_longer_run_brings_is_less_sure_in_a_first_fall() -> None:
    posterior = fitted(first_fall(1_000))
    longer = LRSchedule.cosine(2 * TOTAL, 1e-3, warmup=100)
    gain, gain_of_laws = (
        given.gains(PLAN, TOTAL, [(longer, 2 * TOTAL)])
        for given in (posterior, replace(posterior, unsettled=0.0))
    )
    quartiles = np.array([0.25, 0.75])
    assert np.ptp(gain.quantiles(quartiles)) > 1.2 * np.ptp(gain_of_laws.quantiles(quartiles))


def test_the_doubt_is_about_what_comes_not_about_what_was() -> None:
    losses = first_fall(1_000)
    curve = forecaster(losses).forecast().curve([400, 700])
    assert (curve.lower > 3.5).all()
    assert (curve.upper < 4.5).all()


def test_while_data_is_memorised_a_loss_may_fall_further() -> None:
    progress, none = np.array([0.5]), np.zeros(1)
    usual, held, annealed = (
        float(FALL_WEIGHTS @ doubt.moments(progress, none, rate_fall)[0][:, 0])
        for doubt, rate_fall in ((SETTLING, none), (MEMORISING, none), (MEMORISING, none + 1))
    )
    assert 1.5 * usual < held
    assert 2 * held < annealed


def test_a_loss_in_full_fall_may_be_memorising() -> None:
    flat, falling = (MEMORISING.probability(TIME, z, 2.0, 0.0) for z in (0 * TIME, -2 * TIME))
    assert 0 < flat < falling
    at_end = [MEMORISING.probability(TIME, -2 * TIME, 0.0, decay) for decay in (1.0, 0.1, 0.0)]
    assert at_end == sorted(at_end, reverse=True)
    assert at_end[-1] == 0


def test_a_young_run_is_not_forecast_to_vanish() -> None:
    """However much progress is left, a fall has bounds."""
    mean, std = SETTLING.moments(np.array([2.5, 20.0]), np.zeros(2), np.zeros(2))
    np.testing.assert_array_equal(mean[:, 0], mean[:, 1])
    np.testing.assert_array_equal(std[:, 0], std[:, 1])


def staircase(every: int = 1) -> LRSchedule:
    """A rate that falls to a tenth at a third and at two thirds of the run, logged now and then."""
    steps = np.arange(0, TOTAL, every)
    rates = 0.1 ** np.minimum(3 * steps // TOTAL, 2).astype(float)
    return LRSchedule.from_points(steps, rates, total_steps=TOTAL)


@pytest.mark.parametrize("every", [1, 10])
def test_the_steps_of_a_step_decay_are_found(every: int) -> None:
    stepped = staircase(every).stepped([1, 1_200, 1_500, 2_500, 2_800, TOTAL])
    assert stepped == pytest.approx(np.log(10) * np.array([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        LRSchedule.linear(TOTAL, 1e-3),
        LRSchedule.wsd(TOTAL, 1e-3, decay_fraction=0.1),
        LRSchedule.wsd(TOTAL, 1e-3, decay_fraction=0.03),
        LRSchedule.constant(TOTAL, 1e-3),
        LRSchedule.constant(TOTAL, 0.0),
        LRSchedule.constant(3, 1e-3),
        *(LRSchedule.linear(steps, 1e-3) for steps in (5, 30, 120, 250, 1_000_000)),
        *(LRSchedule.cosine(steps, 1e-3, warmup=2) for steps in (5, 30, 120, 250, 1_000_000)),
        *(LRSchedule.wsd(steps, 1e-3, decay_fraction=0.2) for steps in (10, 30, 120, 250)),
        LRSchedule.from_array(1e-3 * 0.999 ** np.arange(TOTAL)),
    ],
)
def test_a_smooth_decay_has_no_steps(plan: LRSchedule) -> None:
    steps = np.array([1, plan.total_steps // 2, plan.total_steps])
    assert (plan.stepped(steps) == 0).all()


@pytest.mark.parametrize(("seen", "counts"), [(1_000, True), (1_450, True), (1_600, False)])
def test_until_the_effect_of_a_step_of_the_rate_was_seen_a_loss_may_fall_further_there(
    seen: int, counts: bool
) -> None:
    watch = Forecaster(staircase(), RunInfo("train", "sgd"))
    steps = np.arange(seen)
    watch.observe_many(steps, 2 + 3 * (steps + 5.0) ** -0.5)
    posterior = watch.forecast()._posterior
    assert posterior is not None
    end = posterior.now_and_end.last()
    mean, _ = posterior._falls(end)
    without, _ = SETTLING.moments(
        posterior.now_and_end.progress_to(end.terms), np.zeros(1), np.zeros(1)
    )
    assert (mean > 1.5 * without).all() == counts
    assert (mean == without).all() != counts


def test_no_policy_acts_before_the_first_step_of_the_rate() -> None:
    found = {}
    for task in ("image classification", "language modelling"):
        for seen in (1_000, 1_450, 1_600):
            watch = Forecaster(staircase(), RunInfo("train", "sgd", task=task))
            steps = np.arange(seen)
            watch.observe_many(steps, 2 + 3 * (steps + 5.0) ** -0.5)
            forecast = watch.forecast()
            found[task, seen] = Caveat.LR_STEP_AHEAD in forecast.caveats
            assert found[task, seen] <= is_open(forecast)
    assert found == {
        ("image classification", 1_000): True,
        ("image classification", 1_450): True,
        ("image classification", 1_600): False,
        ("language modelling", 1_000): False,
        ("language modelling", 1_450): False,
        ("language modelling", 1_600): False,
    }
