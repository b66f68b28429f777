"""`LightningLossForecast` under real Trainers: tiny modules whose losses and rates are scripted."""

import csv
import gc
import importlib
import json
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch.optim import lr_scheduler as torch_lr

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.errors import ConfigurationError
from lossforecast.policies.recommend import Action, Reason, Recommendation, Situation
from lossforecast.status import Caveat

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    # a checkpoint is resumed without the callback that wrote it
    pytest.mark.filterwarnings("ignore:(.|\\n)*callbacks used to create the:UserWarning"),
]

SELDOM = 10**6  # every_n_steps that leaves one forecast, at the end
Configure = Callable[["Scripted"], Any]


def scripted(n: int) -> float:
    """Loss of the n-th batch of a run: a noisy power law, exact in float32 even when averaged."""
    return round(1024 * (2 + 3 / math.sqrt(n + 1) + 0.05 * math.sin(12.9898 * n))) / 1024


def plain(module: "Scripted") -> Any:
    return torch.optim.SGD(module.parameters(), lr=0.1)


class Scripted(pl.LightningModule):
    """Its n-th batch has the n-th loss of a script; it notes the rates its optimizer steps with."""

    def __init__(
        self, configure: Configure = plain, script: Callable[[int], float] = scripted
    ) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.configure, self.script = configure, script
        self.group = 0  # whose rates are noted
        self.used: list[float] = []

    def nth(self, batch_idx: int) -> int:
        batches = self.trainer.num_training_batches
        return batch_idx + (self.current_epoch * int(batches) if batches != math.inf else 0)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.script(self.nth(batch_idx)) + 0 * self.weight.sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.used.append(float(optimizer.param_groups[self.group]["lr"]))

    def configure_optimizers(self) -> Any:
        return self.configure(self)


class Validated(Scripted):
    """Logs a validation loss that depends on the optimizer steps taken."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.script(self.global_step))


class Endless(torch.utils.data.IterableDataset[int]):
    """A stream of unknown length."""

    def __init__(self, end: float = math.inf) -> None:
        self.end = end

    def __iter__(self) -> Iterator[int]:
        n = 0
        while n < self.end:
            yield n
            n += 1


class StopAfter(pl.Callback):
    """Ends a run that has no end."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def loader(batches: int) -> torch.utils.data.DataLoader[int]:
    return torch.utils.data.DataLoader(range(batches))  # type: ignore[arg-type]


def trainer_of(*callbacks: Any, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **(quiet | options))


def bins_of(callback: LightningLossForecast) -> tuple[list[int], list[float], list[float]]:
    """Steps, losses and learning rates that the callback saw."""
    assert callback.forecaster is not None
    bins = callback.forecaster.history.bins()
    assert (bins.count == 1).all()
    return bins.last.tolist(), bins.mean.tolist(), bins.lr.tolist()


def planned(callback: LightningLossForecast) -> NDArray[np.float64]:
    assert callback.forecaster is not None
    return callback.forecaster.schedule.to_array()


STATES = Path(__file__).parents[2] / "states"


def windows(epochs: int, batches: int, accumulate: int) -> list[range]:
    """The batches of each optimizer step; the last of an epoch takes what is left."""
    return [
        range(start, min(start + accumulate, (epoch + 1) * batches))
        for epoch in range(epochs)
        for start in range(epoch * batches, (epoch + 1) * batches, accumulate)
    ]


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    ours = [record for record in caplog.records if record.name == "lossforecast"]
    return [record.getMessage() for record in ours if record.levelno >= level]


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
    assert not told(caplog)


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_batches_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast()
    trainer = trainer_of(callback, max_epochs=3, limit_train_batches=0)
    trainer.fit(Scripted(), loader(10))
    assert trainer.global_step == 0
    assert callback.forecast is None
    assert not told(caplog)


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
    (line,) = told(caplog)
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


