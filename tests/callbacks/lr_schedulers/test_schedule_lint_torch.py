"""The schedule lint in plain training loops."""

import logging
from typing import Any

import pytest
from support.lint_runs import (
    BATCHES,
    EPOCHS,
    Make,
    N,
    a_third,
    faulty,
    loop,
    of_length,
    one_cycle_after,
    sgd,
    torch_lr,
    warnings_without_error,
)

from lossforecast import LRSchedule
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.lr_schedulers import lint as room


@pytest.mark.parametrize("name", a_third(N, 0))
def test_a_right_scheduler_in_a_loop_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop(of_length(N)[name])
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("name", a_third(EPOCHS, 1))
def test_a_right_scheduler_of_epochs_in_a_loop_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop(
        of_length(EPOCHS)[name],
        calls=lambda taken: taken % BATCHES == 0,
        steps_per_scheduler_step=BATCHES,
    )
    assert warnings_without_error(caplog) == []


def test_a_loop_without_a_scheduler_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    loop(None)
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("name", faulty(N))
def test_a_wrong_scheduler_in_a_loop_is_told_about_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, flaw, words = faulty(N)[name]
    loop(make)
    (message,) = warnings_without_error(caplog)
    assert f"schedule lint, {flaw}: " in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=150),
        lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=N - 1),
        lambda o: one_cycle_after(o, 20, N - 1),
        lambda o: torch_lr.ChainedScheduler(
            [torch_lr.ConstantLR(o, 1.0), torch_lr.OneCycleLR(o, 0.1, total_steps=150)]
        ),
    ],
    ids=["early", "after the last step", "in a sequence", "in a chain"],
)
def test_a_one_cycle_that_will_overrun_is_told_about_before_it_ends_the_training(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="Tried to step"):
        loop(make, total_steps=N)
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, overrun: OneCycleLR is made for" in message
    assert "will raise ValueError at step" in message


def test_the_fix_of_an_overrun_is_one(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="Tried to step"):
        loop(lambda o: one_cycle_after(o, 20, 150), total_steps=N)
    (message,) = warnings_without_error(caplog)
    assert "made for 130 steps, but this run will step it 180 times" in message
    assert "Create it with total_steps=180." in message
    caplog.clear()
    loop(lambda o: one_cycle_after(o, 20, 200))
    assert warnings_without_error(caplog) == []


def test_a_scheduler_of_epochs_stepped_each_step(caplog: pytest.LogCaptureFixture) -> None:
    loop(lambda o: torch_lr.CosineAnnealingLR(o, 7), steps=7 * 140)
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, many_cycles: " in message
    assert "70 times in 980 steps" in message
    assert "set steps_per_scheduler_step" in message


def test_a_scheduler_stepped_each_epoch_and_planned_each_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def each_epoch(taken: int) -> int:
        return taken % BATCHES == 0

    loop(lambda o: torch_lr.StepLR(o, 150), calls=each_epoch, every_n_steps=5)
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_too_seldom: " in message
    assert (
        "in 10 optimizer steps the scheduler moved by 0 steps instead of the planned 10" in message
    )
    assert "steps_per_scheduler_step=" in message


def test_a_scheduler_stepped_each_step_and_planned_each_epoch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop(lambda o: torch_lr.StepLR(o, 7), steps_per_scheduler_step=BATCHES)
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_too_often: " in message
    assert "instead of the planned 3," in message


def test_a_scheduler_of_steps_planned_each_epoch(caplog: pytest.LogCaptureFixture) -> None:
    loop(
        lambda o: torch_lr.CosineAnnealingLR(o, N),
        calls=lambda taken: taken % BATCHES == 0,
        steps_per_scheduler_step=BATCHES,
    )
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_too_seldom: CosineAnnealingLR seems made for 200" in message
    assert "steps_per_scheduler_step=20 it is stepped 10 times" in message


def test_a_scheduler_stepped_for_each_micro_batch(caplog: pytest.LogCaptureFixture) -> None:
    loop(lambda o: torch_lr.CosineAnnealingLR(o, N), calls=lambda taken: 4, micro_batches=4)
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_too_often: " in message
    assert (
        "in 10 optimizer steps the scheduler moved by 40 steps instead of the planned 10" in message
    )
    assert "not once for each micro-batch or process" in message


