"""A small task: a model, its data and what may be drawn for its runs.

A model returns the mean loss of a batch. All randomness of a loss but dropout is in its batch
(noise, masks, negative examples), so that held-out batches are the same at every validation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from own_settings import Choices, Settings
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = [
    "Batch",
    "Classifier",
    "Data",
    "Epochs",
    "Regressor",
    "Stream",
    "Task",
    "mlp",
    "pretrained",
]

Batch = tuple[Tensor, ...]
HELD_OUT_SEED, PRETRAINING_SEED = 10_000, 10_001
HELD_OUT_BATCH = 256  # of repeated data


@dataclass(frozen=True)
class Stream:
    """Batches without end.

    Attributes:
        draw: returns a batch of a size; its last argument says whether from held-out data.
        held_batches: number of held-out batches.
        held_size: size of each.
    """

    draw: Callable[[int, Generator, bool], Batch]
    held_batches: int = 2
    held_size: int = 256

    @property
    def examples(self) -> int | None:
        return None

    def batches(self, size: int, generator: Generator) -> Iterator[Batch]:
        while True:
            yield self.draw(size, generator, False)

    def held_out(self) -> list[Batch]:
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        return [self.draw(self.held_size, generator, True) for _ in range(self.held_batches)]


def unchanged(batch: Batch, generator: Generator, held: bool) -> Batch:
    return batch


@dataclass(frozen=True)
class Epochs:
    """Examples that are repeated in every epoch, in a new order.

    Attributes:
        train: tensors whose first dimension counts the examples.
        held: the same for held-out examples.
        prepare: augments a batch or adds noise; its last argument is True for held-out examples.
    """

    train: Batch
    held: Batch
    prepare: Callable[[Batch, Generator, bool], Batch] = unchanged

    @property
    def examples(self) -> int | None:
        return len(self.train[0])

    def batches(self, size: int, generator: Generator) -> Iterator[Batch]:
        """Whole batches; the rest of an epoch is left out."""
        count = len(self.train[0])
        while True:
            order = torch.randperm(count, generator=generator)
            for chosen in torch.split(order[: count - count % size], size):
                yield self.prepare(tuple(part[chosen] for part in self.train), generator, False)

    def held_out(self) -> list[Batch]:
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        parts = zip(*(torch.split(part, HELD_OUT_BATCH) for part in self.held), strict=True)
        return [self.prepare(batch, generator, True) for batch in parts]


Data = Stream | Epochs


@dataclass(frozen=True)
class Task:
    """One kind of task.

    Attributes:
        about: the model and what it learns, in a few words.
        dataset: where the data come from.
        model: builds a model for the settings of a run.
        data: returns the data, the same for all runs.
        choices: what is drawn for a run.
        clip: greatest norm of a gradient, or None.
        language_model: "causal", "masked" or None.
        runs: number of runs that are recorded; more where they take seconds.
    """

    about: str
    dataset: str
    model: Callable[[Settings], nn.Module]
    data: Callable[[], Data]
    choices: Choices = field(repr=False)
    clip: float | None = None
    language_model: str | None = None
    runs: int = 8


def pretrained(
    build: Callable[[], nn.Module], data: Data, *, steps: int, batch: int, rate: float
) -> nn.Module:
    """A model trained by Adam with a linear decay, always in the same way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PRETRAINING_SEED)
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), rate)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        batches = data.batches(batch, torch.Generator().manual_seed(PRETRAINING_SEED))
        for _ in range(steps):
            model(*next(batches)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model


# ---------------------------------------------------------------------- models of many tasks


def mlp(
    *sizes: int, dropout: float = 0.0, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Module:
    """Linear layers of these sizes, with an activation and dropout between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


class Classifier(nn.Module):
    """Mean cross-entropy of the classes that `body` predicts, smoothed in training only."""

    def __init__(self, body: nn.Module, smoothing: float = 0.0) -> None:
        super().__init__()
        self.body, self.smoothing = body, smoothing

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.smoothing if self.training else 0.0
        return functional.cross_entropy(self.body(inputs), labels, label_smoothing=smoothing)


class Regressor(nn.Module):
    """Mean squared error of what `body` predicts."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(self.body(inputs), targets)
