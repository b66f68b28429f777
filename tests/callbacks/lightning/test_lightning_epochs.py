"""The optimizer steps of an epoch under a Lightning ``Trainer``."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from support.lightning_runs import (
    IGNORED_WARNINGS,
    SELDOM,
    Adversarial,
    Endless,
    Scripted,
    Validated,
    loader,
    trainer_of,
)
from support.logs import warnings_in
from torch.utils.data import DataLoader

from lossforecast import Action, Caveat, RunInfo
from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.policies import no_room

pytestmark = IGNORED_WARNINGS
BATCHES = 50


def shuffled(batches: int) -> Any:
    return DataLoader(range(batches), shuffle=True)  # type: ignore[arg-type]


def stream(**options: Any) -> Any:
    return DataLoader(Endless(**options))


def steps_per_epoch(callback: LightningLossForecast) -> float | None:
    assert callback.forecaster is not None
    return callback.forecaster.run.steps_per_epoch


SETTINGS: dict[str, tuple[Any, dict[str, Any], float | None]] = {
    "epochs": (loader(BATCHES), {"max_epochs": 2}, 50),
    "less than one": (loader(BATCHES), {"max_steps": 7}, 50),
    "accumulation": (loader(BATCHES), {"max_epochs": 1, "accumulate_grad_batches": 3}, 17),
    "the same part of the data": (
        loader(BATCHES),
        {"max_epochs": 3, "limit_train_batches": 10},
        10,
    ),
    "another part in each epoch": (
        shuffled(BATCHES),
        {"max_epochs": 3, "limit_train_batches": 10, "accumulate_grad_batches": 2},
        25,
    ),
    "a few batches again and again": (
        loader(BATCHES),
        {"max_epochs": 3, "overfit_batches": 5},
        5,
    ),
    "two loaders": ([loader(BATCHES), loader(40)], {"max_epochs": 1}, 50),
    "a stream": (stream(), {"max_steps": 20}, None),
    "a stream that ends": (stream(end=9), {"max_steps": 20}, None),
    "parts of a stream": (stream(), {"max_epochs": 2, "limit_train_batches": 10}, None),
    "a loader and a stream": (
        {"a": loader(BATCHES), "b": stream()},
        {"max_epochs": 1, "limit_train_batches": 10},
        None,
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_of_the_trainer_tell(name: str) -> None:
    loaders, options, expected = SETTINGS[name]
    callback = LightningLossForecast(every_n_steps=SELDOM)
    trainer_of(callback, **options).fit(Scripted(), loaders)
    assert steps_per_epoch(callback) == expected
    assert not callback.switched_off


def test_for_a_validation_loss_it_is_known_too() -> None:
    callback = LightningLossForecast("val_loss")
    trainer_of(callback, max_epochs=2).fit(Validated(), loader(BATCHES), loader(1))
    assert steps_per_epoch(callback) == BATCHES
    assert callback.forecast is not None
    assert not callback.forecast.caveats


def test_accumulation_that_a_callback_changes_leaves_it_open() -> None:
    callback = LightningLossForecast(total_steps=60, every_n_steps=SELDOM)
    scheduled = GradientAccumulationScheduler({0: 1, 1: 5})
    trainer_of(callback, scheduled, max_epochs=2).fit(Scripted(), loader(BATCHES))
    assert steps_per_epoch(callback) is None


@pytest.mark.parametrize(("given", "expected"), [(None, BATCHES / 5), (7.5, 7.5)])
def test_a_pace_other_than_declared_is_corrected_unless_it_was_given(
    given: float | None, expected: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The optimizer steps after every fifth batch only."""
    caplog.set_level(logging.INFO, "lossforecast")
    callback = LightningLossForecast(every_n_steps=2, run=RunInfo(steps_per_epoch=given))
    trainer_of(callback, max_epochs=3).fit(Adversarial(every_n=5), loader(BATCHES))
    assert steps_per_epoch(callback) == expected
    lines = [line for line in warnings_in(caplog, logging.INFO) if "an epoch has" in line]
    assert len(lines) == (given is None)
    assert all("an epoch has about 10 optimizer steps" in line for line in lines)


def test_data_that_grows_is_followed() -> None:
    class Grows(Scripted):
        def train_dataloader(self) -> Any:
            return loader(BATCHES * (1 + self.current_epoch))

    callback = LightningLossForecast()
    trainer = trainer_of(callback, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    trainer.fit(Grows())
    assert steps_per_epoch(callback) == 3 * BATCHES


def test_nothing_is_stopped_before_the_data_is_seen_again() -> None:
    """The policy would stop at the first forecast that is not too short."""
    updates: list[Update] = []
    callback = LightningLossForecast(
        stop=True, policy=no_room(100.0), every_n_steps=5, sinks=[updates.append]
    )
    trainer_of(callback, max_epochs=4).fit(Scripted(), loader(BATCHES))
    warned = {u.step for u in updates if Caveat.REPEATED_DATA in u.forecast.caveats}
    assert warned == set(range(5, 56, 5))
    falling = {u.step for u in updates if Caveat.MEMORISING in u.forecast.caveats}
    stops = [u.step for u in updates if u.recommendation.action is Action.STOP]
    assert stops == [max(warned | falling) + 5]
    without = LightningLossForecast(stop=True, policy=no_room(100.0), every_n_steps=5)
    trainer = trainer_of(without, max_epochs=1)
    trainer.fit(Scripted(), loader(4 * BATCHES))
    assert trainer.global_step < 60, "of one epoch, nothing is repeated"


@pytest.mark.parametrize("known_before", [True, False])
def test_a_resumed_run_knows_it(tmp_path: Path, known_before: bool) -> None:
    """Also from a checkpoint of a version that did not."""
    first = LightningLossForecast(every_n_steps=5)
    saves = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
    trainer_of(first, saves, max_epochs=1).fit(Scripted(), loader(BATCHES))
    (path,) = tmp_path.glob("*.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    saved = checkpoint["callbacks"][first.state_key]["forecasters"]["train"]["run"]
    assert saved["steps_per_epoch"] == BATCHES
    saved["steps_per_epoch"] = 45.0
    if not known_before:
        del saved["steps_per_epoch"]
    torch.save(checkpoint, path)
    resumed = LightningLossForecast(every_n_steps=SELDOM)
    trainer = trainer_of(resumed, max_steps=BATCHES + 9)
    trainer.fit(Scripted(), loader(BATCHES), ckpt_path=path, weights_only=True)
    assert steps_per_epoch(resumed) == (45 if known_before else BATCHES)
    given = LightningLossForecast(every_n_steps=SELDOM, run=RunInfo(steps_per_epoch=33))
    trainer = trainer_of(given, max_steps=BATCHES + 9)
    trainer.fit(Scripted(), loader(BATCHES), ckpt_path=path, weights_only=True)
    assert steps_per_epoch(given) == 33
