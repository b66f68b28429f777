"""Runs resumed from a checkpoint: their forecasts, states and schedules."""

import json
import math
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.lightning_runs import (
    IGNORED_WARNINGS,
    Configure,
    Metrics,
    Scripted,
    Validated,
    bins_of,
    cosine,
    groups,
    loader,
    one_cycle,
    plain,
    planned,
    scripted,
    trainer_of,
    with_scheduler,
)
from support.logs import warnings_in

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks import LightningLossForecast
from lossforecast.callbacks.monitor.update import Update

pytestmark = IGNORED_WARNINGS
STATES = Path(__file__).parents[2] / "states"


# ---------------------------------------------------------------------- resuming


def seen_by(update: Update) -> tuple[Any, ...]:
    forecast = update.forecast
    quantiles = [forecast.quantile(q) for q in (0.05, 0.5, 0.95)]
    gain = forecast.anneal_gain
    return (
        update.step,
        forecast.made_at,
        forecast.mean,
        *quantiles,
        gain,
        forecast.status,
        forecast.caveats,
        update.recommendation,
    )


RESUMABLE: dict[str, tuple[Configure, dict[str, Any]]] = {
    "cosine by steps": (
        with_scheduler("warm-up and cosine", interval="step"),
        {"max_epochs": 3},
    ),
    "each third batch, accumulated": (
        with_scheduler("exponential", interval="step", frequency=3),
        {"max_epochs": 3, "accumulate_grad_batches": 2},
    ),
    "by epochs": (with_scheduler("exponential", interval="epoch"), {"max_steps": 50}),
    "one cycle": (one_cycle, {"max_epochs": 3}),
    "no scheduler": (plain, {"max_epochs": 3}),
    "groups": (groups, {"max_epochs": 3}),
}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended:UserWarning")
@pytest.mark.parametrize(("configure", "options"), RESUMABLE.values(), ids=RESUMABLE)
@pytest.mark.parametrize(
    "monitor",
    ["val_loss", *(pytest.param(each, marks=pytest.mark.slow) for each in (None, "after"))],
)
def test_a_resumed_run_repeats_its_forecasts_to_the_bit(
    configure: Configure, options: dict[str, Any], monitor: str | None, tmp_path: Path
) -> None:
    def run(path: Path | None, *callbacks: Any) -> tuple[list[Any], Scripted, Any]:
        updates: list[Update] = []
        callback = LightningLossForecast(
            monitor, every_n_steps=3, target=2.3, sinks=[updates.append]
        )
        module = Metrics(configure)
        trainer = trainer_of(callback, *callbacks, val_check_interval=4, **options)
        trainer.fit(module, loader(20), loader(2), ckpt_path=path)
        assert callback.forecaster is not None
        state = callback.forecaster.state_dict()
        state.pop("seconds_spent")
        return [seen_by(update) for update in updates], module, state

    saver = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1, save_on_train_epoch_end=False
    )
    at_ends = ModelCheckpoint(tmp_path, "end-{step}", save_top_k=-1, save_on_train_epoch_end=True)
    every_update, whole, final = run(None, saver, at_ends)
    assert len(every_update) >= (3 if monitor else 10)
    an_epoch = 20 // options.get("accumulate_grad_batches", 1)
    for name, taken in (("step=7", 7), ("step=21", 21), (f"end-step={an_epoch}", an_epoch)):
        updates, module, state = run(tmp_path / f"{name}.ckpt")
        assert module.used == whole.used[taken:]
        # the one of an epoch's last metric comes with the next epoch, so after the checkpoint
        assert updates == every_update[-len(updates) :]
        assert len(updates) >= sum(update[0] > taken for update in every_update) > 0
        assert state == final


def test_checkpoints_hold_plain_values(tmp_path: Path) -> None:
    train = LightningLossForecast(run=RunInfo(task="toy", n_params=1e6))
    val = LightningLossForecast("val_loss", schedule=LRSchedule.cosine(50, 1e-3))
    saver = ModelCheckpoint(tmp_path, save_last=True)
    module = Validated(with_scheduler("exponential", interval="step"))
    trainer_of(train, val, saver, max_epochs=2).fit(module, loader(25), loader(1))
    states = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert train.state_key != val.state_key
    assert {train.state_key, val.state_key} < set(states)
    for callback in (train, val):
        saved = json.dumps(states[callback.state_key])
        assert saved == json.dumps(json.loads(saved)) == json.dumps(callback.state_dict())


