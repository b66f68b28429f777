"""Generative and representation tasks, and functions learned by networks."""

import math
from functools import cache

import torch
from own_data import digits, photograph, photograph_patches
from own_settings import Choices
from own_task import Batch, Data, Epochs, Regressor, Stream, Task, mlp
from probe_tasks import Contrastive, Denoiser, noised, two_views
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = ["GENERATIVE_TASKS"]

PATCH = 12  # side of the patches of photographs
LEVELS = 24  # grey levels of a pixel
LATENT = 8  # numbers that describe a digit
CONTRASTED = 16  # images told apart by contrastive learning, at every batch

# ---------------------------------------------------------------------- autoencoders


@cache
def patch_data() -> Data:
    """Patches of photographs, standardised by their common mean and spread."""
    train, held = (photograph_patches(PATCH, count, count < 1_000) for count in (6_000, 256))
    return Epochs(((train - 0.45) / 0.25,), ((held - 0.45) / 0.25,))


class Autoencoder(nn.Module):
    """A convolutional autoencoder with 16 numbers in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 32, 3, 2, 1), nn.GELU()),
            *(nn.Flatten(), nn.Linear(288, 16)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(16, 288), nn.GELU(), nn.Unflatten(1, (32, 3, 3))),
            *(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.GELU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Mean squared error of the reconstruction."""
        return functional.mse_loss(self.decoder(self.encoder(images)), images)


def with_noise(batch: Batch, generator: Generator, held: bool) -> Batch:
    """Digits and the noise of their latent numbers."""
    images = batch[0].flatten(1)
    return images, torch.randn(len(images), LATENT, generator=generator)


class VariationalAutoencoder(nn.Module):
    """A variational autoencoder of grey values in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 128, 2 * LATENT), mlp(LATENT, 128, 64)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Negative evidence lower bound per image, in nats."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        latent = mean + (0.5 * log_variance).exp() * noise
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        shades = functional.binary_cross_entropy_with_logits(
            self.decoder(latent), images, reduction="none"
        )
        bound: Tensor = (shades.sum(1) + divergence).mean()
        return bound


# ---------------------------------------------------------------------- likelihood of pixels


@cache
def grey_levels() -> Data:
    """Patches with the noise of a sensor, in whole grey levels."""
    generator = Generator().manual_seed(7)
    parts = list[Batch]()
    for count, held in ((4_000, False), (256, True)):
        patches = photograph_patches(PATCH, count, held)
        noisy = patches + 0.06 * torch.randn(patches.shape, generator=generator)
        parts.append(((noisy * LEVELS).floor().clamp(0, LEVELS - 1).long()[:, 0],))
    return Epochs(parts[0], parts[1])


class MaskedConvolution(nn.Conv2d):
    """A convolution that sees only pixels above and to the left."""

    def __init__(self, before: int, after: int, size: int, sees_centre: bool) -> None:
        super().__init__(before, after, size, padding=size // 2)
        mask = torch.ones(size, size)
        mask[size // 2, size // 2 + int(sees_centre) :] = 0
        mask[size // 2 + 1 :] = 0
        self.mask = mask

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight * self.mask
        return functional.conv2d(images, weight, self.bias, padding=self.padding)


class PixelModel(nn.Module):
    """Predicts each pixel from those before it."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first = MaskedConvolution(1, width, 5, sees_centre=False)
        self.second = MaskedConvolution(width, width, 3, sees_centre=True)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, LEVELS, 1))

    def forward(self, levels: Tensor) -> Tensor:
        """Negative log-likelihood per pixel, in nats."""
        hidden = self.first(levels[:, None] * (2 / LEVELS) - 1)
        hidden = hidden + self.second(functional.relu(hidden))
        return functional.cross_entropy(self.head(hidden), levels)


# ---------------------------------------------------------------------- functions


@cache
def smooth_image() -> Tensor:
    """A detail of a photograph, small and smooth, (1, 3, 24, 24)."""
    detail = photograph("flower")[None, :, 60:300, 200:440]
    return functional.interpolate(detail, size=24, mode="area")


def coloured_points(size: int, generator: Generator, held: bool) -> Batch:
    """Places in the image, -1 to 1, and the colours there."""
    places = 2 * torch.rand(size, 2, generator=generator) - 1
    colours = functional.grid_sample(
        smooth_image(), places[None, None], mode="bicubic", align_corners=True
    )
    return places, colours[0, :, 0].T


