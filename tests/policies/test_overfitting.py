"""The lowest validation loss of a run, and the advice to stop once it has passed."""

import numpy as np
import pytest

from lossforecast import ConfigurationError, Forecaster, LRSchedule, RunInfo
from lossforecast.backtest import look_back
from lossforecast.policies import Action, Reason, overfitting
from lossforecast.runs import History
from lossforecast.status import Caveat

TOTAL = 2_000
STEPS = np.arange(20, TOTAL + 1, 20)


def losses(turn: int, rise: float, noise: float = 0.003) -> np.ndarray:
    """Validation losses that fall to about 1 and rise from step `turn` on, by `rise` per step."""
    overfit = rise * np.maximum(STEPS - turn, 0)
    drawn = np.random.default_rng(0).standard_normal(STEPS.size)
    return 1 + np.exp(-STEPS / 150) + overfit + noise * drawn


def forecaster(seen: int, values: np.ndarray, metric: str = "val") -> Forecaster:
    made = Forecaster(LRSchedule.constant(TOTAL, 1e-3), RunInfo(metric, "adamw"))
    n = seen // 20
    made.observe_many(STEPS[:n], values[:n])
    return made


def test_a_loss_that_rises_steadily_has_passed_its_minimum() -> None:
    values = losses(turn=600, rise=3e-4)
    forecast = forecaster(1_700, values).forecast()
    minimum = forecast.minimum
    assert minimum is not None
    smooth = np.convolve(values, np.ones(3) / 3, "valid")
    assert minimum.so_far == pytest.approx(smooth.min())
    assert minimum.step == STEPS[np.argmin(smooth) + 1]
    assert minimum.prob_passed == pytest.approx(1 - forecast.prob_below(minimum.so_far))
    assert minimum.prob_passed > 0.9
    assert minimum.loss.lower <= float(minimum.loss) <= minimum.loss.upper == minimum.so_far
    assert f"lowest so far {minimum}" in str(forecast)


def test_a_falling_loss_has_its_minimum_ahead() -> None:
    forecast = forecaster(200, losses(turn=TOTAL, rise=0.0)).forecast()
    minimum = forecast.minimum
    assert minimum is not None
    assert minimum.prob_passed < 0.2
    assert float(minimum.loss) == forecast.median < minimum.so_far
    assert "lowest" not in str(forecast)


def test_there_is_no_minimum_of_a_training_loss_nor_of_two_values() -> None:
    values = losses(turn=600, rise=3e-4)
    assert forecaster(1_400, values, "train").forecast().minimum is None
    assert forecaster(40, values).forecast().minimum is None
    assert forecaster(0, values).forecast().minimum is None


def test_an_event_starts_the_search_anew() -> None:
    made = forecaster(1_700, losses(turn=600, rise=3e-4))
    made.event(1_000, "other validation set")
    minimum = made.forecast().minimum
    assert minimum is not None
    assert minimum.step >= 1_000


def test_an_overfitting_run_is_stopped_without_any_target() -> None:
    said = forecaster(1_700, losses(turn=600, rise=3e-4)).recommend()
    assert (said.action, said.reason) == (Action.STOP, Reason.OVERFITTING)
    assert said.steps_saved == 300
    assert said.message.startswith("stop: the validation loss has passed its minimum, 1.0")
    assert "keep the weights of that step" in said.message


@pytest.mark.parametrize(
    ("turn", "rise", "noise"),
    [(TOTAL, 0.0, 0.003), (1_380, 3e-4, 0.003), (600, 3e-5, 0.05)],
    ids=["falls", "has only just turned", "rises less than its noise"],
)
def test_other_runs_go_on(turn: int, rise: float, noise: float) -> None:
    said = forecaster(1_400, losses(turn, rise, noise)).recommend(policy=overfitting())
    assert said.reason is not Reason.OVERFITTING


def test_a_run_whose_decay_may_win_it_back_goes_on() -> None:
    """The same losses, with the whole decay of the rate still ahead."""
    plan = LRSchedule.wsd(TOTAL, 1e-3, decay_fraction=0.25)
    values = losses(turn=600, rise=5e-5)
    probs = []
    for schedule in (plan, LRSchedule.constant(TOTAL, 1e-3)):
        made = Forecaster(schedule, RunInfo("val", "adamw", task="language modelling"))
        made.observe_many(STEPS[:70], values[:70])
        minimum = made.forecast().minimum
        assert minimum is not None
        probs.append(minimum.prob_passed)
    assert probs[0] < 0.3 < 0.5 < probs[1]


def test_the_risk_decides() -> None:
    made = forecaster(1_700, losses(turn=600, rise=3e-4))
    minimum = made.forecast().minimum
    assert minimum is not None
    just_more = 1 - minimum.prob_passed + 1e-4
    assert made.recommend(policy=overfitting(just_more)).reason is Reason.OVERFITTING
    assert made.recommend(policy=overfitting(just_more - 2e-4)).reason is not Reason.OVERFITTING
    with pytest.raises(ConfigurationError, match=r"risk is 1.5"):
        overfitting(1.5)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_look_back_says_whether_the_stop_was_right(comes_back: bool) -> None:
    values = losses(turn=600, rise=3e-4)
    if comes_back:
        values[-8:] = 0.5
    history = History()
    history.observe_many(STEPS, values)
    back = look_back(history, LRSchedule.constant(TOTAL, 1e-3), RunInfo("val", "adamw"))
    assert back.stop is not None
    assert back.stop.advice.reason is Reason.OVERFITTING
    assert Caveat.OVERFITTING in back.stop.forecast.caveats
    assert back.rightly is not comes_back
