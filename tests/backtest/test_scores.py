from typing import Literal

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from lossforecast import ConfigurationError
from lossforecast.backtest.scores import (
    CRPS_LEVELS,
    best_constant_interval,
    bootstrap,
    bootstrap_difference,
    cluster_mean,
    conformal_last_value,
    coverage,
    crps,
    interval_score,
    point_score,
    relative_error,
    relative_width,
)


def test_point_scores_by_hand() -> None:
    error = relative_error([1.1, 1.9, 3.0, 4.4], [1.0, 2.0, 3.0, 4.0])
    score = point_score(error)
    assert score.n == 4
    assert (score.median, score.mean) == pytest.approx((0.075, 0.0625))
    assert (score.bias, score.mean_bias) == pytest.approx((0.05, 0.0375))
    assert np.isnan(point_score([]).median)


def test_errors_are_relative_to_the_size_of_the_truth() -> None:
    assert relative_error([-1.0], [-2.0])[0] == 0.5
    assert relative_width([-3.0], [-1.0], [-2.0])[0] == 1.0


def test_an_end_is_inside() -> None:
    inside = coverage([1, 1, 1, 1], [2, 2, 2, 2], [1, 2, 0.9, np.nan])
    assert inside.tolist() == [True, True, False, False]


@pytest.mark.parametrize("miss", [0.0, 0.7, 2.0])
def test_crps_of_a_normal_forecast(miss: float) -> None:
    # Gneiting and Raftery 2007: sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))
    density = np.exp(-(miss**2) / 2) / np.sqrt(2 * np.pi)
    exact = miss * (2 * ndtr(miss) - 1) + 2 * density - 1 / np.sqrt(np.pi)
    fine = (np.arange(2_000) + 0.5) / 2_000
    assert crps([ndtri(fine)], [miss], fine)[0] == pytest.approx(exact, rel=1e-3)
    assert crps([ndtri(CRPS_LEVELS)], [miss])[0] == pytest.approx(exact, rel=0.06)


def test_crps_of_a_certain_forecast_is_its_error() -> None:
    np.testing.assert_allclose(crps(np.full((2, 19), 3.0), [2.5, 3.0]), [0.5, 0.0])


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_each_value_its_own_cluster_is_the_plain_bootstrap(
    statistic: Literal["median", "mean"],
) -> None:
    rng = np.random.default_rng(3)
    values = rng.exponential(size=60)
    samples = rng.choice(values, (4_000, 60))
    plain = np.median(samples, axis=1) if statistic == "median" else samples.mean(axis=1)
    found = bootstrap(values, np.arange(60), statistic, resamples=4_000)
    np.testing.assert_allclose(found, np.quantile(plain, [0.025, 0.975]), rtol=0.05)


def test_resampled_medians_are_those_of_repeated_values() -> None:
    values, clusters = np.array([5.0, 1.0, 4.0, 2.0, 9.0, 7.0]), np.array(list("aabbcc"))
    drawn = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=200)
    medians = [np.median(np.repeat(values, np.repeat(row, 2))) for row in drawn]
    found = bootstrap(values, clusters, resamples=200)
    assert found == pytest.approx(tuple(np.quantile(medians, [0.025, 0.975])))


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    families = np.repeat(np.arange(20), 10)
    values = rng.normal(size=20)[families] + 0.1 * rng.normal(size=200)
    apart, together = bootstrap(values, np.arange(200), "mean"), bootstrap(values, families, "mean")
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_the_interval_of_a_mean_covers_it() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        families = np.repeat(np.arange(30), 3)
        values = (1 + rng.normal(size=30))[families]
        low, high = bootstrap(values, families, "mean", resamples=300)
        hits += low <= 1 <= high
    assert 175 <= hits <= 198


def test_pairs_reveal_a_small_difference() -> None:
    rng = np.random.default_rng(0)
    hard = rng.exponential(size=80)
    better, worse = hard, hard + 0.02
    low, high = bootstrap_difference(better, worse, np.arange(80), "mean")
    assert low == pytest.approx(-0.02)
    assert high == pytest.approx(-0.02)
    low, high = bootstrap_difference(better, rng.permutation(worse), np.arange(80), "mean")
    assert low < 0 < high


