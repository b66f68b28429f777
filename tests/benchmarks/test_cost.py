"""What forecasting costs: `make bench`. Figures are read, never asserted."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from pytest_benchmark.fixture import BenchmarkFixture

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.callbacks import AnnealingProbe, LightningLossForecast, TorchLossForecast

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from gpt import GPT, Batches, standard_library  # type: ignore[import-not-found]

STEPS = 200_000
BATCHES = 20_000

Loop = Callable[[torch.Tensor, torch.optim.Optimizer], None]


def bare(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(STEPS):
        optimizer.step()


def appended(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """The floor: what anyone must do who keeps the losses."""
    kept = []
    for _ in range(STEPS):
        kept.append(loss.detach().clone())
        optimizer.step()


def read_each(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    kept = []
    for _ in range(STEPS):
        kept.append(loss.item())
        optimizer.step()


def forecast(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    with TorchLossForecast(optimizer, total_steps=STEPS) as monitor:
        for _ in range(STEPS):
            monitor.step(loss)
            optimizer.step()


@pytest.mark.parametrize("loop", [bare, appended, read_each, forecast])
@pytest.mark.benchmark(group="200,000 steps of a plain loop")
def test_plain_loop(benchmark: BenchmarkFixture, loop: Loop) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    optimizer = torch.optim.SGD([torch.zeros(1, device=device)], lr=1e-3)
    loss = torch.tensor(3.0, device=device)
    benchmark.pedantic(loop, args=(loss, optimizer), rounds=3, warmup_rounds=1)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["bare", "forecast", "forecast and probe"])
@pytest.mark.benchmark(group="900 steps of a small GPT")
def test_probe(benchmark: BenchmarkFixture, name: str) -> None:
    """The first of 24,000 steps at its default cost: a look every 150 of them.

    Waits of a GPU are not timed.
    """
    device, steps, total = "cuda" if torch.cuda.is_available() else "cpu", 900, 24_000
    draw = Batches(standard_library(1_000_000), 16, 64, seed=0)
    batches = [tuple(part.to(device) for part in draw()) for _ in range(steps)]

    def train() -> None:
        torch.manual_seed(0)
        model = GPT().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        probe = AnnealingProbe(lambda model, batch: model(*batch), model)
        used = probe if "probe" in name else None
        spent.clear()
        probe.look = timed(probe.look, spent)  # type: ignore[method-assign]
        probe._after_step = timed(probe._after_step, spent)  # type: ignore[method-assign]
        began = time.perf_counter()
        monitor = None
        if name != "bare":
            monitor = TorchLossForecast(optimizer, None, total, probe=used)
        for batch in batches if used is None else used.watch(batches):
            loss = model(*batch)
            if monitor is not None:
                monitor.step(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if monitor is not None:
            monitor.close()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)

    spent: list[float] = []
    benchmark.pedantic(train, rounds=3)  # type: ignore[no-untyped-call]
    if "probe" in name:
        share = sum(spent[:-1]) / spent[-1]
        benchmark.extra_info["share of the time spent in the probe"] = share
        sys.stdout.write(f"\nspent in the probe: {share:.2%} of the run\n")


def timed(call: Callable[..., None], spent: list[float]) -> Callable[..., None]:
    """The call, with the seconds that it takes added to a list."""

    def watched(*arguments: Any) -> None:
        began = time.perf_counter()
        call(*arguments)
        spent.append(time.perf_counter() - began)

    return watched


class Line(pl.LightningModule):
    """The smallest model there is, so that what is added shows."""

    def __init__(self, log: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.logs = log

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        loss = (self.weight - batch[0]).square().sum()
        if self.logs:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BATCHES)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


CALLBACKS: dict[str, Callable[[], list[pl.Callback]]] = {
    "none": list,
    "self.log": list,
    "LearningRateMonitor": lambda: [LearningRateMonitor("step")],
    "EarlyStopping": lambda: [EarlyStopping("loss", check_on_train_epoch_end=True)],
    "LightningLossForecast": lambda: [LightningLossForecast()],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.benchmark(group="20,000 steps of a Lightning Trainer")
def test_lightning(benchmark: BenchmarkFixture, name: str, tmp_path: Path) -> None:
    logs = name in ("self.log", "EarlyStopping")
    data: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(BATCHES, 1)))

    def train() -> None:
        trainer = pl.Trainer(
            max_steps=BATCHES,
            logger=CSVLogger(tmp_path),
            callbacks=CALLBACKS[name](),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            accelerator="auto",
            devices=1,
        )
        trainer.fit(Line(logs), data)

    benchmark.pedantic(train, rounds=3)  # type: ignore[no-untyped-call]


def time_refits(benchmark: BenchmarkFixture, forecaster: Forecaster) -> None:
    def refit() -> float:
        forecaster.observe(forecaster.history.last_step + 1, 3.0)
        return forecaster.forecast().mean

    benchmark.pedantic(refit, rounds=20, warmup_rounds=2)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("total", [10**3, 10**5, 10**7])
@pytest.mark.parametrize("plan", ["cosine", "wsd"])
@pytest.mark.benchmark(group="refit and forecast after a new loss")
def test_refit_and_forecast(benchmark: BenchmarkFixture, total: int, plan: str) -> None:
    schedule = getattr(LRSchedule, plan)(total, 1e-3, warmup=total // 50)
    forecaster = Forecaster(schedule, RunInfo(optimizer="adamw"))
    steps = np.arange(0, total // 2, max(total // 100_000, 1))
    noise = 0.1 * np.random.default_rng(0).normal(size=steps.size)
    forecaster.observe_many(steps, 2.5 + (steps / total + 0.01) ** -0.5 * 0.3 + noise)
    time_refits(benchmark, forecaster)


@pytest.mark.parametrize("seen", [10**3, 10**4, 10**5, 10**6, 10**7])
@pytest.mark.benchmark(group="refit and forecast after so many losses, with the bytes kept")
def test_history(benchmark: BenchmarkFixture, size_of: Callable[[object], int], seen: int) -> None:
    total = 2 * 10**7
    forecaster = Forecaster(LRSchedule.cosine(total, 1e-3), RunInfo(optimizer="adamw"))
    for start in range(0, seen, 10**5):
        steps = np.arange(start, min(start + 10**5, seen))
        forecaster.observe_many(steps, 2.5 + (steps / total + 0.01) ** -0.5 * 0.3)
    time_refits(benchmark, forecaster)
    benchmark.extra_info["bytes"] = size_of(forecaster)


@pytest.mark.parametrize("total", [10**5, 10**7])
@pytest.mark.benchmark(group="what if, under another schedule")
def test_what_if(benchmark: BenchmarkFixture, total: int) -> None:
    schedule = LRSchedule.wsd(total, 1e-3, warmup=total // 50)
    forecaster = Forecaster(schedule, RunInfo(optimizer="adamw"))
    steps = np.arange(0, total // 2, max(total // 100_000, 1))
    forecaster.observe_many(steps, 2.5 + (steps / total + 0.01) ** -0.5 * 0.3)

    def what_if() -> float:
        other = schedule.with_decay(start=total // 2, steps=total // 10, shape="sqrt")
        return forecaster.forecast(schedule=other).mean

    benchmark.pedantic(what_if, rounds=20, warmup_rounds=2)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("who", ["lossforecast", "multi-power authors"])
@pytest.mark.benchmark(group="one forecast from half of a curve of 24,000 steps")
def test_against_the_fit_of_the_multi_power_authors(
    benchmark: BenchmarkFixture, reference: Callable[[str], Any], who: str
) -> None:
    plan = LRSchedule.cosine(24_000, 3e-4, end=3e-5, warmup=2_160)
    steps = np.arange(2_160, 12_001, 128)
    noise = 1e-3 * np.random.default_rng(0).normal(size=steps.size)
    losses = 3.0 + 0.6 * (plan.s1(steps) + 0.1) ** -0.5 + noise

    def ours() -> float:
        forecaster = Forecaster(plan, RunInfo("val", "adamw"))
        forecaster.observe_many(steps, losses)
        return forecaster.forecast().mean

    def theirs() -> Any:
        slow = reference("multi_power_fit")
        return slow.fit_multi_power([slow.Curve(plan.to_array()[:12_000], steps, losses)])

    rounds = 20 if who == "lossforecast" else 1
    benchmark.pedantic(ours if rounds > 1 else theirs, rounds=rounds)  # type: ignore[no-untyped-call]
