"""The forecast is in the progress bar and in no result of the Trainer."""

import copy
import io
import pickle
import re
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from support.lightning_runs import IGNORED_WARNINGS, Scripted, loader, trainer_of

from lossforecast.callbacks import LightningLossForecast

pytestmark = IGNORED_WARNINGS
BAR: dict[str, Any] = {"enable_progress_bar": True, "max_epochs": 1}


class Custom(TQDMProgressBar):
    """Keeps what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[dict[str, Any]] = []

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        return {**super().get_metrics(trainer, pl_module), "mine": 1.0}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *more: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *more)
        self.shown.append(dict(self.get_metrics(trainer, pl_module)))


class LogsItsOwn(Scripted):
    """Logs a metric that is called like ours."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("final_loss", float(200 - self.global_step), prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("mine_at_end", 3.0, prog_bar=True)


class LogsAtEnd(Scripted):
    """Logs the name that we show, where no training step logs it."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("final_loss", 3.0, on_step=True, on_epoch=True)


def test_a_custom_bar_shows_the_latest_forecast_until_the_end() -> None:
    bar, callback = Custom(), LightningLossForecast(every_n_steps=10)
    trainer = trainer_of(callback, bar, **BAR)
    trainer.fit(Scripted(), loader(50))
    assert callback.forecast is not None
    assert "final_loss" not in bar.shown[5]
    assert re.fullmatch(r"→\d\.\d+(±\d\.\d+|\?)", bar.shown[-1]["final_loss"])
    assert bar.shown[-1]["mine"] == 1.0
    assert "get_metrics" not in vars(bar), "undone"
    for results in (
        trainer.progress_bar_metrics,
        trainer.callback_metrics,
        trainer.logged_metrics,
    ):
        assert "final_loss" not in results


@pytest.mark.parametrize("kind", [TQDMProgressBar, RichProgressBar])
def test_the_bars_of_lightning_show_it(kind: Any) -> None:
    bar, callback = kind(refresh_rate=1), LightningLossForecast(every_n_steps=10)
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        trainer_of(callback, bar, **BAR).fit(Scripted(), loader(50))
    assert callback.forecast is not None
    if kind is TQDMProgressBar:
        assert re.search(r"final_loss=→\d\.\d+(±\d\.\d+|\?)", out.getvalue())
    assert not callback.switched_off
    assert "get_metrics" not in vars(bar)


def test_the_other_namespace_shows_it() -> None:
    callback, out = LightningLossForecast(every_n_steps=10), io.StringIO()

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Scripted()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.inner.script(batch_idx) + 0 * self.inner.weight.sum()

        def configure_optimizers(self) -> Any:
            return self.inner.configure(self.inner)

    trainer = pytorch_lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[callback],  # type: ignore[list-item]
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    with redirect_stdout(out), redirect_stderr(out):
        trainer.fit(Module(), loader(50))
    assert "final_loss" in out.getvalue()


def test_a_metric_of_that_name_is_the_users() -> None:
    """EarlyStopping on it stops where it stops without us."""

    def run(*ours: Any) -> tuple[int, dict[str, Any], Any]:
        module, bar = LogsItsOwn(), Custom()
        stopper = EarlyStopping(
            "final_loss", stopping_threshold=41.0, check_on_train_epoch_end=True, patience=10**6
        )
        trainer = trainer_of(*ours, bar, stopper, enable_progress_bar=True, max_epochs=20)
        trainer.fit(module, loader(20))
        return trainer.global_step, dict(trainer.callback_metrics), bar.shown[-1]["final_loss"]

    train, val = LightningLossForecast(every_n_steps=5), LightningLossForecast("final_loss")
    assert run(train, val) == run()
    assert run()[0] == 160 + 20
    assert train.forecast is not None


def test_it_may_be_logged_where_lightning_forbids_a_second_way(tmp_path: Any) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{final_loss:.1f}", monitor="final_loss")
    callback = LightningLossForecast(every_n_steps=5)
    trainer = trainer_of(callback, saver, **BAR)
    trainer.fit(LogsAtEnd(), loader(30))
    assert trainer.callback_metrics["final_loss"] == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["final_loss=3.0.ckpt"]
    assert callback.forecast is not None


class FailAt(pl.Callback):
    """Copies the bar in the middle of a run, then ends it with an exception."""

    copies: tuple[Any, ...] = ()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 25:
            bar = trainer.progress_bar_callback
            self.copies = copy.deepcopy(bar), pickle.loads(pickle.dumps(bar))
            raise OverflowError


def test_the_bar_can_be_copied_and_is_restored_after_an_exception() -> None:
    bar, failing = Custom(), FailAt()
    trainer = trainer_of(LightningLossForecast(every_n_steps=5), bar, failing, **BAR)
    with pytest.raises(OverflowError):
        trainer.fit(Scripted(), loader(50))
    assert "get_metrics" not in vars(bar)
    assert len(failing.copies) == 2
    pickle.dumps(bar)
