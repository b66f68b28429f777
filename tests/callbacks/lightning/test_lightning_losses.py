"""Losses and learning rates that `LightningLossForecast` reads, step by step."""

import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.lightning_runs import (
    IGNORED_WARNINGS,
    SELDOM,
    Adversarial,
    Endless,
    Metrics,
    Scripted,
    StopAfter,
    Validated,
    bins_of,
    loader,
    plain,
    scripted,
    trainer_of,
)
from support.logs import warnings_in
from torch.optim import lr_scheduler as torch_lr

from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.monitor.update import Update

pytestmark = IGNORED_WARNINGS


def windows(epochs: int, batches: int, accumulate: int) -> list[range]:
    """The batches of each optimizer step; the last of an epoch takes what is left."""
    return [
        range(start, min(start + accumulate, (epoch + 1) * batches))
        for epoch in range(epochs)
        for start in range(epoch * batches, (epoch + 1) * batches, accumulate)
    ]


# ---------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("batches", "accumulate"), [(9, 1), (8, 4), (7, 2), (6, 4), (3, 8)], ids=str
)
def test_training_losses_and_rates_of_every_step(batches: int, accumulate: int) -> None:
    def configure(module: Scripted) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        return [optimizer], [
            {"scheduler": torch_lr.ExponentialLR(optimizer, 0.9), "interval": "step"}
        ]

    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Scripted(configure)
    trainer = trainer_of(callback, max_epochs=3, accumulate_grad_batches=accumulate)
    trainer.fit(module, loader(batches))
    steps, losses, rates = bins_of(callback)
    expected = windows(3, batches, accumulate)
    assert steps == list(range(len(expected)))
    assert losses == [np.mean([scripted(n) for n in window]) for window in expected]
    assert math.isnan(rates[0])  # no step was taken before the first loss
    assert rates[1:] == module.used[:-1]
    assert module.used == pytest.approx([0.1 * 0.9**i for i in range(len(expected))])


