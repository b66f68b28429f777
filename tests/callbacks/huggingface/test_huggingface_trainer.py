"""What the Trainer logs, hides and reports to `TransformersLossForecast`."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hf_processes import (
    TOTAL,
    Watch,
    noisy,
    train,
)
from support.hf_runs import EVALUATE, SAVE
from support.logs import warnings_in
from support.policies import stop_from
from transformers import TrainerCallback

from lossforecast import LRSchedule, RunStore
from lossforecast.callbacks import TransformersLossForecast
from lossforecast.callbacks.capture import innermost
from lossforecast.callbacks.monitor.update import Update
from lossforecast.runs.windows import mean_step


def test_a_loss_that_the_user_logs_is_no_window(tmp_path: Path) -> None:
    class Talks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            watch.trainer.log({"loss": 99.0})

    watch, callback = Watch(), TransformersLossForecast(every_n_steps=12)
    trainer, _ = train(tmp_path, [callback], go=False)
    watch.trainer = trainer
    trainer.add_callback(Talks())
    trainer.train()
    assert callback.forecaster is not None
    assert callback.forecaster.history.bins().mean.max() < 5
    assert callback.forecaster.history.bins().step.size == TOTAL // 2


@pytest.mark.parametrize(
    ("monitor", "options"),
    [
        ("eval_accuracy", {}),
        ("eval_quality", {"metric_for_best_model": "quality", "greater_is_better": True}),
    ],
)
def test_a_metric_that_is_to_rise_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monitor: str, options: dict[str, Any]
) -> None:
    class Rising(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kwargs["metrics"][monitor] = 1 - 0.3 * noisy(state.global_step)

    callback = TransformersLossForecast(monitor, stop=True, policy=stop_from(60), every_n_steps=4)
    trainer, _ = train(tmp_path, [callback], first=[Rising()], **EVALUATE, **options)
    assert trainer.state.global_step == TOTAL
    assert callback.forecast is not None
    warning = warnings_in(caplog)[0]
    assert f"{monitor!r} is better when higher" in warning
    assert "nothing will be stopped or changed" in warning


@pytest.mark.parametrize("again", [True, False])
def test_a_run_that_an_exception_ended_has_failed_in_the_store(tmp_path: Path, again: bool) -> None:
    callback: TransformersLossForecast | None
    callback = TransformersLossForecast(store=tmp_path / "runs.db", every_n_steps=4)
    trainer, watch = train(tmp_path, [callback], go=False)
    watch.fail_at = 75
    with pytest.raises(ValueError, match="the user's own"):
        trainer.train()
    optimizer: Any = innermost(trainer.optimizer)
    if again:
        watch.fail_at = None
        trainer.train()
    else:
        trainer.callback_handler.callbacks.clear()
        callback = None
        gc.collect()
    assert not optimizer._optimizer_step_pre_hooks
    runs = [(run.state, run.step) for run in RunStore(tmp_path / "runs.db").runs()]
    assert runs[-1][0] == "failed"
    assert runs[-1][1] >= 70
    assert [state for state, _ in runs[:-1]] == ["finished"] * again


@pytest.mark.parametrize(
    "broken",
    [
        "pipeline.pipeline.Pipeline.leave",
        "pipeline.pipeline.Pipeline.record_end",
        "huggingface.losses.LossReader.record",
    ],
)
def test_an_error_of_ours_at_any_place_does_not_end_the_training(
    tmp_path: Path,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(f"lossforecast.callbacks.{broken}", fail)
    callback = TransformersLossForecast(every_n_steps=10)
    for _ in range(2):  # the second lets go of the first
        trainer, _ = train(tmp_path, [callback])
        assert trainer.state.global_step == TOTAL
    assert callback.switched_off == (broken == "huggingface.losses.LossReader.record")
    traces = [each for each in caplog.records if each.exc_info]
    assert len(traces) == {"leave": 3}.get(broken.split(".")[-1], 2)
    optimizer: Any = innermost(trainer.optimizer)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("monitor", "options", "said"),
    [
        (None, {"logging_strategy": "no"}, ["0 losses in 120 steps", "logged no training loss"]),
        (None, {"logging_steps": 500}, ["0 losses in 120 steps", "logged no training loss"]),
        (
            None,
            {"logging_steps": 10},
            ["12 losses in 120 steps, one every 10 steps. Give TrainingA"],
        ),
        ("eval_loss", {}, ["0 losses in 120 steps", "logged no eval_loss"]),
        ("eval_loss", EVALUATE, []),
    ],
)
def test_too_little_to_forecast_from_is_told_at_the_start_and_nothing_at_the_end(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monitor: str | None,
    options: dict[str, Any],
    said: list[str],
) -> None:
    train(tmp_path, [TransformersLossForecast(monitor)], **options)
    lines = warnings_in(caplog)
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


EPOCHS: dict[str, Any] = {"num_train_epochs": 2.5}  # of 6 steps


@pytest.mark.parametrize(
    ("monitor", "options", "said"),
    [
        (None, EPOCHS | {"logging_strategy": "epoch"}, "3 losses in 15 steps, one per epoch. Give"),
        (None, EPOCHS | {"logging_steps": 0.3}, "3 losses in 15 steps, one every 5 steps. Give"),
        (None, EPOCHS | {"logging_steps": 1}, "15 losses in 15 steps, one every step. Train for"),
        (None, {"logging_steps": 0.1, "logging_first_step": True}, "11 losses in 120 steps, one"),
        (None, {"logging_steps": 500, "logging_first_step": True}, "1 loss in 120 steps. Give"),
        ("eval_loss", EPOCHS | {"eval_strategy": "epoch"}, "3 losses in 15 steps, one per epoch"),
        ("eval_loss", EVALUATE | {"eval_steps": 0.3}, "4 losses in 120 steps, one every 36 steps"),
        ("eval_loss", EVALUATE | {"eval_delay": 61}, "15 losses in 120 steps, one every 4 steps"),
        ("eval_loss", {"eval_strategy": "epoch", "eval_delay": 15}, "6 losses in 120 steps, one"),
        ("eval_loss", {"eval_on_start": True}, "1 loss in 120 steps. Give TrainingArguments(eval_"),
    ],
)
def test_few_losses_are_counted_right_and_said_in_one_sentence(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monitor: str | None,
    options: dict[str, Any],
    said: str,
) -> None:
    trainer, _ = train(tmp_path, [TransformersLossForecast(monitor)], **options)
    (line,) = warnings_in(caplog)
    assert line.startswith(f"little to forecast from: the Trainer will log {said}")
    logged = [row for row in trainer.state.log_history if (monitor or "loss") in row]
    assert said.startswith(f"{len(logged)} loss")


class Stream(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """Rows for 5 steps, without a length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter([{"x": torch.ones(1), "labels": torch.ones(1)}] * 40)


