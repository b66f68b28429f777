"""When `LightningLossForecast` forecasts, who gets it, and that training is not disturbed."""

import csv
import gc
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from support.lightning_runs import (
    IGNORED_WARNINGS,
    Adversarial,
    Scripted,
    Validated,
    loader,
    trainer_of,
)
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch.optim import lr_scheduler as torch_lr

from lossforecast import LRSchedule
from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.errors import ConfigurationError
from lossforecast.policies import Situation

pytestmark = IGNORED_WARNINGS


def test_forecasts_come_on_a_grid_of_steps() -> None:
    updates: list[Update] = []
    every = LightningLossForecast(every_n_steps=7, sinks=[updates.append])
    trainer_of(every, max_epochs=2).fit(Scripted(), loader(15))
    assert [update.step for update in updates] == [7, 14, 21, 28, 30]

    updates.clear()
    usual = LightningLossForecast(sinks=[updates.append])
    trainer_of(usual, max_epochs=1).fit(Scripted(), loader(300))
    assert [update.step for update in updates] == list(range(5, 301, 5))

    updates.clear()
    validated = LightningLossForecast("val_loss", every_n_steps=10, sinks=[updates.append])
    trainer = trainer_of(validated, max_epochs=1, val_check_interval=4)
    trainer.fit(Validated(), loader(31), loader(1))
    assert [update.step for update in updates] == [12, 20, 31]
    assert [update.forecast.made_at for update in updates] == [12, 20, 28]


def test_every_logger_and_the_progress_bar_get_forecasts(tmp_path: Path) -> None:
    updates: list[Update] = []
    callback = LightningLossForecast(target=2.3, every_n_steps=10, sinks=[updates.append])
    board, table = TensorBoardLogger(tmp_path / "tb"), CSVLogger(tmp_path / "csv")
    trainer = trainer_of(
        callback, max_epochs=1, logger=[board, table], log_every_n_steps=1, enable_progress_bar=True
    )
    trainer.fit(Scripted(), loader(50))

    def values(update: Update) -> dict[str, float]:
        forecast = update.forecast
        lower, upper = forecast.interval(0.8)
        return {
            "forecast/final_loss": forecast.median,
            "forecast/lower": lower,
            "forecast/upper": upper,
            "forecast/anneal_gain": forecast.anneal_gain.mean,
            "forecast/prob_target": forecast.prob_below(2.3),
        }

    expected = {update.step: values(update) for update in updates}
    assert list(expected) == [10, 20, 30, 40, 50]
    with (Path(table.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["forecast/final_loss"]]
    found = {int(row["step"]): {k: float(v) for k, v in row.items() if "/" in k} for row in rows}
    assert found == expected
    events = EventAccumulator(board.log_dir).Reload()
    for tag in expected[10]:
        logged = {scalar.step: scalar.value for scalar in events.Scalars(tag)}
        assert logged == pytest.approx({step: each[tag] for step, each in expected.items()})
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert "final_loss" not in trainer.logged_metrics


class Broken(CSVLogger):
    """A logger that fails at forecasts."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if any(name.startswith("forecast/") for name in metrics):
            raise ConnectionError("connection lost")


def test_a_logger_that_raises_is_dropped(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    broken, table = Broken(tmp_path / "broken"), CSVLogger(tmp_path / "good")
    callback = LightningLossForecast(every_n_steps=5)
    trainer_of(callback, max_epochs=1, logger=[broken, table]).fit(Scripted(), loader(50))
    assert len((Path(table.log_dir) / "metrics.csv").read_text().splitlines()) == 11
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.name == "lossforecast"
    assert not callback.switched_off


class Dropping(pl.LightningModule):
    """A real little network, with dropout and metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )

    def loss(self, batch: Any) -> Any:
        (x,) = batch
        return ((self.layers(x) - x.sum(dim=1, keepdim=True)) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch_lr.CosineAnnealingLR(optimizer, 3)]


def normal_loader(shuffle: bool) -> torch.utils.data.DataLoader[Any]:
    inputs = torch.randn(160, 8, generator=torch.Generator().manual_seed(1))
    dataset = torch.utils.data.TensorDataset(inputs)
    return torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=shuffle)


