"""`SteerableLR` in the Hugging Face Trainer, which steps it after each optimizer step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from lossforecast import LRSchedule
from lossforecast.callbacks import SteerableLR, schedule_from_torch

TOTAL, PEAK = 60, 0.5


class Tiny(torch.nn.Module):
    """A loss, as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x).square().mean()}


class Steer(TrainerCallback):
    """Begins a decay at step 20, and notes the rate of every optimizer step."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates[state.global_step + 1] = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 20:
            kwargs["lr_scheduler"].begin_decay(30, "sqrt")


def train(folder: Path, resume: str | None = None, accumulate: int = 1) -> dict[int, float]:
    model, steer = Tiny(), Steer()
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK)
    scheduler: Any = SteerableLR(optimizer, TOTAL, warmup=5, decay_fraction=0)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=TOTAL,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulate,
        save_steps=30,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"x": torch.ones(1)}] * 16,
        optimizers=(optimizer, scheduler),
        callbacks=[steer],
    )
    trainer.train(resume_from_checkpoint=resume)
    return steer.rates


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_hugging_face_trainer_steps_it_and_resumes_mid_decay(
    tmp_path: Path, accumulate: int
) -> None:
    whole = train(tmp_path, accumulate=accumulate)
    plan = LRSchedule.constant(TOTAL, PEAK, warmup=5).with_decay(start=21, steps=30, shape="sqrt")
    rates = [whole[step] for step in range(1, TOTAL + 1)]
    expected = [*plan.to_array(), *[0.0] * (TOTAL - plan.total_steps)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-15)
    resumed = train(tmp_path, str(tmp_path / "checkpoint-30"), accumulate)
    assert resumed == {step: rate for step, rate in whole.items() if step > 30}


def test_accelerates_wrapper_is_looked_through() -> None:
    from accelerate.scheduler import AcceleratedScheduler  # type: ignore[import-untyped]

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
    scheduler = SteerableLR(optimizer, TOTAL, warmup=5)
    wrapped = AcceleratedScheduler(scheduler, [optimizer])
    plan = schedule_from_torch(wrapped, total_steps=TOTAL)
    assert plan.to_array().tolist() == [PEAK * scheduler.share(i) for i in range(1, TOTAL + 1)]
