"""When `TorchLossForecast` forecasts, and when it stops a run."""

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_runs import NAN, Bench, forecasts_of, run, scripted

from lossforecast import (
    Action,
    Reason,
    Recommendation,
)
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.policies import Situation


def hopeless(step: int) -> float:
    return scripted(step)  # heads for 2, and the target is 0.5


def broken_at_150(step: int) -> float:
    return scripted(step) if step < 150 else NAN


def diverging_at_150(step: int) -> float:
    return scripted(step) if step < 150 else 20 + 0.1 * (step - 150)


@pytest.mark.parametrize(
    ("loss_at", "target", "reason"),
    [
        (hopeless, 0.5, Reason.TARGET_MISS),
        (broken_at_150, None, Reason.NON_FINITE),
        (diverging_at_150, None, Reason.DIVERGED),
    ],
    ids=["hopeless", "nan", "diverging"],
)
@pytest.mark.parametrize("stop", [False, True])
def test_it_stops_only_where_it_was_asked_to(
    loss_at: Callable[[int], float],
    target: float | None,
    reason: Reason,
    stop: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    scheduler, updates = bench.cosine(400), list[Update]()
    with TorchLossForecast(
        bench.optimizer,
        scheduler,
        400,
        target=target,
        stop=stop,
        every_n_steps=20,
        sinks=[updates.append],
        laws="power",
    ) as monitor:
        taken = run(bench, monitor, range(400), scheduler, loss_at)
        assert monitor.should_stop is stop
    assert monitor.should_stop is stop
    stops = [u for u in updates if u.recommendation.action is Action.STOP]
    assert stops
    assert stops[0].recommendation.reason is reason
    assert taken == (stops[0].step if stop else 400)
    assert monitor.steps == taken
    done = [update.trail[-1].get("done") for update in updates if update.step <= taken]
    assert ("stop" in done) is stop, "what was done is told, apart from what was advised"
    assert any(record.levelno == logging.WARNING for record in caplog.records), "it says so"
    assert not monitor.switched_off


def test_a_run_of_nothing_but_nan_is_stopped() -> None:
    bench = Bench()
    with TorchLossForecast(bench.optimizer, total_steps=1_000, stop=True) as monitor:
        taken = run(bench, monitor, range(1_000), loss_at=lambda step: NAN)
    assert taken == 17  # the first check
    assert monitor.recommendation is not None
    assert monitor.recommendation.reason is Reason.NON_FINITE


def test_who_stopped_stays_stopped_until_it_is_resumed() -> None:
    script = iter([Action.CONTINUE, Action.STOP, Action.CONTINUE, Action.CONTINUE])

    def policy(situation: Situation) -> Recommendation:
        return Recommendation(next(script), Reason.ON_TRACK, "scripted")

    bench = Bench()
    monitor = TorchLossForecast(
        bench.optimizer, total_steps=100, every_n_steps=20, stop=True, policy=policy
    )
    stops = []
    for i in range(60):
        run(bench, monitor, [i])
        stops.append(monitor.should_stop)
    assert stops == [False] * 39 + [True] * 21
    again = Bench()
    resumed = TorchLossForecast(again.optimizer, total_steps=100, stop=True, policy=policy)
    resumed.load_state_dict(monitor.state_dict())
    assert not resumed.should_stop, "whoever resumes it wants it to go on"
    monitor.load_state_dict(monitor.state_dict())
    assert not monitor.should_stop


# ---------------------------------------------------------------------- when it speaks


def test_there_are_about_sixty_forecasts_a_run_and_one_at_the_end() -> None:
    bench, updates = Bench(), list[Update]()
    with TorchLossForecast(
        bench.optimizer, total_steps=1_004, sinks=[updates.append], laws="power"
    ) as monitor:
        assert (monitor.forecast, monitor.recommendation) == (None, None)
        run(bench, monitor, range(1_004))
    assert [u.step for u in updates] == [*range(17, 1_004, 17), 1_004]
    assert [u.forecast.made_at for u in updates] == [*range(16, 1_003, 17), 1_003]
    assert {u.forecast.step for u in updates} == {1_004}
    assert monitor.forecast is updates[-1].forecast
    assert monitor.recommendation is updates[-1].recommendation


@pytest.mark.parametrize("every_n", [1, 5, 24, 25])
@pytest.mark.parametrize("stop", [False, True])
def test_forecasts_are_made_every_n_steps_and_once_each(every_n: int, stop: bool) -> None:
    bench, updates = Bench(), list[Update]()
    monitor = TorchLossForecast(
        bench.optimizer,
        total_steps=24,
        every_n_steps=every_n,
        stop=stop,
        sinks=[updates.append],
        laws="power",
    )
    run(bench, monitor, range(24))
    monitor.close()
    monitor.close()
    assert [u.step for u in updates] == sorted({*range(every_n, 25, every_n), 24})


def test_the_grid_heeds_neither_the_clock_nor_accumulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def updates(accumulate: int) -> dict[int, tuple[Any, ...]]:
        bench, seen = Bench(), list[Update]()
        scheduler = bench.cosine(60)
        with TorchLossForecast(
            bench.optimizer, scheduler, 60, every_n_steps=8, sinks=[seen.append]
        ) as monitor:
            for i in range(60):
                for _ in range(accumulate):
                    monitor.step(bench.loss(scripted(i)))
                bench.optimizer.step()
                scheduler.step()
        return forecasts_of(seen)

    once = updates(1)
    assert sorted(once) == [8, 16, 24, 32, 40, 48, 56, 60]
    assert updates(2) == once
    with monkeypatch.context() as patch:  # a clock by which every forecast takes hours
        hours = itertools.count(0.0, 10_000.0)
        patch.setattr("time.perf_counter", lambda: next(hours))
        assert updates(4) == once


@pytest.mark.parametrize("asked", [False, True])
def test_steps_that_a_scaler_skips_do_not_move_the_grid(asked: bool) -> None:
    def updates(fused: bool) -> dict[int, tuple[Any, ...]]:
        weight, seen = torch.ones(2, requires_grad=True), list[Update]()
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        overflows = {0, 1, 2, 9, 12, 13, 14, 31, 32, 54, 55, 56}
        with TorchLossForecast(
            optimizer, total_steps=50, every_n_steps=10, stop=True, sinks=[seen.append]
        ) as monitor:
            for turn in range(50 + len(overflows)):
                loss = (weight.sum() - weight.sum().detach()) + scripted(turn)
                monitor.step(loss)
                scaled = scaler.scale(loss * (math.inf if turn in overflows else 1.0))
                assert isinstance(scaled, torch.Tensor)
                scaled.backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if asked:
                    assert not monitor.should_stop
                    monitor.state_dict()
                    monitor.validation(loss)
        assert monitor.steps == 50
        return forecasts_of(seen)

    wanted = updates(fused=False)
    assert sorted(wanted) == [10, 20, 30, 40, 50]
    assert updates(fused=True) == wanted


def test_a_last_loss_and_a_last_validation_are_in_the_last_forecast() -> None:
    bench, updates = Bench(), list[Update]()
    with TorchLossForecast(
        bench.optimizer, total_steps=40, every_n_steps=10, stop=True, sinks=[updates.append]
    ) as monitor:
        run(bench, monitor, range(40))
        assert updates[-1].step == 40  # as should_stop was asked
        monitor.step(bench.loss(1.5))
    assert [u.step for u in updates] == [10, 20, 30, 40, 40]
    assert [u.forecast.made_at for u in updates] == [9, 19, 29, 39, 40]


def test_nothing_seen_means_nothing_said() -> None:
    bench, updates = Bench(), list[Update]()
    with TorchLossForecast(bench.optimizer, total_steps=40, sinks=[updates.append]) as monitor:
        for _ in range(40):
            bench.optimizer.step()
    assert monitor.steps == 40
    assert (monitor.forecast, monitor.recommendation, updates) == (None, None, [])
    assert not monitor.switched_off


def test_tensorboard_gets_every_forecast(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    bench, updates = Bench(), list[Update]()
    scheduler = bench.cosine(60)
    with (
        tensorboard.SummaryWriter(log_dir=str(tmp_path)) as writer,
        TorchLossForecast(
            bench.optimizer,
            scheduler,
            60,
            every_n_steps=20,
            target=2.3,
            writer=writer,
            sinks=[updates.append],
        ) as monitor,
    ):
        run(bench, monitor, range(60), scheduler)
    read = accumulator.EventAccumulator(str(tmp_path), {"scalars": 0, "tensors": 0})
    read.Reload()

    def scalars(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in read.Scalars(f"forecast/{tag}")]

    def wanted(value: Callable[[Update], float]) -> list[tuple[int, float]]:
        return [(u.step, float(np.float32(value(u)))) for u in updates]

    assert [u.step for u in updates] == [20, 40, 60]
    assert scalars("final_loss") == wanted(lambda u: u.forecast.median)
    assert scalars("lower") == wanted(lambda u: u.forecast.interval(0.8)[0])
    assert scalars("upper") == wanted(lambda u: u.forecast.interval(0.8)[1])
    assert scalars("anneal_gain") == wanted(lambda u: u.forecast.anneal_gain.mean)
    assert scalars("prob_target") == wanted(lambda u: u.forecast.prob_below(2.3))
    assert set(read.Tags()["tensors"]) == {"custom_scalars__config__", "forecast/panel"}
    assert len(read.Tensors("custom_scalars__config__")) == 1
