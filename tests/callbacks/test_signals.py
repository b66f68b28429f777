"""An exception of the user's signal handler reaches the user's loop, wherever it comes up."""

import enum
import functools
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.torch_runs import Bench, scripted

from lossforecast import Forecaster, LRSchedule, Recommendation
from lossforecast.callbacks import TorchLossForecast
from lossforecast.policies import Situation
from lossforecast.signals import contained, is_from_signal

KINDS = (TimeoutError, RuntimeError, ConnectionError)  # numpy itself may catch a ValueError
SIGNALS = 150 if os.environ.get("LOSSFORECAST_FULL") else 25


@pytest.fixture(autouse=True)
def handlers_restored() -> Iterator[None]:
    """Python drops exceptions in callbacks of the garbage collector, and hypothesis sets one."""
    before = signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGUSR1)
    callbacks, gc.callbacks[:] = gc.callbacks[:], []
    yield
    gc.callbacks[:] = callbacks
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before[0])
    signal.signal(signal.SIGUSR1, before[1])


class Handlers:
    """The ways in which a handler can be written."""

    def method(self, number: int, frame: Any) -> None:
        raise RuntimeError("method")

    def __call__(self, number: int, frame: Any) -> None:
        raise ValueError("object")

    @staticmethod
    def anything(*_: Any) -> None:
        raise TimeoutError("any arguments")

    @staticmethod
    def further(more: str, number: int, frame: Any, *, last: int = 3) -> None:
        raise OSError(more)

    @staticmethod
    def once(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise TimeoutError("replaced before it raises")

    @staticmethod
    def forgets(number: int, frame: Any) -> None:
        del number, frame
        raise TimeoutError("its arguments are gone")

    @staticmethod
    def deep(number: int, frame: Any) -> None:
        try:
            os.kill(-1, -1)
        except OSError as error:
            raise KeyError("further down") from error


HANDLERS: dict[str, Callable[..., Any]] = {
    "method": Handlers().method,
    "object": Handlers(),
    "any": Handlers.anything,
    "partial": functools.partial(functools.partial(Handlers.further, "partial"), last=4),
    "cached": functools.lru_cache(Handlers.anything),
    "once": Handlers.once,
    "forgets": Handlers.forgets,
    "deep": Handlers.deep,
}


def interrupted(work: Callable[[], Any], handler: Callable[..., Any]) -> Any:
    """The exception of a handler that interrupts the work, or None."""
    signal.signal(signal.SIGUSR1, handler)
    try:
        work()
    except Exception as error:
        return error
    return None


def raise_it() -> None:
    signal.raise_signal(signal.SIGUSR1)


def convert() -> None:
    try:
        raise_it()
    except Exception as error:
        raise LookupError("made of the other") from error


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("work", [raise_it, convert])
def test_it_is_told_from_ours(name: str, work: Callable[[], Any]) -> None:
    ours: list[Exception] = []

    def guarded() -> None:
        with contained(ours.append):
            work()

    error = interrupted(guarded, HANDLERS[name])
    assert error is not None
    assert is_from_signal(error)
    assert not ours


def test_ours_is_ended_also_while_theirs_is_handled() -> None:
    signal.signal(signal.SIGUSR1, Handlers.anything)
    ours: list[Exception] = []
    try:
        raise_it()
    except TimeoutError:
        with contained(ours.append):
            int("no number")
    assert [type(error) for error in ours] == [ValueError]


def test_a_policy_that_is_interrupted_does_not_switch_forecasting_off() -> None:
    def policy(situation: Situation) -> Recommendation | None:
        if situation.history.last_step >= 19:
            raise_it()
        return None

    signal.signal(signal.SIGUSR1, Handlers.once)
    bench, arrived = Bench(), 0
    with TorchLossForecast(
        bench.optimizer, total_steps=60, every_n_steps=10, policy=policy
    ) as monitor:
        for step in range(60):
            try:
                monitor.step(scripted(step))
            except TimeoutError:
                arrived += 1
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            bench.optimizer.step()
    assert arrived == 1
    assert not monitor.switched_off
    assert monitor.forecast is not None
    assert monitor.forecast.made_at == 59


def test_every_timeout_arrives_and_forecasts_go_on() -> None:
    raised = arrived = 0

    def handler(number: int, frame: Any) -> None:
        nonlocal raised
        raised += 1
        raise KINDS[raised % len(KINDS)]("a timer")

    signal.signal(signal.SIGALRM, handler)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10**6)
    monitor = TorchLossForecast(optimizer, scheduler, 10**6, every_n_steps=2)
    step, last = 0, time.monotonic() + 300
    while raised < SIGNALS:
        assert time.monotonic() < last
        try:
            try:
                if step % 2 == 1:
                    signal.setitimer(signal.ITIMER_REAL, 1e-4 * (1 + step % 40))
                monitor.step(scripted(step))
                if step % 5 == 0:
                    monitor.validation(scripted(step))
                if step % 7 == 0:
                    monitor.state_dict()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KINDS:
            arrived += 1
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    assert arrived == raised
    assert not monitor.switched_off
    before = monitor.forecaster.history.last_step
    for _ in range(20):
        monitor.step(scripted(step))
        optimizer.step()
        step += 1
    assert not monitor.switched_off
    assert monitor.forecaster.history.last_step > before
    assert monitor.steps == step
    monitor.close()


def test_numpy_calls_no_python_code_of_enumerations() -> None:
    """It drops the exceptions that come up there: a Ctrl-C would be lost."""
    called = set[str]()

    def note(frame: Any, event: str, argument: Any) -> None:
        if (frame.f_code.co_filename, frame.f_code.co_name) == (enum.__file__, "__getattr__"):
            called.add(f"{frame.f_back.f_code.co_filename}, line {frame.f_back.f_lineno}")

    schedules = [
        LRSchedule.one_cycle(400, 1e-3),
        LRSchedule.inverse_sqrt(400, 1e-3, warmup=20),
        LRSchedule.from_array(LRSchedule.wsd(400, 1e-3).to_array()),
    ]
    for schedule in schedules:
        forecaster = Forecaster(schedule)
        forecaster.observe_many(range(1, 200), [2 + 3 * (t + 5) ** -0.5 for t in range(1, 200)])
        sys.setprofile(note)
        try:
            forecaster.forecast()
        finally:
            sys.setprofile(None)
    assert not called