class Metrics(Validated):
    """Logs a metric of a training epoch, in the epoch and after it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("within", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("after", scripted(self.current_epoch))


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
    assert told(caplog) == []


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
    assert trainer.progress_bar_metrics["final_loss"] > 0

    resumed = LightningLossForecast()
    again = library.Trainer(
        callbacks=[resumed],
        logger=False,
        enable_checkpointing=False,
        **(options | {"max_epochs": 2}),
    )
    again.fit(Module(), loader(30), loader(1), ckpt_path=tmp_path / "saved" / "last.ckpt")
    assert bins_of(resumed)[0] == list(range(60))


# ---------------------------------------------------------------------- the plan

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "exponential": lambda optimizer: torch_lr.ExponentialLR(optimizer, 0.8),
    "warm-up and cosine": lambda optimizer: torch_lr.SequentialLR(
        optimizer,
        [
            torch_lr.LinearLR(optimizer, 0.1, total_iters=3),
            torch_lr.CosineAnnealingLR(optimizer, 9, eta_min=0.001),
        ],
        [3],
    ),
}


def with_scheduler(name: str, **config: Any) -> Configure:
    def configure(module: Scripted) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": SCHEDULERS[name](optimizer), **config}]

    return configure


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("frequency", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_plan_is_what_comes(name: str, interval: str, frequency: int, accumulate: int) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Scripted(with_scheduler(name, interval=interval, frequency=frequency))
    trainer_of(callback, max_epochs=4, accumulate_grad_batches=accumulate).fit(module, loader(7))
    assert planned(callback).tolist() == module.used
    assert len(set(module.used)) > 1
    assert callback.forecast is not None
    assert Caveat.LR_ASSUMED not in callback.forecast.caveats


@pytest.mark.parametrize("frequency", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_plan_on_a_stream(frequency: int, accumulate: int) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Scripted(with_scheduler("exponential", interval="step", frequency=frequency))
    stream = torch.utils.data.DataLoader(Endless())
    trainer_of(callback, max_steps=20, accumulate_grad_batches=accumulate).fit(module, stream)
    assert planned(callback).tolist() == module.used
    assert len(module.used) == 20


def test_epochs_of_unknown_length_are_no_plan_but_followed() -> None:
    callback = LightningLossForecast(every_n_steps=1)
    module = Scripted(with_scheduler("exponential", interval="epoch"))
    stream = torch.utils.data.DataLoader(Endless(end=6))
    trainer_of(callback, max_steps=20, max_epochs=-1).fit(module, stream)
    assert len(set(module.used)) > 1
    assert callback.forecast is not None
    assert callback.forecast.caveats == (Caveat.LR_ASSUMED,)
    assert planned(callback).tolist() == module.used


def one_cycle(module: Scripted) -> Any:
    optimizer = torch.optim.AdamW(module.parameters())
    steps = int(module.trainer.estimated_stepping_batches)
    cycle = torch_lr.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    return [optimizer], [{"scheduler": cycle, "interval": "step"}]


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 4},
        {"max_steps": 17},
        {"max_steps": 17, "max_epochs": 9},
        {"max_steps": 99, "max_epochs": 2, "limit_train_batches": 5},
        {"max_steps": 17, "max_time": "00:01:00:00"},
    ],
    ids=str,
)
def test_the_plan_has_the_length_of_the_run(options: dict[str, Any]) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Scripted(one_cycle)
    trainer_of(callback, **options).fit(module, loader(10))
    assert planned(callback).tolist() == module.used
    assert max(module.used) == pytest.approx(0.2, rel=0.01)
    assert module.used[-1] < 1e-5


def test_the_plan_without_a_scheduler() -> None:
    callback, module = LightningLossForecast(every_n_steps=SELDOM), Scripted()
    trainer_of(callback, max_epochs=1).fit(module, loader(8))
    assert planned(callback).tolist() == module.used == [0.1] * 8


def groups(module: Scripted) -> Any:
    """The rate of the first group falls from the largest; that of the second outgrows it."""
    second = {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.01}
    first: dict[str, Any] = {"params": [module.weight]}
    optimizer = torch.optim.SGD([first, second], lr=0.1)
    factors = [lambda n: 1 / (n + 1), lambda n: 1 + 3 * n]
    return [optimizer], [{"scheduler": torch_lr.LambdaLR(optimizer, factors), "interval": "step"}]


def test_the_plan_is_of_the_group_with_the_largest_rate() -> None:
    callback, module = LightningLossForecast(every_n_steps=SELDOM), Scripted(groups)
    trainer_of(callback, max_epochs=1).fit(module, loader(8))
    assert planned(callback).tolist() == module.used
    assert module.used == pytest.approx([0.1 / (n + 1) for n in range(8)])
    assert bins_of(callback)[2][1:] == module.used[:-1]


def test_two_schedulers_of_one_optimizer_are_only_assumed() -> None:
    def two(module: Scripted) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        up = torch_lr.LinearLR(optimizer, 0.5, total_iters=3)
        down = torch_lr.ExponentialLR(optimizer, 0.5)
        return [optimizer], [{"scheduler": up, "interval": "step"}, {"scheduler": down}]

    callback = LightningLossForecast(every_n_steps=1)
    trainer_of(callback, max_epochs=3).fit(Scripted(two), loader(8))
    assert callback.forecast is not None
    assert Caveat.LR_ASSUMED in callback.forecast.caveats


def test_a_schedule_of_the_users_own_comes_first() -> None:
    own = LRSchedule.wsd(total_steps=40, peak=0.1)
    callback = LightningLossForecast(schedule=own, every_n_steps=SELDOM)
    trainer_of(callback, max_epochs=1).fit(Scripted(), loader(30))
    assert callback.forecaster is not None
    assert callback.forecaster.schedule is own


# ---------------------------------------------------------------------- length unknown


ENDLESS: dict[str, dict[str, Any]] = {
    "no limit": {"max_steps": -1, "max_epochs": -1},
    "a limit of time": {"max_time": "00:01:00:00"},
    "a stream with a limit of epochs": {"max_epochs": 5},
}


@pytest.mark.parametrize("options", ENDLESS.values(), ids=ENDLESS)
def test_a_run_without_a_known_end_is_left_alone(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    callback, saver = LightningLossForecast(stop=True), ModelCheckpoint(tmp_path)
    trainer = trainer_of(callback, StopAfter(25), saver, **options)
    trainer.fit(Scripted(), torch.utils.data.DataLoader(Endless()))
    assert trainer.global_step == 25
    assert callback.forecaster is None
    assert callback.state_dict() == {}
    (message,) = told(caplog)
    assert "max_steps" in message
    assert "total_steps" in message


@pytest.mark.parametrize("options", ENDLESS.values(), ids=ENDLESS)
def test_total_steps_gives_a_run_its_end(options: dict[str, Any]) -> None:
    callback = LightningLossForecast(total_steps=30)
    trainer = trainer_of(callback, StopAfter(45), **options)
    trainer.fit(Scripted(), torch.utils.data.DataLoader(Endless()))
    assert callback.forecaster is not None
    assert callback.forecaster.total_steps == 30
    assert bins_of(callback)[0] == list(range(45))  # it may go on for longer
    assert not callback.switched_off


def test_an_accumulation_that_changes_needs_total_steps(caplog: pytest.LogCaptureFixture) -> None:
    def run(**given: Any) -> LightningLossForecast:
        callback = LightningLossForecast(every_n_steps=SELDOM, **given)
        accumulation = GradientAccumulationScheduler({0: 1, 1: 2, 2: 4})
        module = Scripted(with_scheduler("exponential", interval="step"))
        trainer_of(callback, accumulation, max_epochs=3).fit(module, loader(8))
        return callback

    assert run().forecaster is None
    assert len(told(caplog)) == 1
    callback = run(total_steps=14)
    expected = [range(n, n + 1) for n in range(8)]
    expected += [range(n, n + 2) for n in range(8, 16, 2)]
    expected += [range(n, n + 4) for n in range(16, 24, 4)]
    steps, losses, _ = bins_of(callback)
    assert steps == list(range(14))
    assert losses == [np.mean([scripted(n) for n in window]) for window in expected]
    assert planned(callback)[1:-1].tolist() == bins_of(callback)[2][2:]


# ---------------------------------------------------------------------- several optimizers, skips


class Adversarial(Scripted):
    """The second of two optimizers steps after each batch, the first after every n-th."""

    def __init__(self, every_n: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Parameter(torch.ones(2))
        self.every_n = every_n
        self.rates: dict[int, list[float]] = {0: [], 1: []}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        n = self.nth(batch_idx)
        for index in (1, 0):
            if index == 1 or (n + 1) % self.every_n == 0:
                optimizers[index].zero_grad()
                self.manual_backward(self.weight.sum() + self.other.sum())
                self.rates[index].append(optimizers[index].param_groups[0]["lr"])
                optimizers[index].step()
                schedulers[index].step()
        return {"loss": torch.tensor(scripted(n)), "batch": batch}

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD([self.weight], lr=0.1)
        second = torch.optim.SGD([self.other], lr=0.3)
        return [first, second], [
            torch_lr.ExponentialLR(first, 0.9),
            torch_lr.ExponentialLR(second, 0.8),
        ]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("options", "steps"),
    [({"max_epochs": 3}, 24), ({"max_steps": 20}, 10), ({"max_steps": 33, "max_epochs": 3}, 17)],
    ids=str,
)
def test_optimizers_that_alternate(index: int, options: dict[str, Any], steps: int) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM, optimizer_index=index)
    module = Adversarial()
    trainer_of(callback, **options).fit(module, loader(8))
    assert planned(callback).tolist() == module.rates[index]
    assert len(module.rates[index]) == steps
    seen, losses, rates = bins_of(callback)
    assert seen == list(range(steps))
    assert losses == [scripted(n) for n in range(steps)]
    assert rates[1:] == module.rates[index][:-1]


@pytest.mark.parametrize(("index", "n"), [(0, 4), (1, 1)])
def test_optimizers_that_do_not_step_in_turn(index: int, n: int) -> None:
    callback = LightningLossForecast(
        every_n_steps=SELDOM, optimizer_index=index, total_steps=24 // n
    )
    module = Adversarial(every_n=4)
    trainer_of(callback, max_epochs=3).fit(module, loader(8))
    seen, losses, rates = bins_of(callback)
    assert seen == list(range(24 // n))
    assert losses == [np.mean([scripted(n * t + i) for i in range(n)]) for t in seen]
    assert rates[1:] == module.rates[index][:-1]
    assert planned(callback).tolist() == module.rates[index]


def test_an_optimizer_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast(optimizer_index=2)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(Adversarial(), loader(4))
    assert trainer.global_step == 8
    (record,) = [record for record in caplog.records if record.name == "lossforecast"]
    assert record.exc_info is not None
    assert "2 optimizers" in str(record.exc_info[1])


def test_rates_set_by_hand_are_followed() -> None:
    class ByHand(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            optimizer.param_groups[0]["lr"] = 0.1 if batch_idx < 10 else 0.01
            self.manual_backward(self.weight.sum())
            optimizer.step()
            return torch.tensor(scripted(batch_idx))

    callback = LightningLossForecast(every_n_steps=5)
    trainer_of(callback, max_epochs=1).fit(ByHand(), loader(30))
    assert callback.forecast is not None
    assert Caveat.LR_ASSUMED in callback.forecast.caveats
    assert bins_of(callback)[2][1:] == [0.1] * 10 + [0.01] * 19
    assert planned(callback)[15:].tolist() == [0.01] * 15


def test_steps_that_a_gradient_scaler_skips_do_not_count() -> None:
    overflowing = {4, 5, 13}

    class Overflow(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            times = torch.inf if batch_idx in overflowing else 1.0
            return scripted(batch_idx) + (times * self.weight).sum().clamp(0, 0)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            pass

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Overflow()
    trainer_of(callback, max_epochs=1, plugins=[precision]).fit(module, loader(20))
    steps, losses, _ = bins_of(callback)
    assert steps == list(range(17))
    expected = [[scripted(n)] for n in range(20) if n not in overflowing]
    expected[4] = [scripted(n) for n in (4, 5, 6)]
    expected[11] = [scripted(n) for n in (13, 14)]
    assert losses == pytest.approx([np.mean(each) for each in expected])


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
    assert told(caplog) == []


@pytest.mark.parametrize("returned", [None, {}, {"logits": 3}], ids=str)
def test_a_module_that_returns_no_loss(returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Adversarial):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            return returned

    class Early(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            (message,) = told(caplog)
            assert "training_step returned no loss" in message

    callback = LightningLossForecast(stop=True)
    trainer = trainer_of(callback, Early(), max_epochs=2)
    trainer.fit(Silent(), loader(20))
    assert trainer.global_step == 80
    assert callback.forecast is None
    assert len(told(caplog)) == 1


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
    (message,) = told(caplog)
    assert "'val_los' is not logged" in message
    logged = message.split("(logged: ")[1].split(")")[0].split(", ")
    assert set(logged) == {"within", "after"} | ({"val_loss"} if validated else set())


def test_a_metric_that_comes_late_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast("val_loss")
    trainer = trainer_of(callback, max_epochs=6, check_val_every_n_epoch=3)
    trainer.fit(Validated(), loader(4), loader(1))
    assert bins_of(callback)[0] == [12, 24]
    assert told(caplog) == []


# ---------------------------------------------------------------------- what is done with it


def test_forecasts_come_on_a_grid_of_steps() -> None:
    updates: list[Update] = []
    every = LightningLossForecast(every_n_steps=7, sinks=[updates.append])
    trainer_of(every, max_epochs=2).fit(Scripted(), loader(15))
    assert [update.step for update in updates] == [7, 14, 21, 28, 30]

    updates.clear()
    usual = LightningLossForecast(sinks=[updates.append])
    trainer_of(usual, max_epochs=1).fit(Scripted(), loader(300))
    assert [update.step for update in updates] == list(range(3, 301, 3))

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
            "forecast/final_loss": forecast.mean,
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
    assert trainer.progress_bar_metrics["final_loss"] == pytest.approx(updates[-1].forecast.mean)
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
        metrics = {k: v for k, v in trainer.callback_metrics.items() if k != "final_loss"}
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


# ---------------------------------------------------------------------- stopping


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
    assert "'val_accuracy' is better where it is higher" in told(caplog)[0]


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


REPEATS = 20 if os.environ.get("LOSSFORECAST_FULL") else 1
RANKS = '''
import json, sys, time, warnings
import lightning.pytorch as pl, torch
from lossforecast.callbacks import LightningLossForecast
from lossforecast.policies import Action, Reason, Recommendation

warnings.simplefilter("ignore")
folder, repeats = sys.argv[1], int(sys.argv[2])

class Module(pl.LightningModule):
    def __init__(self, nan_from=1000):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.nan_from = nan_from

    def training_step(self, batch, batch_idx):
        time.sleep(0.01 if self.global_step < 30 else 0.05)  # time for the forecast that stops
        loss = 2 + (self.global_step + 1) ** -0.5 + 0.0 * self.layer(torch.ones(1)).sum()
        loss = loss + 0.1 * self.trainer.global_rank
        self.log("epoch_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        late = self.trainer.global_rank == 1 and self.global_step >= self.nan_from
        return loss * float("nan") if late else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class SaveAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{folder}/saved.ckpt")

def run(*callbacks, epochs=1, resume=False, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks),
    )
    loader = torch.utils.data.DataLoader(range(100 if epochs == 1 else 4))
    path = f"{folder}/saved.ckpt" if resume else None
    trainer.fit(Module(**options), loader, ckpt_path=path)
    return trainer.global_step

def on_rank(rank, then):
    def policy(situation):
        late = situation.history.last_step >= 29  # nobody says anymore that too little is known
        if late and torch.distributed.get_rank() == rank:
            return then()
    return policy

def stop():
    return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: hopeless")

def fail():
    raise RuntimeError("only here")

class Unready(LightningLossForecast):
    """Cannot start on rank 1, where it finds no second optimizer."""

    def on_train_start(self, trainer, pl_module):
        self.optimizer_index = trainer.global_rank
        super().on_train_start(trainer, pl_module)

def watched(*policies, kind=LightningLossForecast, monitor=None, stop=True, every=5, sinks=()):
    return kind(monitor, every_n_steps=every, stop=stop, policy=policies or None, sinks=sinks)

def seen(updates):
    return {u.step: [u.forecast.mean, u.forecast.std, u.forecast.made_at] for u in updates}

def resumed():
    whole, later = [], []
    watcher = watched(sinks=[whole.append])
    run(watcher, SaveAt(23))
    losses = watcher.forecaster.history.bins().mean.tolist()
    run(watched(sinks=[later.append]), resume=True)
    return losses, seen(whole), seen(later)

found = {
    "without": run(),
    "advises": run(watched(on_rank(0, stop), stop=False)),
    "other wishes": run(watched(on_rank(1, stop))),
    "unready": run(watched(on_rank(0, stop), kind=Unready)),
    "metric": run(
        watched(on_rank(0, stop), on_rank(1, fail), monitor="epoch_loss", every=2), epochs=25
    ),
}
for i in range(repeats):
    found[f"stops {i}"] = run(watched(on_rank(0, stop), on_rank(1, fail)))
    found[f"nan {i}"] = run(watched(), nan_from=20)
    found[f"resumed {i}"] = resumed()
with open(f"{folder}/{torch.distributed.get_rank()}.json", "w") as file:
    json.dump(found, file)
'''


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes under DDP has found."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(RANKS)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(REPEATS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=120 + 30 * REPEATS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the processes it started as well
        pytest.fail(f"the two processes wait for each other: {process.communicate()[0].decode()}")
    assert process.returncode == 0, output.decode()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("run", ["without", "advises", "other wishes", "unready"])
def test_nobody_stops_of_two_processes(ranks: list[dict[str, Any]], run: str) -> None:
    assert ranks[0][run] == ranks[1][run] == 50


@pytest.mark.parametrize(
    "run", ["metric", *(f"{name} {i}" for name in ("stops", "nan") for i in range(REPEATS))]
)
def test_two_processes_stop_together(ranks: list[dict[str, Any]], run: str) -> None:
    assert ranks[0][run] == ranks[1][run]
    assert 30 <= ranks[0][run] < 50


@pytest.mark.parametrize("turn", range(REPEATS))
def test_two_resumed_processes_repeat_their_forecasts(
    ranks: list[dict[str, Any]], turn: int
) -> None:
    losses, whole, later = ranks[0][f"resumed {turn}"]
    expected = [2.05 + (step + 1) ** -0.5 for step in range(50)]
    assert losses == pytest.approx(expected, rel=1e-6), "averaged over both"
    assert later == {step: each for step, each in whole.items() if int(step) > 23}
    assert list(map(int, later)) == [25, 30, 35, 40, 45, 50]
    _, *nothing = ranks[1][f"resumed {turn}"]
    assert nothing == [{}, {}]


# ---------------------------------------------------------------------- resuming


def seen_by(update: Update) -> tuple[Any, ...]:
    forecast = update.forecast
    quantiles = [forecast.quantile(q) for q in (0.05, 0.5, 0.95)]
    gain = forecast.anneal_gain
    return (
        update.step,
        forecast.made_at,
        forecast.mean,
        *quantiles,
        gain,
        forecast.status,
        forecast.caveats,
        update.recommendation,
    )


RESUMABLE: dict[str, tuple[Configure, dict[str, Any]]] = {
    "cosine by steps": (
        with_scheduler("warm-up and cosine", interval="step"),
        {"max_epochs": 3},
    ),
    "each third batch, accumulated": (
        with_scheduler("exponential", interval="step", frequency=3),
        {"max_epochs": 3, "accumulate_grad_batches": 2},
    ),
    "by epochs": (with_scheduler("exponential", interval="epoch"), {"max_steps": 50}),
    "one cycle": (one_cycle, {"max_epochs": 3}),
    "no scheduler": (plain, {"max_epochs": 3}),
    "groups": (groups, {"max_epochs": 3}),
}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended:UserWarning")
@pytest.mark.parametrize(("configure", "options"), RESUMABLE.values(), ids=RESUMABLE)
@pytest.mark.parametrize(
    "monitor",
    ["val_loss", *(pytest.param(each, marks=pytest.mark.slow) for each in (None, "after"))],
)
def test_a_resumed_run_repeats_its_forecasts_to_the_bit(
    configure: Configure, options: dict[str, Any], monitor: str | None, tmp_path: Path
) -> None:
    def run(path: Path | None, *callbacks: Any) -> tuple[list[Any], Scripted, Any]:
        updates: list[Update] = []
        callback = LightningLossForecast(
            monitor, every_n_steps=3, target=2.3, sinks=[updates.append]
        )
        module = Metrics(configure)
        trainer = trainer_of(callback, *callbacks, val_check_interval=4, **options)
        trainer.fit(module, loader(20), loader(2), ckpt_path=path)
        assert callback.forecaster is not None
        state = callback.forecaster.state_dict()
        state.pop("seconds_spent")
        return [seen_by(update) for update in updates], module, state

    saver = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1, save_on_train_epoch_end=False
    )
    at_ends = ModelCheckpoint(tmp_path, "end-{step}", save_top_k=-1, save_on_train_epoch_end=True)
    every_update, whole, final = run(None, saver, at_ends)
    assert len(every_update) >= (3 if monitor else 10)
    an_epoch = 20 // options.get("accumulate_grad_batches", 1)
    for name, taken in (("step=7", 7), ("step=21", 21), (f"end-step={an_epoch}", an_epoch)):
        updates, module, state = run(tmp_path / f"{name}.ckpt")
        assert module.used == whole.used[taken:]
        # the one of an epoch's last metric comes with the next epoch, so after the checkpoint
        assert updates == every_update[-len(updates) :]
        assert len(updates) >= sum(update[0] > taken for update in every_update) > 0
        assert state == final


def test_checkpoints_hold_plain_values(tmp_path: Path) -> None:
    train = LightningLossForecast(run=RunInfo(task="toy", n_params=1e6))
    val = LightningLossForecast("val_loss", schedule=LRSchedule.cosine(50, 1e-3))
    saver = ModelCheckpoint(tmp_path, save_last=True)
    module = Validated(with_scheduler("exponential", interval="step"))
    trainer_of(train, val, saver, max_epochs=2).fit(module, loader(25), loader(1))
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert train.state_key != val.state_key
    assert {train.state_key, val.state_key} < set(states)
    for callback in (train, val):
        saved = json.dumps(states[callback.state_key])
        assert saved == json.dumps(json.loads(saved)) == json.dumps(callback.state_dict())


def test_what_cannot_be_pickled_is_not_in_a_checkpoint(tmp_path: Path) -> None:
    lock = threading.Lock()
    callback = LightningLossForecast(
        policy=lambda situation: lock and None, sinks=[lambda update: lock and None]
    )
    with pytest.raises((TypeError, AttributeError)):
        pickle.dumps(callback.policies)
    path = saved_run(tmp_path, callback, max_epochs=2)
    assert not callback.switched_off
    assert callback.state_key in torch.load(path, weights_only=True)["callbacks"]


@pytest.mark.parametrize(
    "path", sorted(STATES.glob("lightning-*.json")), ids=lambda path: path.stem
)
def test_states_of_earlier_versions_are_read(path: Path, tmp_path: Path) -> None:
    checkpoint = saved_run(tmp_path, max_epochs=2)
    saved = torch.load(checkpoint, weights_only=True)
    callback = LightningLossForecast(every_n_steps=5)
    saved["callbacks"][callback.state_key] = json.loads(path.read_text())
    torch.save(saved, checkpoint)
    trainer = trainer_of(callback, max_epochs=3)
    trainer.fit(Scripted(cosine), loader(10), ckpt_path=checkpoint)
    assert not callback.switched_off
    steps, losses, _ = bins_of(callback)
    assert steps == list(range(30))
    assert losses[:20] == [scripted(n) for n in range(20)]
    assert callback.forecast is not None
    assert callback.forecast.made_at == 29


def test_two_of_the_same_metric_are_refused() -> None:
    with pytest.raises(RuntimeError, match="state_key"):
        trainer_of(LightningLossForecast(), LightningLossForecast(target=2.0))


def saved_run(tmp_path: Path, *callbacks: Any, **options: Any) -> Path:
    saver = ModelCheckpoint(tmp_path, save_last=True)
    trainer_of(*callbacks, saver, **options).fit(Scripted(cosine), loader(10))
    return tmp_path / "last.ckpt"


def cosine(module: Scripted) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = torch_lr.CosineAnnealingLR(optimizer, 100)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def test_a_longer_run_is_adopted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved_run(tmp_path, LightningLossForecast(), max_steps=30)
    (message,) = told(caplog)
    assert "schedule lint, never_low" in message  # it is made for 100 steps
    caplog.clear()
    callback, module = LightningLossForecast(), Scripted(cosine)
    trainer_of(callback, max_steps=50).fit(module, loader(10), ckpt_path=path)
    (message,) = told(caplog)
    assert "resumed at step 30 with another schedule" in message
    assert callback.forecast is not None
    assert callback.forecast.step == 50
    assert planned(callback)[30:].tolist() == module.used
    assert planned(callback)[:30] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * i / 100)) for i in range(30)]
    )
    assert bins_of(callback)[0] == list(range(50))


def test_resuming_the_checkpoint_of_a_run_that_was_not_watched(tmp_path: Path) -> None:
    path = saved_run(tmp_path, max_epochs=2)
    callback, module = LightningLossForecast(), Scripted(cosine)
    trainer_of(callback, max_epochs=5).fit(module, loader(10), ckpt_path=path)
    steps, losses, rates = bins_of(callback)
    assert steps == list(range(20, 50))
    assert losses == [scripted(n) for n in steps]
    assert rates[1:] == module.used[:-1]
    assert planned(callback)[20:].tolist() == module.used
    assert callback.forecast is not None
    assert callback.forecast.step == 50


def test_a_run_that_went_past_its_plan_can_be_resumed(tmp_path: Path) -> None:
    path = saved_run(tmp_path, LightningLossForecast(total_steps=15), max_epochs=3)
    callback = LightningLossForecast(total_steps=15)
    trainer_of(callback, max_epochs=4).fit(Scripted(cosine), loader(10), ckpt_path=path)
    assert not callback.switched_off
    assert bins_of(callback)[0] == list(range(40))


def test_saving_a_checkpoint_does_not_change_what_is_read(tmp_path: Path) -> None:
    class EachStep(Metrics):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("each", loss, on_step=True, on_epoch=True)
            return loss

    callback = LightningLossForecast("each", every_n_steps=1)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    trainer_of(callback, saver, max_epochs=3, limit_val_batches=0).fit(
        EachStep(), loader(5), loader(1)
    )
    assert bins_of(callback)[0] == [5, 10, 15]


@pytest.mark.parametrize("damage", [{"forecasters": {}}, {"capture": {"steps": "x"}}], ids=str)
def test_a_damaged_state_is_an_error_of_ours(
    damage: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = LightningLossForecast()
    path = saved_run(tmp_path, callback, max_epochs=2)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"][callback.state_key].update(damage)
    torch.save(checkpoint, path)
    trainer, resumed = None, LightningLossForecast()
    trainer = trainer_of(resumed, max_epochs=5)
    trainer.fit(Scripted(cosine), loader(10), ckpt_path=path)
    assert trainer.global_step == 50
    assert resumed.switched_off
    assert len([record for record in caplog.records if record.exc_info]) == 1


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
