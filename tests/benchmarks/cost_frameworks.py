"""Costs that forecasts add to Lightning, the Hugging Face `Trainer` and Optuna."""

import tempfile
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import optuna
import torch
import transformers
from cost_loops import fresh_network, network_loss, same_length
from cost_table import Ratio, added, of_all
from cost_turns import Pause, Subject, measured
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks import ForecastPruner, LightningLossForecast, TransformersLossForecast

__all__ = ["lightning_trainer", "study", "transformers_trainer"]


class Line(pl.LightningModule):
    """The smallest possible model, so that the cost of a callback shows."""

    def __init__(self, log: bool, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.logs, self.steps = log, steps

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = (self.weight - batch[0]).square().sum()
        if self.logs:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Turns(torch.utils.data.Dataset[Tensor]):
    """Data that ends a turn at every so many items."""

    def __init__(self, items: int, turn: int, pause: Pause) -> None:
        self._items, self._turn, self._pause = items, turn, pause

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, index: int) -> Any:
        if index and index % self._turn == 0:
            self._pause()
        return [torch.zeros(1)]


def lightning_trainer(scale: float) -> list[Ratio]:
    """Measure a Lightning `Trainer` of one weight: what each callback adds to its steps."""
    steps, turn = int(4_000 * scale), 50
    callbacks: dict[str, Callable[[], list[pl.Callback]]] = {
        "bare": list,
        "log": list,
        "rates": lambda: [LearningRateMonitor("step")],
        "stopping": lambda: [EarlyStopping("loss", check_on_train_epoch_end=True)],
        "forecast": lambda: [LightningLossForecast()],
    }

    def trained(name: str) -> Subject:
        def subject(pause: Pause) -> None:
            with tempfile.TemporaryDirectory() as folder:
                trainer = pl.Trainer(
                    max_steps=steps,
                    logger=CSVLogger(folder),
                    callbacks=callbacks[name](),
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    log_every_n_steps=1,
                    accelerator="auto",
                    devices=1,
                )
                loader: Any = torch.utils.data.DataLoader(Turns(steps, turn, pause))
                trainer.fit(Line(name in ("log", "stopping"), steps), loader)

        return subject

    times = same_length(measured({name: trained(name) for name in callbacks}))
    what = f"{steps:,} steps of a Lightning Trainer: lossforecast"
    return [
        added(times, "forecast", "rates", "bare", what, "`LearningRateMonitor`", 0.5),
        added(times, "forecast", "log", "bare", what, "`self.log`", None),
        added(times, "forecast", "stopping", "bare", what, "`self.log` and `EarlyStopping`", None),
        of_all(times, "forecast", "bare", what, "the same without"),
    ]


class Regression(nn.Module):
    """A small network in the form that the Hugging Face `Trainer` expects."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layers(x).squeeze(-1) - labels).square().mean()}


class EndsTurns(transformers.TrainerCallback):
    """Ends a turn at every so many steps."""

    def __init__(self, turn: int, pause: Pause) -> None:
        self._turn, self._pause = turn, pause

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step and state.global_step % self._turn == 0:
            self._pause()


def transformers_trainer(scale: float) -> list[Ratio]:
    """Measure the Hugging Face `Trainer` of a small network, with and without forecasts."""
    steps, turn = int(2_000 * scale), 50
    rows = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    data: Any = [{"x": row, "labels": row.sum()} for row in rows]

    def trained(forecasts: bool) -> Subject:
        def subject(pause: Pause) -> None:
            callbacks: list[Any] = [EndsTurns(turn, pause)]
            if forecasts:
                callbacks.append(TransformersLossForecast())
            with tempfile.TemporaryDirectory() as folder:
                arguments = transformers.TrainingArguments(
                    output_dir=folder,
                    max_steps=steps,
                    per_device_train_batch_size=32,
                    logging_steps=max(steps // 100, 1),
                    save_strategy="no",
                    report_to=[],
                    disable_tqdm=True,
                )
                trainer = transformers.Trainer(
                    Regression(), arguments, train_dataset=data, callbacks=callbacks
                )
                trainer.remove_callback(transformers.PrinterCallback)
                trainer.train()

        return subject

    times = same_length(measured({"bare": trained(False), "forecast": trained(True)}))
    what = f"{steps:,} steps of a Hugging Face Trainer with lossforecast"
    return [of_all(times, "forecast", "bare", what, "the same without", 1.01)]


def study(scale: float) -> list[Ratio]:
    """Measure an Optuna study of small networks with each pruner, all of which prune nothing."""
    trials, steps = max(int(6 * scale), 1), 600

    def plan(trial: optuna.trial.FrozenTrial) -> LRSchedule:
        return LRSchedule.cosine(steps, trial.params["lr"])

    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "forecast": lambda: ForecastPruner(plan, RunInfo(optimizer="adamw")),
    }

    def searched(name: str) -> Subject:
        def subject(pause: Pause) -> None:
            def objective(trial: optuna.Trial) -> float:
                draw, model, optimizer = fresh_network(
                    trial.suggest_float("lr", 1e-4, 1e-2, log=True)
                )
                for step in range(1, steps + 1):
                    loss = network_loss(model, draw)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
                    if step % 20 == 0:
                        trial.report(loss.item(), step)
                        trial.should_prune()
                    if step % 100 == 0:
                        pause()
                return loss.item()

            sampler = optuna.samplers.RandomSampler(0)
            searches = optuna.create_study(pruner=pruners[name](), sampler=sampler)
            searches.optimize(objective, n_trials=trials)

        return subject

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    times = same_length(measured({name: searched(name) for name in pruners}))
    what = f"{trials} x {steps} steps of an Optuna study with `ForecastPruner`"
    return [
        of_all(times, "forecast", "none", what, "the same without a pruner", 1.05),
        of_all(times, "forecast", "median", what, "the same with `MedianPruner`"),
    ]
