"""The schedule lint in real loops and under real Trainers: what it says, and when it is silent."""

import functools
import logging
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lossforecast import LRSchedule
from lossforecast.callbacks import LightningLossForecast, TorchLossForecast
from lossforecast.callbacks.lr_schedulers import lint as room
from lossforecast.callbacks.lr_schedulers.from_torch import (
    every,
    schedule_from_torch,
    steps_per_call,
)
from lossforecast.callbacks.lr_schedulers.lint import is_schedule_free

torch_lr = torch.optim.lr_scheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:A .OneCycleLR. scheduler is using 'interval':RuntimeWarning"
    ),
]

Make = Callable[[torch.optim.Optimizer], Any]

N = 200  # optimizer steps of a run
EPOCHS, BATCHES = 10, 20  # the same in epochs


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name == "lossforecast"]
    assert all(record.exc_info is None for record in ours)
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def sgd(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=lr)


def cosine_with_warmup(step: int, *, warmup: int, total: int) -> float:
    """As transformers' get_cosine_schedule_with_warmup has it, in a partial of a function."""
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def linear_with_warmup(step: int, *, warmup: int, total: int) -> float:
    """As transformers' get_linear_schedule_with_warmup has it."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def like_transformers(rule: Any, warmup: int, total: int) -> Make:
    function = functools.partial(rule, warmup=warmup, total=total)
    return lambda o: torch_lr.LambdaLR(o, function)


def warmed_up(o: torch.optim.Optimizer, warmup: int, total: int) -> Any:
    parts = [torch_lr.LinearLR(o, 0.01, 1, warmup), torch_lr.CosineAnnealingLR(o, total - warmup)]
    return torch_lr.SequentialLR(o, parts, [warmup])


def one_cycle_after(o: torch.optim.Optimizer, warmup: int, total: int) -> Any:
    parts = [
        torch_lr.ConstantLR(o, 1.0, warmup),
        torch_lr.OneCycleLR(o, 0.1, total_steps=total - warmup),
    ]
    return torch_lr.SequentialLR(o, parts, [warmup])


def of_length(total: int) -> dict[str, Make]:
    """Schedulers that are right for so many steps, whatever those are."""
    third, two_thirds = total // 3, 2 * total // 3
    return {
        "constant": lambda o: torch_lr.ConstantLR(o, 1 / 3, 5),
        "warm-up": lambda o: torch_lr.LinearLR(o, 0.01, 1, max(total // 10, 1)),
        "cosine": lambda o: torch_lr.CosineAnnealingLR(o, total),
        "cosine to 10%": lambda o: torch_lr.CosineAnnealingLR(o, total, eta_min=0.01),
        "cosine after a warm-up": lambda o: warmed_up(o, max(total // 10, 1), total),
        "one cycle": lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=total),
        "one cycle after a warm-up": lambda o: one_cycle_after(o, max(total // 10, 1), total),
        "polynomial": lambda o: torch_lr.PolynomialLR(o, total),
        "linear": lambda o: torch_lr.LinearLR(o, 1, 0.01, total),
        "drops": lambda o: torch_lr.MultiStepLR(o, [third, two_thirds]),
        "steps": lambda o: torch_lr.StepLR(o, max(third, 1)),
        "exponential": lambda o: torch_lr.ExponentialLR(o, 0.02 ** (1 / total)),
        "restarts": lambda o: torch_lr.CosineAnnealingWarmRestarts(o, total // 2),
        "transformers' cosine": like_transformers(cosine_with_warmup, total // 10, total),
        "transformers' linear": like_transformers(linear_with_warmup, total // 10, total),
        "plateau": lambda o: torch_lr.ReduceLROnPlateau(o, patience=1),
    }


# ---------------------------------------------------------------------- a plain loop


def loop(
    make: Make | None,
    *,
    steps: int = N,
    optimizer: Any = None,
    calls: Callable[[int], int] = lambda taken: 1,
    micro_batches: int = 1,
    **options: Any,
) -> TorchLossForecast:
    """Train; `calls` says how often the scheduler is stepped after so many optimizer steps."""
    optimizer = optimizer or sgd()
    scheduler: Any = None if make is None else make(optimizer)
    weight = optimizer.param_groups[0]["params"][0]
    given = options if "schedule" in options else {"scheduler": scheduler, **options}
    given = {"total_steps": steps, "every_n_steps": 10, **given}
    with TorchLossForecast(optimizer, **given) as monitor:
        for taken in range(1, steps + 1):
            for _ in range(micro_batches):
                loss = (weight - weight.detach()).sum() + 2 + 3 / taken
                monitor.step(loss)
                loss.backward()
            optimizer.step()
            for _ in range(calls(taken) if scheduler is not None else 0):
                if isinstance(scheduler, torch_lr.ReduceLROnPlateau):
                    scheduler.step(3 / taken)
                else:
                    scheduler.step()
            optimizer.zero_grad()
    assert not monitor.switched_off
    return monitor


def a_third(total: int, first: int) -> list[Any]:
    """The schedulers of so many steps; all but a third of them are for the full tests."""
    return [
        pytest.param(name, marks=() if i % 3 == first else pytest.mark.slow)
        for i, name in enumerate(of_length(total))
    ]


@pytest.mark.parametrize("name", a_third(N, 0))
def test_a_right_scheduler_in_a_loop_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop(of_length(N)[name])
    assert told(caplog) == []


@pytest.mark.parametrize("name", a_third(EPOCHS, 1))
def test_a_right_scheduler_of_epochs_in_a_loop_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop(
        of_length(EPOCHS)[name],
        calls=lambda taken: taken % BATCHES == 0,
        steps_per_scheduler_step=BATCHES,
    )
    assert told(caplog) == []


def test_a_loop_without_a_scheduler_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    loop(None)
    assert told(caplog) == []


def faulty(total: int) -> dict[str, tuple[Make, str, tuple[str, ...]]]:
    """Schedulers that are wrong for so many steps: what they are called and told."""
    half, double = total // 2, 2 * total
    return {
        "cosine for twice the run": (
            lambda o: torch_lr.CosineAnnealingLR(o, double),
            "horizon_long",
            ("until about step 40", f": make it for {total}"),
        ),
        "one cycle for twice the run": (
            lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=double),
            "horizon_long",
            ("until about step 40",),
        ),
        "transformers' linear for twice the run": (
            like_transformers(linear_with_warmup, 10, double),
            "horizon_long",
            ("until about step 40",),
        ),
        "transformers' linear for half of the run": (
            like_transformers(linear_with_warmup, 10, half),
            "horizon_short",
            (f"after {half + 1} of {total} steps", "last 50%"),
        ),
        "polynomial for half of the run": (
            lambda o: torch_lr.PolynomialLR(o, half),
            "horizon_short",
            (f"make the schedule for {total} steps",),
        ),
        "cosine that climbs again": (
            lambda o: torch_lr.CosineAnnealingLR(o, total * 3 // 4),
            "rises_at_end",
            (f"after step {total * 3 // 4 + 1}",),
        ),
        "a restart at the very end": (
            lambda o: torch_lr.CosineAnnealingWarmRestarts(o, total - 2),
            "rises_at_end",
            (f"after step {total - 2}", "100% of its peak"),
        ),
        "an exponential that hardly falls": (
            lambda o: torch_lr.ExponentialLR(o, 0.5 ** (1 / total)),
            "never_low",
            ("50% of its peak",),
        ),
    }


@pytest.mark.parametrize("name", faulty(N))
def test_a_wrong_scheduler_in_a_loop_is_told_about_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, flaw, words = faulty(N)[name]
    loop(make)
    (message,) = told(caplog)
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
    (message,) = told(caplog)
    assert "schedule lint, overrun: OneCycleLR is made for" in message
    assert "will raise ValueError at step" in message


def test_the_fix_of_an_overrun_is_one(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="Tried to step"):
        loop(lambda o: one_cycle_after(o, 20, 150), total_steps=N)
    (message,) = told(caplog)
    assert "made for 130 steps, but this run will step it 180 times" in message
    assert "Make it with total_steps=180." in message
    caplog.clear()
    loop(lambda o: one_cycle_after(o, 20, 200))
    assert told(caplog) == []


def test_a_scheduler_of_epochs_stepped_each_step(caplog: pytest.LogCaptureFixture) -> None:
    loop(lambda o: torch_lr.CosineAnnealingLR(o, 7), steps=7 * 140)
    (message,) = told(caplog)
    assert "schedule lint, many_cycles: " in message
    assert "70 times in 980 steps" in message
    assert "give steps_per_scheduler_step" in message


def test_a_scheduler_stepped_each_epoch_and_planned_each_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def each_epoch(taken: int) -> int:
        return taken % BATCHES == 0

    loop(lambda o: torch_lr.StepLR(o, 150), calls=each_epoch, every_n_steps=5)
    (message,) = told(caplog)
    assert "schedule lint, stepped_too_seldom: " in message
    assert "in 10 optimizer steps the scheduler moved by 0, planned were 10" in message
    assert "steps_per_scheduler_step=" in message


def test_a_scheduler_stepped_each_step_and_planned_each_epoch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop(lambda o: torch_lr.StepLR(o, 7), steps_per_scheduler_step=BATCHES)
    (message,) = told(caplog)
    assert "schedule lint, stepped_too_often: " in message
    assert "planned were 3" in message


def test_a_scheduler_of_steps_planned_each_epoch(caplog: pytest.LogCaptureFixture) -> None:
    loop(
        lambda o: torch_lr.CosineAnnealingLR(o, N),
        calls=lambda taken: taken % BATCHES == 0,
        steps_per_scheduler_step=BATCHES,
    )
    (message,) = told(caplog)
    assert "schedule lint, stepped_too_seldom: CosineAnnealingLR seems made for 200" in message
    assert "steps_per_scheduler_step=20 it is stepped 10 times" in message


def test_a_scheduler_stepped_for_each_micro_batch(caplog: pytest.LogCaptureFixture) -> None:
    loop(lambda o: torch_lr.CosineAnnealingLR(o, N), calls=lambda taken: 4, micro_batches=4)
    (message,) = told(caplog)
    assert "schedule lint, stepped_too_often: " in message
    assert "in 10 optimizer steps the scheduler moved by 40, planned were 10" in message
    assert "not once for each micro-batch or process" in message


def test_steps_that_a_scaler_skips_are_no_pace(caplog: pytest.LogCaptureFixture) -> None:
    """The scheduler is stepped although the optimizer was not, at first and now and then."""
    loop(lambda o: torch_lr.CosineAnnealingLR(o, N), calls=lambda taken: 1 + (taken in (1, 2, 13)))
    assert told(caplog) == []


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
    assert told(caplog) == []


def test_a_given_schedule_is_checked_and_not_the_scheduler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop(lambda o: torch_lr.StepLR(o, 7), schedule=LRSchedule.cosine(N, 0.1))
    assert told(caplog) == []
    loop(lambda o: torch_lr.StepLR(o, 7), schedule=LRSchedule.cosine(500, 0.1).truncated_to(N))
    (message,) = told(caplog)
    assert "schedule lint, never_low: " in message


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
    assert len(told(caplog)) == 1
    caplog.clear()
    with TorchLossForecast(optimizer, scheduler, N) as monitor:
        monitor.load_state_dict(state)
        for taken in range(100, N):
            monitor.step(2 + 3 / (taken + 1))
            optimizer.step()
            scheduler.step()
    assert told(caplog) == []


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
    assert told(caplog) == []


@pytest.mark.parametrize("rank", [1, 3])
def test_the_other_processes_are_silent(
    rank: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "processes", lambda: (rank, 4))
    loop(faulty(N)["cosine for twice the run"][0], calls=lambda taken: 4)
    assert told(caplog) == []


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


# ---------------------------------------------------------------------- accelerate


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
    monkeypatch.setattr("lossforecast.callbacks.lr_schedulers.from_torch.processes", lambda: (0, 4))
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
    (message,) = told(caplog)
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
    assert told(caplog) == []


@pytest.mark.parametrize("options", [{"split": True}, {"tied": False}], ids=str)
def test_where_accelerate_steps_once(
    options: Any, four: int, caplog: pytest.LogCaptureFixture
) -> None:
    loop(accelerated(lambda o: torch_lr.CosineAnnealingLR(o, N), **options))
    assert told(caplog) == []


def test_steps_per_call(four: int) -> None:
    scheduler = torch_lr.StepLR(sgd(), 5)
    assert steps_per_call(scheduler) == 1
    assert steps_per_call(None) == 1
    assert steps_per_call(Accelerated(scheduler, 4)) == 4
    assert steps_per_call(Accelerated(scheduler, 4, split=True)) == 1
    planned = schedule_from_torch(scheduler, total_steps=6, scheduler_steps=every(2, times=4))
    assert planned.to_array() == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


# ---------------------------------------------------------------------- schedule-free


class AdamWScheduleFree(torch.optim.SGD):
    """Only its name matters."""


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
    (message,) = told(caplog)
    assert "schedule lint, schedule_free: AdamWScheduleFree" in message
    assert "advice on annealing is off" in message


# ---------------------------------------------------------------------- Lightning


class Tiny(pl.LightningModule):
    """One weight; the scheduler is stepped by hand if `by_hand`."""

    def __init__(self, make: Make | None, by_hand: bool = False, **config: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.make, self.config = make, config
        self.automatic_optimization = not by_hand

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.weight.sum() + 1 / (self.global_step + 1)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.weight.sum())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        if self.make is None:
            return optimizer
        return [optimizer], [{"scheduler": self.make(optimizer), **self.config}]


def loader(batches: int) -> torch.utils.data.DataLoader[int]:
    return torch.utils.data.DataLoader(range(batches))  # type: ignore[arg-type]


def fit(
    module: pl.LightningModule, callback: Any = None, ckpt: Any = None, **options: Any
) -> pl.Trainer:
    if "max_steps" not in options and "max_time" not in options:
        options["max_epochs"] = options.get("max_epochs", EPOCHS)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback or LightningLossForecast(every_n_steps=50)],
        num_sanity_val_steps=0,
        limit_val_batches=int("monitor" in getattr(module, "config", {})),
        **options,
    )
    trainer.fit(module, loader(BATCHES), loader(1), ckpt_path=ckpt)
    return trainer


@pytest.mark.parametrize("name", ["cosine after a warm-up", "one cycle", "linear", "restarts"])
def test_a_right_scheduler_of_steps_under_a_trainer_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Tiny(of_length(N)[name], interval="step"))
    assert told(caplog) == []


@pytest.mark.parametrize("name", of_length(EPOCHS))
def test_a_right_scheduler_of_epochs_under_a_trainer_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    extra: dict[str, Any] = {"monitor": "val_loss"} if name == "plateau" else {}
    fit(Tiny(of_length(EPOCHS)[name], **extra))
    assert told(caplog) == []


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("name", ["cosine", "one cycle", "polynomial"])
def test_a_few_epochs_are_left_alone(
    name: str, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Tiny(of_length(epochs)[name]), max_epochs=epochs)
    assert told(caplog) == []


@pytest.mark.parametrize("accumulate", [3, 4])
def test_accumulation_and_a_frequency_are_counted(
    accumulate: int, caplog: pytest.LogCaptureFixture
) -> None:
    steps = EPOCHS * math.ceil(BATCHES / accumulate)
    fit(Tiny(of_length(steps)["one cycle"], interval="step"), accumulate_grad_batches=accumulate)
    fit(Tiny(of_length(EPOCHS // 2)["cosine"], frequency=2))
    assert told(caplog) == []


def test_a_module_without_a_scheduler_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    fit(Tiny(None))
    fit(Tiny(None), max_steps=50)
    assert told(caplog) == []


@pytest.mark.parametrize(
    "name",
    ["cosine for twice the run", "polynomial for half of the run", "a restart at the very end"],
)
def test_a_wrong_scheduler_under_a_trainer_is_told_about_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, flaw, words = faulty(N)[name]
    fit(Tiny(make, interval="step"))
    (message,) = told(caplog)
    assert f"schedule lint, {flaw}: " in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("limit", [{"max_steps": N}, {"max_epochs": EPOCHS}], ids=str)
def test_an_overrun_under_a_trainer_is_told_about_before_it_ends_the_training(
    limit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    module = Tiny(lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=120), interval="step")
    with pytest.raises(ValueError, match="Tried to step"):
        fit(module, **limit)
    (message,) = told(caplog)
    assert "schedule lint, overrun: OneCycleLR is made for 120 steps" in message
    assert "will step it 200 times: it will raise ValueError at step 121" in message
    assert "total_steps=200" in message


EPOCHWISE: dict[str, Make] = {
    "cosine": lambda o: torch_lr.CosineAnnealingLR(o, EPOCHS),
    "cosine after a warm-up": lambda o: warmed_up(o, 2, EPOCHS),
    "polynomial": lambda o: torch_lr.PolynomialLR(o, EPOCHS),
    "drops": lambda o: torch_lr.MultiStepLR(o, [3, 6, 8]),
    "exponential": lambda o: torch_lr.ExponentialLR(o, 0.7),
    "transformers": like_transformers(linear_with_warmup, 1, EPOCHS),
}


@pytest.mark.parametrize("name", EPOCHWISE)
def test_a_scheduler_of_epochs_with_the_interval_of_steps(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Tiny(EPOCHWISE[name], interval="step"))
    (message,) = told(caplog)
    assert "schedule lint, stepped_too_often: " in message
    assert "seems made for 10 epochs" in message
    assert "stepped 200 times" in message
    assert "trainer.estimated_stepping_batches" in message
    caplog.clear()
    fit(Tiny(EPOCHWISE[name]))
    assert told(caplog) == []


@pytest.mark.parametrize("epochs", [4, 5, 7])
def test_a_cosine_of_epochs_that_happens_to_end_low(
    epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    make = of_length(epochs)["cosine"]
    fit(Tiny(make, interval="step"), max_epochs=epochs, limit_train_batches=5)
    (message,) = told(caplog)
    assert "schedule lint, stepped_too_often: " in message


@pytest.mark.parametrize(
    "name", ["cosine", "cosine after a warm-up", "one cycle", "polynomial", "transformers' cosine"]
)
def test_a_scheduler_of_steps_with_the_interval_of_epochs(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Tiny(of_length(N)[name]))
    (message,) = told(caplog)
    assert "schedule lint, stepped_too_seldom: " in message
    assert "seems made for 200 optimizer steps, but is stepped once an epoch, 10 times" in message
    assert '"interval": "step"' in message


def test_a_module_that_optimises_by_hand_is_told_what_is_assumed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit(Tiny(faulty(N)["polynomial for half of the run"][0], by_hand=True))
    (message,) = told(caplog)
    assert "schedule lint, horizon_short: " in message
    assert "give LightningLossForecast(schedule=...)" in message


def test_a_schedule_given_to_the_callback_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    fit(Tiny(None), LightningLossForecast(schedule=LRSchedule.cosine(N, 0.1), every_n_steps=20))
    assert told(caplog) == []
    plan = LRSchedule.cosine(100, 0.1).extended_to(N)
    fit(Tiny(None), LightningLossForecast(schedule=plan, every_n_steps=20))
    (message,) = told(caplog)
    assert "schedule lint, horizon_short: " in message


def test_a_resumed_trainer_is_not_told_again(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    make = faulty(N)["cosine for twice the run"][0]
    trainer = fit(Tiny(make, interval="step"), max_steps=N)
    assert len(told(caplog)) == 1
    caplog.clear()
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    fit(Tiny(make, interval="step"), ckpt=tmp_path / "end.ckpt", max_steps=N + 50)
    assert [message for message in told(caplog) if "schedule lint" in message] == []


def test_a_trainer_is_told_of_a_schedule_free_optimizer(caplog: pytest.LogCaptureFixture) -> None:
    class Free(Tiny):
        def configure_optimizers(self) -> Any:
            return AdamWScheduleFree(self.parameters(), lr=0.1)

    fit(Free(None))
    (message,) = told(caplog)
    assert "schedule lint, schedule_free: AdamWScheduleFree" in message


def test_only_the_first_process_of_a_trainer_speaks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    fit(Tiny(faulty(N)["cosine for twice the run"][0], interval="step"))
    assert told(caplog) == []
