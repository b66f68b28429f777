"""Events: what a change of data or batch size does to forecasts, caveats and advice."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lossforecast import (
    Action,
    Caveat,
    Forecaster,
    History,
    LRSchedule,
    ObservationError,
    Prior,
    RunInfo,
    Status,
)
from lossforecast.backtest import look_back
from lossforecast.policies import patience
from lossforecast.prior import PastRun

TOTAL = 4_000
HALF = TOTAL // 2
WSD = LRSchedule.wsd(TOTAL, 1e-3, decay_fraction=0.2, warmup=100)
COSINE = LRSchedule.cosine(TOTAL, 1e-3, warmup=100)
LANGUAGE_MODEL = RunInfo("train", "adamw", task="language modelling")
OTHER = RunInfo("train", "adamw")


def expected(steps: Any, plan: LRSchedule, jump: float = 0.0) -> Any:
    """A lawful loss that is multiplied by exp(jump) from half of the run on."""
    at = np.maximum(np.asarray(steps), 1)
    law = 2 + 4 * (at + 20.0) ** -0.4 - 0.1 * (1 - plan.lr(np.maximum(at, 100)) / plan.peak)
    return law * np.where(at >= HALF, np.exp(jump), 1.0)


def watched(
    seen: int,
    plan: LRSchedule = WSD,
    run: RunInfo = LANGUAGE_MODEL,
    jump: float = 0.0,
    events: tuple[int, ...] = (),
    **options: Any,
) -> Forecaster:
    forecaster, steps = Forecaster(plan, run, **options), np.arange(seen)
    for step in events:
        forecaster.event(step, "augmentation")
    noise = np.exp(0.02 * np.random.default_rng(0).normal(size=seen))
    forecaster.observe_many(steps, expected(steps, plan, jump) * noise)
    return forecaster


def width(forecaster: Forecaster) -> float:
    return float(np.ptp(forecaster.forecast().interval(0.8)))


# ---------------------------------------------------------------------- forecasts


@pytest.mark.parametrize("run", [LANGUAGE_MODEL, OTHER], ids=["language model", "other"])
@pytest.mark.parametrize("plan", [WSD, COSINE], ids=["wsd", "cosine"])
@pytest.mark.parametrize("jump", [0.25, -0.25], ids=["up", "down"])
@pytest.mark.parametrize("since", [20, 300])
def test_after_a_jump_the_forecast_is_far_better_with_the_event(
    since: int, jump: float, plan: LRSchedule, run: RunInfo
) -> None:
    truth = float(expected(TOTAL, plan, jump))
    without, told = (
        watched(HALF + since, plan, run, jump, events).forecast() for events in ((), (HALF,))
    )
    low, high = told.interval(0.95)
    assert low < truth < high
    assert abs(told.median / truth - 1) < 0.06
    errors = [abs(np.log(forecast.median / truth)) for forecast in (told, without)]
    spreads = [np.ptp(forecast.interval(0.8)) for forecast in (told, without)]
    assert errors[0] < 0.4 * errors[1] or spreads[0] < 0.5 * spreads[1]
    assert told.status is not Status.MISFIT


@pytest.mark.parametrize("run", [LANGUAGE_MODEL, OTHER], ids=["language model", "other"])
def test_an_event_without_a_jump_costs_little_after_some_dozens_of_losses(run: RunInfo) -> None:
    just = [width(watched(HALF + 1, run=run, events=events)) for events in ((), (HALF,))]
    assert just[1] > 0.95 * just[0]
    later = [watched(HALF + 50, run=run, events=events) for events in ((), (HALF,))]
    assert width(later[1]) < 1.25 * width(later[0])
    plain, marked = (forecaster.forecast() for forecaster in later)
    assert marked.median == pytest.approx(plain.median, rel=0.02)
    assert marked.status is plain.status
    assert marked.caveats == plain.caveats == ()


def test_the_more_losses_since_the_event_the_surer_the_level() -> None:
    widths = [
        width(watched(HALF + n, COSINE, jump=0.2, events=(HALF,))) for n in (0, 1, 30, 400, 1_200)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 3 * widths[2]


def test_until_a_loss_is_seen_the_level_after_an_event_is_unknown() -> None:
    calm, marked = watched(HALF), watched(HALF, events=(HALF,))
    assert calm.forecast().std < 0.1
    low, high = marked.forecast().interval(0.8)
    assert np.log(high / low) == pytest.approx(2 * 1.28 * 0.3, rel=0.25)
    assert marked.forecast().median == pytest.approx(calm.forecast().median, rel=0.02)
    curve = marked.forecast().curve([HALF - 100, HALF - 1, HALF, HALF + 1_000])
    assert (curve.upper - curve.lower > 1.0).tolist() == [False, False, True, True]
    assert ((curve.upper - curve.lower)[:2] < 0.1).all()  # the past is known


def test_an_event_still_to_come_widens_what_comes_after_it() -> None:
    marked = watched(1_000, run=OTHER, events=(3_000,))
    for step, wider in ((2_999, False), (3_000, True)):
        plain = watched(1_000, run=OTHER).forecast(step=step)
        forecast = marked.forecast(step=step)
        assert (forecast.std > 1.05 * plain.std) is wider
    # what ends before the event and after it are compared with that doubt, too
    shorter = LRSchedule.wsd(2_500, 1e-3, warmup=100)
    gain, plain_gain = (f.forecast().gain(shorter) for f in (marked, watched(1_000, run=OTHER)))
    assert gain.upper - gain.lower > plain_gain.upper - plain_gain.lower


def test_two_plans_after_an_event_are_compared_without_its_doubt() -> None:
    other = WSD.with_decay(start=HALF + 200, steps=400)
    plain, marked = (watched(HALF, events=e).forecast().gain(other) for e in ((), (HALF,)))
    assert marked.upper - marked.lower == pytest.approx(plain.upper - plain.lower, rel=0.1)


def test_an_event_before_the_first_loss_changes_nothing() -> None:
    plain, marked = watched(500).forecast(), watched(500, events=(0,)).forecast()
    assert (marked.median, marked.std) == (plain.median, plain.std)
    assert Forecaster(WSD).forecast().status is Status.NO_DATA
    empty = Forecaster(WSD)
    empty.event(0, "start")
    assert empty.forecast().status is Status.NO_DATA


def test_the_parameters_are_those_of_the_level_after_the_event() -> None:
    plan = LRSchedule.constant(TOTAL, 1e-3)
    for jump in (0.4, -0.4):
        forecast = watched(HALF + 200, plan, jump=jump, events=(HALF,), laws="power").forecast()
        found = forecast.parameters["power"]
        left = found["A"] * (HALF + 199) ** -found["alpha"]
        present = float(expected(HALF + 199, plan, jump))
        assert found["L0"] + left == pytest.approx(present, rel=0.01)


def test_events_that_come_often_leave_a_wide_finite_forecast() -> None:
    forecast = watched(HALF, events=tuple(range(0, HALF, 10))).forecast()
    assert 2 < forecast.median < 3
    assert np.isfinite(forecast.std)


def test_losses_below_zero_may_jump() -> None:
    """On the linear scale a jump is one in units of the level."""
    plan, steps = WSD, np.arange(HALF + 200)
    losses = expected(steps, plan) - 4.0 + 0.8 * (steps >= HALF)
    truth = float(expected(TOTAL, plan)) - 3.2
    forecasts = []
    for events in ((), (HALF,)):
        forecaster = Forecaster(plan, LANGUAGE_MODEL)
        for step in events:
            forecaster.event(step, "loss without its offset")
        noise = 0.02 * np.random.default_rng(0).normal(size=steps.size)
        forecaster.observe_many(steps, losses + noise)
        forecasts.append(forecaster.forecast())
    errors = [abs(forecast.median - truth) for forecast in forecasts]
    assert errors[1] < 0.15
    assert forecasts[1].interval(0.95)[0] < truth < forecasts[1].interval(0.95)[1]
    assert forecasts[1].std < 0.5 * forecasts[0].std


def test_a_measured_drop_is_not_taken_from_the_jump() -> None:
    told = []
    for jump, events in ((0.0, ()), (0.25, (HALF,)), (0.25, ())):
        forecaster = watched(HALF + 300, run=OTHER, jump=jump, events=events)
        scale = np.exp(jump)
        for step in range(HALF + 50, HALF + 300, 50):
            forecaster.observe_gap(step, 0.05 * scale, 0.002 * scale, 200)
        told.append(forecaster.forecast().anneal_gain.mean / scale)
    assert told[1] == pytest.approx(told[0], rel=0.1)
    assert abs(told[2] / told[0] - 1) > abs(told[1] / told[0] - 1)


# ---------------------------------------------------------------------- past runs


def past(jump: float, events: tuple[int, ...]) -> PastRun:
    found = PastRun.of(
        "before",
        replace(LANGUAGE_MODEL, project="a"),
        WSD,
        watched(TOTAL, jump=jump, events=events).history,
    )
    assert found is not None
    return PastRun.from_dict(json.loads(json.dumps(found.to_dict())))


def test_a_run_that_leaves_its_past_behind_is_forecast_with_an_event() -> None:
    run, prior = replace(LANGUAGE_MODEL, project="a"), Prior(past=(past(0.0, ()),))
    truth = float(expected(TOTAL, WSD, 0.25))
    without, told = (
        watched(HALF + 40, run=run, jump=0.25, events=events, prior=prior).forecast()
        for events in ((), (HALF,))
    )
    assert told.interval(0.95)[0] < truth < told.interval(0.95)[1]
    assert abs(told.median - truth) < 0.3 * abs(without.median - truth)


def test_a_past_run_keeps_its_events() -> None:
    marked, unmarked = past(0.7, (HALF,)), past(0.7, ())
    assert marked.evidence.events.tolist() == [HALF]
    assert unmarked.evidence.events.tolist() == []
    assert not marked.diverged
    run = replace(LANGUAGE_MODEL, project="a")
    truth = float(expected(TOTAL, WSD, 0.7))
    well, badly = (
        watched(HALF + 40, run=run, jump=0.7, events=(HALF,), prior=Prior(past=(each,))).forecast()
        for each in (marked, unmarked)
    )
    assert well.median == pytest.approx(truth, rel=0.02)
    assert well.std < 0.3 * badly.std
    state = past(0.7, ()).to_dict()
    del state["evidence"]["events"]  # as saved before there were events
    assert PastRun.from_dict(state).evidence.events.size == 0


def test_before_the_first_loss_an_event_to_come_is_an_open_question() -> None:
    run, prior = replace(LANGUAGE_MODEL, project="a"), Prior(past=(past(0.0, ()),))
    plain, marked = Forecaster(WSD, run, prior=prior), Forecaster(WSD, run, prior=prior)
    marked.event(0, "start")
    assert marked.forecast().std == plain.forecast().std
    marked.event(HALF, "longer sequences")
    assert marked.forecast().std > 5 * plain.forecast().std


# ---------------------------------------------------------------------- caveats and advice


def test_a_jump_is_no_divergence() -> None:
    """A loss that goes from 0.3 to 2.5 has lost all that it had gained, unless it was to."""
    steps = np.arange(1_400)
    noise = np.exp(0.02 * np.random.default_rng(0).normal(size=steps.size))
    losses = (0.3 + np.exp(-steps / 100)) * np.where(steps >= 1_000, 8.0, 1.0) * noise
    actions = []
    for events in ((), (1_000,)):
        forecaster = Forecaster(COSINE, OTHER)
        for step in events:
            forecaster.event(step, "mixup")
        taken = set()
        for start in range(0, 1_400, 20):
            part = slice(start, start + 20)
            forecaster.observe_many(steps[part], losses[part])
            taken.add(forecaster.recommend().action)
        actions.append(taken)
    assert Action.STOP in actions[0]
    assert Action.STOP not in actions[1]


def test_a_jump_that_comes_some_steps_after_its_event_is_no_divergence_either() -> None:
    """As when batches are fetched in advance."""
    forecaster, steps = watched(HALF, events=(HALF - 20,)), np.arange(HALF, HALF + 200)
    forecaster.observe_many(steps, expected(steps, WSD, 0.3))
    assert forecaster.recommend().action is Action.CONTINUE


def test_a_divergence_after_an_event_is_one() -> None:
    forecaster = watched(HALF, events=(HALF,))
    steps = np.arange(HALF, HALF + 200)
    forecaster.observe_many(steps, 2.2 + 0.05 * (steps - HALF))
    assert forecaster.recommend().action is Action.STOP


def test_a_jump_of_a_validation_loss_is_no_overfitting() -> None:
    steps = np.arange(100, 3_000, 50)
    noise = 0.005 * np.random.default_rng(0).normal(size=steps.size)
    losses = expected(steps, COSINE, 0.2) + noise
    for events in ((), (HALF,)):
        forecaster = Forecaster(COSINE, RunInfo("val", "adamw"))
        for step in events:
            forecaster.event(step, "harder examples")
        forecaster.observe_many(steps, losses)
        assert (Caveat.OVERFITTING in forecaster.forecast().caveats) is not bool(events)


def test_patience_starts_anew_at_an_event() -> None:
    plan = LRSchedule.constant(TOTAL, 1e-3)
    asked: dict[str, Any] = {"policy": patience(800, min_delta=0.001)}
    plain, marked = (watched(HALF + 900, plan, jump=0.3, events=events) for events in ((), (HALF,)))
    assert plain.recommend(**asked).action is Action.STOP
    assert marked.recommend(**asked).action is Action.CONTINUE


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("cut", [1_500, HALF, HALF + 1, HALF + 400])
def test_a_restored_forecaster_knows_its_events_and_forecasts_bit_for_bit(cut: int) -> None:
    steps, seen = np.arange(HALF + 500), HALF + 500
    losses = expected(steps, WSD, 0.2) * np.exp(
        0.02 * np.random.default_rng(0).normal(size=steps.size)
    )
    whole = Forecaster(WSD, OTHER)
    whole.event(HALF, "longer sequences")
    whole.observe_many(steps[:cut], losses[:cut])
    restored = Forecaster.from_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert restored.history.events == ((HALF, "longer sequences"),)
    for forecaster in (whole, restored):
        forecaster.observe_many(steps[cut:seen], losses[cut:seen])
    one, other = whole.forecast(), restored.forecast()
    assert (one.mean, one.std, one.interval(0.95)) == (other.mean, other.std, other.interval(0.95))
    assert whole.recommend(target=2.5) == restored.recommend(target=2.5)
    thinned = whole.thinned(256)
    assert thinned.history.events == whole.history.events
    assert thinned.forecast().median == pytest.approx(one.median, rel=5e-3)


def test_going_back_to_a_checkpoint_forgets_later_events() -> None:
    forecaster = watched(HALF + 100, jump=0.3, events=(500, HALF))
    forecaster.observe(1_800, 2.2)
    assert forecaster.history.events == ((500, "augmentation"),)
    assert forecaster.forecast().std == pytest.approx(
        watched(1_801, events=(500,)).forecast().std, rel=0.2
    )


def test_an_event_changes_the_forecast_at_once() -> None:
    forecaster = watched(HALF)
    before = forecaster.forecast()
    forecaster.event(HALF, "batch size doubled")
    assert forecaster.forecast().std > 2 * before.std


def test_an_event_marked_late_is_of_use_too() -> None:
    truth = float(expected(TOTAL, WSD, 0.25))
    late = watched(HALF + 300, jump=0.25)
    assert abs(late.forecast().median / truth - 1) > 0.005
    late.event(HALF, "found out later")
    assert late.forecast().median == pytest.approx(truth, rel=0.03)
    assert late.forecast().std < 0.1


def test_a_look_back_knows_an_event_from_its_step_on() -> None:
    seen = watched(TOTAL, COSINE, jump=0.25, events=(HALF,)).history
    back = look_back(seen, COSINE, LANGUAGE_MODEL)
    truth = float(expected(TOTAL, COSINE, 0.25))
    before, after = back.at(0.49), back.at(0.6)
    assert before.forecast.interval(0.95)[1] < truth
    assert after.forecast.median == pytest.approx(truth, rel=0.03)
    assert back.seen(before).events == ()
    assert back.seen(after).events == ((HALF, "augmentation"),)
    unmarked = History.from_state_dict({**seen.state_dict(), "events": []})
    worse = look_back(unmarked, COSINE, LANGUAGE_MODEL).at(0.6)
    assert abs(worse.forecast.median - truth) > 2 * abs(after.forecast.median - truth)


@pytest.mark.parametrize(
    ("step", "name", "message"),
    [(-5, "a", "step is -5"), (2.5, "a", "step is 2.5"), (5, "", "name of an event is ''")],
)
def test_a_wrong_event_is_told(step: Any, name: Any, message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        Forecaster(WSD).event(step, name)
