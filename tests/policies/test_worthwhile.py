"""`worthwhile`: the expected gain on the best ended run against the steps left."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from lossforecast import ConfigurationError, Forecaster, LRSchedule, RunInfo
from lossforecast.forecast import QUANTILE_LEVELS
from lossforecast.policies import Action, Outlook, worthwhile

TOTAL = 1_000


def forecaster(seen: int) -> Forecaster:
    """A run that heads for about 2.05, after `seen` steps."""
    made = Forecaster(
        LRSchedule.constant(TOTAL, 1e-3), RunInfo("val", "adamw", task="language modelling")
    )
    steps = np.arange(20, seen + 1, 20)
    made.observe_many(steps, 2 + 2 * (steps + 20.0) ** -0.5)
    return made


def action(seen: int, rivals: list[Outlook], **options: float) -> Action:
    return forecaster(seen).recommend(policy=worthwhile(**options), rivals=rivals).action


def test_a_run_that_will_gain_too_little_is_stopped() -> None:
    assert action(600, [Outlook.ended(1.5)]) is Action.STOP
    assert action(600, [Outlook.ended(2.5)]) is Action.CONTINUE
    said = forecaster(600).recommend(policy=worthwhile(), rivals=[Outlook.ended(1.5)])
    assert said.message.startswith(
        "stop: expected to end 0.00% below 1.5, the best so far, and 40%"
    )


def test_the_price_of_a_run_decides() -> None:
    rivals = [Outlook.ended(2.1)]
    assert action(600, rivals, gain_per_run=0.001) is Action.CONTINUE
    assert action(600, rivals, gain_per_run=0.5) is Action.STOP


def test_runs_in_progress_stop_none() -> None:
    far_better = Outlook(tuple((1.0 + 0.01 * ndtri(QUANTILE_LEVELS)).tolist()))
    assert action(600, [far_better]) is Action.CONTINUE
    assert action(600, []) is Action.CONTINUE


def test_the_corrected_forecast_decides() -> None:
    corrected = Outlook(tuple((3.0 + 0.01 * ndtri(QUANTILE_LEVELS)).tolist()))
    said = forecaster(600).recommend(
        policy=worthwhile(), rivals=[Outlook.ended(2.5)], corrected=corrected
    )
    assert said.action is Action.STOP
    assert "heading for 3" in said.message


def test_the_expected_gain_of_a_normal_distribution() -> None:
    standard = Outlook(tuple((10 + ndtri(QUANTILE_LEVELS)).tolist()))
    # E max(0, -Z) of a standard normal Z is 1 / sqrt(2 pi)
    assert standard.expected_gain(10) == pytest.approx(0.1 / math.sqrt(2 * math.pi), rel=0.01)
    assert standard.expected_gain(0) == math.inf
    assert standard.expected_gain(math.inf) == math.inf
    assert Outlook.ended(9.0).expected_gain(10.0) == pytest.approx(0.1)
    assert math.isnan(Outlook((math.nan,) * len(QUANTILE_LEVELS)).expected_gain(1.0))


@pytest.mark.parametrize("price", [0, -1, math.nan])
def test_the_price_is_above_0(price: float) -> None:
    with pytest.raises(ConfigurationError, match="gain_per_run is"):
        worthwhile(price)
