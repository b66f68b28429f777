"""The optimizer steps of an epoch under the Hugging Face ``Trainer``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.hf_processes import Scripted, tiny_gpt, train
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from lossforecast import Caveat, RunInfo
from lossforecast.callbacks import TransformersLossForecast
from lossforecast.callbacks.monitor.update import Update


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    def __iter__(self) -> Any:
        while True:
            yield {"x": torch.ones(1), "labels": torch.ones(1)}


class SizedStream(Stream):
    def __len__(self) -> int:
        return 80


class Streams(Trainer):
    data: type[Stream] = Stream

    def get_train_dataloader(self) -> Any:
        return DataLoader(self.data(), batch_size=8)


class SizedStreams(Streams):
    data = SizedStream


def steps_per_epoch(callback: TransformersLossForecast) -> float | None:
    assert callback.forecaster is not None
    return callback.forecaster.run.steps_per_epoch


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (tiny_gpt, {"num_train_epochs": 3}, 7),
        (tiny_gpt, {"num_train_epochs": 2.5, "gradient_accumulation_steps": 3}, 3),
        (tiny_gpt, {"max_steps": 4}, 7),
        (tiny_gpt, {"max_steps": 20, "dataloader_drop_last": True}, 7),
        (Scripted, {"max_steps": 20, "per_device_train_batch_size": 5}, 10),
        (Scripted, {"max_steps": 20, "kind": Streams}, None),
        (Scripted, {"max_steps": 20, "kind": SizedStreams}, 10),
    ],
)
def test_the_length_of_the_data_tells(
    tmp_path: Path, model: Any, options: dict[str, Any], expected: float | None
) -> None:
    callback = TransformersLossForecast()
    trainer, _ = train(tmp_path, [callback], model=model(), **options)
    assert steps_per_epoch(callback) == expected
    assert not callback.switched_off
    if expected is not None:
        epoch = trainer.state.global_step / expected
        assert trainer.state.epoch == pytest.approx(epoch, abs=0.2), "as the Trainer counts"


def test_what_the_user_gives_wins(tmp_path: Path) -> None:
    callback = TransformersLossForecast(run=RunInfo(steps_per_epoch=123))
    train(tmp_path, [callback], model=Scripted(), max_steps=8)
    assert steps_per_epoch(callback) == 123


def test_the_caveat_ends_in_the_second_epoch(tmp_path: Path) -> None:
    updates: list[Update] = []
    callback = TransformersLossForecast(every_n_steps=2, sinks=[updates.append])
    train(tmp_path, [callback], model=Scripted(), max_steps=60, per_device_train_batch_size=2)
    assert steps_per_epoch(callback) == 24
    warned = [u.forecast.made_at for u in updates if Caveat.REPEATED_DATA in u.forecast.caveats]
    assert len(warned) > 10
    assert 24 < max(warned) < 1.1 * 24


def test_a_resumed_run_keeps_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": Scripted(), "save_strategy": "steps", "save_steps": 10}
    train(tmp_path, [TransformersLossForecast()], max_steps=10, **options)
    for run, expected in ((None, 6), (RunInfo(steps_per_epoch=44), 44)):
        callback = TransformersLossForecast(run=run)
        resume = str(tmp_path / "checkpoint-10")
        train(tmp_path, [callback], max_steps=14, resume=resume, **options)
        assert steps_per_epoch(callback) == expected
