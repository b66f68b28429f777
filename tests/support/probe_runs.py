"""A small network and training loops for tests of the annealing probe."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossforecast.callbacks import AnnealingProbe, TorchLossForecast

TOTAL = 400
Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """With all that a look could disturb: dropout, BatchNorm, a counter and chance of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 1)
        )
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, 6) in, (n, 1) out."""
        self.calls.add_(1)  # type: ignore[operator]
        x = x + 1e-3 * torch.randn_like(x) + 1e-4 * random.random() + 1e-4 * np.random.rand()  # noqa: NPY002
        out: Tensor = self.body(x)
        return out


def loss_of(model: Any, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def data(n: int, size: int = 16) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, size, 6, generator=generator)
    y = x.sum(-1, keepdim=True) + torch.randn(n, size, 1, generator=generator)
    return list(zip(x, y, strict=True))


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


def train(
    probe_of: Callable[[Net], AnnealingProbe] | None,
    steps: int = TOTAL,
    *,
    precision: torch.dtype | None = None,
    compiled: bool = False,
    accumulate: int = 1,
) -> tuple[list[Tensor], TorchLossForecast, AnnealingProbe | None]:
    """A run's weights, buffers, optimizer state and last random numbers, in a list."""
    seed()
    model: Any = Net()
    used: Any = torch.compile(model, backend="aot_eager") if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    probe = None if probe_of is None else probe_of(used)
    batches = data(steps * accumulate)
    with TorchLossForecast(optimizer, None, steps, every_n_steps=20, probe=probe) as monitor:
        for number, batch in enumerate(batches if probe is None else probe.watch(batches), 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision is not None):
                loss = loss_of(used, batch)
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    state = [*model.state_dict().values()]
    state += [x for each in optimizer.state.values() for x in each.values()]
    state += [torch.rand(3), torch.tensor(random.random()), torch.tensor(np.random.rand())]  # noqa: NPY002
    return [torch.as_tensor(x).clone() for x in state], monitor, probe


def watching(model: Any, **options: Any) -> AnnealingProbe:
    return AnnealingProbe(loss_of, model, cost=0.05, **options)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def gaps_of(monitor: TorchLossForecast) -> list[Any]:
    return monitor.forecaster._gaps
