"""What the gaps of the annealing probe tell of a drop."""

import json
from dataclasses import asdict, replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from lossforecast import Caveat, Forecaster, LRSchedule, RunInfo
from lossforecast.prior.drops import DropComponent, drop_prior
from lossforecast.prior.prior import Prior
from lossforecast.prior.probe_gaps import Gap, GapRule, Trend

TOTAL = 10_000
WSD = LRSchedule.wsd(TOTAL, 1e-3, warmup=500)
RULE = GapRule(
    ratio=1.2,
    spread=0.1,
    horizon_power=0.1,
    growth=0.0,
    rate_power=1.0,
    decay_power=0.1,
    apart=(0.05, 0.2, 0.4),
    lag=0.25,
)
STEPS = np.arange(100, 8_001, 100)
RNG = np.random.default_rng(0)


def held(steps: Any) -> Any:
    """A loss that falls as the power law, without noise."""
    return 2.0 + 20.0 * (WSD.s1(np.asarray(steps)) / 1e-3) ** -0.45


def measured(
    gap: float, *, horizons: tuple[int, ...] = (125, 500), noise: float = 0.0, until: int = 8_000
) -> list[Gap]:
    """What a probe would measure where averaging removes `gap` at a quarter of the decay."""
    found = []
    for step in range(1_500, until + 1, 250):
        jump = noise * RNG.normal()
        for horizon in horizons:
            lag = held(step - horizon) - held(step)
            size = gap * (horizon / 500) ** RULE.horizon_power
            found.append(Gap(step, float(size - lag + jump), noise + 1e-4, horizon))
    return found


def drop_of(gaps: list[Gap], plan: LRSchedule = WSD, now: int = 8_000, rule: GapRule = RULE) -> Any:
    seen = STEPS[: np.searchsorted(STEPS, now, side="right")]
    variance = np.full(seen.size, 1e-6)
    return rule.drop(gaps, plan, now, step=seen, loss=held(seen), variance=variance)


def test_a_gap_without_its_lag_times_the_ratio_is_the_drop() -> None:
    found = drop_of(measured(0.1))
    assert found.mean == pytest.approx(1.2 * 0.1, rel=0.02)
    assert found.std == pytest.approx(0.1 * found.mean, rel=0.3)
    assert found.level == pytest.approx(float(held(10_000)), rel=0.02)


@pytest.mark.parametrize("horizons", [(125,), (500,), (125, 250, 500)])
def test_any_horizons_tell_the_same(horizons: tuple[int, ...]) -> None:
    assert drop_of(measured(0.1, horizons=horizons)).mean == pytest.approx(0.12, rel=0.03)


def test_intervals_hold_whatever_the_noise() -> None:
    """Gaps with noise, which all horizons of a measurement share: 80% of 300 within the error."""
    exact = replace(RULE, spread=0.0, apart=(1e-6, 1e-6, 1e-6), lag=1e-6)
    inside = 0
    for _ in range(300):
        found = drop_of(measured(0.1, noise=0.05), rule=exact)
        inside += abs(found.mean - 0.12) < 1.2816 * found.std
    assert 218 <= inside <= 282  # 99.9% binomial: 218 to 262 at 80%; better too wide than not


def test_an_outlier_hardly_counts() -> None:
    gaps = measured(0.1, noise=0.01)
    wrong = [gap._replace(value=5.0) if i % 9 == 4 else gap for i, gap in enumerate(gaps)]
    assert drop_of(wrong).mean == pytest.approx(drop_of(gaps).mean, rel=0.1)


def test_gaps_at_a_lower_rate_tell_of_the_whole_drop() -> None:
    cosine = LRSchedule.cosine(TOTAL, 1e-3, warmup=500)
    gaps = [
        gap._replace(value=gap.value * float(cosine.lr(gap.step)) / 1e-3)
        for gap in measured(0.1, horizons=(125,), until=5_000)
    ]
    flat = replace(RULE, lag=1e-9)
    alike = drop_of(gaps, cosine, 5_000, flat).mean
    full = drop_of(measured(0.1, horizons=(125,), until=5_000), cosine, 5_000, flat)
    assert full.mean > 1.2 * alike  # the same gap at half of the rate tells of more


