"""`TorchLossForecast` where a loop does not do what was planned."""

import gc
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.logs import warnings_in
from torch.optim import lr_scheduler as torch_lr
from torch.optim.swa_utils import SWALR

from lossforecast import LRSchedule
from lossforecast.callbacks import SteerableLR, TorchLossForecast
from lossforecast.status import Caveat

TOTAL = 400


def weight_and_sgd(lr: float = 0.1) -> tuple[torch.Tensor, torch.optim.SGD]:
    weight = torch.ones(3, requires_grad=True)
    return weight, torch.optim.SGD([weight], lr=lr)


def losses() -> Iterator[float]:
    rng = np.random.default_rng(0)
    step = 0
    while True:
        yield float(2 + 3 * (step + 1) ** -0.5 + 0.01 * rng.normal())
        step += 1


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [message for message in warnings_in(caplog, logging.INFO) if text in message]


@pytest.fixture(autouse=True)
def _hear_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lossforecast")


def test_a_scheduler_that_is_replaced_by_hand_is_followed_as_a_held_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """SWALR takes over at half; the cosine is not stepped any more."""
    _, optimizer = weight_and_sgd()
    cosine = torch_lr.CosineAnnealingLR(optimizer, TOTAL)
    with TorchLossForecast(optimizer, cosine, TOTAL) as monitor:
        scheduler: Any = cosine
        for step, loss in zip(range(TOTAL), losses(), strict=False):
            if step == TOTAL // 2:
                scheduler = SWALR(optimizer, swa_lr=0.07, anneal_epochs=5)
            monitor.step(loss)
            optimizer.step()
            scheduler.step()
            if step == 230:  # seven checks later
                plan = monitor.forecaster.schedule
                assert float(plan.lr(TOTAL)) == pytest.approx(0.07)
                assert Caveat.LR_ASSUMED in plan.caveats
    assert len(said(caplog, "no scheduler is stepped: the present learning rate is assumed")) == 1
    assert monitor.forecast is not None
    assert Caveat.LR_ASSUMED in monitor.forecast.caveats


def test_a_scheduler_stepped_once_an_epoch_is_read_at_that_pace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Although `steps_per_scheduler_step` was forgotten."""
    _, optimizer = weight_and_sgd()
    scheduler = torch_lr.CosineAnnealingLR(optimizer, 10)
    with TorchLossForecast(optimizer, scheduler, TOTAL) as monitor:
        for step, loss in zip(range(TOTAL), losses(), strict=False):
            monitor.step(loss)
            optimizer.step()
            if step % 40 == 39:
                scheduler.step()
            if step == 150:
                planned = monitor.forecaster.schedule.lr(np.arange(200, TOTAL + 1, 40))
    shares = 0.5 * (1 + np.cos(np.pi * np.arange(4, 10) / 10))
    np.testing.assert_allclose(planned, 0.1 * shares, rtol=1e-6)


def test_a_rate_that_leaves_the_plan_twice_is_assumed_to_be_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The scheduler is stepped, but the loop scales its rates by a factor that changes."""
    _, optimizer = weight_and_sgd()
    scheduler = torch_lr.LambdaLR(optimizer, lambda step: 1 - step / TOTAL)
    with TorchLossForecast(optimizer, scheduler, TOTAL) as monitor:
        for step, loss in zip(range(TOTAL), losses(), strict=False):
            optimizer.param_groups[0]["lr"] *= 1.0 if step < 100 else 0.5
            monitor.step(loss)
            optimizer.step()
            scheduler.step()
    assert len(said(caplog, "the learning rate left the plan, which is read again")) == 1
    assert len(said(caplog, "does not follow its scheduler: the present rate, ")) == 1
    assert Caveat.LR_ASSUMED in monitor.forecaster.schedule.caveats


def test_a_scheduler_that_is_followed_is_never_read_again(caplog: pytest.LogCaptureFixture) -> None:
    for make in (
        lambda o: torch_lr.CosineAnnealingLR(o, TOTAL),
        lambda o: torch_lr.StepLR(o, 150),
        lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=TOTAL + 1),
        lambda o: torch_lr.ReduceLROnPlateau(o, patience=5),
    ):
        _, optimizer = weight_and_sgd()
        scheduler: Any = make(optimizer)
        with TorchLossForecast(optimizer, scheduler, TOTAL) as monitor:
            for _, loss in zip(range(TOTAL), losses(), strict=False):
                monitor.step(loss)
                optimizer.step()
                scheduler.step(
                    *([loss] if isinstance(scheduler, torch_lr.ReduceLROnPlateau) else [])
                )
    for text in ("assumed to be held", "left the plan", "from now on", "goes on after", "ended"):
        assert said(caplog, text) == []


