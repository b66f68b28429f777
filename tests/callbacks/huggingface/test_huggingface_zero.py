"""A logged loss of 0: one that has reached 0, or one that is nan and that the Trainer hides."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hf_processes import TOTAL, Scripted, noisy, train
from transformers import Trainer, TrainingArguments

from lossforecast import RunStore
from lossforecast.callbacks import TransformersLossForecast
from lossforecast.callbacks.huggingface.logs import logged_loss
from lossforecast.policies import Reason
from lossforecast.status import Caveat


class Breaks(Scripted):
    """Its loss is nan from a batch on, and so are its gradients."""

    def __init__(self, sound: int = 60, loss_of: Any = noisy) -> None:
        super().__init__(loss_of)
        self.sound = sound

    def forward(self, x: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        out = super().forward(x, labels)
        return {**out, "loss": out["loss"] * (float("nan") if self.calls > self.sound else 1.0)}


class Hinge(Scripted):
    """A hinge loss of two groups of points that a plane separates: it reaches 0."""

    def forward(self, x: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        self.calls += int(self.training)
        generator = torch.Generator().manual_seed(int(self.calls))
        points = torch.randn(64, 3, generator=generator)
        side = points @ torch.tensor([1.0, -2.0, 1.0])
        points, side = points[side.abs() > 1], side[side.abs() > 1].sign()
        return {"loss": torch.relu(1 - side * (points @ self.weight)).mean(), "logits": x}


class Terse(Trainer):
    """Logs no gradient norm, as releases before 5 do with ``max_grad_norm=0``."""

    def log(self, logs: dict[str, float], *others: Any, **options: Any) -> None:
        super().log({k: v for k, v in logs.items() if k != "grad_norm"}, *others, **options)


KINDS: dict[str, dict[str, Any]] = {
    "norm": {},
    "not clipped": {"max_grad_norm": 0.0},
    "bf16": {"bf16": True},
    "every step": {"logging_steps": 1},
    "no norm": {"kind": Terse},
    "no norm, every step": {"kind": Terse, "logging_steps": 1},
}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())


@kinds
def test_a_loss_that_has_reached_0_is_no_reason_to_stop(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    callback = TransformersLossForecast(stop=True, every_n_steps=2)
    trainer, watch = train(tmp_path, [callback], model=Hinge(), learning_rate=0.2, **options)
    assert list(watch.losses.values()).count(0.0) > 10
    assert trainer.state.global_step == TOTAL
    assert callback.forecaster is not None
    assert callback.forecaster.history.n_non_finite == 0
    assert callback.forecaster.history.n_observed == len(watch.losses)


@kinds
def test_a_loss_that_the_trainer_hides_is_nan_and_a_reason_to_stop(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """With the Trainer's default filter, which logs 0."""
    callback = TransformersLossForecast(stop=True, every_n_steps=2, store=tmp_path / "runs.db")
    trainer, watch = train(tmp_path, [callback], model=Breaks(), **options)
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
    assert math.isnan(run.outcome)  # and not the 0 that the Trainer logged


def test_a_run_that_is_nan_from_its_first_loss_has_no_finite_loss(tmp_path: Path) -> None:
    callback = TransformersLossForecast(every_n_steps=12)
    _, watch = train(tmp_path, [callback], model=Breaks(sound=0))
    assert set(watch.losses.values()) == {0.0}
    assert callback.forecaster is not None
    assert callback.forecaster.history.n_observed == 0
    assert callback.forecaster.history.n_non_finite == len(watch.losses)


@pytest.mark.parametrize("options", [{}, {"kind": Terse}], ids=["norm", "no norm"])
def test_a_loss_of_0_from_the_first_step_on_is_a_0(tmp_path: Path, options: dict[str, Any]) -> None:
    callback = TransformersLossForecast(stop=True, every_n_steps=2)
    trainer, _ = train(tmp_path, [callback], model=Scripted(lambda _: 0.0), **options)
    assert trainer.state.global_step == TOTAL
    assert callback.forecaster is not None
    assert callback.forecaster.history.n_non_finite == 0


def test_losses_are_taken_as_they_are_without_the_filter(tmp_path: Path) -> None:
    callback = TransformersLossForecast(every_n_steps=12)
    model = Breaks(100, lambda step: float(step < 60))
    train(tmp_path, [callback], model=model, kind=Terse, logging_nan_inf_filter=False)
    assert callback.forecaster is not None
    history = callback.forecaster.history
    assert history.bins().mean[-1] == 0.0
    assert history.n_non_finite == 10


@pytest.mark.parametrize(
    ("loss", "norm", "hidden"), [(0.0, 0.0, False), (0.0, math.inf, True), (2.0, math.inf, False)]
)
def test_with_fp16_an_infinite_norm_only_tells_what_a_0_is(
    tmp_path: Path, loss: float, norm: float, hidden: bool
) -> None:
    """The gradient scaler needs a GPU to train with; the logs need none."""
    args = TrainingArguments(str(tmp_path), fp16=True, use_cpu=True, report_to=[])
    found = logged_loss({"loss": loss, "grad_norm": norm}, args, lambda: True)
    assert math.isnan(found) is hidden
