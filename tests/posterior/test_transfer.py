"""What finished runs teach about a new one."""

import json
import math
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from lossforecast import ConfigurationError, Forecaster, LRSchedule, Prior, RunInfo, Status
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.replay import outcome
from lossforecast.laws.relaxation import Relaxation, arrived, full_anneal
from lossforecast.prior.past_runs import (
    STD_OF_EQUAL_SETUPS,
    PastRun,
    fits_budget,
    most_similar,
)
from lossforecast.runs.history import History

FULL = bool(os.environ.get("LOSSFORECAST_FULL"))
INFO = RunInfo("val", "adamw", "small models", "language modelling", dataset="wiki")
PEAK = 1e-3
WSD = LRSchedule.wsd(20_000, PEAK, warmup=500)
COSINE = LRSchedule.cosine(30_000, PEAK, warmup=500)
PLAN = LRSchedule.wsd(24_000, PEAK, warmup=500, decay_fraction=0.3)


def loss_at(plan: LRSchedule, steps: ArrayLike, drop: float = 0.15, shift: float = 0.0) -> Any:
    """The logarithm of a loss falls by the annealing law; its drop no prior would guess."""
    at, total = np.asarray(steps), plan.total_steps
    law = (Relaxation("annealing", 0.03),)
    share = arrived(plan, at, law, total_steps=total, total_s1=float(plan.s1(total)))[0]
    return np.exp(0.9 + shift + 0.5 * (plan.s1(at) / 3.0) ** -0.45 - drop * share)


def past(
    name: str, plan: LRSchedule, *, info: RunInfo = INFO, seed: int = 0, **law: float
) -> PastRun:
    history, steps = History(), np.arange(100, plan.total_steps + 1, 100)
    noise = np.random.default_rng(seed).normal(0, 0.001, steps.size)
    history.observe_many(steps, loss_at(plan, steps, **law) * np.exp(noise))
    found = PastRun.of(name, info, plan, history)
    assert found is not None
    return found


def forecaster(
    *runs: PastRun, seen: int = 0, plan: LRSchedule = PLAN, info: RunInfo = INFO, **law: float
) -> Forecaster:
    found = Forecaster(plan, info, prior=replace(Prior(), past=runs))
    if seen:
        steps = np.arange(100, seen + 1, 100)
        noise = np.random.default_rng(9).normal(0, 0.001, steps.size)
        found.observe_many(steps, loss_at(plan, steps, **law) * np.exp(noise))
    return found


TRUTH = float(loss_at(PLAN, [PLAN.total_steps])[0])


@pytest.mark.parametrize("seen", [0, 2_400, 6_000, 12_000])
@pytest.mark.parametrize("plan", [WSD, COSINE])
def test_one_past_run_tells_where_another_schedule_ends(seen: int, plan: LRSchedule) -> None:
    found = forecaster(past("one", plan), seen=seen).forecast()
    assert found.quantile(0.5) == pytest.approx(TRUTH, rel=0.015)
    low, high = found.interval(0.95)
    assert low < TRUTH < high
    if seen:
        alone = forecaster(seen=seen).forecast()
        assert abs(found.mean - TRUTH) < abs(alone.mean - TRUTH) / 2
        assert high - low < np.ptp(alone.interval(0.95))


def test_three_tell_more_than_one() -> None:
    runs = [past("a", WSD), past("b", COSINE, seed=1), past("c", LRSchedule.linear(16_000, PEAK))]
    one, three = (forecaster(*some).forecast() for some in (runs[:1], runs))
    assert np.ptp(three.interval(0.8)) < 0.8 * np.ptp(one.interval(0.8))
    assert three.mean == pytest.approx(TRUTH, rel=0.01)


def test_copies_of_a_run_tell_no_more_than_the_run() -> None:
    """As of a run that was recorded, and its log imported."""
    runs = [past(name, WSD) for name in "abcd"]
    assert [run.name for run, _ in most_similar(runs, INFO, PLAN)] == ["a"]
    one, four = (forecaster(*some).forecast() for some in (runs[:1], runs))
    assert four.interval(0.8) == one.interval(0.8)


