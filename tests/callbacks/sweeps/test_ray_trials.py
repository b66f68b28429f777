"""The trials of a sweep of Ray Tune, without Ray."""

import numpy as np
import pytest

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks.sweeps.ray_trials import SweepTrials

PLAN = LRSchedule.cosine(1_000, 1e-3)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_a_stock_scheduler_is_shown_the_median_of_the_forecast(mode: str, sign: int) -> None:
    trials = SweepTrials(
        PLAN, RunInfo("val"), time_attr="step", policy=None, target=None, shadow=False
    )
    trials.measure("score", mode)
    for step in range(10, 501, 10):
        result = {"step": step, "score": sign * float(np.exp(3 * step**-0.5))}
        assert trials.observe("a", {}, result)
    forecast = trials._running["a"].forecaster.forecast()
    assert forecast.median != forecast.mean
    assert trials.foreseen("a", result) == {"step": 500, "score": sign * forecast.median}
