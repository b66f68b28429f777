"""What the code in the READMEs leaves to its reader: a model, its data, a log, past runs.

`SETUPS` names, for each README, a function that gets an empty directory (the working directory of
the code) and returns the variables that the code may use without defining them.
"""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossforecast import Forecaster, LRSchedule, RunInfo, RunStore
from support.families import info_of, run_of

__all__ = ["SETUPS"]

STEPS = 1_000
SYMBOLS, BATCH, RATE = 64, 128, 0.1


class Bigram(nn.Module):
    """Predicts the next symbol of a Markov chain; the loss is the cross-entropy in nats."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(SYMBOLS, 16), nn.Linear(16, SYMBOLS)

    def forward(self, symbols: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Symbols and their successors, (batch,) each."""
        logits = self.head(self.embedding(symbols))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def batch_of_chain(generator: torch.Generator, size: int) -> dict[str, Tensor]:
    """Symbols and their successors, which are far from uniform."""
    symbols = torch.randint(SYMBOLS, (size,), generator=generator)
    shift = (torch.rand(size, generator=generator) ** 3 * SYMBOLS).long()
    return {"symbols": symbols, "labels": (symbols * 7 + shift) % SYMBOLS}


class Batches:
    """A number of random batches, the same in every pass."""

    def __init__(self, count: int, size: int = BATCH, seed: int = 0) -> None:
        self.count, self.size, self.seed = count, size, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.count):
            yield batch_of_chain(generator, self.size)


