"""When `LightningLossForecast` stops a run, and when it must not."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support.lightning_runs import IGNORED_WARNINGS, Metrics, Scripted, loader, scripted, trainer_of
from support.logs import warnings_in

from lossforecast.callbacks import LightningLossForecast
from lossforecast.policies import Action, Reason, Recommendation, Situation

pytestmark = IGNORED_WARNINGS


def nan_from(start: int, end: float = math.inf) -> Callable[[int], float]:
    return lambda n: math.nan if start <= n < end else scripted(n)


class Watch(pl.Callback):
    """Notes whether the Trainer was asked to stop, after each batch."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.asked.append(trainer.should_stop)


@pytest.mark.parametrize("options", [{}, {"target": 0.5}], ids=["no target", "hopeless"])
def test_by_default_it_only_advises(options: dict[str, Any]) -> None:
    callback = LightningLossForecast(**options)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(Scripted(script=nan_from(60)), loader(100))
    assert trainer.global_step == 100
    assert callback.recommendation is not None
    assert callback.recommendation.action is Action.STOP


def test_a_broken_run_is_stopped_in_the_middle_of_an_epoch() -> None:
    callback = LightningLossForecast(stop=True, every_n_steps=5)
    trainer = trainer_of(callback, max_epochs=3)
    trainer.fit(Scripted(script=nan_from(48)), loader(100))
    assert trainer.global_step == 60  # the first check after ten in a row
    assert callback.recommendation is not None
    assert callback.recommendation.reason is Reason.NON_FINITE


def test_a_hopeless_run_is_stopped_and_a_good_one_is_not() -> None:
    hopeless = LightningLossForecast(stop=True, target=0.5)
    good = LightningLossForecast(stop=True, target=2.4)
    stopped, finished = trainer_of(hopeless, max_epochs=1), trainer_of(good, max_epochs=1)
    stopped.fit(Scripted(), loader(200))
    finished.fit(Scripted(), loader(200))
    assert stopped.global_step < 100
    assert stopped.global_step % 2 == 0  # a forecast is due at every second step of 200
    assert hopeless.recommendation is not None
    assert hopeless.recommendation.reason is Reason.TARGET_MISS
    assert finished.global_step == 200


class Noisy(pl.LightningModule):
    """Descends a quadratic on noisy gradients, so that its loss stands still until it anneals.

    Its exact loss is the validation loss, with `level` as its minimum.
    """

    def __init__(self, level: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((200,), 0.6))
        self.level = level
        self.noise = torch.Generator().manual_seed(0)

    def exact(self) -> torch.Tensor:
        return self.level + 0.5 * (self.weight**2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        push = torch.randn(200, generator=self.noise) * self.weight
        return 200 * self.exact() + push.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.exact())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.3)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((400 - i) / 160, 1))
        return [optimizer], [{"scheduler": falling, "interval": "step"}]


def test_a_slow_starter_that_wins_after_annealing_is_not_stopped() -> None:
    """The loss stands still above its target for most of the run, and ends below it."""

    def trained(level: float, *callbacks: Any) -> tuple[int, float]:
        module = Noisy(level)
        trainer = trainer_of(*callbacks, max_steps=400, val_check_interval=8)
        trainer.fit(module, loader(400), loader(1))
        return trainer.global_step, float(module.exact().detach())

    def ours() -> LightningLossForecast:
        return LightningLossForecast("val_loss", target=1.05, stop=True)

    steps, loss = trained(1.0, ours())
    assert steps == 400
    assert loss < 1.05
    impatient = pl.callbacks.EarlyStopping("val_loss", patience=5)
    steps, loss = trained(1.0, impatient)
    assert steps < 240, "before its decay"
    assert loss > 1.05
    steps, _ = trained(2.0, ours())
    assert steps < 400, "hopeless"


def test_a_validation_loss_can_stop_a_run() -> None:
    class Bad(Scripted):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", math.nan if self.global_step > 12 else scripted(self.global_step))

    callback = LightningLossForecast("val_loss", stop=True)
    trainer = trainer_of(callback, max_epochs=2, val_check_interval=4)
    trainer.fit(Bad(), loader(50), loader(1))
    assert trainer.global_step == 24  # the third bad value in a row


def test_a_metric_that_is_to_rise_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Rising(Scripted):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            good = 1 - 0.3 * scripted(self.global_step)
            self.log("val_accuracy", math.nan if self.global_step > 12 else good)

    callback = LightningLossForecast("val_accuracy", stop=True)
    trainer = trainer_of(callback, max_epochs=2, val_check_interval=4)
    trainer.fit(Rising(), loader(50), loader(1))
    assert trainer.global_step == 100
    assert "'val_accuracy' is better when higher" in warnings_in(caplog)[0]


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({}, 40),
        ({"min_steps": 47, "min_epochs": 0}, 47),
        ({"min_epochs": 3}, 61),  # the first check in the fourth epoch
    ],
    ids=str,
)
def test_a_minimum_is_respected(options: dict[str, Any], step: int) -> None:
    watch, callback = Watch(), LightningLossForecast(stop=True, every_n_steps=1)
    trainer = trainer_of(callback, watch, max_epochs=5, **options)
    trainer.fit(Scripted(script=nan_from(30)), loader(20))
    assert trainer.global_step == step
    assert watch.asked == [False] * (step - 1) + [True]


def test_a_wish_to_stop_is_forgotten_when_the_run_recovers() -> None:
    watch, callback = Watch(), LightningLossForecast(stop=True, every_n_steps=1)
    trainer = trainer_of(callback, watch, max_epochs=3, min_steps=47, min_epochs=0)
    trainer.fit(Scripted(script=nan_from(30, 45)), loader(20))
    assert trainer.global_step == 60
    assert not any(watch.asked)


def enough(situation: Situation) -> Recommendation | None:
    if situation.history.last_step < 60:
        return None
    return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: that will do")


@pytest.mark.parametrize(
    ("monitor", "options", "step"),
    [
        ("val_loss", {}, 60),
        ("val_loss", {"min_epochs": 32}, 64),
        ("within", {}, 60),
        ("within", {"min_epochs": 32}, 64),
        ("after", {}, 61),  # it was not there yet when the epoch ended
    ],
    ids=str,
)
def test_stopping_by_a_metric_of_each_epoch(
    monitor: str, options: dict[str, Any], step: int
) -> None:
    callback = LightningLossForecast(monitor, stop=True, policy=enough, every_n_steps=1)
    trainer = trainer_of(callback, max_epochs=40, **options)
    trainer.fit(Metrics(), loader(2), loader(1))
    assert trainer.global_step == step
