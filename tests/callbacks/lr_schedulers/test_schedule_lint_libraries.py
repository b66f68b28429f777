"""The schedule lint with accelerate and with schedule-free optimizers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.lint_runs import (
    IGNORED_WARNINGS,
    AdamWScheduleFree,
    Make,
    N,
    a_third,
    like_transformers,
    linear_with_warmup,
    loop,
    of_length,
    sgd,
    torch_lr,
    warmed_up,
    warnings_without_error,
)

from lossforecast.callbacks.lr_schedulers import (
    every,
    schedule_from_torch,
    steps_per_call,
)
from lossforecast.callbacks.lr_schedulers.lint import is_schedule_free

pytestmark = IGNORED_WARNINGS


class Accelerated:
    """As accelerate's ``AcceleratedScheduler`` does it, with so many processes."""

    def __init__(
        self, scheduler: Any, processes: int, *, split: bool = False, tied: bool = True
    ) -> None:
        self.scheduler, self.processes = scheduler, processes
        self.step_with_optimizer, self.split_batches = tied, split

    def step(self) -> None:
        if not self.step_with_optimizer or self.split_batches:
            self.scheduler.step()
            return
        for _ in range(self.processes):
            total = getattr(self.scheduler, "total_steps", None)
            if total is None or self.scheduler._step_count <= total:
                self.scheduler.step()


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A run of four processes, as far as the scheduler is concerned."""
    monkeypatch.setattr("lossforecast.callbacks.lr_schedulers.stepping.processes", lambda: (0, 4))
    return 4  # type: ignore[return-value]


def accelerated(make: Make, **options: Any) -> Make:
    return lambda o: Accelerated(make(o), 4, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch_lr.CosineAnnealingLR(o, N),
        lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=N),
        lambda o: torch_lr.PolynomialLR(o, N),
        lambda o: warmed_up(o, 20, N),
        like_transformers(linear_with_warmup, 20, N),
    ],
    ids=["cosine", "one cycle", "polynomial", "sequence", "transformers"],
)
def test_a_scheduler_stepped_once_for_each_process(
    make: Make, four: int, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = loop(accelerated(make))
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_per_process: accelerate steps " in message
    assert "4 times after each optimizer step" in message
    assert "multiply its steps by accelerator.num_processes" in message
    used = monitor.forecaster.history.bins().lr[1:]
    assert used == pytest.approx(monitor.forecaster.schedule.to_array()[: used.size])


@pytest.mark.parametrize("name", a_third(4 * N, 2))
def test_a_scheduler_made_for_the_steps_of_all_processes_is_left_alone(
    name: str, four: int, caplog: pytest.LogCaptureFixture
) -> None:
    if name != "plateau":
        loop(accelerated(of_length(4 * N)[name]))
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("options", [{"split": True}, {"tied": False}], ids=str)
def test_where_accelerate_steps_once(
    options: Any, four: int, caplog: pytest.LogCaptureFixture
) -> None:
    loop(accelerated(lambda o: torch_lr.CosineAnnealingLR(o, N), **options))
    assert warnings_without_error(caplog) == []


def test_steps_per_call(four: int) -> None:
    scheduler = torch_lr.StepLR(sgd(), 5)
    assert steps_per_call(scheduler) == 1
    assert steps_per_call(None) == 1
    assert steps_per_call(Accelerated(scheduler, 4)) == 4
    assert steps_per_call(Accelerated(scheduler, 4, split=True)) == 1
    planned = schedule_from_torch(scheduler, total_steps=6, scheduler_steps=every(2, times=4))
    assert planned.to_array() == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def averaging() -> torch.optim.Optimizer:
    """With the keys that such optimizers keep, under another name."""
    optimizer = sgd()
    optimizer.param_groups[0].update(weight_sum=0.0, lr_max=-1.0, train_mode=True)
    return optimizer


def test_what_is_schedule_free() -> None:
    mine = AdamWScheduleFree([torch.ones(1)], lr=0.1)
    packaged = type("Wrapper", (), {"__module__": "schedulefree.wrap"})()
    assert is_schedule_free(mine)
    assert is_schedule_free(averaging())
    assert is_schedule_free(packaged)
    assert is_schedule_free(SimpleNamespace(optimizer=mine))
    assert is_schedule_free(SimpleNamespace(base=SimpleNamespace(optimizer=mine)))
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.NAdam, torch.optim.ASGD):
        assert not is_schedule_free(kind([torch.ones(1)]))
    assert not is_schedule_free(None)
    assert not is_schedule_free(SimpleNamespace())


def test_a_schedule_free_optimizer_is_told_about(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = AdamWScheduleFree([torch.ones(1, requires_grad=True)], lr=0.1)
    loop(None, optimizer=optimizer)
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, schedule_free: AdamWScheduleFree" in message
    assert "advice on annealing is off" in message