def test_training_is_the_same_to_the_bit_with_and_without_it(tmp_path: Path) -> None:
    def run(
        name: str, *callbacks: Any
    ) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, Any]]:
        pl.seed_everything(3, verbose=False)
        table, module = CSVLogger(tmp_path / name), Dropping()
        trainer = trainer_of(*callbacks, max_epochs=3, logger=table, log_every_n_steps=1)
        trainer.fit(module, normal_loader(True), normal_loader(False))
        with (Path(table.log_dir) / "metrics.csv").open() as file:
            rows = [
                {name: value for name, value in row.items() if "/" not in name and value}
                for row in csv.DictReader(file)
            ]
        metrics = dict(trainer.callback_metrics)
        return module.state_dict(), [row for row in rows if set(row) - {"step"}], metrics

    train, val = LightningLossForecast(), LightningLossForecast("val_loss", stop=True)
    with_us, rows_with_us, metrics_with_us = run("with", train, val)
    without, rows_without, metrics_without = run("without")
    assert all(torch.equal(with_us[name], without[name]) for name in without)
    assert rows_with_us == rows_without
    assert len(rows_without) > 60
    assert metrics_with_us == metrics_without
    assert train.forecast is not None
    assert val.forecast is not None


def fail(situation: Situation) -> None:
    if situation.history.last_step >= 20:
        raise RuntimeError("a policy with a bug")


@pytest.mark.parametrize("stop", [True, False])
def test_an_error_of_ours_is_logged_once_and_training_goes_on(
    stop: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    callback = LightningLossForecast(policy=fail, stop=stop)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=10, save_top_k=-1)
    trainer = trainer_of(callback, saver, max_epochs=2)
    trainer.fit(Validated(), loader(50), loader(2))
    assert trainer.global_step == 100
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.name == "lossforecast"
    assert "a policy with a bug" in str(record.exc_info)
    assert callback.switched_off
    assert callback.forecast is not None  # the last good one can still be looked at
    saved = [torch.load(path, weights_only=True) for path in sorted(tmp_path.iterdir())]
    assert [callback.state_key in each["callbacks"] for each in saved].count(True) == 2


def test_nothing_piles_up_after_an_error() -> None:
    def tensor_rate(module: Scripted) -> Any:
        return torch.optim.Adam(module.parameters(), lr=torch.tensor(0.125), capturable=False)

    callback = LightningLossForecast(policy=fail, every_n_steps=10)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(Scripted(tensor_rate), loader(300))
    assert callback.switched_off
    gc.collect()
    alive = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    assert sum(each.ndim == 0 and each.item() == 0.125 for each in alive) < 10


def test_a_loss_that_is_no_number_is_an_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    class Many(Adversarial):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            return torch.ones(3)

    callback = LightningLossForecast()
    trainer = trainer_of(callback, max_epochs=2)
    trainer.fit(Many(), loader(10))
    assert trainer.global_step == 40
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert "shape (3,)" in str(record.exc_info[1])


def test_it_lets_go_of_the_optimizer_however_training_ends() -> None:
    class Failing(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 5:
                raise RuntimeError("out of memory")
            return super().training_step(batch, batch_idx)

    for module, taken in ((Scripted(), 9), (Failing(), 5)):
        callback = LightningLossForecast()
        trainer = trainer_of(callback, max_epochs=1)
        with nullcontext() if taken == 9 else pytest.raises(RuntimeError, match="out of memory"):
            trainer.fit(module, loader(9))
        (optimizer,) = trainer.optimizers
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
        assert callback.state_dict()["capture"]["steps"] == taken  # what a rescue would save


# ---------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    "arguments",
    [
        {"monitor": 3},
        {"target": math.nan},
        {"target": "2.0"},
        {"total_steps": 0},
        {"total_steps": 2.5},
        {"every_n_steps": 0},
        {"optimizer_index": -1},
        {"laws": "moore"},
        {"laws": ["annealing", "moore"]},
        {"schedule": [0.1, 0.2]},
        {"schedule": LRSchedule.constant(10, 0.1), "total_steps": 11},
        {"policy": "stop"},
    ],
    ids=str,
)
def test_misuse_is_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        LightningLossForecast(**arguments)


def test_arguments_that_can_be_read_only_once_serve_a_whole_run() -> None:
    asked: list[int] = []

    def look(situation: Situation) -> None:
        asked.append(situation.history.last_step)

    callback = LightningLossForecast(
        laws=iter(["annealing", "power"]), policy=iter([look]), every_n_steps=10
    )
    trainer_of(callback, max_epochs=1).fit(Scripted(), loader(60))
    assert asked[-3:] == [39, 49, 59]
    assert callback.forecaster is not None
    assert callback.forecaster.laws == ("annealing", "power")
