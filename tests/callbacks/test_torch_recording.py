"""Losses and learning rates that `TorchLossForecast` records, in any order of calls."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from support.torch_runs import NAN, Bench, assert_recorded, batches, net, run, scripted, torch_lr

from lossforecast import (
    Action,
    RunInfo,
    Status,
)
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update


def test_the_loop_of_the_docstring() -> None:
    n = 200
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch_lr.OneCycleLR(optimizer, max_lr=1e-2, total_steps=n)
    losses, rates = dict[int, float](), list[float]()
    with TorchLossForecast(optimizer, scheduler, total_steps=n) as monitor:
        for x, y in batches(n):
            loss = torch.nn.functional.mse_loss(model(x), y)
            monitor.step(loss)
            losses[monitor.steps] = loss.item()
            loss.backward()  # type: ignore[no-untyped-call]
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if monitor.should_stop:
                break
    assert sorted(losses) == list(range(n))
    assert_recorded(monitor, losses, rates)
    forecast, advice = monitor.forecast, monitor.recommendation
    assert forecast is not None
    assert advice is not None
    assert (monitor.steps, forecast.step, forecast.made_at) == (n, n, n - 1)
    assert forecast.status is Status.IDENTIFIED
    assert not forecast.caveats
    assert advice.action is Action.CONTINUE
    last = np.mean(list(losses.values())[-20:])
    assert abs(forecast.mean - last) < 0.2 * last


ORDERS = ["as in the docstring", "gradients cleared first", "recorded after backward"]


@pytest.mark.filterwarnings("ignore:Detected call of")  # scheduler.step() comes first, on purpose
@pytest.mark.parametrize("scheduled", ["after", "before", "late"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("scaler", [None, "plain", "fused"])
def test_no_order_of_calls_shifts_a_loss_or_a_rate(
    scheduled: str, order: str, accumulate: int, scaler: str | None
) -> None:
    total, every_n = 45, 10
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=scaler == "fused")
    scheduler = torch_lr.LambdaLR(optimizer, lambda k: 1 / (1 + 0.1 * k))
    scaling = torch.amp.GradScaler("cpu", init_scale=2.0**40, enabled=scaler is not None)
    overflows = {0, 1, 7, 19, 20, 21, 33} if scaler else set[int]()
    losses, rates = dict[int, list[float]](), list[float]()
    monitor = TorchLossForecast(optimizer, scheduler, total, every_n_steps=every_n, laws="power")
    for turn in itertools.count():
        if len(rates) == total:
            break
        if order == "gradients cleared first":
            optimizer.zero_grad()
        for micro in range(accumulate):
            value = scripted(turn, micro)
            loss = (weight.sum() - weight.sum().detach()) + value
            losses.setdefault(len(rates), []).append(loss.item())
            if order != "recorded after backward":
                monitor.step(loss)
            loss = loss.div_(accumulate)  # in place, as some do
            scaled = scaling.scale(loss * (math.inf if turn in overflows else 1.0))
            assert isinstance(scaled, torch.Tensor)
            scaled.backward()  # type: ignore[no-untyped-call]
            if order == "recorded after backward":
                monitor.step(loss.detach() * accumulate)
                losses[len(rates)][-1] = (loss.detach() * accumulate).item()
            with torch.no_grad():
                loss.fill_(NAN)  # as the next replay of a CUDA graph overwrites it
        if scheduled == "before":
            scheduler.step()
        before, rate = weight.detach().clone(), optimizer.param_groups[0]["lr"]
        scaling.step(optimizer)
        scaling.update()
        if not torch.equal(before, weight):
            rates.append(rate)
        if scheduled == "after" or (scheduled == "late" and turn % 7 == 6):
            scheduler.step()
        if order != "gradients cleared first":
            optimizer.zero_grad()
    monitor.close()
    assert turn == total + len(overflows)
    assert monitor.steps == total
    assert_recorded(monitor, {t: sum(v) / len(v) for t, v in losses.items()}, rates)


def test_a_run_may_go_on_past_its_end(caplog: pytest.LogCaptureFixture) -> None:
    bench, updates = Bench(), list[Update]()
    scheduler = torch_lr.LambdaLR(bench.optimizer, lambda k: 1 - k / 50)  # below 0 after the end
    with TorchLossForecast(
        bench.optimizer, scheduler, 50, every_n_steps=8, sinks=[updates.append]
    ) as monitor:
        run(bench, monitor, range(70), scheduler)
    assert bench.optimizer.rates[-1] < 0, "the script does what it says"
    rates = [max(rate, 0.0) for rate in bench.optimizer.rates]
    assert_recorded(monitor, {t: scripted(t) for t in range(70)}, rates)
    assert [u.step for u in updates] == [8, 16, 24, 32, 40, 48, 50, 56, 64, 70]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# ---------------------------------------------------------------------- validation


@pytest.mark.parametrize("metric", ["train", "val"])
def test_validation_losses_are_kept_beside_the_others(metric: str) -> None:
    bench, updates = Bench(), list[Update]()
    scheduler = bench.cosine(200)
    with TorchLossForecast(
        bench.optimizer,
        scheduler,
        200,
        metric=metric,
        every_n_steps=20,
        run=RunInfo(metric="val", project="p"),
        sinks=[updates.append],
    ) as monitor:
        monitor.validation(9.0)
        for i in range(200):
            run(bench, monitor, [i], scheduler)
            if i % 10 == 9:
                monitor.validation(torch.tensor(scripted(i + 1) + 1, dtype=torch.float64))
    val, train = monitor.forecaster_of("val"), monitor.forecaster_of("train")
    bins = val.history.bins()
    assert bins.last.tolist() == list(range(0, 201, 10))
    assert bins.mean.tolist() == [9.0, *(scripted(t) + 1 for t in range(10, 201, 10))]
    np.testing.assert_array_equal(
        bins.lr, [NAN, *(bench.optimizer.rates[t - 1] for t in range(10, 201, 10))]
    )
    assert_recorded(monitor, {t: scripted(t) for t in range(200)}, bench.optimizer.rates)
    assert (train.run.metric, val.run.metric) == ("train", "val")
    assert (val.run.project, val.run.optimizer) == ("p", train.run.optimizer)
    assert monitor.forecaster is monitor.forecaster_of(metric)
    assert monitor.forecast is not None
    assert monitor.forecast.mean == monitor.forecaster_of(metric).forecast().mean
    assert monitor.forecast.made_at == (199 if metric == "train" else 200)
    other = monitor.forecaster_of("val" if metric == "train" else "train")
    assert abs(other.forecast().mean - monitor.forecast.mean) > 0.5
    assert updates[-1].step == 200


def test_a_loop_that_only_validates_gets_its_forecasts() -> None:
    bench, updates = Bench(), list[Update]()
    with TorchLossForecast(
        bench.optimizer, total_steps=100, metric="val", every_n_steps=20, sinks=[updates.append]
    ) as monitor:
        for i in range(100):
            bench.optimizer.step()
            if i % 10 == 9:
                monitor.validation(scripted(i))
    assert [u.step for u in updates] == [20, 40, 60, 80, 100]
    assert [u.forecast.made_at for u in updates] == [20, 40, 60, 80, 100]


def test_a_validation_loss_of_many_numbers_is_logged_and_training_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    with TorchLossForecast(bench.optimizer, total_steps=20) as monitor:
        run(bench, monitor, range(10))
        monitor.validation(torch.ones(3))
        run(bench, monitor, range(10))
    assert monitor.steps == 20
    assert len(caplog.records) == 1
