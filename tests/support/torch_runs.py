"""Plain training loops whose losses follow a script, for tests of `TorchLossForecast`."""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update

torch_lr = torch.optim.lr_scheduler


NAN = math.nan


def scripted(step: int, micro: int = 0) -> float:
    """A loss that falls like a power law towards 2, with a little noise."""
    noise = np.random.default_rng([step, micro]).normal()
    return float(2 + 3 * (step + 5.0) ** -0.5 + 0.01 * noise)


class Watched(torch.optim.SGD):
    """Notes the rate of every step by itself: the truth that must be found."""

    def __init__(self, params: Any, lr: Any = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(float(self.param_groups[0]["lr"]))
        return super().step(closure)


@dataclass
class Bench:
    """An optimizer whose losses follow a script, to the bit."""

    lr: Any = 0.1
    weight: torch.Tensor = field(init=False)
    optimizer: Watched = field(init=False)

    def __post_init__(self) -> None:
        self.weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
        self.optimizer = Watched([self.weight], self.lr)

    def cosine(self, total: int) -> torch_lr.CosineAnnealingLR:
        return torch_lr.CosineAnnealingLR(self.optimizer, T_max=total)

    def loss(self, value: float) -> torch.Tensor:
        total = self.weight.sum()
        return (total - total.detach()) + value


def run(
    bench: Bench,
    monitor: TorchLossForecast,
    steps: Iterable[int],
    scheduler: Any = None,
    loss_at: Callable[[int], float] = scripted,
) -> int:
    """The loop of the docstring; the optimizer steps taken in it."""
    taken = 0
    for i in steps:
        loss = bench.loss(loss_at(i))
        monitor.step(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        bench.optimizer.step()
        taken += 1
        if scheduler is not None:
            scheduler.step()
        bench.optimizer.zero_grad()
        if monitor.should_stop:
            break
    return taken


def assert_recorded(
    monitor: TorchLossForecast, losses: dict[int, float], rates: list[float]
) -> None:
    """The history holds exactly these losses, each with the rate of the step before it."""
    bins = monitor.forecaster_of("train").history.bins()
    assert bins.count.tolist() == [1] * len(losses), "the bins hold single losses"
    assert bins.last.tolist() == sorted(losses)
    assert bins.mean.tolist() == [losses[t] for t in sorted(losses)]
    np.testing.assert_array_equal(bins.lr, [rates[t - 1] if t else NAN for t in sorted(losses)])


def forecasts_of(updates: Iterable[Update]) -> dict[int, tuple[Any, ...]]:
    """All that a forecast says, at each step it was made, to be compared bit by bit."""
    return {
        update.step: (
            update.forecast.mean,
            update.forecast.std,
            *(update.forecast.quantile(q) for q in (0.05, 0.5, 0.95)),
            update.forecast.status,
            update.forecast.caveats,
            update.forecast.anneal_gain,
            update.forecast.made_at,
            update.recommendation,
        )
        for update in updates
    }


def net() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    )


def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(5)
    for _ in range(count):
        x = torch.randn(16, 8, generator=source)
        yield x, x[:, :1].sin() + 0.1 * torch.randn(16, 1, generator=source)


def trained(monitored: bool, sinks: Any = (), **kwargs: Any) -> list[torch.Tensor]:
    """Weights after training with dropout and accumulation, and every random state behind it."""
    n, accumulate = 60, 2
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch_lr.CosineAnnealingLR(optimizer, T_max=n)
    monitor = (
        TorchLossForecast(optimizer, scheduler, n, every_n_steps=5, sinks=sinks, **kwargs)
        if monitored
        else None
    )
    for i, (x, y) in enumerate(batches(n * accumulate)):
        loss = torch.nn.functional.mse_loss(model(x), y)
        if monitor is not None:
            monitor.step(loss)
            if i % 7 == 0:
                monitor.validation(loss)
                monitor.state_dict()
        (loss / accumulate).backward()  # type: ignore[no-untyped-call]
        if i % accumulate == accumulate - 1:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if monitor is not None:
                assert not monitor.should_stop
    if monitor is not None:
        monitor.close()
    states = [random.random(), np.random.random(), torch.rand(1).item()]  # noqa: NPY002
    rates = [optimizer.param_groups[0]["lr"], scheduler.get_last_lr()[0]]
    return [*(p.detach().clone() for p in model.parameters()), torch.tensor(states + rates)]


def assert_same_training(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