def warm_up_and_cosine(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """A torch scheduler, stepped after each optimizer step."""

    def factor(step: int) -> float:
        turn = math.pi * (step - 50) / (steps - 50)
        return (step + 1) / 50 if step < 50 else 0.55 + 0.45 * math.cos(turn)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def plain_loop(_: Path) -> dict[str, Any]:
    """Model, optimizer, scheduler and loader of a plain loop."""
    torch.manual_seed(0)
    model = Bigram()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    return {
        "torch": torch,
        "model": model,
        "optimizer": optimizer,
        "scheduler": warm_up_and_cosine(optimizer, STEPS),
        "loader": Batches(STEPS),
    }


def lightning_module() -> Any:
    """The same model as a LightningModule."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Bigram()

        def loss(self, batch: dict[str, Tensor]) -> Tensor:
            found: Tensor = self.model(**batch)["loss"]
            return found

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.loss(batch)

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch), batch_size=len(batch["labels"]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=RATE)
            scheduler = warm_up_and_cosine(optimizer, STEPS)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    torch.manual_seed(0)
    return Module()


def trainer_parts(folder: Path) -> dict[str, Any]:
    """Model, data and arguments for the Hugging Face Trainer."""
    from transformers import TrainingArguments

    def rows(count: int, seed: int) -> Any:
        batch = batch_of_chain(torch.Generator().manual_seed(seed), count)
        columns = zip(batch["symbols"], batch["labels"], strict=True)
        return [{"symbols": symbol, "labels": label} for symbol, label in columns]

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    torch.manual_seed(0)
    return {"model": Bigram(), "arguments": arguments, "train_set": rows(20_000, 1)}


def losses_of(schedule: LRSchedule, every: int = 1, seed: int = 0) -> tuple[Any, Any]:
    """Steps (n,) and losses (n,) that follow the annealing law, with noise."""
    steps = np.arange(every, schedule.total_steps + 1, every)
    rates = schedule.lr(steps)
    fallen = np.cumsum(np.maximum(-np.diff(rates, prepend=rates[0]), 0)) / schedule.peak
    noise = np.random.default_rng(seed).normal(0, 0.01, steps.size)
    s1 = schedule.s1(steps) / schedule.peak
    return steps, 2.5 + 8 * (s1 + 20) ** -0.5 - 0.15 * fallen + noise


def by_hand(_: Path) -> dict[str, Any]:
    """The first half of a run that decays over its last fifth."""
    return half_of(LRSchedule.wsd(24_000, peak=3e-4, decay_fraction=0.2, warmup=2_000))


def held_rate(_: Path) -> dict[str, Any]:
    """The first half of a run at a constant rate."""
    return half_of(LRSchedule.constant(24_000, peak=3e-4, warmup=2_000))


def half_of(plan: LRSchedule) -> dict[str, Any]:
    """A plan, its first half of losses and the forecaster that has seen them."""
    steps, losses = losses_of(plan, every=100)
    half = steps <= 12_000
    forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
    forecaster.observe_many(steps[half], losses[half])
    return {
        "steps": steps[half],
        "losses": losses[half],
        "plan": plan,
        "forecaster": forecaster,
        "LRSchedule": LRSchedule,
        "RunInfo": RunInfo,
        "Forecaster": Forecaster,
    }


def log_of_a_run(folder: Path) -> dict[str, Any]:
    """A CSV of steps, losses and rates of a whole run, and one of its first half."""
    (folder / "logs").mkdir()
    plan = LRSchedule.cosine(5_000, 1e-3, warmup=200)
    steps, losses = losses_of(plan, every=10)
    rates = plan.lr(steps)
    for name, upto in (("baseline.csv", 5_000), ("running.csv", 2_500)):
        with (folder / "logs" / name).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["step", "train_loss", "lr"])
            for step, loss, rate in zip(steps, losses, rates, strict=True):
                if step <= upto:  # the training loss of the first batch is the loss at step 0
                    table.writerow([step - 10, f"{loss:.5f}", f"{rate:.6g}"])
    return {"LRSchedule": LRSchedule, "RunInfo": RunInfo}


def everything(folder: Path) -> dict[str, Any]:
    """A plain loop, a LightningModule, a forecaster and a log."""
    found = plain_loop(folder) | by_hand(folder) | log_of_a_run(folder)
    return found | {"module": lightning_module(), "batches": Batches(STEPS)}


def short_loop(folder: Path) -> dict[str, Any]:
    """The same with a loader that ends after a third of the run."""
    return everything(folder) | {"loader": Batches(STEPS // 3)}


def every_loop(folder: Path) -> dict[str, Any]:
    """What the three loops need."""
    return everything(folder) | trainer_parts(folder)


def sweep(folder: Path) -> dict[str, Any]:
    """Forecasters of a sweep, and an objective and a trainable that cost nothing."""
    running = []
    for peak in (1e-4, 3e-4, 1e-3):
        plan = LRSchedule.cosine(2_000, peak)
        steps, losses = losses_of(plan, every=20, seed=round(1e5 * peak))
        other = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
        other.observe_many(steps[:50], losses[:50] + 0.1 * abs(math.log10(peak / 1e-3)))
        running.append(other)

    def objective(trial: Any) -> float:
        import optuna

        rate = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        steps, losses = losses_of(LRSchedule.cosine(2_000, rate), every=100, seed=trial.number)
        losses = losses + 0.2 * abs(math.log10(rate / 1e-3))
        for step, loss in zip(steps, losses, strict=True):
            trial.report(float(loss), int(step))
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(losses[-1])

    def trainable(config: dict[str, float]) -> None:
        raise NotImplementedError

    forecaster = Forecaster(
        LRSchedule.cosine(2_000, 3e-5), RunInfo("val", "adamw", task="language modelling")
    )
    steps, losses = losses_of(LRSchedule.cosine(2_000, 3e-5), every=20)
    forecaster.observe_many(steps[:50], losses[:50] + 0.5)
    return {
        "LRSchedule": LRSchedule,
        "RunInfo": RunInfo,
        "running": running,
        "finished": [2.41, 2.52],
        "forecaster": forecaster,
        "objective": objective,
        "trainable": trainable,
        "space": {},
    }


def a_ladder(home: Path) -> dict[str, Any]:
    """A store with runs of 190M and 370M parameters."""
    store = RunStore(home / "runs.db")
    for n_params in (190e6, 370e6):
        plan, steps, losses = run_of(n_params)
        run = replace(info_of(n_params), project="my models", dataset=None)
        store.add(f"{n_params:g}", run, plan, steps, losses)
    return {}


SETUPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "README.md": every_loop,
    "callbacks/README.md": every_loop,
    "callbacks/lr_schedulers/README.md": short_loop,
    "callbacks/probe/README.md": short_loop,
    "callbacks/sweeps/README.md": sweep,
    "callbacks/tensorboard/README.md": everything,
    "examples/SKILL.md": everything,
    "lossforecast/README.md": by_hand,
    "lossforecast/backtest/README.md": log_of_a_run,
    "lossforecast/ladder/README.md": a_ladder,
    "lossforecast/policies/README.md": held_rate,
    "lossforecast/readers/README.md": log_of_a_run,
    "lossforecast/schedule/README.md": by_hand,
    "lossforecast/store/README.md": everything,
}
