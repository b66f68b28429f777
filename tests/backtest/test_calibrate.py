"""The calibration of intervals, on errors of which the right scale is known."""

import numpy as np
import pytest

from lossforecast.backtest.calibrate import (
    StandardizedError,
    calibration_of,
    calibrations,
    standardized_error,
)
from lossforecast.numerics import NO_CALIBRATION, TAIL_WEIGHT, Mixture

N_FOLDS, N_RUNS = 40, 25


def error(z: float, fold: str, kind: str = "other", metric: str = "val") -> StandardizedError:
    """The error of a standard normal forecast whose outcome is z."""
    forecast = Mixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1)))
    standardized, below = standardized_error(forecast, z)
    return StandardizedError(
        fold=fold,
        metric=metric,
        cluster=f"{fold} {z}",
        kind=kind,
        fraction=0.5,
        z=standardized,
        below=below,
        sweep=None,
        optimizer="",
    )


def errors(excess: float, seed: int = 0, kind: str = "other") -> list[StandardizedError]:
    """Errors `excess` times as large as the forecasts say."""
    rng = np.random.default_rng(seed)
    return [
        error(excess * rng.normal(), f"fold {i}", kind)
        for i in range(N_FOLDS)
        for _ in range(N_RUNS)
    ]


@pytest.mark.parametrize("excess", [0.7, 1.0, 2.5])
def test_calibrated_intervals_hold_as_often_as_they_say(excess: float) -> None:
    (row,) = calibration_of(errors(excess), "val", "other")
    fraction, scale, tail = row
    assert fraction == 0.5
    stretched = Mixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1))).calibrated(scale, tail)
    fresh = excess * np.random.default_rng(1).normal(size=20_000)
    for level in (0.8, 0.95):
        low, high = stretched.quantiles(np.array([(1 - level) / 2, (1 + level) / 2]))[:, 0]
        assert np.mean((low < fresh) & (fresh < high)) == pytest.approx(level, abs=0.03)


def test_one_family_counts_as_much_as_another() -> None:
    """A family of a thousand narrow runs does not outvote forty families of wide ones."""
    many = [error(0.1 * z, "large") for z in np.random.default_rng(2).normal(size=1_000)]
    (alone,), (together,) = (
        calibration_of(given, "val", "other") for given in (errors(2.5), [*errors(2.5), *many])
    )
    assert together[1] == pytest.approx(alone[1], rel=0.2)


def test_a_single_fold_calibrates_nothing() -> None:
    assert calibration_of(errors(2.5)[:N_RUNS], "val", "other") == NO_CALIBRATION


def test_large_language_models_stay_apart_and_other_kinds_count_little() -> None:
    kinds = ("large language model", "small model", "other")
    mixed = [e for i, kind in enumerate(kinds) for e in errors(2.0**i, seed=i, kind=kind)]
    table = calibrations(mixed)
    scales = [table[f"{kind} val"][0][1] for kind in kinds]
    assert scales == sorted(scales)
    assert scales[0] == calibrations(errors(1.0, kind=kinds[0]))["large language model val"][0][1]
    assert table["other train"] == calibration_of(
        [e for e in mixed if e.kind != kinds[0]], "train", "other"
    )


def test_a_stretched_forecast_is_a_mixture_of_both_stretches() -> None:
    forecast = Mixture(np.array([0.5, 0.5]), np.array([[-1.0], [2.0]]), np.ones((2, 1)))
    centre, value = 0.5, 1.7
    _, below = standardized_error(forecast, value)
    calibrated = forecast.calibrated(0.5, 12.0)
    expected = (1 - TAIL_WEIGHT) * below[0] + TAIL_WEIGHT * below[-1]
    assert calibrated.cdf(np.array([[value]]))[0, 0] == pytest.approx(expected)
    assert forecast.weight @ forecast.mean[:, 0] == centre
