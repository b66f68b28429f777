"""Schedulers whose future cannot be read, wrappers, choices and misuse."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_schedulers import (
    ALL,
    HORIZON,
    SIMPLE,
    Factory,
    check_future,
    frozen,
    optimizer_of,
    quietly,
    walked,
)
from torch.optim import lr_scheduler as torch_lr

from lossforecast import LRSchedule
from lossforecast.callbacks.lr_schedulers import every, schedule_from_torch
from lossforecast.errors import ConfigurationError, ScheduleError
from lossforecast.status import Caveat

EXACT = 100_000


# ------------------------------------------------------------------ unknown futures


class Custom:
    """Not torch's, but with an optimizer; each subclass fails in its own way, or not."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5


class NeedsAnArgument(Custom):
    def step(self, epoch: int) -> None:  # type: ignore[override]
        raise AssertionError


class CannotBeCopied(Custom):
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.stream = (number for number in range(9))


class ReachesThroughAClosure(Custom):
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.halve: Callable[[], None] = lambda: Custom.step(self)

    def step(self) -> None:
        self.halve()


class Slotted:
    __slots__ = ("optimizer",)

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_a_scheduler_may_look_at_the_options_of_its_optimizer() -> None:
    class Careful(torch_lr.LRScheduler):
        def get_lr(self) -> list[float | torch.Tensor]:
            decay = self.optimizer.defaults["weight_decay"]
            return [
                group["lr"] * group["betas"][0] * decay for group in self.optimizer.param_groups
            ]

    def make() -> Any:
        return Careful(optimizer_of(2, kind=torch.optim.AdamW))

    check_future(make, 0, 2)


def test_an_object_that_can_be_cloned_is_stepped() -> None:
    schedule = schedule_from_torch(Custom(optimizer_of()), total_steps=3)
    assert schedule.to_array().tolist() == [0.1, 0.05, 0.025]
    assert schedule.caveats == set()


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize(
    "make",
    [
        torch_lr.ReduceLROnPlateau,
        NeedsAnArgument,
        CannotBeCopied,
        ReachesThroughAClosure,
        Slotted,
    ],
)
def test_present_rate_is_held(make: Factory, tensor: bool, far: bool) -> None:
    optimizer = optimizer_of(2, tensor)
    scheduler = make(optimizer)
    before = [(id(group["lr"]), float(group["lr"])) for group in optimizer.param_groups]
    total_steps = EXACT + 9 if far else 20
    schedule = schedule_from_torch(scheduler, total_steps=total_steps, step=3)
    assert schedule == LRSchedule.from_points(
        [3], [before[0][1]], total_steps=total_steps, caveats={Caveat.LR_ASSUMED}
    )
    assert [(id(group["lr"]), float(group["lr"])) for group in optimizer.param_groups] == before


def test_one_cycle_past_its_end() -> None:
    scheduler = torch_lr.OneCycleLR(optimizer_of(), 0.5, total_steps=20)
    schedule = schedule_from_torch(scheduler, total_steps=50)
    truth = walked(scheduler, 20)[:, 0]
    assert schedule.to_array().tolist() == truth.tolist() + [truth[-1]] * 29
    assert schedule.caveats == {Caveat.LR_ASSUMED}


@pytest.mark.parametrize("total_steps", [100, 200_000])
def test_a_rate_that_is_nan_or_negative(total_steps: int) -> None:
    def function(epoch: int) -> float:
        return math.nan if epoch >= 60 else 1 - epoch / 30

    scheduler = torch_lr.LambdaLR(optimizer_of(), function)
    schedule = schedule_from_torch(scheduler, total_steps=total_steps)
    assert Caveat.LR_ASSUMED in schedule.caveats
    want = np.maximum(0.1 * (1 - np.arange(60) / 30), 0)
    assert schedule.to_array()[:60] == pytest.approx(want, abs=1e-12)
    assert not schedule.to_array()[60:].any()
    walked(scheduler, 45)  # the present rate is negative now
    assert not schedule_from_torch(scheduler, total_steps=total_steps).to_array().any()


