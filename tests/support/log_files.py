"""Log files for tests of the readers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from lossforecast import LRSchedule
from lossforecast.readers import Log

STEPS = 200


def loss_at(step: int) -> float:
    return float(2 + 3 * (step + 5.0) ** -0.5)


def rate_at(step: int) -> float:
    return float(LRSchedule.cosine(STEPS, 0.1).lr(np.array([max(step, 1)]))[0])


def seen(log: Log) -> dict[int, float]:
    bins = log.history.bins()
    return dict(zip(bins.last.tolist(), bins.mean.tolist(), strict=True))


def write_events(folder: Path, steps: range = range(STEPS), suffix: str = "") -> None:
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for step in steps:
            writer.add_scalar("loss/train", loss_at(step), step)
            writer.add_scalar("accuracy", 0.5, step)
            writer.add_scalar("optim/lr", rate_at(step), step)
            writer.add_histogram("weights", torch.zeros(10), step) if step % 50 == 0 else None


def rows_of(steps: range = range(STEPS)) -> list[dict[str, Any]]:
    return [{"step": i, "train_loss": loss_at(i), "lr": rate_at(i)} for i in steps]
