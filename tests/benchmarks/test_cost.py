"""The cost of forecasting: `make bench`. Figures are printed, never asserted."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
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
    """The lower bound: keep a copy of every loss."""
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


@pytest.mark.benchmark(group="a small GPT: bare, with forecasts, with forecasts and the probe")
def test_probe(benchmark: BenchmarkFixture) -> None:
    """Three loops in alternation, 150 steps at a time: about one measurement of the probe."""
    device, turns, steps_per_turn, total = (
        "cuda" if torch.cuda.is_available() else "cpu",
        12,
        150,
        24_000,
    )
    draw = Batches(standard_library(1_000_000), 16, 64, seed=0)
    batches = [tuple(part.to(device) for part in draw()) for _ in range(steps_per_turn)]
    kept: dict[str, int] = {}

    def steps_of(name: str) -> Iterator[None]:
        torch.manual_seed(0)
        model = GPT().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        probe = AnnealingProbe(lambda model, batch: model(*batch), model)
        if name == "bare":
            monitor = None
        else:
            used = probe if name == "probe" else None
            monitor = TorchLossForecast(optimizer, None, total, probe=used)
        endless = itertools.cycle(batches)
        for step, batch in enumerate(probe.watch(endless) if name == "probe" else endless):
            if step % steps_per_turn == 0:
                kept.update(model=bytes_of(model.state_dict()), probe=bytes_of(probe.state_dict()))
                yield
            loss = model(*batch)
            if monitor is not None:
                monitor.step(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def by_turns() -> dict[str, list[float]]:
        loops = {name: steps_of(name) for name in ("bare", "forecast", "probe")}
        spent: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(turns + 1):  # the first is a warm-up
            for name, loop in loops.items():
                began = time.perf_counter()
                next(loop)
                if device == "cuda":
                    torch.cuda.synchronize()
                if turn:
                    spent[name].append(time.perf_counter() - began)
        return spent

    spent = benchmark.pedantic(by_turns)  # type: ignore[no-untyped-call]
    for name in ("forecast", "probe"):
        ratios = np.divide(spent[name], spent["bare"]) - 1
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        benchmark.extra_info[name] = middle
        sys.stdout.write(f"\n{name}: {middle:+.2%} ({low:+.2%} to {high:+.2%}) over the bare loop")
    sys.stdout.write(f"\nprobe keeps {kept['probe']:,} bytes, the model {kept['model']:,}\n")


def bytes_of(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(map(bytes_of, state.values()))
    return sum(map(bytes_of, state)) if isinstance(state, list | tuple) else 0


class Line(pl.LightningModule):
    """The smallest possible model, so that the cost of a callback shows."""

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
        return forecaster.forecast().median

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
@pytest.mark.benchmark(group="refit and forecast after n losses, with the bytes kept")
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
        return forecaster.forecast(schedule=other).median

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
        return forecaster.forecast().median

    def theirs() -> Any:
        slow = reference("multi_power_fit")
        return slow.fit_multi_power([slow.Curve(plan.to_array()[:12_000], steps, losses)])

    rounds = 20 if who == "lossforecast" else 1
    benchmark.pedantic(ours if rounds > 1 else theirs, rounds=rounds)  # type: ignore[no-untyped-call]
