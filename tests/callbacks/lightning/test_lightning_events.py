"""Events marked in the hooks of a Lightning run."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from support.lightning_runs import (
    IGNORED_WARNINGS,
    Scripted,
    Validated,
    cosine,
    loader,
    scripted,
    trainer_of,
)
from support.logs import warnings_in

from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.monitor.update import Update

pytestmark = IGNORED_WARNINGS
EPOCH, EPOCHS, CHANGE = 20, 5, 60


def changed(n: int) -> float:
    """The script, higher by a half from the fourth epoch on."""
    return scripted(n) * (1.5 if n >= CHANGE else 1.0)


class Curriculum(pl.Callback):
    """Marks the change of the data before the first batch of the fourth epoch."""

    def __init__(self, forecast: LightningLossForecast, at: int = CHANGE) -> None:
        self.forecast, self.at = forecast, at

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at:
            self.forecast.event("harder examples")


def fitted(
    monitor: str | None = None, at: int = CHANGE, path: Path | None = None, **options: Any
) -> tuple[LightningLossForecast, list[Update]]:
    updates: list[Update] = []
    callback = LightningLossForecast(monitor, every_n_steps=5, sinks=[updates.append])
    kind = Scripted if monitor is None else Validated
    trainer = trainer_of(callback, Curriculum(callback, at), max_epochs=EPOCHS, **options)
    trainer.fit(
        kind(cosine, changed),
        loader(EPOCH),
        None if monitor is None else loader(1),
        ckpt_path=path,
    )
    return callback, updates


def seen_by(updates: list[Update]) -> dict[int, Any]:
    return {
        u.step: (u.forecast.mean, u.forecast.std, u.forecast.caveats, u.recommendation)
        for u in updates
    }


def test_an_event_is_marked_at_the_optimizer_step_and_helps() -> None:
    callback, updates = fitted()
    assert callback.forecaster is not None
    assert callback.forecaster.history.events == ((CHANGE, "harder examples"),)
    truth = 1.5 * scripted(EPOCH * EPOCHS)
    told, blind = (
        next(u.forecast for u in found if u.step == 75) for found in (updates, fitted(at=-1)[1])
    )
    assert abs(told.median - truth) < 0.5 * abs(blind.median - truth) or told.std < 0.5 * blind.std
    assert told.interval(0.95)[0] < truth < told.interval(0.95)[1]


def test_a_validation_at_the_end_of_an_epoch_was_before_the_event_of_the_next() -> None:
    callback, _ = fitted("val_loss", val_check_interval=5)
    assert callback.forecaster is not None
    history = callback.forecaster.history
    assert CHANGE in history.bins().last
    assert history.events == ((CHANGE + 1, "harder examples"),)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended:UserWarning")
@pytest.mark.parametrize("saved_at", [55, 60, 72])
def test_a_resumed_run_repeats_its_forecasts_to_the_bit(saved_at: int, tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == saved_at:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    whole: list[Update] = []
    callback = LightningLossForecast(every_n_steps=5, sinks=[whole.append])
    trainer = trainer_of(callback, Curriculum(callback), Save(), max_epochs=EPOCHS)
    trainer.fit(Scripted(cosine, changed), loader(EPOCH))
    again, resumed = fitted(path=tmp_path / "saved.ckpt")
    assert again.forecaster is not None
    assert again.forecaster.history.events == ((CHANGE, "harder examples"),)
    later = {step: each for step, each in seen_by(whole).items() if step > saved_at}
    assert later.items() <= seen_by(resumed).items()


def test_outside_a_run_an_event_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast()
    callback.event("too early")
    trainer = trainer_of(callback, max_steps=20)
    trainer.fit(Scripted(), loader(20))
    callback.event("too late")
    trainer_of(callback, Curriculum(callback, 0), fast_dev_run=True).fit(Scripted(), loader(3))
    assert [line for line in warnings_in(caplog) if "event" in line] == [
        "event 'too early' is not marked: no run is being forecast",
        "event 'too late' is not marked: no run is being forecast",
        "event 'harder examples' is not marked: no run is being forecast",
    ]
