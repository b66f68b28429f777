import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossforecast import (
    Action,
    Caveat,
    ConfigurationError,
    Forecaster,
    LossForecastError,
    LRSchedule,
    ObservationError,
    Prior,
    RunInfo,
    ScheduleError,
    StateError,
    Status,
)

TOTAL = 2_000
WSD = LRSchedule.wsd(TOTAL, 1e-3, warmup=100)
COSINE = LRSchedule.cosine(TOTAL, 1e-3, warmup=100)
LANGUAGE_MODEL = RunInfo("train", "adamw", task="language modelling")


def losses(steps: np.ndarray, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loss: np.ndarray = 2.5 + 6 * (steps + 20.0) ** -0.5 + noise * rng.normal(size=steps.size)
    return loss


def half_way(schedule: LRSchedule = WSD, **keywords: object) -> Forecaster:
    forecaster = Forecaster(schedule, LANGUAGE_MODEL, **keywords)  # type: ignore[arg-type]
    steps = np.arange(TOTAL // 2)
    forecaster.observe_many(steps, losses(steps), np.r_[np.nan, schedule.lr(steps[1:])])
    return forecaster


# ---------------------------------------------------------------------- status and caveats


def test_without_data_the_status_says_so_and_nothing_is_invented() -> None:
    forecast = Forecaster(COSINE).forecast()
    assert forecast.status is Status.NO_DATA
    assert math.isnan(forecast.mean)
    assert all(math.isnan(x) for x in forecast.interval())
    assert math.isnan(forecast.prob_below(3.0))
    assert np.isnan(forecast.curve().mean).all()
    assert forecast.parameters == {}


def test_one_loss_gives_a_wide_finite_answer() -> None:
    forecaster = Forecaster(COSINE)
    forecaster.observe(0, 4.0)
    forecast = forecaster.forecast()
    assert forecast.status is Status.TOO_SHORT
    assert math.isfinite(forecast.mean)
    assert forecast.std > 0.2


def test_before_the_decay_the_drop_is_assumed_and_after_it_learnt() -> None:
    before = half_way(WSD).forecast()
    assert before.status is Status.PRIOR_DRIVEN
    assert before.anneal_gain.source == "prior"
    assert before.anneal_gain.mean > 0

    forecaster = Forecaster(WSD, replace(LANGUAGE_MODEL, metric="val"))
    steps = np.arange(100, 1_960, 20)
    drop = 0.2 * (1 - WSD.lr(steps) / 1e-3)
    forecaster.observe_many(steps, losses(steps, noise=0.001) - drop)
    late = forecaster.forecast()
    assert late.status is Status.IDENTIFIED
    assert late.anneal_gain.source == "data"
    assert late.std < before.std / 3


def test_a_constant_schedule_has_no_anneal_gain() -> None:
    gain = half_way(LRSchedule.constant(TOTAL, 1e-3, warmup=100)).forecast().anneal_gain
    assert (gain.mean, gain.std, gain.source) == (0.0, 0.0, "none")


def test_a_probe_measures_the_drop() -> None:
    forecaster = half_way(WSD)
    blind = forecaster.forecast()
    forecaster.observe_gap(step=990, gap=0.08, stderr=0.002, horizon=100)
    told = forecaster.forecast()
    assert told.anneal_gain.source == "probe"
    assert told.std < blind.std
    assert told.status is Status.IDENTIFIED


def test_a_run_that_no_law_describes_is_a_misfit_with_a_wide_answer() -> None:
    steps = np.arange(100, 1_000)
    stairs = 3.0 + np.where(steps % 300 < 150, 0.8, 0.0) + 0.001 * np.sin(steps)
    forecaster = Forecaster(COSINE, RunInfo(optimizer="adamw"))
    forecaster.observe_many(steps, stairs)
    forecast = forecaster.forecast()
    assert forecast.status is Status.MISFIT
    low, high = forecast.interval(0.8)
    assert high - low > 0.3


def test_caveats() -> None:
    forecaster = half_way()
    assert forecaster.forecast().caveats == ()
    forecaster.observe(1_000, math.nan)
    assert forecaster.forecast().caveats == (Caveat.NON_FINITE,)

    off = Forecaster(WSD)
    steps = np.arange(1, 500)
    off.observe_many(steps, losses(steps), np.full(steps.size, 5e-4))
    assert Caveat.LR_OFF_PLAN in off.forecast().caveats

    restarts = WSD.joined(1_500, COSINE)
    assert Caveat.LR_RISES_AHEAD not in half_way(COSINE).forecast().caveats
    lifted = LRSchedule.from_points(
        [0, 900, 1_200, 1_500], [1e-3, 1e-4, 1e-4, 1e-3], total_steps=TOTAL
    )
    assert Caveat.LR_RISES_AHEAD in half_way(lifted).forecast().caveats
    assert restarts.total_steps == TOTAL

    assumed = LRSchedule.from_array(np.full(TOTAL, 1e-3), caveats=[Caveat.LR_ASSUMED])
    assert Caveat.LR_ASSUMED in half_way(assumed).forecast().caveats


def test_overfitting_is_noticed_on_validation_only() -> None:
    steps = np.arange(100, 1_000, 10)
    u_shaped = 2.0 + 1e-6 * (steps - 500.0) ** 2
    for metric, expected in (("val", True), ("train", False)):
        forecaster = Forecaster(COSINE, RunInfo(metric=metric))
        forecaster.observe_many(steps, u_shaped)
        assert (Caveat.OVERFITTING in forecaster.forecast().caveats) is expected


def test_a_rise_with_the_learning_rate_is_no_overfitting() -> None:
    lifted = LRSchedule.from_points([0, 500, 510, 1_500], [1e-3, 1e-4, 1e-3, 0], total_steps=TOTAL)
    steps = np.arange(100, 1_000, 10)
    for schedule, expected in ((lifted, False), (COSINE, True)):
        forecaster = Forecaster(schedule, RunInfo(metric="val"))
        forecaster.observe_many(steps, 2.0 - 1e-3 * np.minimum(steps, 510) + 0.3 * (steps > 510))
        assert (Caveat.OVERFITTING in forecaster.forecast().caveats) is expected


def test_a_minimum_at_the_start_is_no_overfitting() -> None:
    steps = np.arange(100, 1_000, 10)
    forecaster = Forecaster(COSINE, RunInfo(metric="val"))
    forecaster.observe_many(steps, 2.0 - 0.5 * (steps < 120) - 1e-4 * steps)
    assert Caveat.OVERFITTING not in forecaster.forecast().caveats


def test_overfitting_widens_the_interval_by_the_rise_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = np.arange(100, 1_010, 10)
    forecaster = Forecaster(COSINE, RunInfo(metric="val"))
    forecaster.observe_many(steps, 2.0 + 1e-6 * (steps - 500.0) ** 2)
    wide = forecaster.forecast().std
    monkeypatch.setattr("lossforecast.forecaster.assessment.overfit_rise", lambda losses: (0, 0.0))
    forecaster.observe(1_001, 2.25)
    assert wide == pytest.approx(np.hypot(forecaster.forecast().std, 0.25), rel=0.1)


# ---------------------------------------------------------------------- schedules


def test_a_what_if_changes_nothing() -> None:
    forecaster = half_way()
    before, state = forecaster.forecast(), forecaster.state_dict()
    other = forecaster.forecast(schedule=WSD.with_decay(start=1_000, steps=200))
    assert other.step == 1_200
    assert other.anneal_gain.mean > 0
    after, state_after = forecaster.forecast(), forecaster.state_dict()
    assert (after.mean, after.std) == (before.mean, before.std)
    state.pop("seconds_spent")
    state_after.pop("seconds_spent")
    assert state_after == state


def test_annealing_beats_going_on_at_constant_rate_for_as_long() -> None:
    forecaster = half_way()
    constant = LRSchedule.constant(1_400, 1e-3, warmup=100)
    anneal = constant.with_decay(start=1_000, steps=400)
    assert forecaster.forecast(schedule=anneal).mean < forecaster.forecast(schedule=constant).mean


def test_replan_changes_the_future_and_keeps_the_past() -> None:
    forecaster = half_way()
    what_if = forecaster.forecast(schedule=COSINE)
    forecaster.replan(COSINE)
    assert forecaster.schedule.lr(900) == WSD.lr(900)
    assert forecaster.schedule.lr(1_500) == COSINE.lr(1_500)
    assert forecaster.forecast().mean == pytest.approx(what_if.mean, rel=0.02)


def test_a_plan_that_is_known_replaces_one_that_was_assumed() -> None:
    assumed = LRSchedule.from_array(np.full(TOTAL, 1e-3), caveats=[Caveat.LR_ASSUMED])
    forecaster = half_way(assumed)
    assert Caveat.LR_ASSUMED not in forecaster.forecast(schedule=WSD).caveats
    forecaster.replan(WSD)
    assert Caveat.LR_ASSUMED not in forecaster.forecast().caveats


def test_observed_rates_override_the_plan_for_the_past() -> None:
    steps = np.arange(1, 1_001)
    really = LRSchedule.constant(TOTAL, 5e-4)
    observed = Forecaster(WSD, RunInfo(optimizer="adamw"))
    observed.observe_many(steps, losses(steps), really.lr(steps))
    assert observed.forecast().schedule.lr(500) == pytest.approx(5e-4)
    assert observed.forecast().schedule.lr(1_500) == WSD.lr(1_500)


def test_a_run_that_outlives_its_plan_is_still_forecast() -> None:
    forecaster = Forecaster(WSD)
    steps = np.arange(0, TOTAL + 300)
    forecaster.observe_many(steps, losses(steps))
    forecast = forecaster.forecast()
    assert math.isfinite(forecast.mean)
    assert forecast.made_at >= TOTAL


@pytest.mark.parametrize("rates", [np.zeros(TOTAL), np.r_[np.full(500, 1e-3), np.zeros(1_500)]])
def test_a_learning_rate_of_zero_is_survived(rates: np.ndarray) -> None:
    forecaster = half_way(LRSchedule.from_array(rates))
    forecast = forecaster.forecast()
    assert math.isfinite(forecast.mean)
    assert math.isfinite(forecast.std)


# ---------------------------------------------------------------------- the forecast


def test_quantiles_intervals_and_probabilities_agree() -> None:
    forecast = half_way().forecast()
    ends = forecast.quantile(0.1), forecast.quantile(0.9)
    assert forecast.interval(0.8) == pytest.approx(ends, rel=1e-12)
    assert forecast.prob_below(forecast.quantile(0.3)) == pytest.approx(0.3, abs=1e-3)
    assert forecast.quantile(0.1) < forecast.mean < forecast.quantile(0.9)
    wide = forecast.interval(0.8, noise=True)
    assert wide[1] - wide[0] > forecast.interval(0.8)[1] - forecast.interval(0.8)[0]


def test_the_curve_ends_at_the_forecast() -> None:
    forecast = half_way().forecast()
    curve = forecast.curve(level=0.8)
    assert curve.steps[0] == forecast.made_at
    assert curve.steps[-1] == TOTAL
    assert curve.mean[-1] == pytest.approx(forecast.mean)
    assert (curve.lower[-1], curve.upper[-1]) == pytest.approx(forecast.interval(0.8))
    assert (curve.lower < curve.mean).all()
    assert forecast.curve(steps=[5, 1_500]).steps.tolist() == [5, 1_500]


def test_parameters_have_the_papers_names_and_weights_that_add_up() -> None:
    parameters = half_way().forecast().parameters
    assert sum(p["weight"] for p in parameters.values()) == pytest.approx(1.0)
    assert set(parameters["annealing"]) == {"weight", "L0", "A", "alpha", "C", "lambda"}
    assert 0.9 < parameters["annealing"]["lambda"] < 1
    one = half_way(laws="annealing").forecast().parameters
    assert one["annealing"]["weight"] == pytest.approx(1.0)
    assert set(one) == {"annealing"}


def test_parameters_are_those_of_the_law_that_touches_the_loss_at_present() -> None:
    steps = np.arange(100, 1_900)
    still = replace(Prior().lawful, walks=((1e-4, 1.0),))
    forecaster = Forecaster(COSINE, laws="power", prior=replace(Prior(), lawful=still, loose=still))
    forecaster.observe_many(steps, 2.0 + 5.0 * steps**-0.5)
    found = forecaster.forecast().parameters["power"]
    still_to_lose = found["A"] * 1_899 ** -found["alpha"]
    assert found["L0"] + still_to_lose == pytest.approx(2 + 5 * 1_899**-0.5, rel=2e-3)
    assert found["alpha"] * still_to_lose == pytest.approx(0.5 * 5 * 1_899**-0.5, rel=0.1)
    below_zero = Forecaster(COSINE, laws="power", prior=replace(Prior(), lawful=still, loose=still))
    below_zero.observe_many(steps, -3.0 + 5.0 * steps**-0.5)
    found = below_zero.forecast().parameters["power"]
    assert found["L0"] == pytest.approx(-3.0, rel=0.02)


# ---------------------------------------------------------------------- grid and state


def test_the_grid_depends_on_steps_alone() -> None:
    forecaster = Forecaster(WSD)
    due = [step for step in range(TOTAL + 1) if forecaster.is_due(step)]
    assert due == [*range(33, TOTAL, 33), TOTAL]
    assert Forecaster(WSD, every_n_steps=700).is_due(TOTAL)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 999), st.sampled_from(["auto", "annealing", "multi-power"]))