def test_the_further_away_the_decay_the_less_sure() -> None:
    gaps = measured(0.1, noise=0.02)
    near, far = (drop_of([g for g in gaps if g.step <= now], now=now) for now in (8_000, 3_000))
    assert far.std / far.mean > 1.3 * near.std / near.mean


def test_what_a_short_decay_brings_is_less() -> None:
    short = LRSchedule.constant(8_400, 1e-3, warmup=500).with_decay(start=8_000, steps=400)
    long = LRSchedule.constant(12_000, 1e-3, warmup=500).with_decay(start=8_000, steps=4_000)
    gaps = measured(0.1)
    assert drop_of(gaps, short).mean < drop_of(gaps).mean < drop_of(gaps, long).mean


@pytest.mark.parametrize(
    "gaps",
    [
        [],
        [Gap(400, 0.1, 0.01, 50)],  # in the warm-up
        [Gap(9_000, 0.1, 0.01, 50)],  # to come
        [Gap(5_000, 0.1, 0.01, 2_000)],  # an average that has hardly forgotten its beginning
        [Gap(0, 0.1, 0.01, 50)],  # before the first step, which has no rate
    ],
)
def test_gaps_that_tell_nothing(gaps: list[Gap]) -> None:
    assert drop_of(gaps) is None


def test_a_measurement_is_held_and_grows_stale() -> None:
    gaps = [gap for gap in measured(0.1) if gap.step <= 2_000]
    latest = max(gap.step for gap in gaps)
    found = [drop_of(gaps, now=now) for now in (latest, 2 * latest, 2 * latest + 1, 8_000)]
    assert [each.is_stale for each in found] == [False, False, True, True]
    spread = [each.std / each.mean for each in found]
    assert spread[1] == pytest.approx(spread[2], rel=0.01)
    assert spread[3] > 1.2 * spread[2]
    assert found[3].mean == pytest.approx(found[2].mean, rel=0.2)
    fresh = [*gaps, *(gap for gap in measured(0.1) if gap.step > 7_000)]
    assert not drop_of(fresh).is_stale


def test_a_rate_of_0_tells_nothing() -> None:
    plan = LRSchedule.constant(TOTAL, 0.0)
    assert drop_of(measured(0.1), plan) is None


def test_no_noise_no_lag_no_drop_are_no_trouble() -> None:
    flat = [Gap(step, 0.0, 0.0, 125) for step in range(4_500, 8_001, 500)]
    losses, variance = np.full(STEPS.size, 2.0), np.zeros(STEPS.size)
    found = RULE.drop(flat, WSD, 8_000, step=STEPS, loss=losses, variance=variance)
    assert found is not None
    assert found.mean == 0.0
    assert 0 < found.std < 1e-3
    single = RULE.drop(
        flat[-1:], WSD, 8_000, step=STEPS[-1:], loss=np.array([2.0]), variance=np.array([1.0])
    )
    assert single is not None
    assert np.isfinite(single).all()


def test_the_trend_goes_on_as_a_power_law() -> None:
    s1 = WSD.s1(STEPS)
    trend = Trend.of(s1, held(STEPS), np.ones(STEPS.size))
    ago, at = WSD.s1(np.array([4_000, 7_000])), WSD.s1(np.array([5_000, 8_000]))
    fell = held([4_000, 7_000]) - held([5_000, 8_000])
    np.testing.assert_allclose(trend.fall(ago, at), fell, rtol=0.05)
    assert trend.loss_at(float(s1[-1])) == pytest.approx(float(held(8_000)), rel=1e-3)


# ---------------------------------------------------------------------- in the model


def test_a_measurement_that_contradicts_leaves_both_possible_and_widens() -> None:
    """Ten standard deviations apart: the answer is neither of the two, and wide."""
    prior = (DropComponent(1.0, 0.05, 0.1),)
    agreed = drop_prior(prior, 0.1, 0.01, 0.0, (0.05, 0.005))
    torn = drop_prior(prior, 0.1, 0.01, 0.0, (0.12, 0.005))

    def moments(found: Any) -> tuple[float, float]:
        weight = np.exp(found.log_weight - found.log_weight.max())
        weight /= weight.sum()
        mean = weight @ found.mean
        return mean, float(np.sqrt(weight @ (found.std**2 + (found.mean - mean) ** 2)))

    assert moments(agreed)[0] == pytest.approx(0.05, abs=0.002)
    assert moments(torn)[1] > 1.3 * moments(agreed)[1]


