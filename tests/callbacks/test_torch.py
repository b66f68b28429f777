"""`TorchLossForecast` in real loops: what it records, when it speaks, and that it does no harm."""

import errno
import gc
import io
import itertools
import json
import logging
import math
import os
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from lossforecast import (
    Action,
    Caveat,
    ConfigurationError,
    LRSchedule,
    Prior,
    Reason,
    Recommendation,
    RunInfo,
    StateError,
    Status,
)
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.capture.transfer import Transfer
from lossforecast.callbacks.monitor.update import Update
from lossforecast.policies.recommend import Situation

Array = NDArray[np.float64]
torch_lr = torch.optim.lr_scheduler
NAN = math.nan


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# ---------------------------------------------------------------------- scripted training


def scripted(step: int, micro: int = 0) -> float:
    """A loss that falls like a power law towards 2, with a little noise."""
    noise = np.random.default_rng([step, micro]).normal()
    return float(2 + 3 * (step + 5.0) ** -0.5 + 0.01 * noise)


class Watched(torch.optim.SGD):
    """Notes the rate of every step by itself: the truth that must be found."""

    def __init__(self, params: Any, lr: Any = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append(float(self.param_groups[0]["lr"]))
        return super().step(closure)


@dataclass
class Bench:
    """An optimizer whose losses follow a script, to the bit."""

    lr: Any = 0.1
    weight: torch.Tensor = field(init=False)
    optimizer: Watched = field(init=False)

    def __post_init__(self) -> None:
        self.weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
        self.optimizer = Watched([self.weight], self.lr)

    def cosine(self, total: int) -> torch_lr.CosineAnnealingLR:
        return torch_lr.CosineAnnealingLR(self.optimizer, T_max=total)

    def loss(self, value: float) -> torch.Tensor:
        total = self.weight.sum()
        return (total - total.detach()) + value


def run(
    bench: Bench,
    monitor: TorchLossForecast,
    steps: Iterable[int],
    scheduler: Any = None,
    loss_at: Callable[[int], float] = scripted,
) -> int:
    """The loop of the docstring; the optimizer steps taken in it."""
    taken = 0
    for i in steps:
        loss = bench.loss(loss_at(i))
        monitor.step(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        bench.optimizer.step()
        taken += 1
        if scheduler is not None:
            scheduler.step()
        bench.optimizer.zero_grad()
        if monitor.should_stop:
            break
    return taken


def assert_recorded(
    monitor: TorchLossForecast, losses: dict[int, float], rates: list[float]
) -> None:
    """The history holds exactly these losses, each with the rate of the step before it."""
    bins = monitor.forecaster_of("train").history.bins()
    assert bins.count.tolist() == [1] * len(losses), "the bins hold single losses"
    assert bins.last.tolist() == sorted(losses)
    assert bins.mean.tolist() == [losses[t] for t in sorted(losses)]
    np.testing.assert_array_equal(bins.lr, [rates[t - 1] if t else NAN for t in sorted(losses)])


def told(updates: Iterable[Update]) -> dict[int, tuple[Any, ...]]:
    """All that a forecast says, at each step it was made, to be compared bit by bit."""
    return {
        update.step: (
            update.forecast.mean,
            update.forecast.std,
            *(update.forecast.quantile(q) for q in (0.05, 0.5, 0.95)),
            update.forecast.status,
            update.forecast.caveats,
            update.forecast.anneal_gain,
            update.forecast.made_at,
            update.recommendation,
        )
        for update in updates
    }


# ---------------------------------------------------------------------- what is recorded


def net() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(16, 1)
    )


def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(5)
    for _ in range(count):
        x = torch.randn(16, 8, generator=source)
        yield x, x[:, :1].sin() + 0.1 * torch.randn(16, 1, generator=source)


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


# ---------------------------------------------------------------------- no harm


HOST_READS = {"item", "tolist", "numpy", "cpu", "to", "equal", "nonzero", "is_nonzero", "allclose"}
HOST_READS |= {f"__{name}__" for name in ("array", "float", "int", "bool", "index", "contains")}


class HostReads(TorchFunctionMode):
    """Notes every call that would wait for a device (`test_capture` shows that it sees them)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.at: list[int] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") in HOST_READS:
            self.at.append(self.now)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("tensor_rate", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_the_device_is_read_at_the_ends_of_blocks_only(tensor_rate: bool, stop: bool) -> None:
    weight = torch.ones(2, requires_grad=True)
    rate: Any = torch.tensor(0.1) if tensor_rate else 0.1
    optimizer = torch.optim.SGD([weight], lr=rate, foreach=True)  # itself reads nothing
    schedule = LRSchedule.constant(100, 0.1)
    monitor = TorchLossForecast(
        optimizer, schedule=schedule, every_n_steps=25, stop=stop, target=-9.0, laws="power"
    )
    with HostReads() as reads:
        for i in range(100):
            reads.now = i
            loss = weight.square().sum() + i
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            reads.now = i + 1
            monitor.should_stop  # noqa: B018
    ends = {25, 50, 75} | ({100} if stop else set())
    assert set(reads.at) == ends
    assert len(reads.at) <= 10 * len(ends)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gpu_is_not_waited_for_within_a_block(accumulate: int) -> None:
    steps = 3_000
    weight = torch.ones(1000, device="cuda", requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=torch.tensor(1e-3, device="cuda"), fused=True)
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()  # its state is made with the first step, which may wait
    schedule = LRSchedule.constant(10 * steps, 1e-3)
    monitor = TorchLossForecast(
        optimizer, schedule=schedule, every_n_steps=2 * steps, stop=True, laws="power"
    )
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(steps):
            for _ in range(accumulate):
                loss = weight.square().mean()
                monitor.step(loss)
                loss.div_(accumulate).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            assert not monitor.should_stop
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not monitor.switched_off
    monitor.close()
    assert monitor.steps == steps
    bins = monitor.forecaster.history.bins()
    assert bins.last.tolist() == list(range(steps))
    assert (bins.lr[1:] == np.float32(1e-3)).all()
    assert monitor.forecast is not None


def trained(monitored: bool, sinks: Any = (), **kwargs: Any) -> list[torch.Tensor]:
    """Weights after training with dropout and accumulation, and every random state behind it."""
    n, accumulate = 60, 2
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch_lr.CosineAnnealingLR(optimizer, T_max=n)
    monitor = (
        TorchLossForecast(optimizer, scheduler, n, every_n_steps=5, sinks=sinks, **kwargs)
        if monitored
        else None
    )
    for i, (x, y) in enumerate(batches(n * accumulate)):
        loss = torch.nn.functional.mse_loss(model(x), y)
        if monitor is not None:
            monitor.step(loss)
            if i % 7 == 0:
                monitor.validation(loss)
                monitor.state_dict()
        (loss / accumulate).backward()  # type: ignore[no-untyped-call]
        if i % accumulate == accumulate - 1:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if monitor is not None:
                assert not monitor.should_stop
    if monitor is not None:
        monitor.close()
    states = [random.random(), np.random.random(), torch.rand(1).item()]  # noqa: NPY002
    rates = [optimizer.param_groups[0]["lr"], scheduler.get_last_lr()[0]]
    return [*(p.detach().clone() for p in model.parameters()), torch.tensor(states + rates)]


def assert_same_training(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_is_the_same_to_the_bit_with_and_without() -> None:
    updates: list[Update] = []
    assert_same_training(
        trained(monitored=False), trained(monitored=True, sinks=[updates.append], target=0.1)
    )
    assert len(updates) == 12


# ---------------------------------------------------------------------- its own errors


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

    def impatient(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lossforecast.forecaster.fit", impatient)
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


# ---------------------------------------------------------------------- stopping


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
    assert taken == 10
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


def test_there_are_about_a_hundred_forecasts_a_run_and_one_at_the_end() -> None:
    bench, updates = Bench(), list[Update]()
    with TorchLossForecast(
        bench.optimizer, total_steps=1_004, sinks=[updates.append], laws="power"
    ) as monitor:
        assert (monitor.forecast, monitor.recommendation) == (None, None)
        run(bench, monitor, range(1_004))
    assert [u.step for u in updates] == [*range(10, 1_001, 10), 1_004]
    assert [u.forecast.made_at for u in updates] == [*range(9, 1_000, 10), 1_003]
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
        return told(seen)

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
        return told(seen)

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
    assert scalars("final_loss") == wanted(lambda u: u.forecast.mean)
    assert scalars("lower") == wanted(lambda u: u.forecast.interval(0.8)[0])
    assert scalars("upper") == wanted(lambda u: u.forecast.interval(0.8)[1])
    assert scalars("anneal_gain") == wanted(lambda u: u.forecast.anneal_gain.mean)
    assert scalars("prob_target") == wanted(lambda u: u.forecast.prob_below(2.3))
    assert set(read.Tags()["tensors"]) == {"custom_scalars__config__", "forecast/panel"}
    assert len(read.Tensors("custom_scalars__config__")) == 1


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


# ---------------------------------------------------------------------- the plan


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


# ---------------------------------------------------------------------- state


TOTAL = 60
EXAMPLES = 300 if os.environ.get("LOSSFORECAST_FULL") else 15


@dataclass
class Job:
    """A run that can be stopped and resumed in fresh objects, as a scheduler of jobs does it."""

    kind: str
    accumulate: int = 1

    def __post_init__(self) -> None:
        self.bench, self.updates = Bench(), list[Update]()
        self.scheduler: Any = None
        if self.kind in ("cosine", "val"):
            self.scheduler = self.bench.cosine(TOTAL)
        elif self.kind == "plateau":
            self.scheduler = torch_lr.ReduceLROnPlateau(self.bench.optimizer, patience=3)
        self.monitor = TorchLossForecast(
            self.bench.optimizer,
            self.scheduler,
            TOTAL,
            every_n_steps=7,
            target=2.5,
            metric="val" if self.kind == "val" else "train",
            sinks=[self.updates.append],
        )

    def go(self, start: int, stop: int) -> None:
        for i in range(start, stop):
            for micro in range(self.accumulate):
                self.monitor.step(self.bench.loss(scripted(i, micro)))
            if self.kind == "by hand" and i == 23:
                self.bench.optimizer.param_groups[0]["lr"] = 0.01
            self.bench.optimizer.step()
            if self.kind == "plateau":
                self.scheduler.step(scripted(i) if i < 20 else 5.0)
            elif self.scheduler is not None:
                self.scheduler.step()
            if i % 5 == 4:
                self.monitor.validation(scripted(i + 1, 9) + 1)

    def checkpoint(self, way: str) -> Any:
        state = {
            "optimizer": self.bench.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "monitor": self.monitor.state_dict(),
        }
        if way == "json":
            state["monitor"] = json.loads(json.dumps(state["monitor"], allow_nan=False))
            return state
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    def resume(self, state: Any, monitor_first: bool) -> None:
        if monitor_first:
            self.monitor.load_state_dict(state["monitor"])
        self.bench.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        if not monitor_first:
            self.monitor.load_state_dict(state["monitor"])


KINDS = ["cosine", "by hand", "plateau", "val"]
WHOLE: dict[tuple[str, int], dict[int, tuple[Any, ...]]] = {}


def uninterrupted(kind: str, accumulate: int) -> dict[int, tuple[Any, ...]]:
    if (kind, accumulate) not in WHOLE:
        job = Job(kind, accumulate)
        job.go(0, TOTAL)
        job.monitor.close()
        WHOLE[kind, accumulate] = told(job.updates)
    return WHOLE[kind, accumulate]


@contextmanager
def slow_device(slow: bool = True) -> Iterator[None]:
    """As on a GPU, where what is sent to the host arrives later."""
    with pytest.MonkeyPatch.context() as patch:
        if slow:
            patch.setattr(Transfer, "travels", property(lambda _: True))
        yield


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    slow=st.booleans(),
    kind=st.sampled_from(KINDS),
    stops=st.lists(st.integers(0, TOTAL), min_size=1, max_size=3, unique=True),
    accumulate=st.sampled_from([1, 2]),
    way=st.sampled_from(["json", "torch"]),
    monitor_first=st.booleans(),
    underway=st.booleans(),
)
def test_a_resumed_run_repeats_every_forecast_to_the_bit(
    slow: bool,
    kind: str,
    stops: list[int],
    accumulate: int,
    way: str,
    monitor_first: bool,
    underway: bool,
) -> None:
    whole = uninterrupted(kind, accumulate)
    job, start, told_again = Job(kind, accumulate), 0, dict[int, tuple[Any, ...]]()
    with slow_device(slow):
        for stop in sorted(stops):
            job.go(start, stop)
            if underway:  # losses of a step that is not finished: it will be done again
                job.monitor.step(job.bench.loss(99.0))
            state = job.checkpoint(way)
            told_again |= told(job.updates)
            job, start = Job(kind, accumulate), stop
            job.resume(state, monitor_first)
        job.go(start, TOTAL)
        job.monitor.close()
    told_again |= told(job.updates)
    assert told_again == whole


@pytest.mark.parametrize("every_n", [1, 3, 8])
def test_on_a_device_forecasts_are_the_same_and_come_a_little_later(every_n: int) -> None:
    def told_by(slow: bool) -> dict[int, tuple[float, int]]:
        """For each step forecast at: the forecast, and the steps taken when it came."""
        bench, came = Bench(), dict[int, tuple[float, int]]()

        def note(update: Update) -> None:
            came[update.step] = update.forecast.mean, monitor.steps

        monitor = TorchLossForecast(
            bench.optimizer, total_steps=60, every_n_steps=every_n, sinks=[note]
        )
        with slow_device(slow), monitor:
            run(bench, monitor, range(60))
        return came

    at_once, later = told_by(slow=False), told_by(slow=True)
    assert {step: each[0] for step, each in later.items()} == {
        step: each[0] for step, each in at_once.items()
    }
    for step in later:
        assert at_once[step][1] == step
        assert later[step][1] == min(step + max(1, every_n // 4), 60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_says_nothing_about_its_schedule(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for stop in (3, 24, 25, 35):  # the rate falls after 23 steps, or at some time after 20
        first, second = Job(kind), Job(kind)
        first.go(0, stop)
        second.resume(first.checkpoint("json"), monitor_first=True)
        second.go(stop, TOTAL)
        second.monitor.close()
    assert not [r for r in caplog.records if "resumed" in r.getMessage()]


@pytest.mark.parametrize("kind", ["cosine", "val"])
def test_asking_for_the_state_changes_nothing(kind: str) -> None:
    job = Job(kind, accumulate=2)
    for i in range(TOTAL):
        job.monitor.step(job.bench.loss(scripted(i, 0)))
        job.monitor.state_dict()  # in the middle of a step
        job.monitor.step(job.bench.loss(scripted(i, 1)))
        job.bench.optimizer.step()
        job.monitor.state_dict()
        job.scheduler.step()
        if i % 5 == 4:
            job.monitor.validation(scripted(i + 1, 9) + 1)
            job.monitor.state_dict()
    job.monitor.close()
    assert told(job.updates) == uninterrupted(kind, 2)


@pytest.mark.parametrize("saved", [20, 47])
def test_going_back_to_a_saved_state_repeats_what_came_after_it(saved: int) -> None:
    def train(rewound: bool) -> dict[int, tuple[Any, ...]]:
        bench, updates = Bench(), list[Update]()
        with TorchLossForecast(
            bench.optimizer, total_steps=120, every_n_steps=10, sinks=[updates.append]
        ) as monitor:
            run(bench, monitor, range(saved))
            state = monitor.state_dict()
            if rewound:
                run(bench, monitor, range(saved, saved + 38), loss_at=lambda i: 1e6)
                monitor.load_state_dict(state)
                assert monitor.steps == saved
                del updates[saved // 10 :]
            run(bench, monitor, range(saved, 120))
        return told(updates)

    assert train(rewound=True) == train(rewound=False)


def test_a_wish_to_stop_is_not_taken_back_to_a_saved_state() -> None:
    wishes = [60]

    def policy(situation: Situation) -> Recommendation | None:
        if not wishes or situation.history.last_step < wishes[0] - 1:
            return None
        return Recommendation(Action.STOP, Reason.TARGET_MISS, "scripted stop")

    bench = Bench()
    with TorchLossForecast(
        bench.optimizer, total_steps=120, every_n_steps=10, stop=True, policy=policy
    ) as monitor:
        run(bench, monitor, range(43))
        state = monitor.state_dict()
        assert run(bench, monitor, range(43, 120)) == 17
        monitor.load_state_dict(state)
        assert not monitor.should_stop
        wishes.clear()
        assert run(bench, monitor, range(43, 120)) == 77


STATES = Path(__file__).parents[1] / "states"


@pytest.mark.parametrize("path", sorted(STATES.glob("torch-*.json")), ids=lambda path: path.stem)
def test_states_of_earlier_versions_are_read(path: Path) -> None:
    bench = Bench()
    with TorchLossForecast(bench.optimizer, bench.cosine(100), 100, every_n_steps=10) as monitor:
        monitor.load_state_dict(json.loads(path.read_text()))
        assert monitor.steps == 47
        bins = monitor.forecaster.history.bins()
        assert bins.last.tolist() == list(range(47))
        assert bins.mean.tolist() == [scripted(i) for i in range(47)]
        assert monitor.forecaster_of("val").history.n_observed == 1
        run(bench, monitor, range(47, 60))
    assert monitor.forecast is not None
    assert (monitor.forecast.made_at, monitor.forecast.step) == (59, 100)
    assert math.isfinite(monitor.forecast.mean)


def test_the_state_holds_both_metrics_and_the_steps_taken() -> None:
    job, fresh = Job("val"), Job("val")
    job.go(0, 33)
    fresh.resume(job.checkpoint("json"), monitor_first=False)
    assert fresh.monitor.steps == 33
    for metric in ("train", "val"):
        wanted = job.monitor.forecaster_of(metric).state_dict()
        assert fresh.monitor.forecaster_of(metric).state_dict() == wanted
    assert fresh.monitor.forecaster is fresh.monitor.forecaster_of("val")


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_longer_run_is_adopted_with_one_warning(
    asked_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job("cosine")
    job.go(0, 28)  # where a forecast is due next
    state = job.checkpoint("json")
    bench, updates = Bench(), list[Update]()
    bench.optimizer.load_state_dict(state["optimizer"])
    scheduler = torch_lr.CosineAnnealingLR(bench.optimizer, T_max=2 * TOTAL, last_epoch=27)
    rates = [0.1 * (1 + math.cos(math.pi * k / 120)) / 2 for k in range(120)]
    bench.optimizer.param_groups[0]["lr"] = rates[28]
    with TorchLossForecast(
        bench.optimizer, scheduler, 2 * TOTAL, stop=True, sinks=[updates.append]
    ) as monitor:
        monitor.load_state_dict(state["monitor"])
        if asked_first:
            assert not monitor.should_stop
        run(bench, monitor, range(28, 2 * TOTAL), scheduler)
    assert {u.forecast.step for u in updates} == {2 * TOTAL}, "from the very first on"
    assert [u.step for u in updates] == [*range(28, 120, 7), 120]
    plan = monitor.forecaster.schedule
    assert plan.total_steps == 2 * TOTAL
    np.testing.assert_allclose(plan.lr(range(29, 121)), bench.optimizer.rates, rtol=1e-12)
    early = np.array(job.bench.optimizer.rates[:27])
    np.testing.assert_allclose(plan.lr(range(1, 28)), early, rtol=1e-12)
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "resumed at step 28 with another schedule" in warning.getMessage()
    assert Caveat.LR_OFF_PLAN not in updates[-1].forecast.caveats


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no capture": lambda s: s.pop("capture"),
    "no val": lambda s: s["forecasters"].pop("val"),
    "no history": lambda s: s["forecasters"]["val"].pop("history"),
    "newer": lambda s: s["forecasters"]["train"].update(version=99),
    "checked no number": lambda s: s.update(checked="many"),
    "checked below 0": lambda s: s.update(checked=-1),
    "steps below 0": lambda s: s["capture"].update(steps=-1),
    "no rate": lambda s: s["capture"].pop("last_rate"),
    "nothing": lambda s: s.clear(),
}


@pytest.mark.parametrize("state", [None, [], *DAMAGES], ids=str)
def test_a_damaged_state_is_refused_and_changes_nothing(state: Any) -> None:
    job = Job("cosine")
    job.go(0, 20)
    before = json.dumps(job.monitor.state_dict())
    if isinstance(state, str):
        name, state = state, json.loads(before)
        DAMAGES[name](state)
    with pytest.raises(StateError):
        job.monitor.load_state_dict(state)
    assert json.dumps(job.monitor.state_dict()) == before
    job.go(20, TOTAL)
    job.monitor.close()
    assert told(job.updates) == uninterrupted("cosine", 1)


# ---------------------------------------------------------------------- letting go


def test_an_exception_leaves_nothing_behind() -> None:
    bench = Bench()
    hooks = bench.optimizer._optimizer_step_pre_hooks, bench.optimizer._optimizer_step_post_hooks
    with (
        suppress(OverflowError),
        TorchLossForecast(bench.optimizer, total_steps=100, every_n_steps=15) as monitor,
    ):
        run(bench, monitor, range(20))
        assert all(hooks)
        raise OverflowError
    assert not any(hooks)
    run(bench, monitor, range(20))
    assert len(bench.optimizer.rates) == 40, "the optimizer works on"
    assert monitor.steps == 20
    assert monitor.forecast is not None


@pytest.mark.parametrize("closed", [False, True])
def test_nothing_keeps_the_optimizer_alive(closed: bool) -> None:
    bench = Bench()
    scheduler = bench.cosine(40)
    monitor = TorchLossForecast(bench.optimizer, scheduler, 40, every_n_steps=15)
    run(bench, monitor, range(40), scheduler)
    alive = [weakref.ref(x) for x in (bench.optimizer, bench.weight, scheduler)]
    if closed:
        monitor.close()
        kept = monitor  # the user may look at it as long as he likes
        del monitor, bench, scheduler
    else:
        del monitor, bench, scheduler
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    if closed:
        assert kept.forecast is not None
        json.dumps(kept.state_dict())
        assert kept.steps == 40
