"""One small training run: it is trained step by step, recorded, stored and packed with others."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from own_optimizers import optimizers_of
from own_settings import Settings, scheduler_of
from own_task import Batch, Task
from torch import Tensor

__all__ = ["Curve", "Recording", "Training", "completion_of", "pack", "record", "stored"]

TRAIN_BINS = 300  # means of the training loss that are kept of a run
KIND = "small model"
MAX_RISE = 10.0  # of the training loss over its first value; a run that exceeds it has diverged
MIN_LOSS = 1e-6  # smaller training losses are mostly rounding in single precision

Entry = dict[str, Any]


class Training:
    """A run in progress.

    Attributes:
        optimizer: the optimizer; with Muon, that of the hidden matrices.
        scheduler: its scheduler.
        steps: optimizer steps taken.
    """

    def __init__(self, task: Task, settings: Settings) -> None:
        data = task.data()
        torch.manual_seed(settings.seed)
        self.model = task.model(settings)
        self.n_params = sum(weight.numel() for weight in self.model.parameters())
        self._clip = task.clip
        self._optimizers = optimizers_of(
            settings.optimizer, self.model, settings.peak_lr, settings.weight_decay
        )
        self._schedulers = [scheduler_of(settings, each) for each in self._optimizers]
        generator = torch.Generator().manual_seed(settings.seed)
        self._batches: Iterator[Batch] = data.batches(settings.batch, generator)
        self._held_out = data.held_out()
        self.steps_per_epoch = None if data.examples is None else data.examples // settings.batch
        self.optimizer, self.scheduler = self._optimizers[0], self._schedulers[0]
        self.steps = 0

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def loss(self) -> Tensor:
        """The training loss of the next batch."""
        loss: Tensor = self.model(*next(self._batches))
        return loss

    def update(self, loss: Tensor) -> None:
        """Take an optimizer step down a training loss."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in self._schedulers:
            scheduler.step()
        self.steps += 1

    def skip(self) -> None:
        """Count a step of a run whose weights are no longer finite, without computing it."""
        for optimizer, scheduler in zip(self._optimizers, self._schedulers, strict=True):
            optimizer.step()  # without gradients: torch warns about schedulers that run ahead
            scheduler.step()
        self.steps += 1

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss of the held-out examples, in evaluation mode."""
        self.model.eval()
        sizes = [len(batch[0]) for batch in self._held_out]
        losses = [float(self.model(*batch)) for batch in self._held_out]
        self.model.train()
        return float(np.average(losses, weights=sizes))


@dataclass(frozen=True)
class Curve:
    """One recorded curve: optimizer steps, learning rates and losses, each (n,)."""

    step: NDArray[np.int64]
    lr: NDArray[np.float64]
    loss: NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A finished run: its two curves and its description."""

    train: Curve
    val: Curve
    entry: Entry


def spaced(count: int, total: int) -> NDArray[np.int64]:
    """At most `count` steps, evenly spaced; the last one is `total`."""
    count = min(count, total)
    return np.unique(np.round(np.arange(1, count + 1) * total / count).astype(np.int64))


def record(task: Task, settings: Settings) -> Recording:
    """Train a run to its end.

    The training loss at a step is the mean over the steps since the one recorded before; the
    validation loss is measured after the step. The rate is the one used in the step.
    """
    start = time.perf_counter()
    training, total = Training(task, settings), settings.total_steps
    rates, losses = np.zeros(total), np.zeros(total)
    validated = spaced(settings.validations, total)
    validations: dict[int, float] = dict.fromkeys(validated.tolist(), math.nan)
    finite = True
    for step in range(1, total + 1):
        rates[step - 1] = training.rate
        if finite:
            loss = training.loss()
            losses[step - 1] = loss.item()
            training.update(loss)
            finite = math.isfinite(losses[step - 1])
        else:
            losses[step - 1] = math.nan
            training.skip()
        if finite and step in validations:
            validations[step] = training.validation_loss()
    ends = spaced(TRAIN_BINS, total)
    bins = np.split(losses, ends[:-1])
    means = np.array([part.mean() for part in bins])
    train = Curve(ends, rates[ends - 1], means.astype(np.float32))
    return Recording(
        train=train,
        val=Curve(
            validated,
            rates[validated - 1],
            np.array([validations[step] for step in validated.tolist()], np.float32),
        ),
        entry=entry_of(task, settings, training)
        | {
            "seconds": round(time.perf_counter() - start, 1),
            "completion": completion_of(train),
        },
    )


