"""Tiny Lightning modules whose losses and rates are scripted, and Trainers to run them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from torch.optim import lr_scheduler as torch_lr

from lossforecast.callbacks import LightningLossForecast

IGNORED_WARNINGS = [
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


class Metrics(Validated):
    """Logs a metric of a training epoch, in the epoch and after it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("within", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("after", scripted(self.current_epoch))


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


def one_cycle(module: Scripted) -> Any:
    optimizer = torch.optim.AdamW(module.parameters())
    steps = int(module.trainer.estimated_stepping_batches)
    cycle = torch_lr.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    return [optimizer], [{"scheduler": cycle, "interval": "step"}]


def groups(module: Scripted) -> Any:
    """The rate of the first group falls from the largest; that of the second outgrows it."""
    second = {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.01}
    first: dict[str, Any] = {"params": [module.weight]}
    optimizer = torch.optim.SGD([first, second], lr=0.1)
    factors = [lambda n: 1 / (n + 1), lambda n: 1 + 3 * n]
    return [optimizer], [{"scheduler": torch_lr.LambdaLR(optimizer, factors), "interval": "step"}]


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


def cosine(module: Scripted) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = torch_lr.CosineAnnealingLR(optimizer, 100)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
