"""The trials of a sweep of Ray Tune, without Ray."""

import numpy as np
import pytest

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks.sweeps.ray_trials import Config, SweepTrials, Verdict
from lossforecast.policies import Halving

PLAN = LRSchedule.cosine(1_000, 1e-3)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_a_stock_scheduler_is_shown_the_median_of_the_forecast(mode: str, sign: int) -> None:
    trials = SweepTrials(
        PLAN,
        RunInfo("val"),
        time_attr="step",
        rule="dominated",
        policy=None,
        target=None,
        shadow=False,
    )
    trials.measure("score", mode)
    for step in range(10, 501, 10):
        result = {"step": step, "score": sign * float(np.exp(3 * step**-0.5))}
        assert trials.observe("a", {}, result)
    forecast = trials._running["a"].forecaster.forecast()
    assert forecast.median != forecast.mean
    assert trials.with_forecast("a", result) == {"step": 500, "score": sign * forecast.median}


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_halving_stops_those_behind_at_a_rung_of_their_own_plans(mode: str, sign: int) -> None:
    def plan(config: Config) -> LRSchedule:
        return LRSchedule.cosine(config["steps"], 1e-3)

    trials = SweepTrials(
        plan,
        RunInfo("val"),
        time_attr="step",
        rule=Halving(first=0.1),
        policy=None,
        target=None,
        shadow=False,
    )
    trials.measure("score", mode)
    configs = [{"steps": 1_000 * (i + 1), "level": level} for i, level in enumerate((2, 3, 4))]
    stopped: list[list[int]] = []
    for share in (0.02, 0.04, 0.06, 0.08, 0.1, 0.12):
        for i, config in enumerate(configs):
            step = int(share * config["steps"])
            loss = config["level"] + (share * 1_000) ** -0.5
            assert trials.observe(str(i), config, {"step": step, "score": sign * loss}) or stopped
        counting = [i for i in range(3) if trials._running[str(i)].counts]
        stopped.append([i for i in counting if trials.verdict(str(i)) is Verdict.STOP])
    assert stopped == [[], [], [], [], [1, 2], []]