def test_what_cannot_be_pickled_is_not_in_a_checkpoint(tmp_path: Path) -> None:
    lock = threading.Lock()
    callback = LightningLossForecast(
        policy=lambda situation: lock and None, sinks=[lambda update: lock and None]
    )
    with pytest.raises((TypeError, AttributeError)):
        pickle.dumps(callback.settings.policies)
    path = saved_run(tmp_path, callback, max_epochs=2)
    assert not callback.switched_off
    assert callback.state_key in torch.load(path, weights_only=True)["callbacks"]


@pytest.mark.parametrize(
    "path", sorted(STATES.glob("lightning-*.json")), ids=lambda path: path.stem
)
def test_states_of_earlier_versions_are_read(path: Path, tmp_path: Path) -> None:
    checkpoint = saved_run(tmp_path, max_epochs=2)
    saved = torch.load(checkpoint, weights_only=True)
    callback = LightningLossForecast(every_n_steps=5)
    saved["callbacks"][callback.state_key] = json.loads(path.read_text())
    torch.save(saved, checkpoint)
    trainer = trainer_of(callback, max_epochs=3)
    trainer.fit(Scripted(cosine), loader(10), ckpt_path=checkpoint)
    assert not callback.switched_off
    steps, losses, _ = bins_of(callback)
    assert steps == list(range(30))
    assert losses[:20] == [scripted(n) for n in range(20)]
    assert callback.forecast is not None
    assert callback.forecast.made_at == 29


def test_two_of_the_same_metric_are_refused() -> None:
    with pytest.raises(RuntimeError, match="state_key"):
        trainer_of(LightningLossForecast(), LightningLossForecast(target=2.0))


def saved_run(tmp_path: Path, *callbacks: Any, **options: Any) -> Path:
    saver = ModelCheckpoint(tmp_path, save_last=True)
    trainer_of(*callbacks, saver, **options).fit(Scripted(cosine), loader(10))
    return tmp_path / "last.ckpt"


def test_a_longer_run_is_adopted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved_run(tmp_path, LightningLossForecast(), max_steps=30)
    (message,) = warnings_in(caplog)
    assert "schedule lint, never_low" in message  # it is made for 100 steps
    caplog.clear()
    callback, module = LightningLossForecast(), Scripted(cosine)
    trainer_of(callback, max_steps=50).fit(module, loader(10), ckpt_path=path)
    (message,) = warnings_in(caplog)
    assert "resumed at step 30 with another schedule" in message
    assert callback.forecast is not None
    assert callback.forecast.step == 50
    assert planned(callback)[30:].tolist() == module.used
    assert planned(callback)[:30] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * i / 100)) for i in range(30)]
    )
    assert bins_of(callback)[0] == list(range(50))


def test_resuming_the_checkpoint_of_a_run_that_was_not_watched(tmp_path: Path) -> None:
    path = saved_run(tmp_path, max_epochs=2)
    callback, module = LightningLossForecast(), Scripted(cosine)
    trainer_of(callback, max_epochs=5).fit(module, loader(10), ckpt_path=path)
    steps, losses, rates = bins_of(callback)
    assert steps == list(range(20, 50))
    assert losses == [scripted(n) for n in steps]
    assert rates[1:] == module.used[:-1]
    assert planned(callback)[20:].tolist() == module.used
    assert callback.forecast is not None
    assert callback.forecast.step == 50


def test_a_run_that_went_past_its_plan_can_be_resumed(tmp_path: Path) -> None:
    path = saved_run(tmp_path, LightningLossForecast(total_steps=15), max_epochs=3)
    callback = LightningLossForecast(total_steps=15)
    trainer_of(callback, max_epochs=4).fit(Scripted(cosine), loader(10), ckpt_path=path)
    assert not callback.switched_off
    assert bins_of(callback)[0] == list(range(40))


def test_saving_a_checkpoint_does_not_change_what_is_read(tmp_path: Path) -> None:
    class EachStep(Metrics):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("each", loss, on_step=True, on_epoch=True)
            return loss

    callback = LightningLossForecast("each", every_n_steps=1)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    trainer_of(callback, saver, max_epochs=3, limit_val_batches=0).fit(
        EachStep(), loader(5), loader(1)
    )
    assert bins_of(callback)[0] == [5, 10, 15]


@pytest.mark.parametrize("damage", [{"forecasters": {}}, {"capture": {"steps": "x"}}], ids=str)
def test_a_damaged_state_is_an_error_of_ours(
    damage: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = LightningLossForecast()
    path = saved_run(tmp_path, callback, max_epochs=2)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"][callback.state_key].update(damage)
    torch.save(checkpoint, path)
    trainer, resumed = None, LightningLossForecast()
    trainer = trainer_of(resumed, max_epochs=5)
    trainer.fit(Scripted(cosine), loader(10), ckpt_path=path)
    assert trainer.global_step == 50
    assert resumed.switched_off
    assert len([record for record in caplog.records if record.exc_info]) == 1