@pytest.mark.parametrize("seen", [2_400, 6_000, 12_000])
@pytest.mark.parametrize(("shift", "drop"), [(0.12, 0.15), (-0.12, 0.15), (0.1, 0.18)])
def test_a_run_of_another_size_is_not_held_to_be_alike(
    seen: int, shift: float, drop: float
) -> None:
    """Its level says that it is another one, however smooth its losses are."""
    runs = [past("a", WSD), past("b", COSINE, seed=1), past("c", LRSchedule.linear(16_000, PEAK))]
    found = forecaster(*runs, seen=seen, shift=shift, drop=drop).forecast()
    truth = float(loss_at(PLAN, [PLAN.total_steps], shift=shift, drop=drop)[0])
    low, high = found.interval(0.8)
    assert low < truth < high


def test_before_the_first_loss_it_says_how_little_was_seen() -> None:
    found = forecaster(past("one", WSD)).forecast()
    assert found.status is Status.TOO_SHORT
    assert found.made_at == 0
    assert found.anneal_gain.source == "prior"
    assert forecaster().forecast().status is Status.NO_DATA
    assert forecaster(past("one", WSD)).recommend(target=1.0).action.name == "ABSTAIN"


@pytest.mark.parametrize("seen", [[0], [0, 1]])
def test_a_warm_up_may_begin_at_a_rate_of_zero(seen: list[int]) -> None:
    """As those of transformers do; nothing is travelled after the first step."""
    plan = LRSchedule.from_points([1, 501, 24_000], [0.0, PEAK, 0.0], total_steps=24_000)
    found = Forecaster(plan, INFO, prior=replace(Prior(), past=(past("a", WSD),)))
    for step in seen:
        found.observe(step, 10.0 - step)
    made = found.forecast()
    assert 0 < made.interval(0.8)[0] < made.mean < made.interval(0.8)[1] < 20


def test_planned_schedules_are_compared_before_the_launch() -> None:
    watch = forecaster(past("one", WSD))
    held = LRSchedule.constant(24_000, PEAK, warmup=500)
    gain = watch.forecast().gain(held)
    real = TRUTH - float(loss_at(held, [24_000])[0])
    assert gain.lower < real < gain.upper < 0
    assert watch.forecast(schedule=held).mean > watch.forecast().mean
    curve = watch.forecast().curve()
    assert np.isfinite(curve.mean).all()


@pytest.mark.parametrize("seen", [2_400, 6_000, 12_000])
def test_a_run_that_is_unlike_its_past_is_forecast_as_without_it(seen: int) -> None:
    """Its level is off by 1.0 as a logarithm, as in other units."""
    truth = float(loss_at(PLAN, [24_000], shift=1.0)[0])
    alone, told = (
        forecaster(*runs, seen=seen, shift=1.0).forecast() for runs in ((), (past("one", WSD),))
    )
    assert abs(told.mean - truth) < abs(alone.mean - truth) + 0.01 * truth
    assert np.ptp(told.interval(0.8)) > 0.9 * np.ptp(alone.interval(0.8))


def test_a_difference_widens_the_interval() -> None:
    """A run that is 10% lower than its past is less sure than one that is not."""
    widths = [
        np.ptp(forecaster(past("one", WSD), seen=2_400, shift=shift).forecast().interval(0.8))
        for shift in (0.0, -0.1)
    ]
    assert widths[1] > 2 * widths[0]


def test_past_runs_of_other_peaks_are_less_sure() -> None:
    other = LRSchedule.wsd(20_000, 2.5 * PEAK, warmup=500)
    same, apart = (forecaster(past("one", plan)).forecast() for plan in (WSD, other))
    assert np.ptp(apart.interval(0.8)) > 1.5 * np.ptp(same.interval(0.8))


