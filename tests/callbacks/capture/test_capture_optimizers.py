"""Which optimizer `LossCapture` watches: two-step, wrapped, replaced, with closures, or none."""

import gc
import logging
import os
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.captures import NAN, assert_block, loss_of, sgd, train
from support.logs import warnings_in

from lossforecast.callbacks.capture import LossCapture, innermost
from lossforecast.errors import ConfigurationError

FEW_STEPS = 2_048
STRETCHES = 1_000 if os.environ.get("LOSSFORECAST_FULL") else 3


class TwoStep(torch.optim.Optimizer):
    """As SAM: climbs, then lets the optimizer in one of its attributes step."""

    def __init__(self, inner: torch.optim.Optimizer, name: str) -> None:
        super().__init__(inner.param_groups, {})
        self.name = name
        setattr(self, name, inner)
        self.param_groups = inner.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        self.kept = [p.clone() for group in self.param_groups for p in group["params"]]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(0.01)

    @torch.no_grad()
    def second_step(self) -> None:
        weights = [p for group in self.param_groups for p in group["params"]]
        for p, old in zip(weights, self.kept, strict=True):
            p.copy_(old)
        getattr(self, self.name).step()

    def step(self, closure: Any = None) -> Any:
        self.first_step()
        self.second_step()


@pytest.mark.parametrize("name", ["base_optimizer", "optimizer", "original_optimizer", "inner"])
@pytest.mark.parametrize("in_one_call", [True, False])
def test_a_two_step_optimizer_is_counted_once_a_step(name: str, in_one_call: bool) -> None:
    inner = sgd()
    outer = TwoStep(inner, name)
    assert innermost(outer) is inner
    capture = LossCapture(outer)
    for value in (3.0, 2.0, 1.0):
        capture.record(value)
        if in_one_call:
            outer.step()
        else:
            outer.first_step()
            outer.second_step()
    assert_block(capture.take(), [0, 1, 2], [3.0, 2.0, 1.0], [NAN, 0.5, 0.5])
    assert capture.steps == 3


def test_an_optimizer_with_two_others_inside_is_watched_itself() -> None:
    class Both(torch.optim.SGD):
        def __init__(self) -> None:
            super().__init__([torch.ones(1, requires_grad=True)], lr=0.1)
            self.first, self.second = sgd(), sgd()

    both = Both()
    assert innermost(both) is both


def test_an_optimizer_that_uses_another_for_the_rest_is_watched_itself() -> None:
    class Auxiliary(torch.optim.SGD):
        def __init__(self) -> None:
            super().__init__([torch.ones(1, requires_grad=True)], lr=0.1)
            self.adam = torch.optim.Adam([torch.ones(1, requires_grad=True)], lr=1e-3)

    optimizer = Auxiliary()
    assert innermost(optimizer) is optimizer


def test_a_wrapper_whose_attributes_raise_is_refused() -> None:
    class Closed:
        @property
        def optimizer(self) -> Any:
            raise RuntimeError("not now")

    with pytest.raises(ConfigurationError, match="steps of Closed"):
        LossCapture(Closed())


def test_another_optimizer_is_followed_and_the_count_goes_on() -> None:
    first, second = sgd(0.5), sgd(0.25)
    capture = LossCapture(first)
    train(first, capture, [3.0, 2.0])
    capture.watch(second)
    train(second, capture, [1.0, 0.5])
    first.step()
    assert capture.steps == 4
    assert not first._optimizer_step_pre_hooks
    assert_block(capture.take_all(), range(4), [3.0, 2.0, 1.0, 0.5], [NAN, 0.5, 0.5, 0.25])


def test_the_first_of_the_losses_that_a_closure_computes_counts() -> None:
    weight = torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], lr=0.1, max_iter=5)
    capture, firsts = LossCapture(optimizer), []
    for _ in range(4):
        evaluated: list[float] = []

        def closure(evaluated: list[float] = evaluated) -> torch.Tensor:
            optimizer.zero_grad()
            loss = weight.square().sum()
            capture.record(loss)
            evaluated.append(float(loss.detach()))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        assert len(evaluated) > 1
        firsts.append(evaluated[0])
    assert_block(capture.take_all(), range(4), firsts, [NAN, 0.1, 0.1, 0.1])


# ---------------------------------------------------------------------- no steps


def test_losses_without_a_step_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    watched, other = sgd(), sgd()
    capture = LossCapture(watched)
    train(watched, capture, [1.0] * 5)
    for _ in range(300):
        capture.record(1.0)
        other.step()
    (message,) = warnings_in(caplog)
    assert "no step of SGD was seen in the last 101 losses, after 5 steps" in message


def test_known_accumulation_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = sgd()
    capture = LossCapture(optimizer)
    for length in (500, 250, 250, 900):
        for _ in range(length):
            capture.record(1.0)
        optimizer.step()
    assert warnings_in(caplog, logging.WARNING) == []


# ---------------------------------------------------------------------- memory


class Idle(torch.optim.Optimizer):
    """Steps as fast as any, and changes nothing."""

    def __init__(self, rate: Any) -> None:
        super().__init__([torch.ones(1, requires_grad=True)], {"lr": rate})

    def step(self, closure: Any = None) -> Any:
        return None


def only_steps(capture: LossCapture, optimizer: Idle) -> None:
    optimizer.step()


def forgotten(capture: LossCapture, optimizer: Idle) -> None:
    capture.forget()
    optimizer.step()


def losses_at_the_start(capture: LossCapture, optimizer: Idle) -> None:
    if capture.steps < 10:
        capture.record(1.0)
    optimizer.step()


def skipped_on_the_device(capture: LossCapture, optimizer: Idle) -> None:
    optimizer.found_inf = torch.zeros(1)  # type: ignore[attr-defined]
    optimizer.step()


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize(
    "turn", [only_steps, forgotten, losses_at_the_start, skipped_on_the_device]
)
def test_memory_is_constant_where_nobody_reads_losses(
    turn: Callable[[LossCapture, Idle], None], rate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "lossforecast.callbacks.capture.loss_capture._MAX_RATES_ON_DEVICE"
    monkeypatch.setattr(limit, FEW_STEPS)
    optimizer = Idle(rate)
    capture = LossCapture(optimizer)
    tracemalloc.start()
    try:
        in_use = []
        for stretch in (2, STRETCHES):
            for _ in range(stretch * FEW_STEPS):
                turn(capture, optimizer)
            gc.collect()
            in_use.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert in_use[1] - in_use[0] < 30_000  # 32 bytes for each rate that is kept would be 200 kB
    total = (2 + STRETCHES) * FEW_STEPS
    assert capture.steps == total
    capture.record(loss_of(sgd(), 2.0))
    steps, losses, _ = capture.take_all()
    assert (steps.tolist()[-1], losses.tolist()[-1]) == (total, 2.0)
