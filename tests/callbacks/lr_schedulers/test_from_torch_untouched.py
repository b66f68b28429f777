"""Reading a scheduler changes neither the scheduler nor its optimizer, and copies no model."""

import functools
import math
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_schedulers import ALL, HORIZON, frozen, optimizer_of, quietly, walked
from torch.optim import lr_scheduler as torch_lr

from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.lr_schedulers import from_torch as module
from lossforecast.callbacks.lr_schedulers.from_torch import schedule_from_torch


def surroundings() -> Any:
    generator = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one is meant)
    return (
        torch.get_rng_state().tolist(),
        repr(generator),
        random.getstate(),
        list(warnings.filters),
        torch.optim.SGD.step,
    )


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_nothing_is_touched(
    name: str, tensor: bool, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if far:
        monkeypatch.setattr(module, "_MAX_EXACT_STEPS", 5)
    scheduler = quietly(ALL[name], optimizer_of(2, tensor))
    walked(scheduler, 3)
    before = frozen(scheduler), frozen(scheduler.state_dict()), surroundings()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        schedule_from_torch(scheduler, total_steps=HORIZON, step=3)
    assert not raised
    assert (frozen(scheduler), surroundings()) == (before[0], before[2])
    truth = walked(quietly(ALL[name], optimizer_of(2, tensor)), HORIZON)[3:]
    assert np.array_equal(walked(scheduler, HORIZON - 3), truth, equal_nan=True)


class Warmup:
    """A schedule that remembers."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return self.calls / 1_000

    def method(self, epoch: int) -> float:
        return 1 / (1 + epoch)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_callable_object_is_copied(groups: int) -> None:
    function = Warmup()
    scheduler = torch_lr.LambdaLR(optimizer_of(groups), function)
    walked(scheduler, 4)
    calls = function.calls
    lrs = schedule_from_torch(scheduler, total_steps=50).to_array()
    assert function.calls == calls == 5 * groups
    assert lrs.tolist() == walked(scheduler, 49)[:, 0].tolist()


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def rate(self, epoch: int) -> float:
        return 1 / (1 + epoch)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
        raise AssertionError("the model must not be copied")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_method_is_shared_and_its_model_never_copied(wrapped: bool) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    function = functools.partial(model.rate) if wrapped else model.rate
    scheduler = torch_lr.LambdaLR(optimizer, function)
    schedule = schedule_from_torch(scheduler, total_steps=3)
    assert schedule.to_array().tolist() == [0.1, 0.1 * (1 / 2), 0.1 * (1 / 3)]


def test_parameters_are_never_copied() -> None:
    class Knowing(torch_lr.ExponentialLR):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.parameters = list(optimizer.param_groups[0]["params"])
            self.addresses = [parameter.data_ptr() for parameter in self.parameters]
            super().__init__(optimizer, 0.5)

        def get_lr(self) -> list[float | torch.Tensor]:
            copied = [parameter.data_ptr() for parameter in self.parameters] != self.addresses
            return [math.nan] if copied else super().get_lr()

    schedule = schedule_from_torch(Knowing(optimizer_of()), total_steps=3)
    assert schedule.to_array().tolist() == [0.1, 0.05, 0.025]


def test_a_function_that_draws_random_numbers_leaves_the_generators_as_they_are() -> None:
    def noisy(step: int) -> float:
        draws = random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()  # noqa: NPY002
        return 1.0 + 0.1 * sum(draws)

    def states() -> tuple[Any, ...]:
        return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    def train(*, watched: bool) -> tuple[torch.Tensor, tuple[Any, ...]]:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, noisy)
        monitor = None
        if watched:
            monitor = TorchLossForecast(optimizer, scheduler, 40, every_n_steps=10)
        for _ in range(40):
            loss = model(torch.rand(2, 4)).square().mean()
            if monitor is not None:
                monitor.step(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        if monitor is not None:
            monitor.close()
        return model.weight.detach(), states()

    alone, watched = train(watched=False), train(watched=True)
    assert torch.equal(alone[0], watched[0])
    assert alone[1] == watched[1]