def test_a_step_patched_onto_the_object_is_not_called() -> None:
    scheduler: Any = SIMPLE["ExponentialLR"](optimizer_of())
    original, calls = scheduler.step, 0

    def patched() -> None:
        nonlocal calls
        calls += 1
        original()

    scheduler.step = patched
    want = 0.1 * 0.97
    assert schedule_from_torch(scheduler, total_steps=2).to_array().tolist() == [0.1, want]
    assert calls == 0
    assert scheduler.optimizer.param_groups[0]["lr"] == 0.1


# ------------------------------------------------------------------ choices and misuse


class Wrapper:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def test_wrappers_are_opened() -> None:
    make = functools.partial(SIMPLE["PolynomialLR"])
    wrapped = Wrapper(Wrapper(make(optimizer_of())))
    assert schedule_from_torch(wrapped, total_steps=30) == schedule_from_torch(
        make(optimizer_of()), total_steps=30
    )


def test_the_group_of_the_largest_rate_is_followed() -> None:
    rates = [1.0, 3.0, 2.0, 3.0]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in rates])
    functions: list[Callable[[int], float]] = [
        functools.partial(lambda n, i: 1 / (1 + n * i), n) for n in range(4)
    ]
    scheduler = torch_lr.LambdaLR(optimizer, functions)
    assert schedule_from_torch(scheduler, total_steps=2).to_array().tolist() == [3, 1.5]
    walked(scheduler, 9)  # the rates are now 1, 0.3, ...: the initial ones still tell
    assert schedule_from_torch(scheduler, total_steps=1).to_array().tolist() == [3 * (1 / 10)]
    assert schedule_from_torch(scheduler, total_steps=1, group=0).to_array().tolist() == [1]


@pytest.mark.parametrize("given", [None, object(), Wrapper(None), lambda epoch: 1.0])
def test_no_optimizer(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="no optimizer"):
        schedule_from_torch(given, total_steps=5)


@pytest.mark.parametrize("group", [2, -1, 0.5, "0"])
def test_no_such_group(group: Any) -> None:
    with pytest.raises(ConfigurationError, match="group"):
        schedule_from_torch(SIMPLE["StepLR"](optimizer_of(2)), total_steps=5, group=group)


@pytest.mark.parametrize(
    "options", [{"total_steps": 0}, {"total_steps": 2.5}, {"total_steps": 5, "step": 6}]
)
def test_impossible_steps(options: dict[str, Any]) -> None:
    with pytest.raises(ScheduleError, match="step"):
        schedule_from_torch(SIMPLE["StepLR"](optimizer_of()), **options)


@pytest.mark.parametrize(
    "function", [lambda i: -i, lambda i: 9 - i, lambda i: i / 2, lambda i: i[:0], lambda i: "no"]
)
def test_impossible_positions(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="scheduler_steps"):
        schedule_from_torch(
            SIMPLE["StepLR"](optimizer_of()), total_steps=5, scheduler_steps=function
        )


@pytest.mark.parametrize(("n_steps", "step"), [(0, 0), (1.5, 0), (3, -1)])
def test_impossible_interval(n_steps: Any, step: int) -> None:
    with pytest.raises(ConfigurationError, match="step"):
        every(n_steps, step=step)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_rates_on_a_gpu(name: str) -> None:
    """The clone computes on the CPU, to the same bits."""
    check_future(lambda: quietly(ALL[name], optimizer_of(2, tensor=True, device="cuda")), 0, 2)
    scheduler = quietly(ALL[name], optimizer_of(2, tensor=True, device="cuda"))
    before = frozen(scheduler)
    schedule_from_torch(scheduler, total_steps=HORIZON)
    assert frozen(scheduler) == before
