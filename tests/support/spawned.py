"""Tasks of spawned processes, which get callbacks by pickle."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lossforecast.callbacks import LightningLossForecast, SteerableLR, TorchLossForecast


def probe_loss(model: Any, batch: Any) -> Any:
    (x,) = batch
    return model(x).square().mean()


def sink(update: Any) -> None:
    """A sink of a module, which can be pickled."""


def train_lightning(rank: int, callback: LightningLossForecast, folder: str) -> None:
    """Train with a callback that came by pickle."""
    trainer = pl.Trainer(
        max_steps=60,
        callbacks=[callback],
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Steered(), batches())
    assert callback.forecast is not None
    (Path(folder) / f"lightning-{rank}").write_text(str(callback.forecast.mean))


def train_torch(rank: int, settings: Any, folder: str) -> None:
    """Train with the settings of a callback that came by pickle."""
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    monitor = TorchLossForecast(
        optimizer, SteerableLR(optimizer, 60), 60, policy=settings.policies, sinks=settings.sinks
    )
    with monitor:
        for step in range(60):
            monitor.step(2 + 3 * (step + 5.0) ** -0.5)
            optimizer.step()
    assert monitor.forecast is not None
    (Path(folder) / f"torch-{rank}").write_text(str(monitor.forecast.mean))


def batches() -> Any:
    inputs = torch.randn(80, 3, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=4)


class Steered(pl.LightningModule):
    """A small network with a scheduler that can be steered."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x: Any) -> Any:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return probe_loss(self, batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        scheduler = SteerableLR(optimizer, 60)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
