"""The length of a run under a Lightning ``Trainer``, also where its settings declare another."""

import logging
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from support.lightning_runs import IGNORED_WARNINGS, trainer_of
from support.logs import warnings_in
from torch.optim import lr_scheduler as torch_lr

from lossforecast import LRSchedule
from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.lightning.pace import simplest_ratio

pytestmark = IGNORED_WARNINGS

BATCHES, EPOCHS = 50, 4


def samples(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, generator=generator) for _ in range(n)]


def loader(n: int) -> torch.utils.data.DataLoader[torch.Tensor]:
    return torch.utils.data.DataLoader(samples(n), batch_size=None)  # type: ignore[arg-type]


class Regression(pl.LightningModule):
    """A linear model; the cosine is made for the steps that are really taken."""

    steps = BATCHES * EPOCHS

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
        scheduler = torch_lr.CosineAnnealingLR(optimizer, self.steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Accumulates(Regression):
    steps = 17 * EPOCHS


class AccumulatesByHand(Regression):
    every = 4
    steps = BATCHES * EPOCHS // 4

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        return loss


class StepsTwiceABatch(AccumulatesByHand):
    steps = 2 * BATCHES * EPOCHS

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        for _ in range(2):
            loss = Regression.training_step(self, batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            scheduler.step()
        return loss


class StepsEverySecondBatch(Regression):
    steps = BATCHES * EPOCHS // 2

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        _, batch_idx, optimizer, closure = args
        if batch_idx % 2:
            optimizer.step(closure=closure)
        else:
            closure()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.trainer.fit_loop.epoch_loop.batch_idx % 2:
            scheduler.step()


class UnequalTurns(AccumulatesByHand):
    """Five batches train the critic, the sixth trains the generator, whose steps are watched."""

    watched = 0

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=1e-2) for _ in range(2)]

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        optimizers: Any = self.optimizers()
        loss = Regression.training_step(self, batch, batch_idx)
        optimizer = optimizers[0 if batch_idx % 6 == 5 else 1]
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class WithBatchNorm(Regression):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))  # type: ignore[assignment]


class Growing(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        return loader(20 * (self.trainer.current_epoch + 1))


class Longer(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:
            trainer.fit_loop.max_epochs = 2 * EPOCHS


def fit(
    module: pl.LightningModule,
    callback: LightningLossForecast | None = None,
    others: Iterable[pl.Callback] = (),
    data: Any = None,
    **options: Any,
) -> LightningLossForecast:
    callback = callback or LightningLossForecast()
    if "max_steps" not in options:
        options["max_epochs"] = EPOCHS
    trainer = trainer_of(callback, *others, **options)
    trainer.fit(module, loader(BATCHES) if data is None else data)
    assert not callback.switched_off
    return callback


def counted(callback: LightningLossForecast) -> int:
    assert callback._pipeline is not None
    return callback._pipeline.capture.steps


def length(callback: LightningLossForecast) -> int:
    assert callback.forecaster is not None
    return callback.forecaster.total_steps


KINDS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "as declared": (Regression, {}, 200),
    "accumulation by the Trainer": (Accumulates, {"accumulate_grad_batches": 3}, 68),
    "accumulation by hand": (AccumulatesByHand, {}, 48),
    "two steps a batch": (StepsTwiceABatch, {}, 400),
    "a step on every second batch": (StepsEverySecondBatch, {}, 100),
    "unequal turns of two optimizers": (UnequalTurns, {}, 32),
    "unequal turns until a number of steps": (UnequalTurns, {"max_steps": 150}, 24),
    "an epoch for batch norms": (
        WithBatchNorm,
        {"others": [StochasticWeightAveraging(swa_lrs=5e-3, swa_epoch_start=2)]},
        200,
    ),
    "loaders that grow": (
        Regression,
        {"data": Growing(), "reload_dataloaders_every_n_epochs": 1},
        200,
    ),
    "more epochs than planned": (Regression, {"others": [Longer()]}, 400),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_has_the_length_that_the_run_takes(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, options, steps = KINDS[kind]
    callback = fit(make(), **options)
    assert abs(length(callback) - steps) <= 2  # where accumulation ends within an epoch
    assert abs(counted(callback) - steps) <= 2
    assert callback.forecast is not None
    assert callback.forecast.step == length(callback)
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    "module", [AccumulatesByHand, StepsTwiceABatch, StepsEverySecondBatch, Regression]
)
def test_the_rates_of_the_plan_are_those_of_the_run(module: Any) -> None:
    """Planned anew after some dozens of batches, and right from then on to the end."""
    used: list[float] = []

    class Watch(pl.Callback):
        planned: LRSchedule | None = None

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.fit_loop.total_batch_idx == 60:
                assert callback.forecaster is not None
                self.planned, self.at = callback.forecaster.schedule, counted(callback)

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            used.append(float(optimizer.param_groups[0]["lr"]))

    callback, watch = LightningLossForecast(), Watch()
    fit(module(), callback, others=[watch])
    assert watch.planned is not None
    ahead = np.arange(watch.at + 1, min(len(used), watch.planned.total_steps) + 1)
    np.testing.assert_allclose(watch.planned.lr(ahead), np.array(used)[ahead - 1], atol=2e-4)


def test_a_length_that_was_given_is_kept_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    callback = fit(AccumulatesByHand(), LightningLossForecast(total_steps=200))
    assert length(callback) == 200
    warned = [text for text in warnings_in(caplog) if "was declared to have 200" in text]
    assert len(warned) == 1
    assert "about 48:" in warned[0] or "about 50:" in warned[0]


def test_a_changed_length_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lossforecast")
    fit(AccumulatesByHand())
    said = [text for text in warnings_in(caplog, logging.INFO) if "steps instead of" in text]
    assert "will have 50 optimizer steps instead of 200" in said[0]
    assert len(said) <= 3  # 50 - 2, because accumulation starts anew with each epoch


def test_a_resumed_run_keeps_the_length_it_was_found_to_have(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    path = tmp_path / "state.ckpt"
    trainer = trainer_of(LightningLossForecast(), Stop(), max_epochs=EPOCHS)
    trainer.fit(AccumulatesByHand(), loader(BATCHES))
    trainer.save_checkpoint(path)
    resumed = LightningLossForecast()
    trainer = trainer_of(resumed, max_epochs=EPOCHS)
    trainer.fit(AccumulatesByHand(), loader(BATCHES), ckpt_path=path, weights_only=False)
    assert abs(length(resumed) - 48) <= 2
    assert counted(resumed) == 48
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    ("count", "of", "ratio"),
    [
        (8, 32, Fraction(1, 4)),
        (12, 50, Fraction(1, 4)),
        (41, 50, Fraction(5, 6)),
        (250, 50, Fraction(5)),
        (0, 40, Fraction(0)),
        (33, 33, Fraction(1)),
    ],
)
def test_a_pace_is_the_simplest_that_explains_the_counts(
    count: int, of: int, ratio: Fraction
) -> None:
    assert simplest_ratio(count, of) == ratio
