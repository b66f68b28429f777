"""Errors inside `TorchLossForecast` are logged once; misuse is refused at once."""

import errno
import itertools
import json
import logging
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.torch_runs import NAN, Bench, assert_same_training, run, scripted, trained

from lossforecast import (
    ConfigurationError,
    LRSchedule,
    Prior,
    Recommendation,
)
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.policies import Situation


class BrokenPrior(Prior):
    """Fails when it is needed for a fit, like a bug of ours."""

    def for_run(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("scripted")


def broken_policy(situation: Situation) -> Recommendation | None:
    raise ZeroDivisionError("scripted")


def broken_sink(update: Update) -> None:
    raise ZeroDivisionError("scripted")


@pytest.mark.parametrize(
    ("kwargs", "off"),
    [
        ({"prior": BrokenPrior()}, True),
        ({"policy": broken_policy}, True),
        ({"sinks": [broken_sink]}, False),
    ],
    ids=["fit", "policy", "sink"],
)
def test_an_error_of_its_own_is_logged_once_and_training_goes_on(
    kwargs: dict[str, Any], off: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert_same_training(trained(monitored=False), trained(monitored=True, **kwargs))
    (error,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert ("switched off" in error.getMessage()) == off
    assert error.exc_info
    assert isinstance(error.exc_info[1], ZeroDivisionError)
    assert "in for_run" in caplog.text or "in broken_" in caplog.text


def full_disk(update: Update) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FAULTS: dict[str, Callable[[int, float], float]] = {
    "a burst of nan": lambda i, loss: NAN if 20 <= i < 40 else loss,
    "nan from the start": lambda i, loss: NAN,
    "a burst of inf": lambda i, loss: math.inf if 20 <= i < 40 else loss,
    "minus infinity": lambda i, loss: -math.inf if i % 3 else loss,
    "a spike": lambda i, loss: 1e30 if i == 30 else loss,
    "huge": lambda i, loss: 1e30 * loss,
    "tiny": lambda i, loss: 1e-30 * loss,
    "constant": lambda i, loss: 3.0,
    "zero": lambda i, loss: 0.0,
    "negative": lambda i, loss: -loss,
    "of changing sign": lambda i, loss: loss - 3.0,
    "rising": lambda i, loss: 1.0 + 0.1 * i,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate", [0.1, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_loss_whatever_disturbs_the_run(
    fault: str, rate: float, caplog: pytest.LogCaptureFixture
) -> None:
    bench, alone = Bench(lr=rate), Bench(lr=rate)
    monitor = TorchLossForecast(bench.optimizer, total_steps=80, every_n_steps=5, target=1.0)
    with monitor:
        run(bench, monitor, range(80), loss_at=lambda i: FAULTS[fault](i, scripted(i)))
        monitor.validation(FAULTS[fault](80, 2.0))
    for _ in range(80):
        alone.loss(1.0).backward()  # type: ignore[no-untyped-call]
        alone.optimizer.step()
        alone.optimizer.zero_grad()
    assert torch.equal(bench.weight, alone.weight)
    assert not monitor.switched_off
    assert not monitor.should_stop
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert monitor.forecast is not None
    broken = fault in ("nan from the start",)
    assert math.isfinite(monitor.forecast.mean) is not broken
    json.dumps(monitor.state_dict(), allow_nan=False)


def test_a_full_disk_is_told_once_and_forecasts_go_on(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    with TorchLossForecast(
        bench.optimizer, total_steps=60, every_n_steps=5, sinks=[full_disk]
    ) as monitor:
        run(bench, monitor, range(60))
    assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [
        logging.ERROR
    ]
    assert "No space left" in caplog.text
    assert monitor.forecast is not None
    assert monitor.forecast.made_at == 59


def test_a_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def told_at(clock: Callable[[], float]) -> list[float]:
        monkeypatch.setattr("time.perf_counter", clock)
        bench, updates = Bench(), list[Update]()
        with TorchLossForecast(bench.optimizer, total_steps=40, sinks=[updates.append]) as monitor:
            run(bench, monitor, range(40))
        return [update.forecast.mean for update in updates]

    jumps = itertools.cycle([1e9, -1e9, 0.0])
    assert told_at(lambda: next(jumps)) == told_at(lambda: 0.0)


def test_an_interrupt_inside_a_fit_leaves_a_state_to_resume_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    monitor = TorchLossForecast(bench.optimizer, total_steps=100, every_n_steps=20)

    def impatient(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lossforecast.forecaster.fitting.fit", impatient)
        with pytest.raises(KeyboardInterrupt):
            run(bench, monitor, range(100))
    again = Bench()
    with TorchLossForecast(again.optimizer, total_steps=100, every_n_steps=20) as resumed:
        resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
        assert resumed.steps == 20
        run(again, resumed, range(20, 100))
    assert resumed.forecaster.history.n_observed == 100
    monitor.close()


def test_what_failed_counts_on_and_collects_nothing() -> None:
    bench = Bench()
    with TorchLossForecast(
        bench.optimizer, total_steps=100, every_n_steps=30, policy=broken_policy
    ) as monitor:
        run(bench, monitor, range(60))
        assert monitor.switched_off
        assert monitor.steps == 60  # loops may be counting with it
        capture = monitor._capture
        assert max(len(kept) for kept in (capture._losses, capture._rates)) <= 1
        json.dumps(monitor.state_dict())
        monitor.validation(1.0)
    assert monitor.forecaster.history.last_step == 29
    assert not bench.optimizer._optimizer_step_pre_hooks


def test_a_failed_run_may_be_saved_and_tried_again() -> None:
    bench = Bench()
    broken = TorchLossForecast(
        bench.optimizer, total_steps=100, every_n_steps=20, policy=broken_policy
    )
    run(bench, broken, range(30))
    assert broken.switched_off
    again = Bench()
    with TorchLossForecast(again.optimizer, total_steps=100) as monitor:  # every 20 steps, too
        monitor.load_state_dict(json.loads(json.dumps(broken.state_dict())))
        run(again, monitor, range(30, 60))
    assert not monitor.switched_off
    assert monitor.steps == 60
    assert monitor.forecast is not None


@pytest.mark.parametrize("place", ["policy", "sinks"])
def test_an_interrupt_is_not_swallowed(place: str) -> None:
    def impatient(_: Any) -> Any:
        raise KeyboardInterrupt

    bench = Bench()
    kwargs: dict[str, Any] = {place: impatient if place == "policy" else [impatient]}
    with (
        pytest.raises(KeyboardInterrupt),
        TorchLossForecast(bench.optimizer, total_steps=100, every_n_steps=20, **kwargs) as monitor,
    ):
        run(bench, monitor, range(100))
    assert len(bench.optimizer.rates) == 20
    assert not bench.optimizer._optimizer_step_pre_hooks, "although the last forecast failed, too"


@pytest.mark.parametrize(
    "loss", [torch.ones(3), torch.zeros(0), [1.0, 2.0], None, {"loss": 1.0}], ids=repr
)
def test_what_is_no_loss_is_logged_once_and_training_goes_on(
    loss: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    with TorchLossForecast(bench.optimizer, total_steps=20) as monitor:
        for _ in range(20):
            monitor.step(loss)
            bench.optimizer.step()
    assert monitor.switched_off
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    if isinstance(loss, torch.Tensor):
        assert "give one number, such as loss.mean()" in str(record.exc_info[1])


# ---------------------------------------------------------------------- misuse


def test_what_cannot_be_is_refused_at_once() -> None:
    def refused(match: str, *args: Any, **kwargs: Any) -> None:
        bench = Bench()
        optimizer = kwargs.pop("optimizer", bench.optimizer)
        with pytest.raises(ConfigurationError, match=match):
            TorchLossForecast(optimizer, *args, **kwargs)
        assert not bench.optimizer._optimizer_step_pre_hooks, "a failure leaves nothing behind"

    plan = LRSchedule.cosine(100, 0.1)
    refused("length of the run is unknown; give total_steps=")
    refused("length of the run is unknown", Bench().cosine(10))
    refused("total_steps is 50, but the schedule has 100 steps", None, 50, schedule=plan)
    refused("schedule must be an LRSchedule, not list", schedule=[0.1] * 10)
    refused("schedule must be an LRSchedule, not CosineA.*", schedule=Bench().cosine(10))
    refused("total_steps is 0; it must be at least 1", None, 0)
    refused("total_steps is 2.5; it must be a whole number", None, 2.5)
    refused('metric is "?\'?test.*must be "train" or "val"', None, 100, metric="test")
    refused("target is nan; it must be a finite loss", None, 100, target=NAN)
    refused("policy must be one or more policies", None, 100, policy="stop")
    refused("every_n_steps is 0", None, 100, every_n_steps=0)
    refused("steps_per_scheduler_step is 0", None, 100, steps_per_scheduler_step=0)
    refused("group is 1, but the optimizer has 1: give 0..0", None, 100, group=1)
    refused("group is -1", None, 100, group=-1)
    refused("unknown laws", None, 100, laws="moore")
    refused("cannot count the steps of list", None, 100, optimizer=[])
    refused("cannot count the steps of Linear", None, 100, optimizer=torch.nn.Linear(1, 1))


def test_only_two_metrics_are_known() -> None:
    monitor = TorchLossForecast(Bench().optimizer, total_steps=10)
    with pytest.raises(ConfigurationError, match='must be "train" or "val"'):
        monitor.forecaster_of("test")