@pytest.mark.parametrize("monitor", [None, "eval_loss"])
def test_a_stream_that_is_logged_once_an_epoch_is_told_in_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monitor: str | None
) -> None:
    kind = "logging" if monitor is None else "eval"
    options: dict[str, Any] = {f"{kind}_strategy": "epoch", "max_steps": 20}
    callback = TransformersLossForecast(monitor)
    trainer, _ = train(tmp_path, [callback], go=False, **options)
    trainer.train_dataset = Stream()
    trainer.train()
    assert callback.forecaster is not None
    assert callback.forecaster.history.n_observed == 4
    (line,) = warnings_in(caplog)
    assert line == (
        "the Trainer will log one loss per epoch, and an epoch of this dataset has no known "
        "length: with fewer than 20 epochs in 20 steps there is little to forecast from. "
        f'Give TrainingArguments({kind}_strategy="steps", {kind}_steps=1)'
    )


def test_the_schedule_is_checked_once_when_a_run_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def longer(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * TOTAL)

    train(tmp_path, [TransformersLossForecast(every_n_steps=12)], scheduler=longer, **SAVE)
    (line,) = warnings_in(caplog)
    assert "schedule lint, horizon_long" in line
    caplog.clear()
    checkpoint = str(tmp_path / "checkpoint-60")
    train(
        tmp_path, [TransformersLossForecast(every_n_steps=12)], scheduler=longer, resume=checkpoint
    )
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("length", [80, 500])
def test_a_plan_of_another_length_is_fitted_to_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    plan = LRSchedule.constant(length, 1e-3)
    callback = TransformersLossForecast(schedule=plan, every_n_steps=12)
    train(tmp_path, [callback], lr_scheduler_type="constant")
    assert f"schedule= has {length} steps, but the Trainer will take 120" in warnings_in(caplog)[0]
    assert callback.forecaster is not None
    assert callback.forecast is not None
    assert callback.forecaster.total_steps == callback.forecast.step == TOTAL


@pytest.mark.parametrize("logging", [{"logging_steps": 4}, {"logging_strategy": "epoch"}])
def test_a_forecast_knows_the_window_that_is_logged_at_its_step(
    tmp_path: Path, logging: dict[str, Any]
) -> None:
    """An epoch has 6 steps."""
    updates: list[Update] = []
    callback = TransformersLossForecast(every_n_steps=12, sinks=[updates.append])
    _, watch = train(tmp_path, [callback], **logging)
    assert [each.step for each in updates] == list(range(12, TOTAL + 1, 12))
    width = 6 if "logging_strategy" in logging else 4
    for each in updates:
        assert each.step in watch.losses
        made_at = int(mean_step(each.step - width, each.step - 1))
        assert each.forecast.made_at == made_at
