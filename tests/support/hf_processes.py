"""Real Trainers for `test_huggingface_runs`; as a script, one in each of two processes.

Called with the folder for what was found.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from lossforecast.callbacks import TransformersLossForecast
from lossforecast.callbacks.distributed import Team
from lossforecast.callbacks.monitor.update import Update
from support.logs import WarningLog
from support.pacing import PATIENT, keep_pace
from support.policies import stop_from

TOTAL = 120


def smooth(step: int) -> float:
    return float(2 + 3 * (step + 5.0) ** -0.5)


def noisy(step: int) -> float:
    return smooth(step) + 0.02 * float(np.random.default_rng(step).normal())


def apart(step: int, rank: int) -> float:
    """Another loss in each process."""
    return smooth(step) + 0.02 * float(np.random.default_rng([step, rank]).normal())


class Scripted(torch.nn.Module):
    """Its loss is a function of the optimizer steps taken, whatever its weights; no gradient."""

    def __init__(self, loss_of: Callable[[int], float] = noisy, micro_batches: int = 1) -> None:
        super().__init__()
        self.loss_of, self.micro_batches = loss_of, micro_batches
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.calls: torch.Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))  # kept in checkpoints

    def forward(self, x: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        loss = self.loss_of(int(self.calls) // self.micro_batches)
        self.calls += int(self.training)
        return {"loss": 0 * self.weight.sum() + loss, "logits": x}


def tiny_gpt() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=17, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    )


def rows(model: torch.nn.Module) -> list[dict[str, torch.Tensor]]:
    """What the model can take: of a GPT 7 batches of 8, which 3 does not divide."""
    if isinstance(model, Scripted):
        return [{"x": torch.ones(1), "labels": torch.ones(1)}] * 48
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(17, (56, 1), generator=generator)
    return [{"input_ids": row, "labels": row} for row in (start + torch.arange(16)) % 17]


class Watch(TrainerCallback):
    """Notes what there is to see from outside at each optimizer step; maybe fails after one."""

    trainer: Trainer

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.rates: dict[int, float] = {}
        """Learning rate of each optimizer step."""
        self.losses: dict[int, float] = {}
        """What was logged after how many steps."""
        self.forecasts: dict[int, tuple[Any, ...]] = {}
        """The latest of those made of what was seen up to a step, and what was recommended."""

    def look(self) -> None:
        for each in self.trainer.callback_handler.callbacks:
            if not isinstance(each, TransformersLossForecast):
                continue
            advice = each.recommendation  # set after the forecast
            if advice is not None and each.forecast is not None:
                self.forecasts[each.forecast.made_at] = (
                    each.forecast.mean,
                    each.forecast.std,
                    advice.action,
                    advice.reason,
                    advice.message,
                )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rate = kwargs["optimizer"].param_groups[0]["lr"]
        self.rates[state.global_step + 1] = float(rate)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses[state.global_step] = logs["loss"]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.look()
        if state.global_step == self.fail_at:
            raise ValueError("the user's own")


def train(
    folder: Path,
    callbacks: Iterable[TransformersLossForecast],
    *,
    model: torch.nn.Module | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    fail_at: int | None = None,
    resume: bool | str | None = None,
    go: bool = True,
    first: Iterable[TrainerCallback] = (),
    kind: type[Trainer] = Trainer,
    **options: Any,
) -> tuple[Trainer, Watch]:
    """A Trainer that has trained, or is to, and what was seen in it."""
    model, watch = Scripted() if model is None else model, Watch(fail_at)
    given: dict[str, Any] = {}
    if scheduler is not None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        given["optimizers"] = optimizer, scheduler(optimizer)
    settings: dict[str, Any] = {
        "max_steps": -1 if "num_train_epochs" in options else TOTAL,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 6,
        "logging_steps": 2,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": False,
        "seed": 1,
        **options,
    }
    data: Any = rows(model)
    trainer = kind(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=data,
        eval_dataset=data[:8],
        callbacks=[watch, *first, *callbacks],
        **given,
    )
    watch.trainer = trainer
    if go:
        trainer.train(resume_from_checkpoint=resume)
    watch.look()
    return trainer, watch


def together(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    """A run in this process and in another one, as it looks from here."""

    def loss_of(step: int) -> float:
        keep_pace(step)
        return apart(step, dist.get_rank())

    log, updates = WarningLog(), list[Update]()
    logging.getLogger("lossforecast").addHandler(log)
    callback = TransformersLossForecast(
        sinks=[updates.append], every_n_steps=10, store=folder / f"{name}.db", **options
    )
    trainer, watch = train(folder / name, [callback], model=Scripted(loss_of))
    logging.getLogger("lossforecast").removeHandler(log)
    assert callback.forecaster is not None
    bins = callback.forecaster.history.bins()
    return {
        "steps": trainer.state.global_step,
        "log": log.lines,
        "off": callback.switched_off,
        "epoch": callback.forecaster.run.steps_per_epoch,
        "logged": watch.losses,
        "seen": dict(zip(bins.last.tolist(), bins.mean.tolist(), strict=True)),
        "forecasts": [[update.step, update.forecast.made_at] for update in updates],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    Team.timeouts = PATIENT
    where = Path(sys.argv[1])
    found = {
        "whole": together(where, "whole"),
        "stopped": together(where, "stopped", stop=True, policy=stop_from(60)),
    }
    (where / f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