def test_a_given_schedule_that_is_not_followed_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, optimizer = weight_and_sgd()
    plan = LRSchedule.cosine(TOTAL, 0.3)
    with TorchLossForecast(optimizer, schedule=plan) as monitor:
        for _, loss in zip(range(TOTAL), losses(), strict=False):
            monitor.step(loss)
            optimizer.step()
    (message,) = said(caplog, "differs from the given schedule: the next one is 0.1")
    assert message.startswith("step ")
    assert monitor.forecaster.schedule == plan


@pytest.mark.parametrize("taken", [100, 395, 400, 404, 450])
def test_a_run_that_outlives_its_plan_or_ends_early_is_told(
    taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    _, optimizer = weight_and_sgd()
    with TorchLossForecast(optimizer, None, TOTAL) as monitor:
        for _, loss in zip(range(taken), losses(), strict=False):
            monitor.step(loss)
            optimizer.step()
    assert len(said(caplog, "goes on after the last step of its plan, 400")) == int(taken == 450)
    assert len(said(caplog, "ended after 100 of 400 planned")) == int(taken == 100)
    assert not monitor.switched_off


def test_a_loop_whose_optimizer_never_steps_is_told_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    weight, optimizer = weight_and_sgd()
    with TorchLossForecast(optimizer, None, TOTAL) as monitor:
        for _, loss in zip(range(20), losses(), strict=False):
            monitor.step(loss)
            with torch.no_grad():
                weight.sub_(0.01)
    assert len(said(caplog, "no step of SGD was seen in the last 20 losses, after 0 steps")) == 1


def test_the_state_goes_on_with_an_optimizer_made_anew() -> None:
    """As the warning says: a new callback with the new optimizer, and the state of the old."""
    weight, first = weight_and_sgd()
    monitor = TorchLossForecast(first, None, TOTAL)
    script = losses()
    for _ in range(150):
        monitor.step(next(script))
        first.step()
    second = torch.optim.SGD([weight], lr=0.02)
    state = monitor.state_dict()
    monitor.close()
    with TorchLossForecast(second, None, TOTAL) as monitor:
        monitor.load_state_dict(state)
        for _ in range(150, TOTAL):
            monitor.step(next(script))
            second.step()
    assert monitor.steps == TOTAL
    assert monitor.forecaster.history.n_observed == TOTAL
    assert float(monitor.forecaster.schedule.lr(TOTAL)) == pytest.approx(0.02)


def test_the_hooks_of_a_dropped_monitor_go_with_it() -> None:
    _, optimizer = weight_and_sgd()
    for _ in range(3):
        monitor = TorchLossForecast(optimizer, None, TOTAL)
        for _, loss in zip(range(60), losses(), strict=False):
            monitor.step(loss)
            optimizer.step()
        del monitor
    gc.collect()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("change", ["longer", "decay"])
def test_a_steered_run_has_the_length_of_its_scheduler(
    change: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, optimizer = weight_and_sgd()
    scheduler = SteerableLR(optimizer, total_steps=200)
    script = losses()
    with TorchLossForecast(optimizer, scheduler) as monitor:
        while monitor.steps < scheduler.total_steps:
            if monitor.steps == 100 and change == "longer":
                scheduler.extend_to(400)
            if monitor.steps == 100 and change == "decay":
                scheduler.begin_decay(40)
            monitor.step(next(script))
            optimizer.step()
            scheduler.step()
    assert monitor.forecaster.total_steps == scheduler.total_steps
    for text in ("goes on after", "ended after", "left the plan", "assumed to be held"):
        assert said(caplog, text) == []


def test_an_optimizer_replaced_late_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    weight, optimizer = weight_and_sgd()
    with TorchLossForecast(optimizer, None, TOTAL) as monitor:
        for step, loss in zip(range(TOTAL), losses(), strict=False):
            if step == 320:
                optimizer = torch.optim.SGD([weight], lr=0.1)
            monitor.step(loss)
            optimizer.step()
    assert len(said(caplog, "no step of SGD was seen in the last 80 losses, after 320 steps")) == 1
    assert said(caplog, "ended after") == []
