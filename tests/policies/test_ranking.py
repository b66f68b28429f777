"""Chances of runs in a sweep, against what can be worked out otherwise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lossforecast import ConfigurationError, Forecaster, LRSchedule, Prior
from lossforecast.forecast import QUANTILE_LEVELS
from lossforecast.policies import Outlook, prob_among_best


def normal(mean: float, std: float, kind: str = "") -> Outlook:
    return Outlook(tuple(mean + std * norm.ppf(np.array(QUANTILE_LEVELS))), kind)


def test_alone_a_run_is_the_best() -> None:
    assert prob_among_best([normal(3, 0.1)]).tolist() == [1]
    assert prob_among_best([]).size == 0


def test_equal_runs_share_the_chance() -> None:
    found = prob_among_best([normal(3, 0.1) for _ in range(10)], best=3)
    assert found == pytest.approx(0.3, abs=0.03)
    assert found.sum() == pytest.approx(3)


def test_two_runs_with_errors_in_common() -> None:
    # what sets two runs of one kind apart is three tenths of either variance
    close, apart = (
        prob_among_best([normal(3, 0.1, "sgd"), normal(3.1, 0.1, kind)], alike=(0.5, 0.2))[0]
        for kind in ("sgd", "lion")
    )
    assert close == pytest.approx(norm.cdf(0.1 / (0.1 * math.sqrt(2 * 0.3))), abs=0.02)
    assert apart == pytest.approx(norm.cdf(0.1 / (0.1 * math.sqrt(2 * 0.5))), abs=0.02)


def test_against_runs_that_have_ended() -> None:
    ended = [Outlook.ended(loss) for loss in (2.9, 3.0, 3.2, math.nan)]
    for best, limit in ((1, 2.9), (2, 3.0), (3, 3.2)):
        found = prob_among_best([normal(3, 0.1), *ended], best)
        assert found[0] == pytest.approx(norm.cdf(limit, 3, 0.1), abs=0.02)
    assert prob_among_best(ended, 2).tolist() == [1, 1, 0, 0]


def test_a_broken_run_is_behind_all_others() -> None:
    assert prob_among_best([Outlook.ended(math.nan), normal(3, 5)]).tolist() == [0, 1]


def test_a_run_without_forecast_is_left_out() -> None:
    nothing = Outlook.of(Forecaster(LRSchedule.cosine(100, 1e-3)).forecast())
    assert not nothing.known
    found = prob_among_best([nothing, Outlook.ended(3), Outlook.ended(4)])
    assert np.isnan(found[0])
    assert found[1:].tolist() == [1, 0]


def test_the_outlook_of_a_forecast_has_its_quantiles() -> None:
    forecaster = Forecaster(LRSchedule.cosine(1_000, 1e-3))
    forecaster.observe_many(range(400), [2 + 3 * (t + 5) ** -0.5 for t in range(400)])
    forecast = forecaster.forecast()
    outlook = Outlook.of(forecast, "adamw")
    assert outlook.quantiles == tuple(forecast.quantile(level) for level in QUANTILE_LEVELS)
    assert Outlook(outlook.quantiles, "adamw") == outlook
    for target in (forecast.mean, forecast.quantile(0.01), forecast.quantile(0.9)):
        assert outlook.prob_below(target) == pytest.approx(forecast.prob_below(target), abs=0.01)
    assert outlook.prob_below(-99) == 0
    assert outlook.prob_below(99) == 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(0, 3)), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_chances_add_up_to_the_places(runs: list[tuple[float, float]], best: int) -> None:
    found = prob_among_best(
        [normal(mean, std) if std else Outlook.ended(mean) for mean, std in runs], best
    )
    assert ((found >= 0) & (found <= 1)).all()
    total, places = found.sum(), min(best, len(runs))
    assert total >= places - 1e-9
    if len({mean for mean, std in runs}) == len(runs):
        assert total == pytest.approx(places, abs=1e-9) or any(std < 1e-6 for _, std in runs)


@pytest.mark.parametrize(
    "quantiles", [(), (3.0,) * 28, tuple(range(29, 0, -1)), ("3",) * 29], ids=str
)
def test_an_outlook_needs_its_quantiles(quantiles: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="quantile"):
        Outlook(quantiles)


@pytest.mark.parametrize("best", [0, -1, 1.5])
def test_places_are_counted(best: int) -> None:
    with pytest.raises(ConfigurationError, match="best"):
        prob_among_best([normal(3, 1)], best)


def test_a_run_that_no_law_describes_stops_no_others() -> None:
    stray = replace(normal(2.5, 0.01), described=False)
    near, far = normal(3, 0.1), normal(5, 0.1)
    found = prob_among_best([stray, near, far])
    assert found[0] == 1, "it may well be the best itself"
    assert found[1] == 1
    assert found[2] == 0, "the other one still counts"
    assert prob_among_best([stray, near], best=2).tolist() == [1, 1], "too few are known"


def test_errors_in_common_change_who_may_win() -> None:
    runs = [normal(3.0, 0.1), normal(3.2, 0.1)]
    behind = [prob_among_best(runs, alike=(share, 0.0))[1] for share in (0.0, 0.5, 0.95)]
    assert behind[0] > behind[1] > behind[2]
    assert prob_among_best(runs)[1] == prob_among_best(runs, alike=Prior().alike)[1]


@pytest.mark.parametrize("alike", [(0.7, 0.4), (-0.1, 0.2), (0.5,)])
def test_shares_must_be_shares(alike: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match="alike"):
        prob_among_best([normal(3, 1)], alike=alike)