def test_a_restored_forecaster_forecasts_bit_for_bit(cut: int, laws: str) -> None:
    steps = np.arange(1_000)
    y = losses(steps)
    y[::97] = np.nan
    whole = Forecaster(WSD, RunInfo(optimizer="adamw", project="a"), laws=laws)
    whole.observe_many(steps[:cut], y[:cut])
    whole.observe_gap(step=cut, gap=0.1, stderr=0.01, horizon=50)
    saved = json.loads(json.dumps(whole.state_dict(), allow_nan=False))
    restored = Forecaster.from_state_dict(saved)
    for forecaster in (whole, restored):
        forecaster.observe_many(steps[cut:], y[cut:])
    a, b = whole.forecast(), restored.forecast()
    assert (a.mean, a.std, a.interval(0.95)) == (b.mean, b.std, b.interval(0.95))
    assert (a.status, a.caveats, a.anneal_gain) == (b.status, b.caveats, b.anneal_gain)
    assert restored.recommend(target=2.6) == whole.recommend(target=2.6)


def test_time_spent_is_measured() -> None:
    forecaster = half_way()
    assert forecaster.seconds_spent == 0.0
    forecast = forecaster.forecast()
    assert 0 < forecast.seconds <= forecaster.seconds_spent


# ---------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Forecaster("cosine"),  # type: ignore[arg-type]
            ConfigurationError,
            "LRSchedule, not str.*LRSchedule.cosine",
        ),
        (
            lambda: Forecaster(WSD, laws="linear"),
            ConfigurationError,
            "linear.*choose from annealing",
        ),
        (
            lambda: Forecaster(WSD, every_n_steps=0),
            ConfigurationError,
            "every_n_steps is 0.*least 1",
        ),
        (lambda: RunInfo(metric="test"), ConfigurationError, '\'test\'.*"train" or "val"'),
        (lambda: RunInfo(optimizer=3), ConfigurationError, "optimizer must be a string.*3"),  # type: ignore[arg-type]
        (lambda: half_way().observe(-1, 2.0), ObservationError, "step is -1.*at least 0"),
        (lambda: half_way().observe(2.5, 2.0), ObservationError, "step is 2.5.*whole"),  # type: ignore[arg-type]
        (lambda: half_way().observe(3, "2"), ObservationError, "loss must be a number, not '2'"),  # type: ignore[arg-type]
        (lambda: half_way().observe_many([1, 2], [3.0]), ObservationError, r"\(2,\).*\(1,\)"),
        (lambda: half_way().observe_gap(1, 0.1, -1.0, 10), ObservationError, "stderr is -1"),
        (
            lambda: half_way().replan(WSD.truncated_to(500)),
            ScheduleError,
            "500, before the present",
        ),
        (
            lambda: half_way().forecast(schedule=WSD.truncated_to(500)),
            ScheduleError,
            "ends at step 500, before the present step 999",
        ),
        (lambda: half_way().forecast(step=TOTAL + 1), ConfigurationError, "2001 is after the end"),
        (lambda: half_way().forecast(step=-1), ConfigurationError, "step is -1"),
        (lambda: half_way().forecast().quantile(1.0), ConfigurationError, "between 0 and 1"),
        (lambda: half_way().forecast().interval(80), ConfigurationError, "level is 80.*say 0.8"),
        (lambda: half_way().forecast().curve(steps=[5_000]), ConfigurationError, r"0\.\.2000"),
        (lambda: half_way().recommend(target=math.inf), ConfigurationError, "target is inf"),
        (lambda: Forecaster.from_state_dict({}), StateError, "not a saved forecaster"),
        (
            lambda: Forecaster.from_state_dict({"version": 99}),
            StateError,
            "99.*update lossforecast",
        ),
        (lambda: Forecaster.from_state_dict({"version": 1}), StateError, "damaged.*schedule"),
    ],
)
def test_misuse_says_what_was_given_and_what_to_do(call, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message) as raised:
        call()
    assert isinstance(raised.value, LossForecastError)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2_200),
            st.one_of(
                st.floats(-1e30, 1e30),
                st.floats(1, 5),
                st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e300, -1e300]),
            ),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_is_observed_forecasts_are_finite_once_one_loss_was(events) -> None:  # type: ignore[no-untyped-def]
    forecaster = Forecaster(WSD)
    for step, loss in events:
        forecaster.observe(step, loss)
        forecast = forecaster.forecast()
        if forecaster.history.n_observed == 0:
            assert forecast.status is Status.NO_DATA
        else:
            assert math.isfinite(forecast.mean)
            assert all(math.isfinite(x) for x in forecast.interval(0.95))
    json.dumps(forecaster.state_dict(), allow_nan=False)
    forecaster.recommend(target=2.0)


