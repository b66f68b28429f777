"""The LR schedule that `TorchLossForecast` plans with."""

from typing import Any

import numpy as np
import pytest
import torch
from support.torch_runs import Bench, assert_recorded, run, scripted, torch_lr

from lossforecast import (
    Action,
    Caveat,
    LRSchedule,
    Reason,
    Recommendation,
)
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update


def test_without_a_scheduler_the_rate_is_assumed() -> None:
    bench = Bench()
    with TorchLossForecast(bench.optimizer, total_steps=100, every_n_steps=10) as monitor:
        run(bench, monitor, range(50))
        assert monitor.forecast is not None
        assert Caveat.LR_ASSUMED in monitor.forecast.caveats
        bench.optimizer.param_groups[0]["lr"] = 0.01  # by hand
        run(bench, monitor, range(50, 61))
    plan = monitor.forecaster_of("val").schedule
    assert monitor.forecaster.schedule.to_array().tolist() == plan.to_array().tolist()
    assert set(plan.lr(range(1, 51)).tolist()) == {0.1}
    assert set(plan.lr(range(61, 101)).tolist()) == {0.01}
    assert monitor.forecast is not None
    assert Caveat.LR_OFF_PLAN not in monitor.forecast.caveats


def test_the_plan_follows_a_plateau() -> None:
    bench = Bench()
    scheduler = torch_lr.ReduceLROnPlateau(bench.optimizer, factor=0.5, patience=5)
    with TorchLossForecast(bench.optimizer, scheduler, 100, every_n_steps=10) as monitor:
        for i in range(60):
            run(bench, monitor, [i])
            scheduler.step(scripted(i) if i < 30 else 5.0)
            if i in (29, 51):
                run_rate = bench.optimizer.param_groups[0]["lr"]
                last = float(monitor.forecaster.schedule.lr(100))
                assert (i == 29) == (run_rate == 0.1)
                assert last == pytest.approx(0.1 if i == 29 else run_rate, rel=0.51)
        assert monitor.forecast is not None
        assert Caveat.LR_ASSUMED in monitor.forecast.caveats
    rate = bench.optimizer.param_groups[0]["lr"]
    assert rate < 0.05
    assert float(monitor.forecaster.schedule.lr(100)) == rate
    assert float(monitor.forecaster_of("val").schedule.lr(100)) == rate


def epochs_of(bench: Bench, name: str, epochs: int) -> Any:
    if name == "cosine":
        return torch_lr.CosineAnnealingLR(bench.optimizer, T_max=epochs)
    if name == "one cycle":
        return torch_lr.OneCycleLR(bench.optimizer, max_lr=0.1, total_steps=epochs)
    return torch_lr.MultiStepLR(bench.optimizer, milestones=[2, 3], gamma=0.1)


@pytest.mark.parametrize("name", ["cosine", "one cycle", "steps"])
@pytest.mark.parametrize("early", [False, True])
def test_a_scheduler_may_be_stepped_once_an_epoch(name: str, early: bool) -> None:
    bench, epochs, an_epoch = Bench(), 6, 15
    scheduler = epochs_of(bench, name, epochs)
    total = None if name == "one cycle" else epochs * an_epoch  # its own is in epochs
    with TorchLossForecast(
        bench.optimizer,
        scheduler,
        total,
        steps_per_scheduler_step=an_epoch,
        every_n_steps=20,
        laws="power",
    ) as monitor:
        plan = monitor.forecaster.schedule
        for epoch in range(epochs):
            run(bench, monitor, range(epoch * an_epoch, (epoch + 1) * an_epoch))
            if epoch < epochs - 1:
                scheduler.step()
            if early and epoch == 2:
                break
    assert plan.total_steps == epochs * an_epoch
    assert not plan.caveats
    assert plan.to_array().tolist()[: len(bench.optimizer.rates)] == bench.optimizer.rates
    assert monitor.forecaster.schedule == plan
    assert monitor.forecast is not None
    assert Caveat.LR_OFF_PLAN not in monitor.forecast.caveats


