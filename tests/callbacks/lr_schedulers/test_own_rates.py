"""Schedulers that compute rates from a time: sampled by their own function, or assumed."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from support.logs import warnings_in

from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.lr_schedulers import every, schedule_from_torch
from lossforecast.status import Caveat

TOTAL = 200


class Timed:
    """As in timm: stateless, stepped with the time, which counts epochs or updates."""

    def __init__(self, optimizer: torch.optim.Optimizer, length: int, warmup: int = 0) -> None:
        self.optimizer, self.length, self.warmup = optimizer, length, warmup
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.step(0)

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup:
            return [base * (t + 1) / (self.warmup + 1) for base in self.base]
        share = min((t - self.warmup) / (self.length - self.warmup), 1.0)
        return [base * 0.5 * (1 + math.cos(math.pi * share)) for base in self.base]

    def step(self, epoch: int) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._get_lr(epoch), strict=True):
            group["lr"] = rate


class ByUpdates(Timed):
    """An older release, whose function has another name and returns None for the other unit."""

    def get_epoch_values(self, epoch: int) -> None:
        return None

    def get_update_values(self, num_updates: int) -> list[float]:
        return Timed._get_lr(self, num_updates)

    def __getattribute__(self, name: str) -> Any:
        if name == "_get_lr":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def step(self, epoch: int) -> None:
        rates = Timed._get_lr(self, epoch)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class Opaque(Timed):
    _get_lr: Any = None

    def step(self, epoch: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1


def optimizer_of(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=0.1)


@pytest.mark.parametrize("kind", [Timed, ByUpdates])
@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("taken", [0, 1, 77, 150])
def test_it_is_sampled_at_any_time(kind: type[Timed], group: int, taken: int) -> None:
    optimizer = optimizer_of(0.1, 0.5)
    scheduler = kind(optimizer, TOTAL, warmup=10)
    expected = [Timed._get_lr(scheduler, t)[group] for t in range(TOTAL)]
    scheduler.step(taken)
    plan = schedule_from_torch(scheduler, total_steps=TOTAL, step=taken, group=group)
    assert plan.caveats == frozenset()
    np.testing.assert_allclose(plan.to_array()[taken:], expected[taken:], rtol=1e-12)
    assert optimizer.param_groups[group]["lr"] == expected[taken]


def test_epochs_are_spread_over_their_steps() -> None:
    optimizer = optimizer_of(0.1)
    scheduler = Timed(optimizer, 10)
    plan = schedule_from_torch(scheduler, total_steps=TOTAL, scheduler_steps=every(20))
    expected = np.repeat([scheduler._get_lr(t)[0] for t in range(10)], 20)
    np.testing.assert_allclose(plan.to_array(), expected, rtol=1e-12)


def test_a_long_run_is_sampled_too() -> None:
    scheduler = Timed(optimizer_of(0.1), 500_000, warmup=1_000)
    plan = schedule_from_torch(scheduler, total_steps=500_000)
    steps = np.array([1, 500, 1_001, 250_000, 499_999])
    expected = [scheduler._get_lr(int(step) - 1)[0] for step in steps]
    np.testing.assert_allclose(plan.lr(steps), expected, rtol=2e-6, atol=1e-7)
    assert Caveat.SCHEDULE_APPROXIMATED in plan.caveats


def test_a_rate_that_is_not_the_functions_is_held() -> None:
    optimizer = optimizer_of(0.1)
    scheduler = Timed(optimizer, TOTAL)
    optimizer.param_groups[0]["lr"] = 0.77
    plan = schedule_from_torch(scheduler, total_steps=TOTAL, step=50)
    assert plan.caveats == {Caveat.LR_ASSUMED}
    assert float(plan.lr(TOTAL)) == 0.77


@pytest.mark.parametrize("kind", [Timed, Opaque])
def test_a_loop_is_told_where_the_rate_is_only_assumed(
    kind: type[Timed], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lossforecast")
    optimizer = optimizer_of(0.1)
    scheduler = kind(optimizer, TOTAL)
    with TorchLossForecast(optimizer, scheduler, TOTAL) as monitor:
        for step in range(TOTAL):
            monitor.step(2 + 3 / (step + 1))
            optimizer.step()
            scheduler.step(step + 1)
    assumed = [text for text in warnings_in(caplog) if "of Opaque cannot be read" in text]
    assert len(assumed) == int(kind is Opaque)
    assert (Caveat.LR_ASSUMED in monitor.forecaster.schedule.caveats) == (kind is Opaque)
