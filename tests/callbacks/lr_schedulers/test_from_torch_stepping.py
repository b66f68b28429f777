"""The future of torch schedulers, compared with stepping them."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.torch_schedulers import (
    ALL,
    HORIZON,
    MILLION,
    NESTED,
    SIMPLE,
    Factory,
    check_future,
    compositions_of_schedulers,
    optimizer_of,
    quietly,
    walked,
)
from torch.optim import lr_scheduler as torch_lr

from lossforecast.callbacks.lr_schedulers import every, schedule_from_torch


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_fresh(name: str, tensor: bool, groups: int) -> None:
    check_future(lambda: quietly(ALL[name], optimizer_of(groups, tensor)), 0, groups)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_midway(name: str, tensor: bool, groups: int) -> None:
    def make() -> Any:
        scheduler = quietly(ALL[name], optimizer_of(groups, tensor))
        walked(scheduler, 12)
        return scheduler

    check_future(make, 12, groups)


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_loaded(name: str, tensor: bool) -> None:
    def make() -> Any:
        old = quietly(ALL[name], optimizer_of(2, tensor))
        walked(old, 12)
        new = quietly(ALL[name], optimizer_of(2, tensor))
        new.optimizer.load_state_dict(old.optimizer.state_dict())
        new.load_state_dict(old.state_dict())
        return new

    check_future(make, 12, 2)


@pytest.mark.parametrize("name", SIMPLE)
def test_built_with_last_epoch(name: str) -> None:
    def make() -> Any:
        old = SIMPLE[name](optimizer_of(2))
        walked(old, 12)
        optimizer = optimizer_of(2)
        optimizer.load_state_dict(old.optimizer.state_dict())
        return SIMPLE[name](optimizer, last_epoch=11)

    check_future(make, 12, 2)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_momentum_is_cycled_on_the_clone_alone(name: str, kind: Any) -> None:
    scheduler = SIMPLE[name](optimizer_of(2, kind=kind))
    before = {k: v for k, v in scheduler.optimizer.param_groups[0].items() if k != "params"}
    schedule_from_torch(scheduler, total_steps=HORIZON)
    after = {k: v for k, v in scheduler.optimizer.param_groups[0].items() if k != "params"}
    assert before == after
    check_future(lambda: SIMPLE[name](optimizer_of(2, kind=kind)), 0, 2)


def test_rate_changed_by_hand() -> None:
    def make() -> Any:
        scheduler = SIMPLE["StepLR"](optimizer_of())
        walked(scheduler, 12)
        scheduler.optimizer.param_groups[0]["lr"] = 0.77
        return scheduler

    check_future(make, 12, 1)


@settings(max_examples=150, deadline=None)
@given(factory=compositions_of_schedulers, taken=st.integers(0, 30), tensor=st.booleans())
def test_any_composition(factory: Factory, taken: int, tensor: bool) -> None:
    def make() -> Any:
        scheduler = quietly(factory, optimizer_of(2, tensor))
        assume(np.isfinite(walked(scheduler, taken)).all())
        return scheduler

    try:
        make()
    except (ValueError, NotImplementedError, AttributeError, ZeroDivisionError):
        assume(False)  # torch refuses to build some
    if (walked(make(), HORIZON)[0] < 0).any():
        return  # the rate of a run is not negative
    check_future(make, taken, 2)


# ------------------------------------------------------------------ other intervals


def epochwise(scheduler: Any, total_steps: int, step: int, n_steps: int) -> list[float]:
    """The rate of each optimizer step after `step` in a loop that steps at the end of epochs."""
    lrs = []
    for i in range(step + 1, total_steps + 1):
        lrs.append(float(scheduler.optimizer.param_groups[0]["lr"]))
        if i % n_steps == 0:
            walked(scheduler, 1)
    return lrs


@pytest.mark.parametrize("step", [0, 1, 30, 31, 59, 399, 400])
def test_stepped_every_epoch(step: int) -> None:
    def make() -> Any:
        scheduler = NESTED["SequentialLR"](optimizer_of())
        walked(scheduler, step // 30)
        return scheduler

    schedule = schedule_from_torch(
        make(), total_steps=400, step=step, scheduler_steps=every(30, step=step)
    )
    assert schedule.to_array()[step:].tolist() == epochwise(make(), 400, step, 30)
    assert schedule.caveats == set()


def test_epochs_of_a_long_run_are_exact_and_small() -> None:
    n_steps, step = 30_001, 30_500
    total_steps = 100 * n_steps + 1  # the last step begins an epoch

    def make() -> Any:
        scheduler = SIMPLE["CosineAnnealingLR"](optimizer_of())
        walked(scheduler, 1)
        return scheduler

    schedule = schedule_from_torch(
        make(), total_steps=total_steps, step=step, scheduler_steps=every(n_steps, step=step)
    )
    rates = walked(make(), 100)[:, 0]
    assert schedule.caveats == set()
    assert len(schedule.to_dict()["pieces"]["stop"]) <= 220
    steps = np.arange(step + 1, total_steps + 1)
    assert np.array_equal(schedule.lr(steps), rates[(steps - 1) // n_steps - 1])
    assert schedule.lr([1, step]).tolist() == [rates[0]] * 2


def test_stepped_several_times_a_step() -> None:
    """As accelerate does, once for each process."""
    make = functools.partial(SIMPLE["PolynomialLR"], optimizer_of())
    schedule = schedule_from_torch(make(), total_steps=20, scheduler_steps=lambda i: 4 * (i - 1))
    scheduler = SIMPLE["PolynomialLR"](optimizer_of())
    assert schedule.to_array().tolist() == walked(scheduler, 76)[::4, 0].tolist()


def test_far_future_at_another_interval() -> None:
    scheduler = torch_lr.StepLR(optimizer_of(), 77_777, gamma=0.5)
    schedule = schedule_from_torch(scheduler, total_steps=MILLION, scheduler_steps=every(4))
    steps = np.arange(1, MILLION + 1)
    assert np.array_equal(schedule.lr(steps), 0.1 * 0.5 ** ((steps - 1) // 4 // 77_777))


def test_nothing_ahead() -> None:
    scheduler = SIMPLE["StepLR"](optimizer_of())
    schedule = schedule_from_torch(scheduler, total_steps=5, step=5)
    assert schedule.to_array().tolist() == [0.1] * 5
    assert schedule.caveats == set()
