"""The LR schedule that `LightningLossForecast` plans with, and the length of the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from support.lightning_runs import (
    IGNORED_WARNINGS,
    SCHEDULERS,
    SELDOM,
    Adversarial,
    Endless,
    Scripted,
    StopAfter,
    bins_of,
    groups,
    loader,
    one_cycle,
    planned,
    scripted,
    trainer_of,
    with_scheduler,
)
from support.logs import warnings_in
from torch.optim import lr_scheduler as torch_lr

from lossforecast import LRSchedule
from lossforecast.callbacks import LightningLossForecast
from lossforecast.status import Caveat

pytestmark = IGNORED_WARNINGS


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("frequency", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_plan_is_what_comes(name: str, interval: str, frequency: int, accumulate: int) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Scripted(with_scheduler(name, interval=interval, frequency=frequency))
    trainer_of(callback, max_epochs=4, accumulate_grad_batches=accumulate).fit(module, loader(7))
    assert planned(callback).tolist() == module.used
    assert len(set(module.used)) > 1
    assert callback.forecast is not None
    assert Caveat.LR_ASSUMED not in callback.forecast.caveats


@pytest.mark.parametrize("frequency", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_plan_on_a_stream(frequency: int, accumulate: int) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Scripted(with_scheduler("exponential", interval="step", frequency=frequency))
    stream = torch.utils.data.DataLoader(Endless())
    trainer_of(callback, max_steps=20, accumulate_grad_batches=accumulate).fit(module, stream)
    assert planned(callback).tolist() == module.used
    assert len(module.used) == 20


def test_epochs_of_unknown_length_are_no_plan_but_followed() -> None:
    callback = LightningLossForecast(every_n_steps=1)
    module = Scripted(with_scheduler("exponential", interval="epoch"))
    stream = torch.utils.data.DataLoader(Endless(end=6))
    trainer_of(callback, max_steps=20, max_epochs=-1).fit(module, stream)
    assert len(set(module.used)) > 1
    assert callback.forecast is not None
    assert callback.forecast.caveats == (Caveat.LR_ASSUMED,)
    assert planned(callback).tolist() == module.used


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 4},
        {"max_steps": 17},
        {"max_steps": 17, "max_epochs": 9},
        {"max_steps": 99, "max_epochs": 2, "limit_train_batches": 5},
        {"max_steps": 17, "max_time": "00:01:00:00"},
    ],
    ids=str,
)
def test_the_plan_has_the_length_of_the_run(options: dict[str, Any]) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Scripted(one_cycle)
    trainer_of(callback, **options).fit(module, loader(10))
    assert planned(callback).tolist() == module.used
    assert max(module.used) == pytest.approx(0.2, rel=0.01)
    assert module.used[-1] < 1e-5


def test_the_plan_without_a_scheduler() -> None:
    callback, module = LightningLossForecast(every_n_steps=SELDOM), Scripted()
    trainer_of(callback, max_epochs=1).fit(module, loader(8))
    assert planned(callback).tolist() == module.used == [0.1] * 8


def test_the_plan_is_of_the_group_with_the_largest_rate() -> None:
    callback, module = LightningLossForecast(every_n_steps=SELDOM), Scripted(groups)
    trainer_of(callback, max_epochs=1).fit(module, loader(8))
    assert planned(callback).tolist() == module.used
    assert module.used == pytest.approx([0.1 / (n + 1) for n in range(8)])
    assert bins_of(callback)[2][1:] == module.used[:-1]


def test_two_schedulers_of_one_optimizer_are_only_assumed() -> None:
    def two(module: Scripted) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        up = torch_lr.LinearLR(optimizer, 0.5, total_iters=3)
        down = torch_lr.ExponentialLR(optimizer, 0.5)
        return [optimizer], [{"scheduler": up, "interval": "step"}, {"scheduler": down}]

    callback = LightningLossForecast(every_n_steps=1)
    trainer_of(callback, max_epochs=3).fit(Scripted(two), loader(8))
    assert callback.forecast is not None
    assert Caveat.LR_ASSUMED in callback.forecast.caveats


def test_a_schedule_of_the_users_own_comes_first() -> None:
    own = LRSchedule.wsd(total_steps=40, peak=0.1)
    callback = LightningLossForecast(schedule=own, every_n_steps=SELDOM)
    trainer_of(callback, max_epochs=1).fit(Scripted(), loader(30))
    assert callback.forecaster is not None
    assert callback.forecaster.schedule is own


# ---------------------------------------------------------------------- length unknown


ENDLESS: dict[str, dict[str, Any]] = {
    "no limit": {"max_steps": -1, "max_epochs": -1},
    "a limit of time": {"max_time": "00:01:00:00"},
    "a stream with a limit of epochs": {"max_epochs": 5},
}


@pytest.mark.parametrize("options", ENDLESS.values(), ids=ENDLESS)
def test_a_run_without_a_known_end_is_left_alone(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    callback, saver = LightningLossForecast(stop=True), ModelCheckpoint(tmp_path)
    trainer = trainer_of(callback, StopAfter(25), saver, **options)
    trainer.fit(Scripted(), torch.utils.data.DataLoader(Endless()))
    assert trainer.global_step == 25
    assert callback.forecaster is None
    assert callback.state_dict() == {}
    (message,) = warnings_in(caplog)
    assert "max_steps" in message
    assert "total_steps" in message


@pytest.mark.parametrize("options", ENDLESS.values(), ids=ENDLESS)
def test_total_steps_gives_a_run_its_end(options: dict[str, Any]) -> None:
    callback = LightningLossForecast(total_steps=30)
    trainer = trainer_of(callback, StopAfter(45), **options)
    trainer.fit(Scripted(), torch.utils.data.DataLoader(Endless()))
    assert callback.forecaster is not None
    assert callback.forecaster.total_steps == 30
    assert bins_of(callback)[0] == list(range(45))  # it may go on for longer
    assert not callback.switched_off


def test_an_accumulation_that_changes_needs_total_steps(caplog: pytest.LogCaptureFixture) -> None:
    def run(**given: Any) -> LightningLossForecast:
        callback = LightningLossForecast(every_n_steps=SELDOM, **given)
        accumulation = GradientAccumulationScheduler({0: 1, 1: 2, 2: 4})
        module = Scripted(with_scheduler("exponential", interval="step"))
        trainer_of(callback, accumulation, max_epochs=3).fit(module, loader(8))
        return callback

    assert run().forecaster is None
    assert len(warnings_in(caplog)) == 1
    callback = run(total_steps=14)
    expected = [range(n, n + 1) for n in range(8)]
    expected += [range(n, n + 2) for n in range(8, 16, 2)]
    expected += [range(n, n + 4) for n in range(16, 24, 4)]
    steps, losses, _ = bins_of(callback)
    assert steps == list(range(14))
    assert losses == [np.mean([scripted(n) for n in window]) for window in expected]
    assert planned(callback)[1:-1].tolist() == bins_of(callback)[2][2:]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("options", "steps"),
    [({"max_epochs": 3}, 24), ({"max_steps": 20}, 10), ({"max_steps": 33, "max_epochs": 3}, 17)],
    ids=str,
)
def test_optimizers_that_alternate(index: int, options: dict[str, Any], steps: int) -> None:
    callback = LightningLossForecast(every_n_steps=SELDOM, optimizer_index=index)
    module = Adversarial()
    trainer_of(callback, **options).fit(module, loader(8))
    assert planned(callback).tolist() == module.rates[index]
    assert len(module.rates[index]) == steps
    seen, losses, rates = bins_of(callback)
    assert seen == list(range(steps))
    assert losses == [scripted(n) for n in range(steps)]
    assert rates[1:] == module.rates[index][:-1]


@pytest.mark.parametrize(("index", "n"), [(0, 4), (1, 1)])
def test_optimizers_that_do_not_step_in_turn(index: int, n: int) -> None:
    callback = LightningLossForecast(
        every_n_steps=SELDOM, optimizer_index=index, total_steps=24 // n
    )
    module = Adversarial(every_n=4)
    trainer_of(callback, max_epochs=3).fit(module, loader(8))
    seen, losses, rates = bins_of(callback)
    assert seen == list(range(24 // n))
    assert losses == [np.mean([scripted(n * t + i) for i in range(n)]) for t in seen]
    assert rates[1:] == module.rates[index][:-1]
    assert planned(callback).tolist() == module.rates[index]


def test_an_optimizer_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningLossForecast(optimizer_index=2)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(Adversarial(), loader(4))
    assert trainer.global_step == 8
    (record,) = [record for record in caplog.records if record.name == "lossforecast"]
    assert record.exc_info is not None
    assert "2 optimizers" in str(record.exc_info[1])


def test_rates_set_by_hand_are_followed() -> None:
    class ByHand(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            optimizer.param_groups[0]["lr"] = 0.1 if batch_idx < 10 else 0.01
            self.manual_backward(self.weight.sum())
            optimizer.step()
            return torch.tensor(scripted(batch_idx))

    callback = LightningLossForecast(every_n_steps=5)
    trainer_of(callback, max_epochs=1).fit(ByHand(), loader(30))
    assert callback.forecast is not None
    assert Caveat.LR_ASSUMED in callback.forecast.caveats
    assert bins_of(callback)[2][1:] == [0.1] * 10 + [0.01] * 19
    assert planned(callback)[15:].tolist() == [0.01] * 15


def test_steps_that_a_gradient_scaler_skips_do_not_count() -> None:
    overflowing = {4, 5, 13}

    class Overflow(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            times = torch.inf if batch_idx in overflowing else 1.0
            return scripted(batch_idx) + (times * self.weight).sum().clamp(0, 0)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            pass

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    callback = LightningLossForecast(every_n_steps=SELDOM)
    module = Overflow()
    trainer_of(callback, max_epochs=1, plugins=[precision]).fit(module, loader(20))
    steps, losses, _ = bins_of(callback)
    assert steps == list(range(17))
    expected = [[scripted(n)] for n in range(20) if n not in overflowing]
    expected[4] = [scripted(n) for n in (4, 5, 6)]
    expected[11] = [scripted(n) for n in (13, 14)]
    assert losses == pytest.approx([np.mean(each) for each in expected])
