"""Small tasks of different kinds, on which the drop of annealing is measured.

Every task makes a model, batches from a seeded generator, and the loss of a batch. All randomness
of a loss is in its batch (views, noise levels), so that two models can be compared on one batch.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from gpt import GPT, standard_library  # type: ignore[import-not-found]

__all__ = ["GPT", "TASKS", "Task"]

Batch = tuple[Tensor, ...]
SIDE, KINDS = 12, 10  # of the synthetic images
_TEXT = {"adamw": (1e-3, 3e-3, 1e-2), "sgd": (0.03, 0.1, 0.3), "rmsprop": (1e-3, 3e-3)}
_STEEP = {"adamw": (1e-3, 3e-3, 1e-2), "sgd": (0.03, 0.1, 0.3), "rmsprop": (1e-3, 3e-3)}
_USUAL = {"adamw": (1e-3, 3e-3, 1e-2), "sgd": (0.01, 0.03, 0.1), "rmsprop": (1e-3, 3e-3)}


@dataclass(frozen=True)
class Task:
    """One kind of task.

    Attributes:
        model: returns a new model, which returns the loss of a batch.
        draw: returns a batch of a size; its last argument says whether from held-out data.
        batch: usual batch size.
        steps: length of a run.
        rates: peak learning rates to train at, by optimizer.
    """

    model: Callable[[], nn.Module]
    draw: Callable[[int, Generator, bool], Batch]
    batch: int
    steps: int
    rates: dict[str, tuple[float, ...]]


# ---------------------------------------------------------------------- text


@cache
def text() -> Tensor:
    return standard_library(4_000_000)  # type: ignore[no-any-return]


def windows(batch: int, generator: Generator, held: bool) -> Batch:
    cut, length = text().numel() * 9 // 10, 48
    part = text()[cut:] if held else text()[:cut]
    starts = torch.randint(part.numel() - length - 1, (batch, 1), generator=generator)
    window = part[starts + torch.arange(length + 1)].long()
    return window[:, :-1], window[:, 1:]


class Recurrent(nn.Module):
    """A GRU over bytes."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(256, width), nn.Linear(width, 256)
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the next byte."""
        hidden, _ = self.gru(self.embed(tokens))
        return functional.cross_entropy(self.head(hidden).flatten(0, 1), targets.flatten())


# ---------------------------------------------------------------------- images


@cache
def prototypes() -> Tensor:
    """Three smooth patterns per class."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(KINDS * 3, 1, 5, 5, generator=generator)
    smooth = functional.interpolate(coarse, size=SIDE, mode="bicubic")
    return smooth.view(KINDS, 3, SIDE, SIDE)


def pictures(labels: Tensor, generator: Generator, noise: float = 0.8) -> Tensor:
    """Mixed, shifted, noisy patterns of the classes `labels`, (n, 1, SIDE, SIDE)."""
    n = labels.numel()
    mix = torch.rand(n, 3, generator=generator) ** 2
    image = (mix[:, :, None, None] * prototypes()[labels]).sum(1)
    shift = torch.randint(-2, 3, (n, 2), generator=generator)
    rows = (torch.arange(SIDE) + shift[:, :1]) % SIDE
    columns = (torch.arange(SIDE) + shift[:, 1:]) % SIDE
    image = image[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return (image + noise * torch.randn(n, SIDE, SIDE, generator=generator))[:, None]


def labelled(batch: int, generator: Generator, held: bool) -> Batch:
    labels = torch.randint(KINDS, (batch,), generator=generator)
    return pictures(labels, generator), labels


def two_views(batch: int, generator: Generator, held: bool) -> Batch:
    labels = torch.randint(KINDS, (batch,), generator=generator)
    one = pictures(labels, generator)
    noise = 0.6 * torch.randn(one.shape, generator=generator)
    flip = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
    return one, torch.where(flip, one.flip(-1), one.roll(1, -2)) + noise


class Convolutional(nn.Module):
    """Three convolutions, with BatchNorm or GroupNorm."""

    def __init__(self, outputs: int, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 12), (12, 24), (24, 32)):
            norm = nn.BatchNorm2d(after) if batch_norm else nn.GroupNorm(4, after)
            layers += [nn.Conv2d(before, after, 3, padding=1, stride=1 + (before > 1)), norm]
            layers += [nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(128, outputs)

    def features(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(images))
        return out


class Classifier(Convolutional):
    """Classifier of images."""

    def __init__(self) -> None:
        super().__init__(KINDS, batch_norm=True)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return functional.cross_entropy(self.features(images), labels)


class Contrastive(Convolutional):
    """Contrastive learning on two views of each image: InfoNCE at temperature 0.2."""

    def __init__(self) -> None:
        super().__init__(32, batch_norm=False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Mean cross-entropy of identifying the other view."""
        a, b = (functional.normalize(self.features(x), dim=1) for x in (one, other))
        return functional.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


class Patches(nn.Module):
    """A small vision transformer with dropout, no BatchNorm."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(16, width)
        self.place = nn.Parameter(0.02 * torch.randn(9, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, KINDS)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy."""
        patches = functional.unfold(images, 4, stride=4).transpose(1, 2)
        hidden = self.body(self.embed(patches) + self.place).mean(1)
        return functional.cross_entropy(self.head(hidden), labels)


# ---------------------------------------------------------------------- vectors


@cache
def teacher() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = nn.Sequential(nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        net.append(nn.Linear(48, 1))
        for module in net:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.6 / module.in_features**0.5)
    return net.requires_grad_(False)


def taught(batch: int, generator: Generator, held: bool) -> Batch:
    x = torch.randn(batch, 16, generator=generator)
    return x, teacher()(x) + 0.3 * torch.randn(batch, 1, generator=generator)


class Regression(nn.Module):
    """A network trained on the noisy outputs of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 1)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error."""
        return functional.mse_loss(self.body(x), y)


def noised(batch: int, generator: Generator, held: bool) -> Batch:
    """Images, noise, and the noise level in 0..1."""
    labels = torch.randint(KINDS, (batch,), generator=generator)
    images = pictures(labels, generator, noise=0.0).flatten(1)
    time = torch.rand(batch, 1, generator=generator)
    return images, torch.randn(images.shape, generator=generator), time


class Denoiser(nn.Module):
    """Predicts the noise in images, given its level (variance preserving)."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(SIDE**2 + 8, width), nn.SiLU())
        self.body.extend([nn.Linear(width, width), nn.SiLU(), nn.Linear(width, SIDE**2)])

    def forward(self, images: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Mean squared error of the noise."""
        angle = time * torch.pi / 2
        waves = angle * 2.0 ** torch.arange(4)
        inputs = [angle.cos() * images + angle.sin() * noise, waves.cos(), waves.sin()]
        return functional.mse_loss(self.body(torch.cat(inputs, 1)), noise)


TASKS = {
    "language": Task(lambda: GPT(64, 2, 2, 48), windows, 16, 4_000, _TEXT),
    "recurrent": Task(Recurrent, windows, 16, 4_000, _TEXT),
    "convolution": Task(Classifier, labelled, 48, 5_000, _USUAL),
    "patches": Task(Patches, labelled, 48, 5_000, _USUAL),
    "contrastive": Task(Contrastive, two_views, 48, 5_000, _USUAL),
    "regression": Task(Regression, taught, 64, 12_000, _USUAL),
    "diffusion": Task(Denoiser, noised, 64, 10_000, _STEEP),
}