@pytest.mark.parametrize(
    ("change", "comparable"),
    [
        ({}, True),
        ({"metric": "train"}, False),
        ({"dataset": "code"}, False),
        ({"task": "translation"}, False),
        ({"project": "other"}, True),  # the same dataset
        ({"project": "other", "dataset": None}, False),
        ({"project": None, "dataset": None}, False),
        ({"dataset": None}, True),  # the same project
        ({"optimizer": "sgd"}, True),
        ({"n_params": 1.1e8}, True),
        ({"n_params": 1e9}, False),  # a smaller run is a rung of a ladder
        ({"n_params": 1e7}, True),
        ({"steps_per_epoch": 300.0}, True),
    ],
)
def test_which_runs_are_compared(change: dict[str, Any], comparable: bool) -> None:
    about: dict[str, Any] = {**vars(INFO), "task": "language", "n_params": 1e8}
    run = past("one", WSD, info=RunInfo(**about))
    assert bool(most_similar([run], RunInfo(**{**about, **change}), PLAN)) is comparable


def test_epochs_are_no_difference() -> None:
    counted, unknown = replace(INFO, steps_per_epoch=300.0), replace(INFO, steps_per_epoch=None)
    run = past("one", WSD, info=counted)
    assert PastRun.from_dict(run.to_dict()).run == counted
    for other in (counted, unknown, replace(INFO, steps_per_epoch=7.0)):
        differences = run.expected_differences(other, WSD)
        assert differences is not None
        assert differences.tolist() == list(STD_OF_EQUAL_SETUPS)
        assert fits_budget(counted, 20_000, other, WSD)


def test_the_most_alike_come_first() -> None:
    runs = [
        past("sgd", WSD, info=replace(INFO, optimizer="sgd"), seed=1),
        past("peak", LRSchedule.wsd(20_000, 2e-3, warmup=500)),
        past("same", WSD),
    ]
    for order in (runs, runs[::-1]):
        assert [run.name for run, _ in most_similar(order, INFO, PLAN)] == ["same", "peak", "sgd"]


def test_failed_runs_teach_nothing() -> None:
    sound = [past(name, WSD, seed=seed) for seed, name in enumerate("abc")]
    stuck = past("stuck", WSD, shift=1.5)
    assert {run.name for run, _ in most_similar([*sound, stuck], INFO, PLAN)} == set("abc")
    history, steps = History(), np.arange(100, 20_001, 100)
    history.observe_many(steps, np.where(steps < 15_000, loss_at(WSD, steps), 60.0))
    broken = PastRun.of("broken", INFO, WSD, history)
    assert broken is not None
    assert most_similar([broken], INFO, PLAN) == []


def test_too_little_is_not_kept() -> None:
    history = History()
    assert PastRun.of("empty", INFO, WSD, history) is None
    history.observe_many([1, 2, 3], [3.0, 2.9, 2.8])
    assert PastRun.of("short", INFO, WSD, history) is None


def test_losses_that_are_not_positive_are_left_out() -> None:
    history, steps = History(), np.arange(100, 20_001, 100)
    history.observe_many(steps, loss_at(WSD, steps) - 3.0)
    below = PastRun.of("below", INFO, WSD, history)
    assert below is not None
    assert forecaster(below).forecast().status is Status.NO_DATA
    watch = forecaster(past("one", WSD))
    watch.observe_many(np.arange(100, 5_000, 100), np.linspace(1, -1, 49))
    assert math.isfinite(watch.forecast().mean)


def test_a_saved_forecaster_goes_on_with_its_past() -> None:
    runs = past("a", WSD), past("b", COSINE)
    watch = forecaster(*runs, seen=6_000)
    again = Forecaster.from_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert again.forecast().mean == watch.forecast().mean
    assert again.forecast().interval(0.95) == watch.forecast().interval(0.95)
    fresh = Forecaster.from_state_dict(json.loads(json.dumps(forecaster(*runs).state_dict())))
    assert fresh.forecast().mean == forecaster(*runs).forecast().mean


def test_damaged_past_runs_are_refused() -> None:
    state = replace(Prior(), past=(past("a", WSD),)).to_dict()
    del state["past"][0]["evidence"]["loss"]
    with pytest.raises(ConfigurationError, match="loss"):
        Prior.from_dict(state)


# ---------------------------------------------------------------------- recorded runs


@pytest.fixture(scope="module")
def recorded(curves_dir: Path) -> list[RecordedRun]:
    """The validation losses of one 124M model under many schedules."""
    return [
        run
        for run in load_curves(curves_dir)
        if run.source == "lr-scheduling-convex" and run.metric == "val" and outcome(run)
    ]