class EmptyAtTimes(torch.utils.data.IterableDataset[int]):
    """Has no batches in its second epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(range(0 if self.epoch == 2 else 10))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("monitor", [None, "val_loss"])
def test_an_empty_epoch_is_no_trouble(
    monitor: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    callback = LightningLossForecast(monitor, total_steps=20, every_n_steps=4)
    trainer = trainer_of(callback, max_epochs=3)
    trainer.fit(Validated(), torch.utils.data.DataLoader(EmptyAtTimes()), loader(2))
    assert trainer.global_step == 20
    assert not callback.switched_off
    assert callback.forecaster is not None
    assert callback.forecaster.history.last_step == (19 if monitor is None else 20)
    assert not warnings_in(caplog)


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_batches_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast()
    trainer = trainer_of(callback, max_epochs=3, limit_train_batches=0)
    trainer.fit(Scripted(), loader(10))
    assert trainer.global_step == 0
    assert callback.forecast is None
    assert not warnings_in(caplog)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {}], ids=["switched off", "empty"])
def test_a_validation_without_batches_is_named(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    callback = LightningLossForecast("val_loss", stop=True, target=-1.0)
    trainer = trainer_of(callback, max_epochs=3, **options)
    trainer.fit(Validated(), loader(10), loader(3 if options else 0))
    assert trainer.global_step == 30
    assert callback.forecast is None
    assert not callback.switched_off
    (line,) = warnings_in(caplog)
    assert "'val_loss' is not logged" in line


@pytest.mark.parametrize("every_n_batches", [3, 5])
def test_validation_losses_have_the_steps_at_which_they_were_measured(every_n_batches: int) -> None:
    callback = LightningLossForecast("val_loss", every_n_steps=SELDOM)
    module = Validated()
    trainer = trainer_of(callback, max_epochs=3, val_check_interval=every_n_batches)
    trainer.fit(module, loader(10), loader(2))
    of_an_epoch = range(every_n_batches, 11, every_n_batches)
    expected = [epoch * 10 + batch for epoch in range(3) for batch in of_an_epoch]
    steps, losses, rates = bins_of(callback)
    assert steps == expected
    assert losses == [scripted(step) for step in expected]
    assert rates == [0.1] * len(expected)
    assert callback.forecaster is not None
    assert callback.forecaster.run.metric == "val"


@pytest.mark.parametrize("validated", [True, False], ids=["validated", "not validated"])
def test_metrics_of_a_training_epoch_belong_to_its_end(
    validated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    within = LightningLossForecast("within", every_n_steps=1)
    after = LightningLossForecast("after", every_n_steps=1)
    trainer = trainer_of(within, after, max_epochs=4, limit_val_batches=int(validated))
    trainer.fit(Metrics(), loader(5), loader(1))
    steps, losses, _ = bins_of(within)
    assert steps == [5, 10, 15, 20]
    assert losses == pytest.approx(
        [np.mean([scripted(5 * epoch + n) for n in range(5)]) for epoch in range(4)]
    )
    assert bins_of(after)[:2] == (steps, [scripted(epoch) for epoch in range(4)])
    assert warnings_in(caplog) == []


def test_a_metric_that_does_not_change_is_read_every_time_it_is_logged() -> None:
    class Constant(Scripted):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", torch.tensor(2.0))

    callback = LightningLossForecast("val_loss", every_n_steps=SELDOM)
    trainer_of(callback, max_epochs=4).fit(Constant(), loader(3), loader(1))
    assert bins_of(callback)[:2] == ([3, 6, 9, 12], [2.0] * 4)


def test_validations_outside_of_training_do_not_count() -> None:
    callback = LightningLossForecast("val_loss", every_n_steps=1)
    module, trainer = Validated(), trainer_of(callback, max_epochs=2, num_sanity_val_steps=2)
    trainer.fit(module, loader(4), loader(3))
    module.script = lambda n: 99.0
    trainer.validate(module, loader(3), verbose=False)
    assert bins_of(callback)[:2] == ([4, 8], [scripted(4), scripted(8)])


def test_a_callback_can_be_used_again(tmp_path: Path) -> None:
    def run(batches: Any, script: Callable[[int], float], *others: Any, **options: Any) -> int:
        path = options.pop("ckpt_path", None)
        trainer = trainer_of(callback, *others, **options)
        trainer.fit(Validated(script=script), batches, loader(3), ckpt_path=path)
        return trainer.global_step

    callback = LightningLossForecast("val_loss", every_n_steps=1, stop=True)
    stream = torch.utils.data.DataLoader(Endless())
    assert run(stream, scripted, StopAfter(7), max_epochs=-1) == 7
    assert callback.switched_off
    assert run(loader(4), lambda n: math.nan, max_epochs=20) == 40
    saver = ModelCheckpoint(tmp_path, save_last=True)
    assert run(loader(4), scripted, saver, max_epochs=3) == 12
    assert run(loader(4), scripted, max_epochs=5, ckpt_path=tmp_path / "last.ckpt") == 20
    assert run(loader(4), scripted, max_epochs=5) == 20
    steps = [4, 8, 12, 16, 20]
    assert bins_of(callback)[:2] == (steps, [scripted(step) for step in steps])


def test_fast_dev_run_does_nothing() -> None:
    updates: list[Update] = []
    callback = LightningLossForecast(stop=True, target=0.0, sinks=[updates.append])
    trainer_of(callback, fast_dev_run=3).fit(Scripted(), loader(5))
    assert callback.forecaster is None
    assert callback.forecast is None
    assert callback.recommendation is None
    assert updates == []
    assert callback.state_dict() == {}


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_both_namespaces(package: str, tmp_path: Path) -> None:
    library = importlib.import_module(package)

    class Module(library.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return scripted(batch_idx) + 0 * self.weight.sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", scripted(self.global_step))

        configure_optimizers = plain

    train, val = LightningLossForecast(), LightningLossForecast("val_loss", stop=True)
    saver = library.callbacks.ModelCheckpoint(tmp_path / "saved", save_last=True)
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "val_check_interval": 10,
        "log_every_n_steps": 10,
        "enable_progress_bar": True,
        "enable_model_summary": False,
    }
    logs = library.loggers.CSVLogger(tmp_path)
    trainer = library.Trainer(callbacks=[train, val, saver], logger=logs, **options)
    trainer.fit(Module(), loader(30), loader(1))
    assert bins_of(train)[1] == [scripted(n) for n in range(30)]
    assert bins_of(val)[1] == [scripted(10), scripted(20), scripted(30)]
    assert "forecast/final_loss" in (Path(logs.log_dir) / "metrics.csv").read_text()

    resumed = LightningLossForecast()
    again = library.Trainer(
        callbacks=[resumed],
        logger=False,
        enable_checkpointing=False,
        **(options | {"max_epochs": 2}),
    )
    again.fit(Module(), loader(30), loader(1), ckpt_path=tmp_path / "saved" / "last.ckpt")
    assert bins_of(resumed)[0] == list(range(60))


# ---------------------------------------------------------------------- losses that are not there


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.*:UserWarning")
def test_batches_without_a_loss_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Skipping(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx % 4 == 3 else super().training_step(batch, batch_idx)

    callback = LightningLossForecast(every_n_steps=5)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(Skipping(), loader(20))
    steps, losses, _ = bins_of(callback)
    assert steps == [n for n in range(20) if n % 4 != 3]
    assert losses == [scripted(n) for n in steps]
    assert warnings_in(caplog) == []


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.*:UserWarning")
@pytest.mark.parametrize(("skipped", "batches"), [(1, 50), (15, 50), (30, 400)])
def test_a_first_loss_that_is_none_is_no_reason_to_warn(
    skipped: int, batches: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx < skipped else super().training_step(batch, batch_idx)

    callback = LightningLossForecast(every_n_steps=1)
    trainer_of(callback, max_epochs=1).fit(Late(), loader(batches))
    assert bins_of(callback)[0] == list(range(skipped, batches))
    assert warnings_in(caplog) == []


@pytest.mark.filterwarnings("ignore:.*returned .None., this fit will run with no optimizer")
@pytest.mark.parametrize("by_hand", [False, True], ids=["automatic", "by hand"])
def test_a_module_without_an_optimizer_is_named_in_one_sentence(
    by_hand: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Bare(Scripted):
        def __init__(self) -> None:
            super().__init__(lambda _: None)
            self.automatic_optimization = not by_hand
            self.batches = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches += 1
            return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            assert not optimizer.param_groups

    callback, module = LightningLossForecast(stop=True, target=0.0), Bare()
    trainer_of(callback, max_epochs=2).fit(module, loader(10))
    assert module.batches == 20
    assert callback.forecast is None
    (line,) = warnings_in(caplog)
    assert line == (
        "no forecasts: configure_optimizers returned no optimizer, so no step can be counted"
    )
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("returned", [None, {}, {"logits": 3}], ids=str)
def test_a_module_that_returns_no_loss(returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Adversarial):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            return returned

    class Early(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            (message,) = warnings_in(caplog)
            assert "training_step returned no loss" in message

    callback = LightningLossForecast(stop=True)
    trainer = trainer_of(callback, Early(), max_epochs=2)
    trainer.fit(Silent(), loader(20))
    assert trainer.global_step == 80
    assert callback.forecast is None
    assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda loss: torch.tensor([[loss]])])
def test_losses_of_many_kinds(kind: Callable[[float], Any]) -> None:
    class Kinds(Adversarial):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            return {"loss": torch.as_tensor(kind(scripted(batch_idx))), "more": [1, 2]}

    callback = LightningLossForecast(every_n_steps=SELDOM)
    trainer_of(callback, max_epochs=1).fit(Kinds(), loader(5))
    assert bins_of(callback)[1] == [scripted(n) for n in range(5)]


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("validated", [True, False], ids=["validated", "not validated"])
def test_a_metric_that_nobody_logs(
    validated: bool, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    callback = LightningLossForecast("val_los", stop=True, target=0.0)
    trainer = trainer_of(callback, max_epochs=epochs, limit_val_batches=int(validated))
    trainer.fit(Metrics(), loader(5), loader(1))
    assert trainer.current_epoch == epochs
    (message,) = warnings_in(caplog)
    assert "'val_los' is not logged" in message
    logged = message.split("(logged: ")[1].split(")")[0].split(", ")
    assert set(logged) == {"within", "after"} | ({"val_loss"} if validated else set())


def test_a_metric_that_comes_late_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast("val_loss")
    trainer = trainer_of(callback, max_epochs=6, check_val_every_n_epoch=3)
    trainer.fit(Validated(), loader(4), loader(1))
    assert bins_of(callback)[0] == [12, 24]
    assert warnings_in(caplog) == []
