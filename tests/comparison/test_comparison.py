"""`Comparison`: two recipes beside the noise of seeds."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from lossforecast import ConfigurationError, History, LRSchedule, RunInfo
from lossforecast.comparison import ComparedRun, Comparison, Contender, Spread
from lossforecast.estimate import Estimate

TOTAL = 1_000
INFO = RunInfo("val", "adamw", "p", "language modelling", dataset="web", n_params=1e8)
SPREAD = Spread(0.003, 8.0)


def contender(loss: float, *repeats: float) -> Contender:
    return Contender("run", Estimate(loss, loss, loss), 0.0, repeats)


def compared(
    name: str,
    level: float = 2.5,
    *,
    peak: float = 1e-3,
    until: int = TOTAL,
    seed: int = 0,
    info: RunInfo = INFO,
) -> ComparedRun:
    """A run whose outcome is the level times 1.025."""
    steps = np.arange(10, until + 1, 10)
    noise = np.random.default_rng(seed).normal(size=steps.size)
    history = History()
    history.observe_many(steps, level * (1 + 0.8 * (steps + 5.0) ** -0.5) * np.exp(2e-4 * noise))
    outcome = 1.025 * level if until == TOTAL else math.nan
    return ComparedRun(name, info, LRSchedule.cosine(TOTAL, peak), history, outcome)


def test_finished_runs_are_compared_by_students_t() -> None:
    found = Comparison(contender(2.51, 2.52), contender(2.53), SPREAD)
    mean = (math.log(2.51) + math.log(2.52)) / 2 - math.log(2.53)
    exact = stats.t(SPREAD.dof, loc=mean, scale=SPREAD.scale * math.sqrt(1 / 2 + 1))
    assert found.interval95 == pytest.approx(np.expm1(exact.ppf([0.025, 0.975])), rel=0.02)
    assert [found.difference.lower, float(found.difference)] == pytest.approx(
        np.expm1(exact.ppf([0.1, 0.5])), rel=0.01
    )
    assert found.prob_first_better == pytest.approx(exact.cdf(0.0), abs=2e-3)


def test_the_two_sides_are_treated_alike() -> None:
    one, other = contender(2.51, 2.52), contender(2.53)
    there, back = Comparison(one, other, SPREAD), Comparison(other, one, SPREAD)
    assert there.prob_first_better == pytest.approx(1 - back.prob_first_better)
    assert 1 + there.difference == pytest.approx(1 / (1 + back.difference))
    assert there.seeds_to_tell == back.seeds_to_tell


def test_repeats_are_told_apart_as_often_as_stated() -> None:
    rng = np.random.default_rng(3)
    differ = []
    for _ in range(300):  # four repeats of another recipe tell the spread, besides a little before
        sigma = 0.003 / math.sqrt(rng.chisquare(3.0) / 3.0)
        runs = 2.5 * np.exp(sigma * rng.normal(size=6))
        spread = Spread(0.003, 3.0).learned([runs[2:]])
        differ.append(Comparison(contender(runs[0]), contender(runs[1]), spread).differ)
    assert 0.02 < np.mean(differ) < 0.09


def test_a_forecast_widens_the_interval_and_weighs_less_than_an_outcome() -> None:
    vague = Contender("run", Estimate(2.6, 2.5, 2.7), 0.03, (2.5, 2.5))
    wide = Comparison(vague, contender(2.53), SPREAD)
    alone = Comparison(dataclasses.replace(vague, repeats=()), contender(2.53), SPREAD)
    assert np.ptp(alone.interval95) > 3 * np.ptp(wide.interval95)
    assert wide.difference < 0 < alone.difference


def test_repeats_are_found_by_what_is_recorded() -> None:
    a, b = compared("a", 2.5, seed=1), compared("b", 2.6, peak=2e-3, seed=2)
    others = [
        compared("a again", 2.502, seed=3),
        compared("b again", 2.603, peak=2e-3, seed=4),
        compared("a, larger", 2.4, seed=5, info=dataclasses.replace(INFO, n_params=2e8)),
        compared("unfinished a", 2.5, until=500, seed=6),
        compared("other data", 3.5, info=dataclasses.replace(INFO, dataset="code")),
    ]
    found = Comparison.of(a, b, [a, b, *others])
    assert found.first.repeats == (1.025 * 2.502,)
    assert found.second.repeats == (1.025 * 2.603,)
    assert (found.spread.n_runs, found.spread.n_recipes) == (4, 2)
    assert not found.same_recipe
    assert found.differ
    assert found.prob_first_better > 0.99


def test_a_run_that_is_stored_twice_is_no_repeat() -> None:
    a, b = compared("a", seed=1), compared("b", 2.6, peak=2e-3, seed=2)
    copy = dataclasses.replace(a, name="imported", key="2")
    assert Comparison.of(a, b, [copy]).first.repeats == ()
    with pytest.raises(ConfigurationError, match="have the same losses: they are one"):
        Comparison.of(a, copy)


def test_two_runs_of_one_recipe_are_compared_by_the_spread_of_the_others() -> None:
    one, other = compared("a", 2.5, seed=1), compared("b", 2.7, seed=2)
    others = [compared(f"seed {i}", 2.5 + 0.002 * i, seed=10 + i) for i in range(4)]
    found = Comparison.of(one, other, [one, other, *others])
    assert found.same_recipe
    assert found.first.repeats == found.second.repeats == ()
    assert (found.spread.n_runs, found.spread.n_recipes) == (4, 1)
    assert found.spread.scale < 0.002
    assert found.differ


def test_an_unfinished_run_is_compared_by_its_forecast() -> None:
    done, going = compared("done", 2.6, peak=2e-3), compared("going", 2.5, until=600, seed=2)
    found = Comparison.of(going, done)
    assert not found.first.finished
    assert found.first.loss.lower < found.first.loss < found.first.loss.upper
    assert found.second.finished
    finished = Comparison.of(compared("ended", 2.5, seed=2), done)
    assert np.ptp(found.interval95) > np.ptp(finished.interval95)


def test_noisy_training_losses_widen_the_packaged_spread() -> None:
    info = RunInfo("train", project="p")
    scales = []
    for noise in (0.001, 0.3):
        pair = []
        for seed in (1, 2):
            run = compared(f"{seed}", info=info)
            steps = np.arange(1, TOTAL + 1)
            history = History()
            scatter = noise * np.random.default_rng(seed).normal(size=TOTAL)
            history.observe_many(steps, 2.5 * np.exp(scatter))
            pair.append(dataclasses.replace(run, history=history))
        scales.append(Comparison.of(pair[0], pair[1]).spread.scale)
    assert scales[0] == pytest.approx(Spread.packaged(info).scale, rel=0.01)
    assert scales[1] == pytest.approx(0.3 / math.sqrt(21), rel=0.3)  # 21 losses in the last 2%


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": History()}, "has no losses to compare"),
        ({"run": dataclasses.replace(INFO, metric="train")}, "differ in the metric"),
        ({"run": dataclasses.replace(INFO, dataset="code")}, "cannot be compared"),
        ({"outcome": -1.0}, "losses of 0 or below"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(change: dict[str, object], message: str) -> None:
    good = compared("good")
    bad = dataclasses.replace(compared("bad", 2.6, seed=1), **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        Comparison.of(good, bad)


def test_a_run_that_broke_is_refused() -> None:
    broken = compared("broken", until=500, seed=1)
    broken.history.observe_many([510, 520], [math.nan, math.nan])
    with pytest.raises(ConfigurationError, match="broken broke: its last losses are nan"):
        Comparison.of(compared("good"), broken)


def test_a_run_too_young_to_forecast_is_compared_with_a_wide_interval() -> None:
    young = compared("young", until=20, seed=1)
    found = Comparison.of(young, compared("good", peak=2e-3))
    assert not found.differ
    assert 0.02 < found.prob_first_better < 0.98