def kept(run: RecordedRun) -> PastRun | None:
    history = History()
    history.observe_many(run.step, run.loss, run.lr)
    return PastRun.of(run.run_id, about(run), run.plan, history)


def about(run: RecordedRun) -> RunInfo:
    return RunInfo(run.metric, run.optimizer, "124M", "language modelling")


def stable_phase(run: RecordedRun) -> str:
    return run.cluster


def kind(run: RecordedRun) -> tuple[object, ...]:
    return run.schedule_type, run.metadata["schedule"].get("decay_frac"), run.total_steps


def errors(
    recorded: list[RecordedRun], teachers: str, seen: float, count: int | None
) -> tuple[float, float]:
    """Median error, and share within the 80% interval, over 40 of the runs or all."""
    rng, prior = np.random.default_rng(0), Prior.without("lr-scheduling-convex")
    missed, held = [], []
    depths = [full_anneal(run.plan)[1] for run in recorded]
    remember = cache(lambda j: kept(recorded[j]))
    for i in rng.permutation(len(recorded))[: None if FULL else 40]:
        run = recorded[i]
        early, end = run.step <= seen * run.total_steps, outcome(run)
        assert end is not None
        apart = [abs(math.log(run.lr.max() / each.lr.max())) for each in recorded]
        candidates = [
            j
            for j, (each, far) in enumerate(zip(recorded, apart, strict=True))
            if depths[j] > 0.2
            and stable_phase(each) != stable_phase(run)
            and kind(each) != kind(run)
            and (far < 0.02 if teachers == "same peak" else far > 0.1)
        ]
        if not candidates or (seen and early.sum() < 10):
            continue
        chosen = rng.permutation(np.array(candidates))[:count].tolist()
        past = tuple(each for each in map(remember, chosen) if each)
        watch = Forecaster(run.plan, about(run), prior=replace(prior, past=past))
        if seen:
            watch.observe_many(run.step[early], run.loss[early])
        found = watch.forecast(step=end.step)
        low, high = found.interval(0.8)
        missed.append(abs(found.median / end.loss - 1))
        held.append(low <= end.loss <= high)
    assert len(missed) > 25
    return float(np.median(missed)), float(np.mean(held))


@pytest.mark.parametrize(
    ("seen", "aim"),
    [(0.0, 0.01), (0.1, 0.004), pytest.param(0.25, 0.0035, marks=pytest.mark.slow)],
)
def test_one_run_of_another_schedule_or_length(
    recorded: list[RecordedRun], seen: float, aim: float
) -> None:
    """Same model and peak rate, without a common stable phase; three are better again."""
    error, held = errors(recorded, "same peak", seen, 1)
    assert error <= aim
    assert held >= 0.8
    error_of_three, held = errors(recorded, "same peak", seen, 3)
    assert error_of_three < error
    assert held >= 0.8


@pytest.mark.parametrize(
    ("seen", "aim"),
    [(0.0, 0.02), (0.1, 0.006), pytest.param(0.25, 0.006, marks=pytest.mark.slow)],
)
def test_runs_of_other_peak_rates_only(
    recorded: list[RecordedRun], seen: float, aim: float
) -> None:
    error, held = errors(recorded, "other peaks", seen, None)
    assert error <= aim
    assert held >= 0.8


def test_unrelated_runs_change_nothing(curves_dir: Path, recorded: list[RecordedRun]) -> None:
    strangers = [run for run in load_curves(curves_dir) if run.source == "algoperf_baseline"][:200]
    past = tuple(
        found
        for run in strangers
        if run.metric == "val" and run.step.size > 10 and (found := kept(run)) is not None
    )
    past = tuple(replace(each, run=replace(each.run, project="algoperf")) for each in past)
    assert past
    run = recorded[0]
    early = run.step <= 0.25 * run.total_steps
    means = []
    for each in (past, ()):
        watch = Forecaster(run.plan, about(run), prior=replace(Prior(), past=each))
        watch.observe_many(run.step[early], run.loss[early])
        means.append(watch.forecast().mean)
    assert means[0] == means[1]
