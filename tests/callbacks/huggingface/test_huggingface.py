"""`TransformersLossForecast` in the real Hugging Face Trainer."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from lossforecast import Forecaster, LRSchedule
from lossforecast.callbacks import AnnealingProbe, TransformersLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.errors import ConfigurationError
from lossforecast.policies import Action, Reason, Recommendation, Situation
from lossforecast.runs.windows import mean_step

STEPS = 240


def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=17, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    return GPT2LMHeadModel(config)


def data() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(17, (64, 1), generator=generator) + torch.arange(16)
    noise = torch.randint(17, (64, 16), generator=generator)
    rows = torch.where(torch.rand(64, 16, generator=generator) < 0.1, noise, rows % 17)
    return [{"input_ids": row, "labels": row} for row in rows]


class Watch(TrainerCallback):
    """Notes what the Trainer logs."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses[state.global_step] = logs["loss"]


def train(
    folder: Path,
    callback: TransformersLossForecast | None = None,
    *,
    resume: bool | str = False,
    stop_at: int | None = None,
    eval_dataset: Any = None,
    **options: Any,
) -> tuple[Trainer, Watch]:
    watch, net = Watch(), model()

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == stop_at:
                control.should_training_stop = True

    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 12,
        "logging_steps": 4,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 1,
        **options,
    }
    trainer = Trainer(
        model=net,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=data(),
        eval_dataset=eval_dataset or data()[:8],
        callbacks=[watch, Stop(), *([callback] if callback else [])],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, watch


def weights(trainer: Trainer) -> list[torch.Tensor]:
    assert trainer.model is not None
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_training_is_the_same_with_callback_and_probe(tmp_path: Path, accumulate: int) -> None:
    bare, _ = train(tmp_path, gradient_accumulation_steps=accumulate)
    callback = TransformersLossForecast(every_n_steps=20, probe=AnnealingProbe(cost=0.1))
    watched, watch = train(tmp_path, callback, gradient_accumulation_steps=accumulate)
    assert all(map(torch.equal, weights(bare), weights(watched)))
    assert callback.forecaster is not None
    assert not callback.switched_off
    assert callback.forecaster._gaps
    # a look is at the loss of a micro-batch, whatever the accumulation divides losses by
    raw = [abs(gap.value) for gap in callback.forecaster._gaps]
    assert np.median(raw) < 0.5 * watch.losses[4]
    expected = Forecaster(callback.forecaster.schedule)
    for step, loss in watch.losses.items():
        expected.observe(int(mean_step(step - 4, step - 1)), loss)
    seen, wanted = callback.forecaster.history.bins(), expected.history.bins()
    np.testing.assert_allclose(seen.mean, wanted.mean)
    np.testing.assert_array_equal(seen.last, wanted.last)
    assert callback.forecast is not None
    assert np.isfinite(callback.forecast.mean)


def test_the_plan_is_that_of_the_scheduler(tmp_path: Path) -> None:
    callback = TransformersLossForecast(every_n_steps=20)
    train(tmp_path, callback)
    assert callback.forecaster is not None
    plan = LRSchedule.cosine(STEPS, 3e-3, warmup=12)
    there = callback.forecaster.schedule.to_array()
    np.testing.assert_allclose(there[12:], plan.to_array()[12:], rtol=0.02, atol=1e-5)
    assert callback.forecaster.run.optimizer == "AdamW"
    assert callback.forecaster.run.metric == "train"


def test_a_resumed_run_forecasts_and_measures_the_same(tmp_path: Path) -> None:
    def callback(found: list[Update]) -> TransformersLossForecast:
        probe = AnnealingProbe(cost=0.1)
        return TransformersLossForecast(every_n_steps=12, probe=probe, sinks=[found.append])

    whole: list[Update] = []
    parts: list[Update] = []
    first = callback(whole)
    train(tmp_path / "whole", first)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 120}
    train(tmp_path / "parts", callback(parts), stop_at=120, **options)
    second = callback(parts)
    train(tmp_path / "parts", second, resume=True, **options)
    assert (tmp_path / "parts" / "checkpoint-120" / "lossforecast_probe.pt").exists()
    assert first.forecaster is not None
    assert second.forecaster is not None
    assert second.forecaster._gaps == first.forecaster._gaps
    means = {update.step: update.forecast.mean for update in whole}
    again = {update.step: update.forecast.mean for update in parts}
    assert {step: mean for step, mean in again.items() if step > 120} == {
        step: mean for step, mean in means.items() if step > 120
    }


def test_it_stops_the_trainer_only_if_asked_to(tmp_path: Path) -> None:
    def policy(situation: Situation) -> Recommendation | None:
        if situation.history.last_step < 100:
            return None
        return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: scripted")

    for stop in (False, True):
        callback = TransformersLossForecast(every_n_steps=12, policy=policy, stop=stop)
        trainer, _ = train(tmp_path, callback)
        assert (trainer.state.global_step < STEPS) is stop
        assert callback.recommendation is not None
        assert callback.recommendation.action is Action.STOP


def test_a_metric_of_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TransformersLossForecast("eval_loss", every_n_steps=20)
    trainer, _ = train(tmp_path, callback, eval_strategy="steps", eval_steps=12)
    logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert callback.forecaster is not None
    np.testing.assert_allclose(callback.forecaster.history.bins().mean, logged)
    assert callback.forecaster.history.last_step == STEPS


@pytest.mark.parametrize("monitor", ["eval_second_loss", "missing"])
@pytest.mark.parametrize("steps", [pytest.param(40, marks=pytest.mark.slow), STEPS])
def test_a_metric_that_is_missing_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monitor: str, steps: int
) -> None:
    """Of several sets of data, each is evaluated by itself."""
    sets = {"first": data()[:8], "second": data()[8:16]}
    callback = TransformersLossForecast(monitor)
    train(tmp_path, callback, eval_strategy="steps", eval_steps=steps, eval_dataset=sets)
    told = [r.message for r in caplog.records if "nothing to forecast" in r.message]
    assert len(told) == (monitor == "missing")
    assert all("'missing' is not among the metrics" in each for each in told)
    assert all("eval_first_loss" in each and "eval_second_loss" in each for each in told)


def test_a_callback_can_be_used_again_and_is_restored_by_the_trainer(tmp_path: Path) -> None:
    callback = TransformersLossForecast(every_n_steps=20)
    train(tmp_path, callback)
    once = copy.copy(callback.forecast)
    train(tmp_path, callback)
    assert once is not None
    assert callback.forecast is not None
    assert callback.forecast.mean == once.mean
    again: Any = TransformersLossForecast.from_state(callback.state())  # type: ignore
    assert (again.settings.monitor, again.settings.every_n_steps) == (None, 20)
    assert again._saved is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("probe", 3),
        ("run", "x"),
        ("sinks", print),
        ("sinks", [3]),
        ("sinks", None),
        ("stop", "yes"),
        ("apply", 1),
        ("monitor", ""),
        ("schedule", [1, 2]),
    ],
)
def test_misuse_is_refused_by_name(name: str, value: Any) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=name) as error:
        TransformersLossForecast(**given)
    assert repr(value) in str(error.value) or type(value).__name__ in str(error.value)


def test_misuse_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="monitor must be the name"):
        TransformersLossForecast(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="target"):
        TransformersLossForecast(target=float("nan"))