@pytest.mark.parametrize("group", [None, 0, 1])
def test_one_group_counts_by_default_the_one_with_the_largest_rate(group: int | None) -> None:
    weights = [torch.ones(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [weights[0]], "lr": 0.01}, {"params": [weights[1]], "lr": 0.1}]
    )
    scheduler = torch_lr.ExponentialLR(optimizer, 0.9)
    with TorchLossForecast(
        optimizer, scheduler, 20, group=group, every_n_steps=10, laws="power"
    ) as monitor:
        for i in range(20):
            monitor.step(scripted(i))
            optimizer.step()
            scheduler.step()
    first = 0.01 if group == 0 else 0.1
    wanted = [first * 0.9**i for i in range(20)]
    np.testing.assert_allclose(monitor.forecaster.schedule.to_array(), wanted, rtol=1e-12)
    np.testing.assert_allclose(monitor.forecaster.history.bins().lr[1:], wanted[:-1], rtol=1e-12)


def test_the_largest_rate_is_that_of_the_whole_run() -> None:
    # in a warm-up all may begin at 0
    weights = [torch.ones(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [weights[0]], "lr": 0.01}, {"params": [weights[1]], "lr": 0.1}]
    )
    scheduler = torch_lr.LambdaLR(optimizer, lambda k: k / 10)
    monitor = TorchLossForecast(optimizer, scheduler, 10)
    assert monitor.forecaster.schedule.peak == pytest.approx(0.09)


def test_a_tensor_rate_will_do() -> None:
    bench = Bench(lr=torch.tensor(0.1, dtype=torch.float64))
    scheduler = bench.cosine(50)
    with TorchLossForecast(
        bench.optimizer, scheduler, 50, every_n_steps=20, laws="power"
    ) as monitor:
        plan = monitor.forecaster.schedule
        run(bench, monitor, range(50), scheduler)
    assert plan.to_array().tolist() == bench.optimizer.rates
    assert_recorded(monitor, {t: scripted(t) for t in range(50)}, bench.optimizer.rates)


class Holder:
    """A wrapper with nothing of an optimizer but `.optimizer`."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_wrapped_optimizer_is_as_good_as_the_optimizer(scheduled: bool) -> None:
    bench = Bench()
    scheduler = bench.cosine(50) if scheduled else None
    with TorchLossForecast(
        Holder(bench.optimizer), scheduler, 50, every_n_steps=20, laws="power"
    ) as monitor:
        run(bench, monitor, range(50), scheduler)
    assert_recorded(monitor, {t: scripted(t) for t in range(50)}, bench.optimizer.rates)
    assert monitor.forecaster.run.optimizer == "Watched", "the prior is that of the inner one"


def test_a_schedule_may_be_given_instead_of_a_scheduler() -> None:
    bench = Bench()
    plan = LRSchedule.wsd(50, 0.1, warmup=5)
    with TorchLossForecast(
        bench.optimizer, schedule=plan, total_steps=50, every_n_steps=20
    ) as monitor:
        for i, rate in enumerate(plan.to_array().tolist()):
            bench.optimizer.param_groups[0]["lr"] = rate
            run(bench, monitor, [i])
    assert monitor.forecaster.schedule == plan
    assert monitor.forecast is not None
    assert not monitor.forecast.caveats
    assert bench.optimizer.rates == plan.to_array().tolist()


def test_laws_and_policies_may_come_from_generators() -> None:
    answer = Recommendation(Action.STOP, Reason.ON_TRACK, "scripted")
    bench, updates = Bench(), list[Update]()
    with TorchLossForecast(
        bench.optimizer,
        total_steps=50,
        every_n_steps=20,
        laws=(name for name in ["power"]),
        policy=(policy for policy in [lambda situation: answer]),
        sinks=[updates.append],
    ) as monitor:
        run(bench, monitor, range(50))
    assert [u.recommendation for u in updates] == [answer] * 3
    assert monitor.forecaster_of("val").laws == monitor.forecaster.laws == ("power",)
