"""Whole runs with `TransformersLossForecast`: plan, windows, decays, stops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.hf_processes import (
    TOTAL,
    Scripted,
    noisy,
    smooth,
    tiny_gpt,
    train,
)
from support.hf_runs import EVALUATE
from support.logs import warnings_in
from support.policies import decay_from

from lossforecast import Forecaster, LRSchedule, RunInfo, RunStore
from lossforecast.callbacks import SteerableLR, TransformersLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.runs.windows import mean_step


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("cosine", {"max_steps": 50}),
        ("linear", {"num_train_epochs": 7}),
        ("cosine", {"num_train_epochs": 20, "gradient_accumulation_steps": 3}),
        ("polynomial", {"num_train_epochs": 6.5, "warmup_steps": 0.1}),
        ("inverse_sqrt", {"max_steps": 50, "gradient_accumulation_steps": 3}),
        ("warmup_stable_decay", {"max_steps": 50, "lr_scheduler_kwargs": {"num_decay_steps": 20}}),
    ],
)
def test_the_plan_is_what_the_optimizer_gets(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    callback = TransformersLossForecast(every_n_steps=20)
    model = tiny_gpt()  # 7 batches an epoch
    trainer, watch = train(tmp_path, [callback], model=model, lr_scheduler_type=kind, **options)
    assert callback.forecaster is not None
    plan = callback.forecaster.schedule
    assert plan.total_steps == trainer.state.max_steps == trainer.state.global_step
    assert list(watch.rates) == list(range(1, plan.total_steps + 1))
    np.testing.assert_array_equal(plan.to_array(), list(watch.rates.values()))
    assert len(set(watch.rates.values())) > 20
    if "num_train_epochs" in options:
        assert plan.total_steps == {7: 49, 20: 60, 6.5: 46}[options["num_train_epochs"]]


# ---------------------------------------------------------------------- means over windows


def test_a_window_is_seen_where_the_loss_is_its_mean(tmp_path: Path) -> None:
    """On a loss that falls as t**-1/2, but for an offset that the first windows feel."""
    total, width = 600, 60
    callback = TransformersLossForecast(every_n_steps=width)
    model = Scripted(smooth)
    _, watch = train(tmp_path, [callback], model=model, max_steps=total, logging_steps=width)
    assert callback.forecaster is not None
    bins, windows = callback.forecaster.history.bins(), range(0, total, width)
    assert bins.step.tolist() == [mean_step(at, at + width - 1) for at in windows]
    np.testing.assert_array_equal(bins.mean, list(watch.losses.values()))
    for at, step, mean in zip(windows, bins.step, bins.mean, strict=True):
        assert mean == pytest.approx(np.mean([smooth(at + i) for i in range(width)]), rel=1e-6)
        middle = abs(smooth(at + width // 2) - mean)
        assert abs(smooth(int(step)) - mean) < middle


def test_forecasts_of_windows_are_nearer_to_those_of_every_loss_than_of_their_middles(
    tmp_path: Path,
) -> None:
    """The log of a run that is logged ten times."""
    total, width = 600, 60
    updates: list[Update] = []
    large = RunInfo(task="language modelling", n_params=1e8)
    callback = TransformersLossForecast(every_n_steps=width, sinks=[updates.append], run=large)
    model = Scripted(noisy)
    _, watch = train(tmp_path, [callback], model=model, max_steps=total, logging_steps=width)
    made = {each.forecast.made_at: each.forecast.mean for each in updates}
    assert callback.forecaster is not None
    plan, run = callback.forecaster.schedule, callback.forecaster.run
    every, middles = Forecaster(plan, run), Forecaster(plan, run)
    off = []
    for first in range(0, total, width):
        last = first + width - 1
        every.observe_many(range(first, last + 1), [noisy(t) for t in range(first, last + 1)])
        middles.observe((first + last) // 2, watch.losses[last + 1])
        mean = every.forecast().mean
        off.append([made[int(mean_step(first, last))] - mean, middles.forecast().mean - mean])
    ours, theirs = np.abs(off[1:]).mean(axis=0)  # one window says nothing
    assert ours < theirs


# ---------------------------------------------------------------------- steered and stopped


def steerable(optimizer: torch.optim.Optimizer) -> SteerableLR:
    return SteerableLR(optimizer, TOTAL, decay_fraction=0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_decay_is_begun_and_goes_on_when_resumed(
    tmp_path: Path, accumulate: int, caplog: pytest.LogCaptureFixture
) -> None:
    def run(resume: str | None = None) -> tuple[Any, list[float]]:
        callback = TransformersLossForecast(apply=True, policy=decay_from(30), every_n_steps=10)
        _, watch = train(
            tmp_path,
            [callback],
            model=Scripted(micro_batches=accumulate),
            scheduler=steerable,
            gradient_accumulation_steps=accumulate,
            save_strategy="steps",
            save_steps=70,  # in the middle of the decay
            resume=resume,
        )
        assert callback.forecaster is not None
        return callback, list(watch.rates.values())

    callback, rates = run()
    planned = LRSchedule.constant(TOTAL, 0.1).with_decay(start=50, steps=60, shape="linear")
    np.testing.assert_allclose(rates, [*planned.to_array(), *[0.0] * 10], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(callback.forecaster.schedule.to_array(), rates, atol=1e-15)
    begun = "the learning rate decays from step 50 to 110 (linear), as recommended"
    assert warnings_in(caplog).count(begun) == 1
    caplog.clear()
    callback, resumed = run(str(tmp_path / "checkpoint-70"))
    assert resumed == rates[70:]
    np.testing.assert_allclose(callback.forecaster.schedule.to_array(), rates, atol=1e-15)
    assert begun not in warnings_in(caplog)


def test_an_ordinary_scheduler_is_left_alone_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TransformersLossForecast(apply=True, policy=decay_from(30), every_n_steps=10)
    trainer, watch = train(tmp_path / "asked", [callback])
    _, bare = train(tmp_path / "bare", [])
    first, *others = warnings_in(caplog)
    assert "no decay will be started: apply=True needs a SteerableLR" in first
    assert all(each.endswith("change the schedule: scripted") for each in others)
    assert trainer.state.global_step == TOTAL
    assert watch.rates == bare.rates
    assert callback.forecast is not None
    assert not callback.switched_off


def test_a_run_that_cannot_beat_the_best_of_the_store_is_stopped(tmp_path: Path) -> None:
    def run(level: float, **options: Any) -> int:
        about = RunInfo(dataset="scripted losses")
        callback = TransformersLossForecast(
            store=tmp_path / "runs.db", every_n_steps=5, run=about, **options
        )
        model = Scripted(lambda step: noisy(step) + level)
        trainer, _ = train(tmp_path, [callback], model=model)
        return trainer.state.global_step

    assert run(0.0, stop=True) == TOTAL
    assert run(2.0) == TOTAL, "only with stop=True"
    assert 10 < run(2.0, stop=True) < 100
    store = RunStore(tmp_path / "runs.db")
    worse, advised, best = store.runs()
    assert [run.state for run in (worse, advised, best)] == ["stopped", "finished", "finished"]
    assert best.outcome == pytest.approx(smooth(TOTAL), abs=0.02)
    last = store.decisions(worse.key)[-1]
    assert (last["action"], last["reason"]) == ("stop", "target_miss")
    assert f"below the target {best.outcome:g}" in last["message"]


def test_an_evaluation_after_training_is_of_other_data(tmp_path: Path) -> None:
    callback = TransformersLossForecast("eval_loss")
    model = Scripted()
    trainer, _ = train(tmp_path, [callback], model=model, **EVALUATE)
    assert callback.forecaster is not None
    before = callback.forecaster.history.state_dict()
    model.loss_of = lambda step: 9.0
    assert trainer.evaluate()["eval_loss"] == 9.0
    assert callback.forecaster.history.state_dict() == before
