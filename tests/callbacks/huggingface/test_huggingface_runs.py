"""`TransformersLossForecast` over whole runs: resumed, steered, stopped, in two processes."""

import gc
import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.hf_processes import (
    TOTAL,
    Scripted,
    Watch,
    apart,
    noisy,
    smooth,
    stop_from,
    tiny_gpt,
    train,
)
from support.loop_processes import decay_from
from transformers import TrainerCallback

from lossforecast import Forecaster, LRSchedule, RunInfo, RunStore
from lossforecast.callbacks import AnnealingProbe, SteerableLR, TransformersLossForecast
from lossforecast.callbacks.capture.loss_capture import innermost
from lossforecast.callbacks.monitor.update import Update
from lossforecast.policies.recommend import Reason
from lossforecast.runs.windows import mean_step
from lossforecast.status import Caveat

SUPPORT = Path(__file__).parents[2] / "support"
SCRIPT = SUPPORT / "hf_processes.py"
SAVE: dict[str, Any] = {"save_strategy": "steps", "save_steps": 60}
EVALUATE: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 4}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [each for each in caplog.records if each.name == "lossforecast"]
    return [each.getMessage() for each in records if each.levelno >= logging.WARNING]


def ours(trainer: Any) -> list[TransformersLossForecast]:
    """The callbacks that a Trainer has in the end; it may have made them anew."""
    each = trainer.callback_handler.callbacks
    return [one for one in each if isinstance(one, TransformersLossForecast)]


# ---------------------------------------------------------------------- resumed


@pytest.mark.parametrize("restore", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("model", "monitor", "options"),
    [
        pytest.param(Scripted, None, {}, marks=pytest.mark.slow),
        pytest.param(Scripted, "eval_loss", EVALUATE, marks=pytest.mark.slow),
        pytest.param(
            lambda: Scripted(micro_batches=3),
            None,
            {"gradient_accumulation_steps": 3},
            marks=pytest.mark.slow,
        ),
        (tiny_gpt, None, {"gradient_accumulation_steps": 3}),
        (tiny_gpt, "eval_loss", EVALUATE),
    ],
    ids=["train", "eval", "accumulated", "gpt accumulated", "gpt eval"],
)
def test_a_resumed_run_forecasts_recommends_and_is_stored_as_if_never_stopped(
    tmp_path: Path, model: Any, monitor: str | None, options: dict[str, Any], restore: bool
) -> None:
    def callback(name: str) -> TransformersLossForecast:
        about = RunInfo(project="resumed", task="a test")
        return TransformersLossForecast(
            monitor, target=2.25, every_n_steps=4, store=tmp_path / name, run=about
        )

    _, whole = train(tmp_path / "whole", [callback("whole.db")], model=model(), **options)
    again = {**options, **SAVE, "restore_callback_states_from_checkpoint": restore}
    with pytest.raises(ValueError, match="the user's own"):
        train(tmp_path / "run", [callback("run.db")], model=model(), fail_at=75, **again)
    _, resumed = train(tmp_path / "run", [callback("run.db")], model=model(), resume=True, **again)
    first = min(resumed.forecasts)
    assert 60 <= first <= 64
    assert len(resumed.forecasts) == 15
    assert resumed.forecasts == {at: each for at, each in whole.forecasts.items() if at >= first}

    stores = [RunStore(tmp_path / name) for name in ("whole.db", "run.db")]
    (alone,), (run,) = (store.runs() for store in stores)
    assert (run.state, run.step, run.run) == ("finished", alone.step, alone.run)
    assert run.run.task == "a test"
    kept, wanted = stores[1].forecasts(run.key), stores[0].forecasts(alone.key)
    assert kept == wanted
    made = {row["made_at"]: row["mean"] for row in kept}
    assert {at: each[0] for at, each in whole.forecasts.items()}.items() <= made.items()
    assert len(made) >= 30


def test_two_callbacks_in_one_run_are_both_resumed(tmp_path: Path) -> None:
    def run(folder: Path, **options: Any) -> dict[str, dict[int, float]]:
        updates: dict[str, list[Update]] = {"loss": [], "eval_loss": []}
        callbacks = [
            TransformersLossForecast(monitor, every_n_steps=4, sinks=[updates[name].append])
            for monitor, name in ((None, "loss"), ("eval_loss", "eval_loss"))
        ]
        train(folder, callbacks, **EVALUATE, **options)
        return {
            name: {each.step: each.forecast.mean for each in found}
            for name, found in updates.items()
        }

    whole = run(tmp_path / "whole", **SAVE)
    checkpoint = str(tmp_path / "whole" / "checkpoint-60")
    for name, resumed in run(tmp_path / "resumed", resume=checkpoint).items():
        assert list(resumed) == list(range(64, TOTAL + 1, 4))
        assert resumed == {step: mean for step, mean in whole[name].items() if step > 60}


