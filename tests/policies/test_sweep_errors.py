"""Forecasts corrected by the errors of ended runs: what is learned, and from whom."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from lossforecast import LRSchedule
from lossforecast.forecast import QUANTILE_LEVELS
from lossforecast.policies import Outlook, Setup, SweepErrors

SCORES = ndtri(QUANTILE_LEVELS)
PLAN = LRSchedule.wsd(1_000, 1e-3, decay_fraction=0.2)
ALIKE = Setup.of("adamw", PLAN)


def normal(median: float, std: float = 0.1) -> Outlook:
    return Outlook(tuple((median + std * SCORES).tolist()))


def width(outlook: Outlook) -> float:
    """Distance between the 16% and the 84% quantile."""
    return outlook.quantiles[18] - outlook.quantiles[10]


def after(
    ended: list[tuple[float, float]],
    setup: Setup = ALIKE,
    share: float = 0.2,
    outlook: Outlook | None = None,
) -> Outlook:
    """The forecast of an alike run after others, (median forecast at 20%, final loss), ended."""
    errors, own = SweepErrors[int](), outlook or normal(2.0)
    for i, (median, loss) in enumerate(ended):
        errors.record(i, setup, 0.2, normal(median))
        errors.end(i, loss)
    errors.record(-1, ALIKE, share, own)
    return errors.corrected(-1, share, own)


def test_without_ended_runs_a_forecast_stays_as_it_is() -> None:
    assert after([]) == normal(2.0)
    errors = SweepErrors[int]()
    errors.record(0, ALIKE, 0.2, normal(2.0))
    assert errors.corrected(0, 0.2, normal(2.0)) == normal(2.0)


def test_alike_runs_that_all_end_lower_shift_and_narrow_it() -> None:
    few, many = (after([(2.0 + 0.001 * i, 1.9 + 0.001 * i) for i in range(n)]) for n in (1, 8))
    assert 1.9 < many.median < few.median < 1.97
    assert many.median == pytest.approx(1.9, abs=0.01)
    assert width(many) < width(few) < width(normal(2.0))
    assert np.all(np.diff(many.quantiles) >= 0)


def test_unlike_runs_teach_less() -> None:
    others = {
        "rate": Setup.of("adamw", LRSchedule.wsd(1_000, 16e-3, decay_fraction=0.2)),
        "decay": Setup.of("adamw", LRSchedule.wsd(1_000, 1e-3, decay_fraction=0.9)),
        "optimizer": Setup.of("sgd", PLAN),
    }
    ended = [(2.0, 1.9)] * 4
    alike = after(ended)
    for setup in others.values():
        unlike = after(ended, setup)
        assert alike.median < unlike.median < 2.0
        assert width(alike) < width(unlike)


def test_forecasts_far_off_widen_it() -> None:
    ended = [(2.0, 2.0 + 0.5 * (-1) ** i) for i in range(6)]
    assert width(after(ended, Setup.of("sgd", PLAN))) > 1.5 * width(normal(2.0))


def test_only_forecasts_made_by_the_same_share_count() -> None:
    assert after([(2.0, 1.9)], share=0.18) == normal(2.0), "none was made by then"
    assert after([(2.0, 1.9)], share=0.5).median < 2.0, "the latest one before"


def test_intervals_hold_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    medians = 2.0 + np.arange(9)  # so far apart that half of the variance is common
    held = []
    for _ in range(300):
        scores = math.sqrt(0.5) * (random.normal() + random.normal(size=9))
        losses = medians + 0.1 * scores
        ended = list(zip(medians[:8], losses[:8], strict=True))
        inside = after(ended, outlook=normal(medians[8])).prob_below(losses[8])
        held.append(0.1 < inside < 0.9)
    assert np.mean(held) == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 300))


def test_broken_and_forgotten_runs_teach_nothing() -> None:
    assert after([(2.0, math.nan), (2.0, math.inf)]) == normal(2.0)
    errors = SweepErrors[str]()
    errors.record("a", ALIKE, 0.2, normal(2.0))
    errors.end("a", 1.9)
    errors.end("unknown", 1.0)
    errors.record("b", ALIKE, 0.2, normal(2.0))
    assert errors.corrected("b", 0.2, normal(2.0)).median < 2.0
    errors.forget("a")
    assert errors.corrected("b", 0.2, normal(2.0)) == normal(2.0)


def test_one_forecast_is_kept_in_each_fiftieth_of_a_plan() -> None:
    errors = SweepErrors[str]()
    assert errors.wants("a", 0.02)
    errors.record("a", ALIKE, 0.02, normal(2.0))
    assert not errors.wants("a", 0.039)
    assert errors.wants("a", 0.04)
    errors.record("a", ALIKE, 0.04, Outlook((math.nan,) * len(QUANTILE_LEVELS)))
    assert errors.wants("a", 0.04), "a forecast without data is not kept"


def test_setups_are_read_off_plans() -> None:
    assert Setup.of("adamw", LRSchedule.constant(100, 0.25)) == Setup("adamw", -2.0, 1.0)
    cosine = Setup.of("", LRSchedule.cosine(1_000, 1e-3))
    assert cosine.decay_start == pytest.approx(0.2, abs=0.02)
    assert Setup.of("", LRSchedule.constant(100, 0.0)).log2_peak == 0.0
