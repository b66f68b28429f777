"""A training run that keeps its record in a store; killed or run in parallel by the tests."""

import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from lossforecast.callbacks import TorchLossForecast


def train(
    store: Any,
    *,
    total: int = 400,
    peak: float = 0.1,
    until: int | None = None,
    pause: float = 0.0,
    level: float = 2.0,
    state: Any = None,
    **options: Any,
) -> TorchLossForecast:
    """A plain loop whose loss is scripted; left, without an end, after `until` steps."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=peak)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    options = {"every_n_steps": 20, "verbose": False, **options}
    monitor = TorchLossForecast(optimizer, scheduler, total, store=store, **options)
    start = 0
    if state is not None:
        start = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        monitor.load_state_dict(state["monitor"])
    for step in range(start, total if until is None else until):
        noise = 0.01 * ((step * 7919) % 101 - 50) / 50
        monitor.step(level + 3 * (step + 5.0) ** -0.5 + noise)
        optimizer.step()
        scheduler.step()
        time.sleep(pause)
        if monitor.should_stop:
            break
    if until is None:
        monitor.close()
    else:
        monitor.saved = {  # type: ignore[attr-defined]
            "step": until,
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "monitor": monitor.state_dict(),
        }
    return monitor


def flushes(store: Any) -> None:
    """Train; print the key, and each forecast once it is enqueued and all before it are written."""
    optimizer = torch.optim.SGD([torch.ones(3)], lr=0.1)
    monitor = TorchLossForecast(optimizer, None, 100_000, store=store, every_n_steps=20)
    recorder: Any = monitor._pipeline.monitor.recorder
    print(recorder.key, flush=True)  # noqa: T201
    made = before = -1
    for step in range(100_000):
        monitor.step(2 + 3 * (step + 5.0) ** -0.5)
        optimizer.step()
        if monitor.forecast is not None and monitor.forecast.made_at != made:
            made, before = monitor.forecast.made_at, made
            while before >= 0 and not (
                recorder._written and recorder._written.forecasts[-1]["made_at"] >= before
            ):
                time.sleep(0.001)
            print(made, flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[2] == "together":
        dist.init_process_group("gloo")
        train(sys.argv[1], pause=0.002)
        dist.destroy_process_group()
    elif sys.argv[2] == "flushes":
        flushes(sys.argv[1])
    else:
        train(sys.argv[1], total=20_000, pause=0.002)