def test_a_start_that_hesitates_is_not_believed_to_be_over() -> None:
    """Few steps after the warm-up a loss falls slower than it soon will, and no law knows that."""
    plan = LRSchedule.wsd(400, 1e-3, warmup=20)
    noise = np.random.default_rng(0).normal(0, 0.01, 400)
    steps = np.arange(401)
    loss = 2 + 3.5 * ((steps + 60) / 60) ** -1.2
    for seen in (30, 40, 60, 80, 100):
        watch = Forecaster(plan, RunInfo("train", "adamw"))
        watch.observe_many(steps[:seen], loss[:seen] * np.exp(noise[:seen]))
        low, high = watch.forecast().interval(0.8)
        assert low < loss[-1] < high
        assert (watch.forecast().status is Status.TOO_SHORT) is (seen < 70)
        assert watch.recommend(target=float(loss[-1]) + 0.02).action is not Action.STOP
    wide = float(np.ptp(watch.forecast().interval(0.8)))
    watch.observe_many(steps[100:200], loss[100:200] * np.exp(noise[100:200]))
    assert np.ptp(watch.forecast().interval(0.8)) < 0.5 * wide


def test_a_thinned_copy_forecasts_about_the_same_and_goes_on_by_itself() -> None:
    plan = LRSchedule.cosine(10_000, 1e-3)
    forecaster = Forecaster(plan)
    steps = np.arange(6_000)
    forecaster.observe_many(steps, 2 + 3 * (steps + 50.0) ** -0.5)
    before = forecaster.forecast()
    thinned = forecaster.thinned(64)
    assert len(thinned.history.bins().mean) <= 64
    assert thinned.history.n_observed == 6_000
    restored = Forecaster.from_state_dict(thinned.state_dict())
    assert restored.forecast().mean == pytest.approx(before.mean, rel=1e-3)
    thinned.observe(6_000, 9.0)
    thinned.observe_gap(6_000, 0.1, 0.01, 64)
    assert forecaster.history.last_step == 5_999
    assert forecaster.forecast() is before