def test_the_same_seed_gives_the_same_interval() -> None:
    values, clusters = np.arange(30.0), np.arange(30) // 3
    assert bootstrap(values, clusters) == bootstrap(values, clusters)
    assert bootstrap(values, clusters, "mean") != bootstrap(values, clusters, "mean", seed=1)


def test_degenerate_resampling() -> None:
    assert bootstrap([1.0, 2.0], ["a", "a"]) == (1.5, 1.5)
    assert np.isnan(bootstrap([], [])).all()
    assert np.isnan(bootstrap_difference([], [], [])).all()
    with pytest.raises(ConfigurationError, match="paired"):
        bootstrap_difference([1.0], [1.0, 2.0], ["a"])
    with pytest.raises(ConfigurationError, match="median"):
        bootstrap([1.0], ["a"], "mode")  # type: ignore[arg-type]


def test_a_conformal_interval_covers_what_was_asked() -> None:
    rng = np.random.default_rng(0)
    last = rng.uniform(2, 5, 900)
    truth = last * (1 - 0.05 * rng.exponential(size=900))
    folds = np.repeat(["a", "b", "c"], 300)
    found = conformal_last_value(last, truth, folds, 0.8)
    assert found.coverage == pytest.approx(0.8, abs=0.01)
    assert found.level == pytest.approx(0.8, abs=0.05)
    change = (truth - last) / last
    expected = np.diff(np.quantile(change, [0.1, 0.9]))[0]
    assert found.width == pytest.approx(expected / 0.95, rel=0.1)


def test_a_conformal_interval_never_learns_from_its_own_fold() -> None:
    last = np.ones(20)
    truth = np.concatenate([np.linspace(0.9, 0.99, 10), np.linspace(0.1, 0.2, 10)])
    folds = np.repeat(["a", "b"], 10)
    found = conformal_last_value(last, truth, folds, 0.8)
    assert found.coverage >= 0.8
    assert found.level == 1.0
    assert found.stretch > 10
    assert np.isnan(conformal_last_value(last, truth, np.repeat("a", 20), 0.8).width)
    # what is learned from may be more than what is scored
    same = conformal_last_value(last[:10], truth[:10], folds[:10], 0.8, truth - 1, folds)
    assert same.stretch > 10


def test_an_interval_score_is_width_and_ten_times_the_miss() -> None:
    score = interval_score([1.0, 1.0, 1.0], [3.0, 3.0, 3.0], [2.0, 0.9, 3.2])
    np.testing.assert_allclose(score, [2.0, 3.0, 4.0])
    assert interval_score(0.0, 1.0, [2.0], level=0.95)[0] == pytest.approx(41.0)
    assert np.isnan(interval_score([np.nan], [1.0], [0.5])[0])


def test_the_interval_score_is_smallest_for_the_true_quantiles() -> None:
    sample = np.random.default_rng(0).normal(size=100_000)
    low, high = ndtri(0.1), ndtri(0.9)
    best = interval_score(low, high, sample).mean()
    for factor in (0.8, 1.25):
        assert interval_score(factor * low, factor * high, sample).mean() > best
    found = best_constant_interval(sample)
    assert found == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 10, 11, 19, 20, 21, 30, 37])
@pytest.mark.parametrize("ties", [False, True])
def test_no_constant_interval_is_better_than_the_best(n: int, ties: bool) -> None:
    rng = np.random.default_rng(n)
    values = rng.integers(0, 4, n).astype(float) if ties else rng.standard_cauchy(n)
    ordered = np.sort(values)
    between = (ordered[1:] + ordered[:-1]) / 2
    ends = np.concatenate([ordered, between, [ordered[0] - 1, ordered[-1] + 1]])
    for level in (0.5, 0.8, 0.95):
        scores = [interval_score(a, b, values, level).mean() for a in ends for b in ends if a <= b]
        low, high = best_constant_interval(values, level)
        assert low <= high
        best = interval_score(low, high, values, level).mean()
        assert best == pytest.approx(min(scores), rel=1e-12, abs=1e-12)


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ConfigurationError, match="at least one value"):
        best_constant_interval([])


def test_each_cluster_counts_once_in_a_mean() -> None:
    assert cluster_mean([1, 1, 1, 0, 0.5], list("aaabc")) == 0.5
    assert cluster_mean([True, False], ["a", "b"]) == 0.5
    assert np.isnan(cluster_mean([], []))
