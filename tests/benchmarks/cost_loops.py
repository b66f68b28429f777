"""Costs that forecasts add to the steps of training loops, beside those of other callbacks."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from cost_table import Ratio, added, of_all
from cost_turns import Pause, Subject, Times, measured
from torch import Tensor, nn

from lossforecast.callbacks import (
    AnnealingProbe,
    SteerableLR,
    TorchLossForecast,
)
from lossforecast.callbacks.monitor import Update

__all__ = [
    "DEVICE",
    "fresh_network",
    "network",
    "network_loss",
    "plain_loop",
    "same_length",
    "small_gpt",
    "unseen",
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def unseen(update: Update) -> None:
    """Take a forecast and do nothing, so that none is printed."""


def plain_loop(scale: float) -> list[Ratio]:
    """Measure the loop of one weight: what each way to watch its loss adds."""
    steps, turn = int(200_000 * scale), 1_000

    def looped(watch: Callable[[Tensor, Any], Callable[[], object]]) -> Subject:
        def subject(pause: Pause) -> None:
            optimizer = torch.optim.SGD([torch.zeros(1, device=DEVICE)], lr=1e-3)
            seen = watch(torch.tensor(3.0, device=DEVICE), optimizer)
            for _ in range(steps // turn):
                for _ in range(turn):
                    seen()
                    optimizer.step()
                pause()

        return subject

    def kept(loss: Tensor, optimizer: Any) -> Callable[[], object]:
        losses: list[Tensor] = []
        return lambda: losses.append(loss.detach().clone())

    def read(loss: Tensor, optimizer: Any) -> Callable[[], object]:
        losses: list[float] = []
        return lambda: losses.append(loss.item())

    def forecast(loss: Tensor, optimizer: Any) -> Callable[[], object]:
        monitor = TorchLossForecast(optimizer, total_steps=steps, sinks=[unseen])
        return lambda: monitor.step(loss)

    def rarely(loss: Tensor, optimizer: Any) -> Callable[[], object]:
        monitor = TorchLossForecast(optimizer, total_steps=10**9, sinks=[unseen])
        return lambda: monitor.step(loss)

    times = measured(
        {
            "bare": looped(lambda loss, optimizer: lambda: None),
            "kept": looped(kept),
            "item": looped(read),
            "between": looped(rarely),
            "forecast": looped(forecast),
        }
    )
    floor = "keeping `loss.detach().clone()`"
    of = f"{steps:,} steps of a plain loop"
    between = f"{of}: lossforecast, no forecast due"
    return [
        added(times, "forecast", "kept", "bare", f"{of}: lossforecast", floor, 1.5),
        added(times, "between", "kept", "bare", between, floor, None),
        added(times, "item", "kept", "bare", f"{of}: `loss.item()`", floor, None),
    ]


def network(scale: float) -> list[Ratio]:
    """Measure the training of a small network, without and with forecasts, and with `apply`."""
    steps, turn = int(2_000 * scale), 50

    def trained(how: str) -> Subject:
        def subject(pause: Pause) -> None:
            draw, model, optimizer = fresh_network()
            scheduler = SteerableLR(optimizer, steps)
            monitor = None
            if how != "bare":
                monitor = TorchLossForecast(
                    optimizer, scheduler, steps, apply=how == "apply", sinks=[unseen]
                )
            for step in range(steps):
                loss = network_loss(model, draw)
                if monitor is not None:
                    monitor.step(loss)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                if step % turn == turn - 1:
                    pause()
            if monitor is not None:
                monitor.close()

        return subject

    times = same_length(measured({how: trained(how) for how in ("bare", "forecast", "apply")}))
    what = f"{steps:,} steps of a small network"
    return [
        of_all(times, "forecast", "bare", f"{what} with lossforecast", "the same without", 1.05),
        of_all(times, "apply", "bare", f"{what} with `apply=True`", "the same without", 1.1),
    ]


def small_gpt(scale: float) -> list[Ratio]:
    """Measure steps of a small GPT: bare, with forecasts, with forecasts and the probe."""
    from gpt import GPT, Batches, standard_library  # type: ignore[import-not-found]

    turns, turn, total = max(int(8 * scale), 2), 25, 24_000
    draw = Batches(standard_library(1_000_000), 16, 64, seed=0)
    batches = [tuple(part.to(DEVICE) for part in draw()) for _ in range(turn)]

    def trained(name: str) -> Subject:
        def subject(pause: Pause) -> None:
            model = GPT().to(DEVICE)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            probe = AnnealingProbe(lambda model, batch: model(*batch), model)
            monitor = None
            if name != "bare":
                used = probe if name == "probe" else None
                monitor = TorchLossForecast(optimizer, None, total, probe=used, sinks=[unseen])
            endless: Iterator[Any] = itertools.cycle(batches)
            seen = probe.watch(endless) if name == "probe" else endless
            for step, batch in enumerate(seen, 1):
                loss = model(*batch)
                if monitor is not None:
                    monitor.step(loss)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if step % turn == 0:
                    pause()
                if step == turn * turns:
                    break

        return subject

    times = same_length(measured({name: trained(name) for name in ("bare", "forecast", "probe")}))
    what = f"{turns * turn} of {total:,} steps of a small GPT"
    return [
        of_all(times, "forecast", "bare", f"{what} with lossforecast", "the same without"),
        of_all(times, "probe", "bare", f"{what} with the annealing probe", "the same without"),
    ]


def fresh_network(rate: float = 1e-3) -> tuple[torch.Generator, nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    model = nn.Sequential(model, nn.Linear(256, 1)).to(DEVICE)
    return torch.Generator().manual_seed(0), model, torch.optim.AdamW(model.parameters(), lr=rate)


def network_loss(model: nn.Module, draw: torch.Generator) -> Tensor:
    x = torch.randn(64, 64, generator=draw).to(DEVICE)
    loss: Tensor = (model(x).squeeze(-1) - x.sum(dim=1)).square().mean()
    return loss


def same_length(times: Times) -> Times:
    """Cut all to the turns that every subject had."""
    turns = min(seconds.size for seconds in times.values())
    return {name: seconds[:turns] for name, seconds in times.items()}