def test_steps_that_a_scaler_skips_are_no_pace(caplog: pytest.LogCaptureFixture) -> None:
    """The scheduler is stepped although the optimizer was not, at first and now and then."""
    loop(lambda o: torch_lr.CosineAnnealingLR(o, N), calls=lambda taken: 1 + (taken in (1, 2, 13)))
    assert warnings_without_error(caplog) == []


def test_stepping_the_scheduler_before_the_optimizer_is_no_pace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    optimizer = sgd()
    scheduler = torch_lr.CosineAnnealingLR(optimizer, N)
    with TorchLossForecast(optimizer, scheduler, N, stop=True) as monitor:
        for taken in range(N):
            monitor.step(2 + 3 / (taken + 1))
            optimizer.step()
            assert not monitor.should_stop
            scheduler.step()
    assert warnings_without_error(caplog) == []


def test_a_given_schedule_is_checked_and_not_the_scheduler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop(lambda o: torch_lr.StepLR(o, 7), schedule=LRSchedule.cosine(N, 0.1))
    (message,) = warnings_without_error(caplog)
    assert "the learning rate differs from the given schedule" in message
    caplog.clear()
    loop(lambda o: torch_lr.StepLR(o, 7), schedule=LRSchedule.cosine(500, 0.1).truncated_to(N))
    assert "schedule lint, never_low: " in warnings_without_error(caplog)[0]


def test_a_resumed_run_is_not_checked_again(caplog: pytest.LogCaptureFixture) -> None:
    make = faulty(N)["cosine for twice the run"][0]
    optimizer = sgd()
    scheduler = make(optimizer)
    with TorchLossForecast(optimizer, scheduler, N) as monitor:
        for taken in range(100):
            monitor.step(2 + 3 / (taken + 1))
            optimizer.step()
            scheduler.step()
        state = monitor.state_dict()
    assert len(warnings_without_error(caplog)) == 1
    caplog.clear()
    with TorchLossForecast(optimizer, scheduler, N) as monitor:
        monitor.load_state_dict(state)
        for taken in range(100, N):
            monitor.step(2 + 3 / (taken + 1))
            optimizer.step()
            scheduler.step()
    assert warnings_without_error(caplog) == []


def test_a_scheduler_that_was_stepped_before_is_not_judged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run resumed without our state: what is left of a cosine to 10% looks flat."""
    optimizer = sgd()
    scheduler = torch_lr.CosineAnnealingLR(optimizer, 300, eta_min=0.01)
    optimizer.step()
    for _ in range(250):
        scheduler.step()
    with TorchLossForecast(optimizer, scheduler, 50) as monitor:
        for taken in range(50):
            monitor.step(2 + 3 / (taken + 1))
            optimizer.step()
            scheduler.step()
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("rank", [1, 3])
def test_the_other_processes_are_silent(
    rank: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "processes", lambda: (rank, 4))
    loop(faulty(N)["cosine for twice the run"][0], calls=lambda taken: 4)
    assert warnings_without_error(caplog) == []


def test_a_check_that_fails_harms_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(room, "lint", broken)
    monitor = loop(lambda o: torch_lr.CosineAnnealingLR(o, N))
    assert monitor.forecast is not None
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "could not be checked; training and forecasts go on" in record.getMessage()
    assert record.exc_info is not None


def test_nothing_of_the_run_is_touched() -> None:
    """Rates and counters of a run that is checked are those of one that is not."""
    right = [of_length(N)[name] for name in ("one cycle after a warm-up", "restarts", "drops")]
    for make in [each[0] for each in faulty(N).values()] + right:
        plain, watched = sgd(), sgd()
        schedulers = make(plain), make(watched)
        loop(lambda o, s=schedulers[1]: s, optimizer=watched)  # type: ignore[misc]
        for _ in range(N):
            plain.step()
            schedulers[0].step()
        assert watched.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
