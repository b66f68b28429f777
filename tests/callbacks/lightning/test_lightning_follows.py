"""Schedulers and optimizers that change under a Lightning ``Trainer`` are followed."""

import logging
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from support.lightning_runs import IGNORED_WARNINGS, Scripted, loader, trainer_of
from support.logs import warnings_in
from torch.optim import lr_scheduler as torch_lr

from lossforecast import LRSchedule
from lossforecast.callbacks import LightningLossForecast
from lossforecast.status import Caveat

pytestmark = [
    *IGNORED_WARNINGS,
    pytest.mark.filterwarnings("ignore:SWA is currently only supported:UserWarning"),
]

BATCHES, EPOCHS = 50, 4


class Watch(pl.Callback):
    """Notes the plan after some batches, and the rate of every step."""

    def __init__(self, callback: LightningLossForecast, after: int) -> None:
        self.callback, self.after = callback, after
        self.used: list[float] = []
        self.plan: LRSchedule | None = None

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.used.append(float(optimizer.param_groups[0]["lr"]))

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.after and self.callback.forecaster:
            self.plan = self.callback.forecaster.schedule

    def check(self) -> None:
        """Assert that the plan gave the rates of all later steps."""
        assert self.plan is not None
        ahead = np.arange(self.after + 1, len(self.used) + 1)
        np.testing.assert_allclose(
            self.plan.lr(ahead), np.array(self.used)[ahead - 1], rtol=1e-6, atol=1e-9
        )


def cosine(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = torch_lr.CosineAnnealingLR(optimizer, BATCHES * EPOCHS)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class NewPhase(pl.Callback):
    """Puts a scheduler of its own in the place of the first, as phases of a training do."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:
            optimizer = trainer.optimizers[0]
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["initial_lr"] = 0.04
            scheduler = torch_lr.LinearLR(optimizer, 1.0, 0.0, total_iters=100)
            trainer.lr_scheduler_configs[0].scheduler = scheduler


class NewOptimizer(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:
            trainer.strategy.optimizers = [torch.optim.SGD(pl_module.parameters(), lr=1e-3)]


OTHERS = {
    "weight averaging": lambda: StochasticWeightAveraging(
        swa_lrs=0.05, swa_epoch_start=2, annealing_epochs=1
    ),
    "a new phase": NewPhase,
    "a new optimizer": NewOptimizer,
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_scheduler_and_the_optimizer_that_step_are_followed(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lossforecast")
    callback = LightningLossForecast()
    watch = Watch(callback, after=110)
    trainer = trainer_of(callback, OTHERS[name](), watch, max_epochs=EPOCHS)
    trainer.fit(Scripted(cosine), loader(BATCHES))
    assert callback._pipeline is not None
    assert callback._pipeline.capture.steps == BATCHES * EPOCHS
    assert callback.forecaster is not None
    assert callback.forecaster.history.n_observed == BATCHES * EPOCHS
    watch.check()
    assert warnings_in(caplog) == []
    lines = warnings_in(caplog, logging.INFO)
    changes = [text for text in lines if "sets the learning rate" in text or "no sched" in text]
    assert len(changes) == 1


class ByTwoSteps(torch.optim.Optimizer):
    """As SAM: the optimizer inside steps at the second of two steps."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=lr)
        self.param_groups = self.base_optimizer.param_groups

    def first_step(self) -> None:
        self.zero_grad()

    def second_step(self) -> None:
        self.base_optimizer.step()

    def step(self, closure: Any = None) -> Any:
        raise NotImplementedError


class Sharpness(Scripted):
    """Trains by hand with such an optimizer, and a scheduler of the outer one."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        optimizer = ByTwoSteps(self.parameters(), lr=0.1)
        scheduler = torch_lr.CosineAnnealingLR(optimizer, BATCHES * EPOCHS)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        scheduler: Any = self.lr_schedulers()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.first_step()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.second_step()
        scheduler.step()
        return loss


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
def test_an_optimizer_of_two_steps_is_counted_and_its_scheduler_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callback = LightningLossForecast()
    trainer_of(callback, max_epochs=EPOCHS).fit(Sharpness(), loader(BATCHES))
    assert callback._pipeline is not None
    assert callback._pipeline.capture.steps == BATCHES * EPOCHS
    assert callback.forecaster is not None
    shares = 0.5 * (1 + np.cos(np.pi * np.arange(BATCHES * EPOCHS) / (BATCHES * EPOCHS)))
    rates = callback.forecaster.schedule.to_array()
    np.testing.assert_allclose(rates, 0.1 * shares, atol=1e-12)
    assert warnings_in(caplog) == []


class Quadratic(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), 3.0))
        self.evaluated: list[list[float]] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.evaluated.append([])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = (self.weight - 0.1 * batch).square().sum() + 1
        self.evaluated[-1].append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=4)


def test_the_first_loss_of_a_closure_counts() -> None:
    module, callback = Quadratic(), LightningLossForecast()
    trainer_of(callback, max_epochs=1).fit(module, loader(20))
    assert all(len(losses) > 1 for losses in module.evaluated)
    assert callback.forecaster is not None
    means = callback.forecaster.history.bins().mean
    np.testing.assert_allclose(means, [losses[0] for losses in module.evaluated], rtol=1e-6)


def test_a_rate_set_by_hand_is_held_as_assumed() -> None:
    """The module takes over from its scheduler in the middle of the run."""

    class TakesOver(Scripted):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.global_step >= 100:
                optimizer: Any = self.optimizers(use_pl_optimizer=False)
                optimizer.param_groups[0]["lr"] = 0.09

    callback = LightningLossForecast()
    trainer_of(callback, max_epochs=EPOCHS).fit(TakesOver(cosine), loader(BATCHES))
    assert callback.forecaster is not None
    plan = callback.forecaster.schedule
    assert Caveat.LR_ASSUMED in plan.caveats
