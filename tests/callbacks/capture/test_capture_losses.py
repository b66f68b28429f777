"""Losses that `LossCapture` accepts, optimizers it finds, and its saved state."""

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.captures import INF, NAN, assert_block, sgd, train

from lossforecast.callbacks.capture import LossCapture, innermost
from lossforecast.errors import ConfigurationError, StateError


@pytest.mark.parametrize(
    "loss",
    [
        2.5,
        np.float32(2.5),
        np.array(2.5),
        torch.tensor(2.5),
        torch.tensor([[2.5]]),
        torch.tensor(2.5, dtype=torch.float16),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.tensor(2.5, dtype=torch.float64, requires_grad=True),
        torch.nn.Parameter(torch.tensor(2.5)),
    ],
    ids=lambda loss: f"{type(loss).__name__}-{getattr(loss, 'dtype', '')}",
)
def test_any_one_number_is_a_loss(loss: Any) -> None:
    capture = LossCapture(sgd())
    capture.record(loss)
    assert_block(capture.take_all(), [0], [2.5], [NAN])


def test_losses_of_different_kinds_share_a_block() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    for i, dtype in enumerate([torch.float16, torch.float64, None, torch.float16, torch.int64] * 3):
        capture.record(float(i) if dtype is None else torch.tensor(i, dtype=dtype))
        optimizer.step()
    assert capture.take()[1].tolist() == list(range(15))


def test_a_loss_that_is_not_finite_is_passed_on() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    for values in ([NAN], [INF], [1.0, -INF], [INF, -INF], [1.7e308, 1.7e308], [1.0]):
        for value in values:
            capture.record(torch.tensor(value, dtype=torch.float64))
        optimizer.step()
    assert_block(
        capture.take(), range(6), [NAN, INF, -INF, NAN, INF, 1.0], [NAN, 0.5, 0.5, 0.5, 0.5, 0.5]
    )


def test_a_loss_of_many_numbers_is_refused_and_nothing_is_recorded() -> None:
    capture = LossCapture(sgd())
    with pytest.raises(ConfigurationError, match=r"the loss has shape \(3,\); .*loss\.mean\(\)"):
        capture.record(torch.ones(3))
    assert capture.take_all()[0].size == 0


# ---------------------------------------------------------------------- which optimizer


class Holder:
    """As Fabric's or DeepSpeed's: no optimizer itself."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Heir(torch.optim.Optimizer):
    """As accelerate's: inherits from the optimizer, whose initialiser it never calls."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda optimizer: optimizer,
    "holder": Holder,
    "heir": Heir,
    "nested": lambda optimizer: Holder(Heir(Holder(optimizer))),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_optimizer_is_found_inside_wrappers(name: str) -> None:
    optimizer = sgd()
    wrapped = WRAPPERS[name](optimizer)
    assert innermost(wrapped) is optimizer
    capture = LossCapture(wrapped)
    train(wrapped, capture, [3.0, 2.0, 1.0], rates=[0.5, 0.25, 0.125])
    assert_block(capture.take(), [0, 1, 2], [3.0, 2.0, 1.0], [NAN, 0.5, 0.25])


def test_the_optimizer_is_found_inside_that_of_fabric() -> None:
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    model = torch.nn.Linear(2, 1)
    raw = torch.optim.SGD(model.parameters(), lr=0.5)
    model, optimizer = fabric.setup(model, raw)
    capture = LossCapture(optimizer)
    for _ in range(3):
        loss = model(torch.ones(1, 2)).square().sum()
        capture.record(loss)
        fabric.backward(loss)
        optimizer.step()
    assert innermost(optimizer) is raw
    steps, _, rates = capture.take()
    assert steps.tolist() == [0, 1, 2]
    assert rates.tolist()[1:] == [0.5, 0.5]


@pytest.mark.parametrize("given", [None, object(), Holder(None), torch.nn.Linear(1, 1)])
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    name = type(given).__name__
    with pytest.raises(ConfigurationError, match=f"steps of {name}: give a torch.optim.Optimizer"):
        LossCapture(given)


# ---------------------------------------------------------------------- letting go


def test_a_closed_capture_lets_go_of_the_optimizer() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [2.0, 1.0])
    optimizer.param_groups[0]["lr"] = 0.25
    capture.close()
    capture.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    optimizer.step()
    assert capture.steps == 2
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None
    assert (capture.present_rate(), capture.last_rate()) == (0.25, 0.5)
    assert_block(capture.take_all(), [0, 1], [2.0, 1.0], [NAN, 0.5])


def test_the_hooks_of_a_dropped_capture_go_with_it() -> None:
    optimizer = sgd()
    alive = weakref.ref(LossCapture(optimizer))
    gc.collect()
    assert alive() is None
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_two_captures_of_one_optimizer_do_not_meet() -> None:
    optimizer = sgd()
    first, second = LossCapture(optimizer), LossCapture(optimizer)
    train(optimizer, first, [2.0])
    first.close()
    train(optimizer, second, [1.0])
    assert (first.steps, second.steps) == (1, 2)


def test_the_hooks_survive_a_restored_optimizer() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [2.0])
    saved = sgd(lr=0.25).state_dict()
    optimizer.load_state_dict(saved)
    train(optimizer, capture, [1.0, 0.5])
    assert_block(capture.take(), [0, 1, 2], [2.0, 1.0, 0.5], [NAN, 0.5, 0.25])


def test_what_is_forgotten_is_not_read_but_steps_count() -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [9.0, 8.0])
    capture.record(7.0)
    capture.forget()
    assert capture.last_rate() is None
    train(optimizer, capture, [2.0, 1.0])
    assert_block(capture.take(), [2, 3], [2.0, 1.0], [NAN, 0.5])


# ---------------------------------------------------------------------- state


@pytest.mark.parametrize("stop", range(5))
def test_a_restored_capture_goes_on(stop: int) -> None:
    losses, rates = [5.0, 4.0, 3.0, 2.0, 1.0], [0.5, 0.4, 0.3, 0.2, 0.1]
    optimizer = sgd()
    whole = LossCapture(optimizer)
    train(optimizer, whole, losses, rates)
    optimizer = sgd()
    first = LossCapture(optimizer)
    train(optimizer, first, losses[:stop], rates[:stop])
    before = first.take()
    state = json.loads(json.dumps(first.state_dict()))
    optimizer = sgd()
    second = LossCapture(optimizer)
    optimizer.step()  # must not matter
    second.record(99.0)
    second.load_state_dict(state)
    assert second.steps == stop
    assert second.last_rate() == first.last_rate()
    train(optimizer, second, losses[stop:], rates[stop:])
    both = [np.concatenate(column) for column in zip(before, second.take(), strict=True)]
    for got, wanted in zip(both, whole.take(), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"steps": -1, "last_rate": None}, StateError),
        ({"steps": 1.5, "last_rate": None}, StateError),
        ({"steps": "3", "last_rate": None}, StateError),
        ({"steps": 3, "last_rate": "0.1"}, StateError),
        ({"steps": 3}, KeyError),
    ],
)
def test_a_damaged_state_changes_nothing(state: dict[str, Any], error: type[Exception]) -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    train(optimizer, capture, [2.0, 1.0])
    with pytest.raises(error):
        capture.load_state_dict(state)
    assert_block(capture.take(), [0, 1], [2.0, 1.0], [NAN, 0.5])
    assert capture.steps == 2