class Waves(nn.Module):
    """Sines and cosines of random directions."""

    def __init__(self, count: int = 48, frequency: float = 4.0) -> None:
        super().__init__()
        self.direction = frequency * torch.randn(2, count)

    def forward(self, places: Tensor) -> Tensor:
        phase = places @ self.direction
        return torch.cat([phase.sin(), phase.cos()], 1)


def image_function() -> nn.Module:
    return Regressor(nn.Sequential(Waves(), mlp(96, 128, 128, 3)))


def inner_and_boundary_points(size: int, generator: Generator, held: bool) -> Batch:
    """Points in the unit square, and as many on its boundary."""
    inner = torch.rand(size, 2, generator=generator)
    boundary = torch.rand(size, 2, generator=generator)
    axis = torch.randint(2, (size, 1), generator=generator)
    side = torch.randint(2, (size, 1), generator=generator)
    return inner, torch.where(torch.arange(2) == axis, side, boundary)


class Poisson(nn.Module):
    """A network u with -u_xx - u_yy = 5 pi^2 sin(pi x) sin(2 pi y), and u = 0 at the boundary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(2, 40, 40, 40, 1, activation=nn.Tanh)

    def forward(self, inner: Tensor, boundary: Tensor) -> Tensor:
        """Mean squared residual of the equation and of the boundary values, in units of both."""
        with torch.enable_grad():  # the residual needs derivatives in a validation, too
            points = inner.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.body(points).sum(), points, create_graph=True)
            second = [
                torch.autograd.grad(slope[:, axis].sum(), points, create_graph=True)[0][:, axis]
                for axis in (0, 1)
            ]
        strength = 5 * math.pi**2
        source = torch.sin(math.pi * inner[:, 0]) * torch.sin(2 * math.pi * inner[:, 1])
        residual = (second[0] + second[1]) / strength + source
        loss: Tensor = residual.square().mean() + 10 * self.body(boundary).square().mean()
        return loss


GENERATIVE_TASKS = {
    "patches autoencoder": Task(
        "convolutional autoencoder",
        "patches of scikit-learn's photographs",
        lambda settings: Autoencoder(),
        patch_data,
        Choices(steps=(800, 1_800), adam=1.5e-3, sgd=0.05, batch=(16,)),
    ),
    "digits vae": Task(
        "variational autoencoder",
        "scikit-learn digits",
        lambda settings: VariationalAutoencoder(),
        lambda: Epochs(*digits(), prepare=with_noise),
        Choices(steps=(600, 3_000), adam=2e-3, sgd=1e-3, batch=(32, 64), muon=True),
        clip=20.0,
        runs=14,
    ),
    "photograph pixels": Task(
        "masked convolutions, likelihood of pixels",
        "noisy patches of scikit-learn's photographs",
        lambda settings: PixelModel(),
        grey_levels,
        Choices(steps=(600, 1_500), adam=3e-3, sgd=0.1, batch=(8, 12)),
    ),
    "pictures diffusion": Task(
        "multilayer perceptron, diffusion",
        "synthetic pictures",
        lambda settings: Denoiser(),
        lambda: Stream(noised, held_batches=4),
        Choices(steps=(1_000, 6_000), adam=2e-3, sgd=0.1, batch=(48, 64), muon=True),
        runs=14,
    ),
    "pictures contrastive": Task(
        "convolutional network with GroupNorm, contrastive",
        "two views of synthetic pictures",
        lambda settings: Contrastive(),
        lambda: Stream(two_views, held_batches=6, held_size=CONTRASTED),
        Choices(steps=(600, 1_500), adam=2e-3, sgd=0.05, batch=(CONTRASTED,)),
    ),
    "photograph function": Task(
        "multilayer perceptron on random waves, neural representation",
        "one of scikit-learn's photographs",
        lambda settings: image_function(),
        lambda: Stream(coloured_points, held_batches=1, held_size=1_024),
        Choices(
            steps=(1_000, 6_000),
            adam=1e-3,
            sgd=0.1,
            batch=(128, 256),
            weight_decay=(0.0, 1e-3),
            muon=True,
        ),
        runs=14,
    ),
    "poisson equation": Task(
        "multilayer perceptron, physics-informed",
        "random points in a square",
        lambda settings: Poisson(),
        lambda: Stream(inner_and_boundary_points, held_batches=1),
        Choices(
            steps=(1_000, 3_000), adam=2e-3, batch=(64, 128), weight_decay=(0.0, 1e-3), muon=True
        ),
    ),
}