def test_a_subclass_is_resumed_and_callbacks_of_one_monitor_each_with_its_own(
    tmp_path: Path,
) -> None:
    class Ours(TransformersLossForecast):
        pass

    def run(folder: Path, **options: Any) -> list[dict[int, float]]:
        updates: list[list[Update]] = [[], [], []]
        laws = ("annealing", "power", "auto")
        kinds = (TransformersLossForecast, TransformersLossForecast, Ours)
        callbacks = [
            kind(laws=law, every_n_steps=4, sinks=[found.append])
            for kind, law, found in zip(kinds, laws, updates, strict=True)
        ]
        train(folder, callbacks, **options)
        return [{each.step: each.forecast.mean for each in found} for found in updates]

    whole = run(tmp_path / "whole", **SAVE)
    resumed = run(tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-60"))
    for before, after in zip(whole, resumed, strict=True):
        assert list(after) == list(range(64, TOTAL + 1, 4))
        assert after == {step: mean for step, mean in before.items() if step > 60}
    assert whole[0] != whole[1]


def test_what_the_trainer_made_anew_says_what_it_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def callback() -> TransformersLossForecast:
        policy, probe = stop_from(200), AnnealingProbe(cost=0.1)
        return TransformersLossForecast(policy=policy, probe=probe, sinks=[print], every_n_steps=20)

    whole = callback()
    train(tmp_path, [whole], **SAVE)
    assert not whole.switched_off
    resume: dict[str, Any] = {"resume": str(tmp_path / "checkpoint-60")}
    for restore, said in (
        (False, []),
        (True, ["without its policy and probe and sinks: leave that option out"]),
    ):
        caplog.clear()
        options = {"restore_callback_states_from_checkpoint": restore, **resume}
        trainer, _ = train(tmp_path, [callback()], **options)
        assert [each.switched_off for each in ours(trainer)] == [False]
        lines = told(caplog)
        assert len(lines) == len(said)
        assert all(part in line for part, line in zip(said, lines, strict=True))


def test_a_checkpoint_tells_where_the_store_is_but_no_password(tmp_path: Path) -> None:
    secret = "postgresql+psycopg://me:secret@127.0.0.1:1/runs"
    for given, kept in (
        (tmp_path / "runs.db", str(tmp_path / "runs.db")),
        (RunStore(tmp_path / "runs.db"), f"sqlite:///{tmp_path}/runs.db"),
        (secret, None),
        (secret.replace("me:secret@", ""), secret.replace("me:secret@", "")),
        (None, None),
    ):
        state = TransformersLossForecast(store=given).state()
        assert state["args"]["store"] == kept
        assert "secret" not in json.dumps(state)
        assert state["attributes"]["_missing"] == (["store"] if given == secret else [])


def test_averages_of_another_run_or_none_are_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def callback() -> TransformersLossForecast:
        return TransformersLossForecast(probe=AnnealingProbe(cost=0.1), every_n_steps=20)

    def resumed(folder: str) -> list[str]:
        caplog.clear()
        checkpoint = str(tmp_path / "run" / "checkpoint-60")
        train(tmp_path / folder, [callback()], resume=checkpoint)
        return told(caplog)

    for name in ("run", "other"):
        train(tmp_path / name, [callback()], **SAVE)
    assert resumed("run") == []
    (line,) = resumed("other")
    assert "other/checkpoint-60/lossforecast_probe.pt is of another run" in line
    (line,) = resumed("elsewhere")
    assert "elsewhere/checkpoint-60/lossforecast_probe.pt is missing" in line


def test_a_probe_without_labels_says_what_it_needs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TransformersLossForecast(every_n_steps=12, probe=AnnealingProbe(cost=0.1))
    train(tmp_path, [callback], model=tiny_gpt(), label_smoothing_factor=0.1)
    (record,) = [each for each in caplog.records if each.exc_info]
    assert record.exc_info is not None
    assert "give AnnealingProbe(loss, batches=[...])" in str(record.exc_info[1])
    assert not callback.switched_off


# ---------------------------------------------------------------------- the plan


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
    """Of a run that is logged ten times."""
    total, width = 600, 60
    updates: list[Update] = []
    callback = TransformersLossForecast(every_n_steps=width, sinks=[updates.append])
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
    assert ours < 0.7 * theirs


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
    assert told(caplog).count(begun) == 1
    caplog.clear()
    callback, resumed = run(str(tmp_path / "checkpoint-70"))
    assert resumed == rates[70:]
    np.testing.assert_allclose(callback.forecaster.schedule.to_array(), rates, atol=1e-15)
    assert begun not in told(caplog)


def test_an_ordinary_scheduler_is_left_alone_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TransformersLossForecast(apply=True, policy=decay_from(30), every_n_steps=10)
    trainer, watch = train(tmp_path / "asked", [callback])
    _, bare = train(tmp_path / "bare", [])
    first, *others = told(caplog)
    assert "no decay will be begun: apply=True needs a SteerableLR" in first
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


# ---------------------------------------------------------------------- what the Trainer tells


class Breaks(Scripted):
    """Its loss is nan from a step on, and so are its gradients."""

    def forward(self, x: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        out = super().forward(x, labels)
        return {**out, "loss": out["loss"] * (float("nan") if self.calls > 60 else 1.0)}


@pytest.mark.parametrize("clipped", [1.0, 0.0], ids=["norm", "no norm"])
def test_a_loss_that_the_trainer_hides_is_nan_and_a_reason_to_stop(
    tmp_path: Path, clipped: float
) -> None:
    """With the Trainer's default filter, which logs 0."""
    callback = TransformersLossForecast(stop=True, every_n_steps=2, store=tmp_path / "runs.db")
    trainer, watch = train(tmp_path, [callback], model=Breaks(), max_grad_norm=clipped)
    assert watch.losses[64] == 0.0
    assert 70 <= trainer.state.global_step < 100
    assert callback.recommendation is not None
    assert callback.recommendation.reason is Reason.NON_FINITE
    assert callback.forecast is not None
    assert Caveat.NON_FINITE in callback.forecast.caveats
    assert callback.forecaster is not None
    assert callback.forecaster.history.bins().mean.min() > 1
    assert not callback.switched_off
    (run,) = RunStore(tmp_path / "runs.db").runs()
    assert math.isnan(run.outcome)  # and not the 0 that the Trainer told


def test_losses_that_are_0_are_taken_as_they_are_without_the_filter(tmp_path: Path) -> None:
    callback = TransformersLossForecast(every_n_steps=12)
    model = Scripted(lambda step: float(step < 60))
    train(tmp_path, [callback], model=model, logging_nan_inf_filter=False, max_grad_norm=0.0)
    assert callback.forecaster is not None
    assert callback.forecaster.history.bins().mean[-1] == 0.0


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
    warning = told(caplog)[0]
    assert f"{monitor!r} is better where it is higher" in warning
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
        "capture.loss_capture._kept",
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
    assert callback.switched_off == (broken == "capture.loss_capture._kept")
    traces = [each for each in caplog.records if each.exc_info]
    assert len(traces) == {"leave": 3}.get(broken.split(".")[-1], 2)
    optimizer: Any = innermost(trainer.optimizer)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("monitor", "options", "said"),
    [
        (None, {"logging_strategy": "no"}, ["0 losses in 120 steps", "told no training loss"]),
        (None, {"logging_steps": 500}, ["0 losses in 120 steps", "told no training loss"]),
        (
            None,
            {"logging_steps": 10},
            ["12 losses in 120 steps. Give TrainingArguments(logging_st"],
        ),
        ("eval_loss", {}, ["0 losses in 120 steps", "told no eval_loss"]),
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
    lines = told(caplog)
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


def test_the_schedule_is_checked_once_when_a_run_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def longer(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * TOTAL)

    train(tmp_path, [TransformersLossForecast(every_n_steps=12)], scheduler=longer, **SAVE)
    (line,) = told(caplog)
    assert "schedule lint, horizon_long" in line
    caplog.clear()
    checkpoint = str(tmp_path / "checkpoint-60")
    train(
        tmp_path, [TransformersLossForecast(every_n_steps=12)], scheduler=longer, resume=checkpoint
    )
    assert told(caplog) == []


@pytest.mark.parametrize("length", [80, 500])
def test_a_plan_of_another_length_is_fitted_to_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    plan = LRSchedule.constant(length, 1e-3)
    callback = TransformersLossForecast(schedule=plan, every_n_steps=12)
    train(tmp_path, [callback], lr_scheduler_type="constant")
    assert f"schedule= has {length} steps, but the Trainer will take 120" in told(caplog)[0]
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


# ---------------------------------------------------------------------- two processes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("trainers")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_only_the_first_process_forecasts_the_mean_of_both_and_writes(found: Any) -> None:
    folder, results = found
    first, other = (each["whole"] for each in results)
    assert sorted({step for step, _ in first["forecasts"]}) == list(range(10, TOTAL + 1, 10))
    assert other["forecasts"] == []
    assert (first["log"], other["log"]) == ([], [])
    assert (first["off"], other["off"]) == (False, False)
    assert first["seen"] == other["seen"]
    assert first["logged"] == other["logged"]
    np.testing.assert_allclose(
        list(first["logged"].values()),
        [
            np.mean([apart(step, rank) for step in (at, at + 1) for rank in range(2)])
            for at in range(0, TOTAL, 2)
        ],
        rtol=1e-6,
    )
    store = RunStore(folder / "whole.db")
    (run,) = store.runs()
    assert run.state == "finished"
    made = [row["made_at"] for row in store.forecasts(run.key)]
    assert made == sorted({made_at for _, made_at in first["forecasts"]})


def test_every_window_reaches_the_first_process(found: Any) -> None:
    for each in found[1]:
        whole = each["whole"]
        np.testing.assert_allclose(list(whole["seen"].values()), list(whole["logged"].values()))


def test_both_processes_stop_after_the_same_step(found: Any) -> None:
    folder, results = found
    first, other = (each["stopped"] for each in results)
    assert first["steps"] == other["steps"]
    assert 60 < first["steps"] < TOTAL
    assert first["log"] == ["step 70: stop: scripted"]
    assert other["log"] == []
    (run,) = RunStore(folder / "stopped.db").runs()
    assert run.state == "stopped"