@pytest.mark.parametrize("n", [300, 3_000, 6_000])
def test_noisy_losses_are_described_as_well_when_thinned(n: int) -> None:
    plan = LRSchedule.wsd(2 * n, 1e-2, warmup=n // 20)
    steps = np.arange(n)
    noise = 0.1 * np.random.default_rng(n).normal(size=n)
    forecaster = Forecaster(plan, LANGUAGE_MODEL)
    forecaster.observe_many(steps, 1 + 0.5 * (1 + steps / n * 20) ** -0.5 + noise)
    whole = forecaster.forecast()
    thinned = Forecaster.from_state_dict(forecaster.thinned(256).state_dict()).forecast()
    assert whole.status is thinned.status is Status.PRIOR_DRIVEN
    assert thinned.mean == pytest.approx(whole.mean, abs=0.15 * whole.std)
    assert thinned.std == pytest.approx(whole.std, rel=0.25)


@pytest.mark.parametrize("seen", [1, 2, 20])
def test_a_run_planned_at_rate_0_can_be_asked_what_another_rate_would_bring(seen: int) -> None:
    forecaster = Forecaster(LRSchedule.constant(300, 0.0), RunInfo(optimizer="adamw"))
    forecaster.observe_many(range(seen), [1 + 0.5 / (t + 1) for t in range(seen)])
    lower, upper = forecaster.forecast(schedule=LRSchedule.cosine(60, 1e-8)).interval(0.8)
    assert 0 < lower < upper < np.inf