def half_way(prior: Prior | None = None) -> Forecaster:
    forecaster = Forecaster(WSD, RunInfo("val", "sgd"), prior=prior)
    seen = STEPS[STEPS <= 5_000]
    forecaster.observe_many(seen, held(seen) + 0.004 * RNG.normal(size=seen.size))
    return forecaster


def test_a_stale_measurement_is_used_with_a_caveat() -> None:
    forecaster = half_way()
    for each in measured(0.2, until=2_000):
        forecaster.observe_gap(*each)
    found = forecaster.forecast()
    assert (found.anneal_gain.source, Caveat.PROBE_STALE in found.caveats) == ("probe", True)
    for each in measured(0.2, until=4_000):
        forecaster.observe_gap(*each)
    assert Caveat.PROBE_STALE not in forecaster.forecast().caveats


def test_the_probe_decides_where_the_prior_does_not_know() -> None:
    for gap in (0.02, 0.2):
        forecaster = half_way()
        blind = forecaster.forecast()
        assert blind.anneal_gain.source == "prior"
        for each in measured(gap, noise=0.05 * gap, until=5_000):
            forecaster.observe_gap(*each)
        found = forecaster.forecast()
        assert found.anneal_gain.source == "probe"
        assert found.anneal_gain.mean == pytest.approx(forecaster.prior.gaps.ratio * gap, rel=0.3)
        assert found.anneal_gain.std < 0.3 * found.anneal_gain.mean
        assert found.std < blind.std


def test_a_probe_that_is_all_noise_changes_little() -> None:
    forecaster = half_way()
    blind = forecaster.forecast()
    for each in measured(0.1, noise=5.0, until=5_000):
        forecaster.observe_gap(*each)
    found = forecaster.forecast()
    assert found.anneal_gain.source == "prior"
    assert found.anneal_gain.std > 0.5 * blind.anneal_gain.std


def test_metrics_below_0_can_be_measured_too() -> None:
    forecaster = Forecaster(WSD, RunInfo("val", "sgd"))
    seen = STEPS[STEPS <= 5_000]
    forecaster.observe_many(seen, held(seen) - 2.5)
    for each in measured(0.1, until=5_000):
        forecaster.observe_gap(*each)
    gain = forecaster.forecast().anneal_gain
    assert gain.source == "probe"
    assert gain.mean == pytest.approx(0.12, rel=0.35)


# ---------------------------------------------------------------------- the table


def test_the_packaged_rule_says_where_it_comes_from_and_survives_json() -> None:
    table = json.loads(files("lossforecast.prior").joinpath("probe.json").read_text())
    tasks = table["provenance"]["tasks"]
    assert len(tasks) >= 5
    assert table["provenance"]["pairs"] >= 60
    assert set(table["without"]) == set(tasks)
    rule = GapRule.packaged()
    assert GapRule.from_dict(json.loads(json.dumps(asdict(rule)))) == rule
    assert Prior.from_dict(json.loads(json.dumps(Prior().to_dict()))).gaps == rule
    for task in tasks:
        assert Prior.without(task).gaps == GapRule.packaged(without=task) != rule
    assert Prior.without("modded-nanogpt").gaps == rule


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("gap", [0.0, 0.001])
def test_gaps_without_any_noise_are_no_trouble(gap: float, scale: float) -> None:
    """As of weights that hardly move, or of a loss without any."""
    forecaster = Forecaster(LRSchedule.cosine(120, 1e-3, warmup=6))
    steps = np.arange(100)
    forecaster.observe_many(steps, scale * (2 + 3 * (steps + 5.0) ** -0.5))
    for step in (30, 65):
        forecaster.observe_gap(step, scale * gap, 0.0, 6)
    forecast = forecaster.forecast()
    assert np.isfinite(forecast.mean)
    assert 2 * scale < forecast.mean < 2.5 * scale