def completion_of(train: Curve) -> str:
    """How a run ended, from its training loss; only what begins with "reached" has an outcome."""
    diverged = ~(train.loss <= MAX_RISE * train.loss[0])  # nan is not below it either
    for reason, where in (
        ("diverged", diverged),
        (f"fell below {MIN_LOSS:g}", train.loss < MIN_LOSS),
    ):
        if where.any():
            return f"{reason} by step {train.step[where.argmax()]}"
    return "reached the last step"


def entry_of(task: Task, settings: Settings, training: Training) -> Entry:
    """The description of a run, as `lossforecast.backtest.load_curves` reads it."""
    per_epoch = training.steps_per_epoch
    return {
        "run_id": settings.name,
        "fold": settings.task,
        "task": settings.task,
        "kind": KIND,
        "cluster": settings.name,
        "sweep_of": settings.sweep,
        "model": task.about,
        "dataset": task.dataset,
        "language_model": task.language_model,
        "optimizer": settings.optimizer,
        "peak_lr": settings.peak_lr,
        "schedule": {"type": settings.schedule, **settings.options},
        "total_steps": settings.total_steps,
        "warmup_steps": settings.warmup_steps,
        "n_params": training.n_params,
        "batch_size": settings.batch,
        "steps_per_epoch": per_epoch,
        "epochs": None if per_epoch is None else round(settings.total_steps / per_epoch, 3),
        "weight_decay": settings.weight_decay,
        "dropout": settings.dropout,
        "label_smoothing": settings.smoothing,
        "seed": settings.seed,
    }


# ---------------------------------------------------------------------- files


def stored(folder: Path, settings: Settings) -> Path:
    """The file of a run in the folder of finished runs."""
    return folder / f"{settings.name.replace(' ', '-')}.npz"


def store(recording: Recording, path: Path) -> None:
    """Write the two files of a run; the .json last, so that an interrupted run has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save([recording.train, recording.val], path)
    described = path.with_suffix(".json")
    half = described.with_suffix(".part")
    half.write_text(json.dumps(described_curves(recording.entry)), encoding="utf-8")
    half.replace(described)


def described_curves(entry: Entry) -> list[Entry]:
    """One description for each of the two curves of a run."""
    return [
        {**entry, "run_id": f"{entry['run_id']} {what}", "what": what} for what in ("train", "val")
    ]


def save(curves: Sequence[Curve], path: Path) -> None:
    np.savez_compressed(
        path,
        step=np.concatenate([curve.step for curve in curves]).astype(np.int32),
        lr=np.concatenate([curve.lr for curve in curves]).astype(np.float32),
        loss=np.concatenate([curve.loss for curve in curves]).astype(np.float32),
        offsets=np.cumsum([0, *(curve.step.size for curve in curves)]),
    )


def pack(runs: Iterable[Path], target: Path) -> int:
    """Join the files of finished runs into one pair, TARGET.npz and TARGET.json; count the runs."""
    curves, entries, count = list[Curve](), list[Entry](), 0
    for path in runs:
        with np.load(path) as held:
            ends = held["offsets"][1:-1]
            parts = (np.split(held[name], ends) for name in ("step", "lr", "loss"))
            curves += [Curve(*columns) for columns in zip(*parts, strict=True)]
        entries += json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        count += 1
    save(curves, target.with_suffix(".npz"))
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    target.with_suffix(".json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return count
