"""Scripted losses and optimizers for tests of `LossCapture`."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lossforecast.callbacks.capture.loss_capture import LossCapture
from lossforecast.callbacks.capture.optimizers import innermost

Array = NDArray[np.float64]
Block = tuple[NDArray[np.int64], Array, Array]


NAN, INF = math.nan, math.inf


def sgd(lr: Any = 0.5, groups: int = 1, device: str = "cpu") -> torch.optim.SGD:
    """Plain descent in double precision, so that scripted losses come back to the bit."""
    weights = [torch.ones(2, dtype=torch.float64, device=device) for _ in range(groups)]
    return torch.optim.SGD([{"params": [weight.requires_grad_()]} for weight in weights], lr=lr)


def weights_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def loss_of(optimizer: torch.optim.Optimizer, value: float) -> torch.Tensor:
    """A loss of that very value, with a gradient of 1 for every weight."""
    weight = sum(weight.sum() for weight in weights_of(optimizer))
    assert isinstance(weight, torch.Tensor)
    return (weight - weight.detach()) + value


def train(
    optimizer: Any, capture: LossCapture, losses: list[float], rates: list[float] | None = None
) -> None:
    """The plainest loop: one loss, one step, the learning rate set by hand."""
    for i, value in enumerate(losses):
        capture.record(value)
        if rates is not None:
            innermost(optimizer).param_groups[0]["lr"] = rates[i]
        optimizer.step()


def assert_block(block: Block, steps: ArrayLike, losses: ArrayLike, rates: ArrayLike) -> None:
    for got, wanted in zip(block, (steps, losses, rates), strict=True):
        np.testing.assert_array_equal(got, np.asarray(wanted), strict=False)
