"""Events marked by another callback of a Hugging Face ``Trainer``."""

from pathlib import Path
from typing import Any

import pytest
from support.hf_processes import TOTAL, Scripted, smooth, tiny_gpt, train
from support.hf_runs import EVALUATE, SAVE
from support.logs import warnings_in
from transformers import TrainerCallback

from lossforecast.callbacks import TransformersLossForecast

CHANGE = 60


def changed(step: int) -> float:
    """A loss that is higher by a half once the data have changed."""
    return smooth(step) * (1.5 if step >= CHANGE else 1.0)


class Curriculum(TrainerCallback):
    """Marks the change of the data."""

    def __init__(self, forecast: TransformersLossForecast, at: int = CHANGE) -> None:
        self.forecast, self.at = forecast, at

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.at:
            self.forecast.event("longer sequences")


def trained(folder: Path, monitor: str | None = None, at: int = CHANGE, **options: Any) -> Any:
    callback = TransformersLossForecast(monitor, every_n_steps=4)
    model = options.pop("model", None) or Scripted(changed)
    _, watch = train(folder, [callback], first=[Curriculum(callback, at)], model=model, **options)
    return callback, watch


def test_an_event_is_marked_at_the_optimizer_step_and_helps(tmp_path: Path) -> None:
    callback, watch = trained(tmp_path / "told")
    assert callback.forecaster.history.events == ((CHANGE, "longer sequences"),)
    blind = trained(tmp_path / "blind", at=-1)[1]
    truth = 1.5 * smooth(TOTAL)
    (made_at,) = (at for at in watch.forecasts if 75 < at < 80)
    errors = [abs(each.forecasts[made_at][0] - truth) for each in (watch, blind)]
    assert errors[0] < 0.5 * errors[1]


def test_an_evaluation_of_the_same_step_was_before_the_event(tmp_path: Path) -> None:
    callback, _ = trained(tmp_path, "eval_loss", **EVALUATE)
    history = callback.forecaster.history
    assert CHANGE in history.bins().last
    assert history.events == ((CHANGE + 1, "longer sequences"),)


@pytest.mark.parametrize("at", [50, 70])
def test_a_resumed_run_repeats_its_forecasts(tmp_path: Path, at: int) -> None:
    """With real training; the checkpoint is at step 60, before or after the event."""
    _, whole = trained(tmp_path / "whole", at=at, model=tiny_gpt())
    options: dict[str, Any] = {"at": at, **SAVE}
    with pytest.raises(ValueError, match="the user's own"):
        trained(tmp_path / "run", fail_at=75, model=tiny_gpt(), **options)
    callback, resumed = trained(tmp_path / "run", resume=True, model=tiny_gpt(), **options)
    assert callback.forecaster.history.events == ((at, "longer sequences"),)
    first = min(resumed.forecasts)
    assert resumed.forecasts == {at: each for at, each in whole.forecasts.items() if at >= first}


def test_outside_a_run_an_event_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TransformersLossForecast()
    callback.event("too early")
    train(tmp_path, [callback], max_steps=20)
    callback.event("too late")
    assert [line for line in warnings_in(caplog) if "event" in line] == [
        "event 'too early' is not marked: no run is being forecast",
        "event 'too late' is not marked: no run is being forecast",
    ]
