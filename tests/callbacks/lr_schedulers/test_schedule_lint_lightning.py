"""The schedule lint under Lightning Trainers."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support.lightning_runs import IGNORED_WARNINGS, loader, trainer_of
from support.lint_runs import (
    BATCHES,
    EPOCHS,
    AdamWScheduleFree,
    Make,
    N,
    faulty,
    like_transformers,
    linear_with_warmup,
    of_length,
    torch_lr,
    warmed_up,
    warnings_without_error,
)

from lossforecast import LRSchedule
from lossforecast.callbacks import LightningLossForecast

pytestmark = [
    *IGNORED_WARNINGS,
    pytest.mark.filterwarnings(
        "ignore:A .OneCycleLR. scheduler is using 'interval':RuntimeWarning"
    ),
]


class Tiny(pl.LightningModule):
    """One weight; if `by_hand`, the scheduler is stepped after every `pace` optimizer steps."""

    def __init__(
        self, make: Make | None, by_hand: bool = False, pace: int = 1, **config: Any
    ) -> None:
        super().__init__()
        self.n_taken = 0
        self.stepped_every = pace
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.make, self.config = make, config
        self.automatic_optimization = not by_hand

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.weight.sum() + 1 / (self.global_step + 1)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            self.manual_backward(loss)
            optimizer.step()
            self.n_taken += 1
            scheduler: Any = self.lr_schedulers()
            if scheduler is not None and self.n_taken % self.stepped_every == 0:
                scheduler.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.weight.sum())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        if self.make is None:
            return optimizer
        return [optimizer], [{"scheduler": self.make(optimizer), **self.config}]


def fit(
    module: pl.LightningModule, callback: Any = None, ckpt: Any = None, **options: Any
) -> pl.Trainer:
    if "max_steps" not in options and "max_time" not in options:
        options["max_epochs"] = options.get("max_epochs", EPOCHS)
    trainer = trainer_of(
        callback or LightningLossForecast(every_n_steps=50),
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
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("name", of_length(EPOCHS))
def test_a_right_scheduler_of_epochs_under_a_trainer_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    extra: dict[str, Any] = {"monitor": "val_loss"} if name == "plateau" else {}
    fit(Tiny(of_length(EPOCHS)[name], **extra))
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("name", ["cosine", "one cycle", "polynomial"])
def test_a_few_epochs_are_left_alone(
    name: str, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Tiny(of_length(epochs)[name]), max_epochs=epochs)
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("accumulate", [3, 4])
def test_accumulation_and_a_frequency_are_counted(
    accumulate: int, caplog: pytest.LogCaptureFixture
) -> None:
    steps = EPOCHS * math.ceil(BATCHES / accumulate)
    fit(Tiny(of_length(steps)["one cycle"], interval="step"), accumulate_grad_batches=accumulate)
    fit(Tiny(of_length(EPOCHS // 2)["cosine"], frequency=2))
    assert warnings_without_error(caplog) == []


def test_a_module_without_a_scheduler_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    fit(Tiny(None))
    fit(Tiny(None), max_steps=50)
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize(
    "name",
    ["cosine for twice the run", "polynomial for half of the run", "a restart at the very end"],
)
def test_a_wrong_scheduler_under_a_trainer_is_told_about_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, flaw, words = faulty(N)[name]
    fit(Tiny(make, interval="step"))
    (message,) = warnings_without_error(caplog)
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
    (message,) = warnings_without_error(caplog)
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
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_too_often: " in message
    assert "seems made for 10 epochs" in message
    assert "stepped 200 times" in message
    assert "trainer.estimated_stepping_batches" in message
    caplog.clear()
    fit(Tiny(EPOCHWISE[name]))
    assert warnings_without_error(caplog) == []


@pytest.mark.parametrize("epochs", [4, 5, 7])
def test_a_cosine_of_epochs_that_happens_to_end_low(
    epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    make = of_length(epochs)["cosine"]
    fit(Tiny(make, interval="step"), max_epochs=epochs, limit_train_batches=5)
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_too_often: " in message


@pytest.mark.parametrize(
    "name", ["cosine", "cosine after a warm-up", "one cycle", "polynomial", "transformers' cosine"]
)
def test_a_scheduler_of_steps_with_the_interval_of_epochs(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Tiny(of_length(N)[name]))
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, stepped_too_seldom: " in message
    assert "seems made for 200 optimizer steps, but is stepped once an epoch, 10 times" in message
    assert '"interval": "step"' in message


def test_a_scheduler_that_is_stepped_by_hand_is_checked_at_its_own_pace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit(Tiny(faulty(N)["polynomial for half of the run"][0], by_hand=True))
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, horizon_short: " in message
    caplog.clear()
    fit(Tiny(of_length(EPOCHS)["cosine"], by_hand=True, pace=BATCHES))
    assert warnings_without_error(caplog) == []


def test_a_scheduler_that_is_never_stepped_is_told_about(caplog: pytest.LogCaptureFixture) -> None:
    fit(Tiny(of_length(N)["cosine"], by_hand=True, pace=10**6))
    (message,) = warnings_without_error(caplog)
    assert "CosineAnnealingLR is never stepped" in message


def test_a_schedule_given_to_the_callback_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    fit(Tiny(None), LightningLossForecast(schedule=LRSchedule.cosine(N, 0.1), every_n_steps=20))
    (message,) = warnings_without_error(caplog)
    assert "the learning rate differs from the given schedule" in message
    caplog.clear()
    plan = LRSchedule.cosine(100, 0.1).extended_to(N)
    fit(Tiny(None), LightningLossForecast(schedule=plan, every_n_steps=20))
    assert "schedule lint, horizon_short: " in " ".join(warnings_without_error(caplog))


def test_a_resumed_trainer_is_not_told_again(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    make = faulty(N)["cosine for twice the run"][0]
    trainer = fit(Tiny(make, interval="step"), max_steps=N)
    assert len(warnings_without_error(caplog)) == 1
    caplog.clear()
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    fit(Tiny(make, interval="step"), ckpt=tmp_path / "end.ckpt", max_steps=N + 50)
    assert [
        message for message in warnings_without_error(caplog) if "schedule lint" in message
    ] == []


def test_a_trainer_is_told_of_a_schedule_free_optimizer(caplog: pytest.LogCaptureFixture) -> None:
    class Free(Tiny):
        def configure_optimizers(self) -> Any:
            return AdamWScheduleFree(self.parameters(), lr=0.1)

    fit(Free(None))
    (message,) = warnings_without_error(caplog)
    assert "schedule lint, schedule_free: AdamWScheduleFree" in message


def test_only_the_first_process_of_a_trainer_speaks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda self: False))
    fit(Tiny(faulty(N)["cosine for twice the run"][0], interval="step"))
    assert warnings_without_error(caplog) == []
