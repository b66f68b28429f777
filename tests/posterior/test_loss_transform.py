"""Long runs and many runs: what is kept does not grow with them."""

import gc
from typing import Any

import numpy as np
import pytest
import torch
from support.sizes import bytes_of

from lossforecast import Forecaster, LRSchedule
from lossforecast.callbacks import TorchLossForecast

MEGABYTE = 2**20


def observed(total: int) -> Forecaster:
    """A forecaster that has seen every loss of a long run, in blocks, and has forecast."""
    forecaster = Forecaster(LRSchedule.cosine(total, 1e-3, warmup=total // 100))
    for start in range(0, total, 100_000):
        steps = np.arange(start, min(start + 100_000, total))
        forecaster.observe_many(steps, 2 + 3 * (steps + 5.0) ** -0.3)
    assert np.isfinite(forecaster.forecast().mean)
    return forecaster


@pytest.mark.slow
def test_ten_million_observations_take_little_more_than_ten_thousand() -> None:
    few, many = bytes_of(observed(10_000)), bytes_of(observed(10_000_000))
    assert few > 10_000, "the test measures nothing"
    assert many - few < 2 * MEGABYTE


class Still(torch.optim.Optimizer):
    """Steps that change nothing, so that long runs are short."""

    def __init__(self) -> None:
        super().__init__([torch.zeros(1)], {"lr": 1e-3})

    def step(self, closure: Any = None) -> Any:
        return None


def watched(steps: int, total: int) -> TorchLossForecast:
    optimizer = Still()
    monitor = TorchLossForecast(optimizer, total_steps=total)
    loss = torch.tensor(3.0)
    for _ in range(steps):
        monitor.step(loss)
        optimizer.step()
    return monitor


@pytest.mark.slow
def test_a_loop_keeps_few_losses_however_long_it_is() -> None:
    few = bytes_of(watched(10_000, 10_000_000))
    many = bytes_of(watched(99_000, 10_000_000))  # just before the first forecast
    assert few > 10_000, "the test measures nothing"
    assert many - few < 2 * MEGABYTE


@pytest.mark.parametrize("n", [10, pytest.param(1_000, marks=pytest.mark.slow)])
def test_many_runs_in_one_process_leave_nothing_behind(n: int) -> None:
    def objects_after(runs: int) -> int:
        for _ in range(runs):
            with watched(20, 20) as monitor:
                pass
            assert monitor.forecast is not None
        del monitor
        gc.collect()
        return len(gc.get_objects())

    objects_after(5)
    assert objects_after(n) - objects_after(1) < n / 2
