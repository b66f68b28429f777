"""A Fabric loop for `test_fabric`; as a script, launched by Fabric in two processes.

Called with the folder for what was found.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch.nn.functional import mse_loss

from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.distributed import Team
from lossforecast.callbacks.monitor.update import Update
from support.logs import WarningLog
from support.pacing import PATIENT, keep_pace
from support.policies import stop_from

TOTAL, EVERY = 120, 10


def batch(step: int, micro: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy values of a smooth function; others in each process."""
    generator = torch.Generator().manual_seed(1000 * step + 10 * micro + rank)
    x = torch.randn(16, 4, generator=generator)
    noise = 0.3 * torch.randn(16, 1, generator=generator)
    return x, 2 + x.sin().sum(1, keepdim=True) + noise


def train(
    fabric: Any,
    *,
    apart: bool = False,
    wrapped_first: bool = False,
    watched: bool = True,
    accumulate: int = 1,
    save_at: int | None = None,
    save_to: Path | None = None,
    fail_at: int | None = None,
    event_at: int | None = None,
    resume: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A loop as Fabric's users write it, and what could be seen in this process.

    Args:
        fabric: a `Fabric`; or None for the same loop without one.
        apart: whether model and optimizer are set up apart.
        wrapped_first: whether the scheduler is made for the optimizer that Fabric has wrapped.
        watched: whether there is a monitor.
        accumulate: micro-batches of a step.
        save_at: steps after which everything is saved.
        save_to: where.
        fail_at: steps after which an error ends the loop.
        event_at: steps after which an event is marked.
        resume: what to go on from.
        **options: of the monitor.
    """
    torch.manual_seed(0)
    log, updates, losses, rates = (
        WarningLog(),
        list[Update](),
        dict[int, float](),
        dict[int, float](),
    )
    model: Any = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
    )
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)

    def schedule() -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TOTAL)

    scheduler = None if wrapped_first else schedule()
    if fabric is not None and apart:
        model, optimizer = fabric.setup_module(model), fabric.setup_optimizers(optimizer)
    elif fabric is not None:
        model, optimizer = fabric.setup(model, optimizer)
    scheduler = scheduler or schedule()
    monitor = None
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "step": 0}
    if watched:
        sinks = [updates.append]
        monitor = TorchLossForecast(
            optimizer, scheduler, TOTAL, every_n_steps=EVERY, sinks=sinks, **options
        )
        state["monitor"] = monitor
    if resume is not None:
        fabric.load(resume, state)
    logging.getLogger("lossforecast").addHandler(log)
    rank = 0 if fabric is None else fabric.global_rank
    try:
        for step in range(state["step"], TOTAL):
            if step == fail_at:
                raise ValueError("the user's own")
            if step == event_at and monitor is not None:
                monitor.event("other batches")
            of_step = []
            for micro in range(accumulate):
                x, y = batch(step, micro, rank)
                if fabric is None:
                    loss = mse_loss(model(x), y)
                    torch.autograd.backward(loss / accumulate)
                else:
                    with fabric.no_backward_sync(model, enabled=micro < accumulate - 1):
                        loss = mse_loss(model(x), y)
                        fabric.backward(loss / accumulate)
                if monitor is not None:
                    monitor.step(loss)
                of_step.append(loss.item())
            losses[step] = sum(of_step) / accumulate
            inner = getattr(optimizer, "optimizer", optimizer)
            rates[step + 1] = float(inner.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            keep_pace(step + 1)
            if monitor is not None and monitor.should_stop:
                break
            if step + 1 == save_at:
                state["step"] = save_at
                fabric.save(save_to, state)
    except ValueError as error:
        if monitor is None:
            raise
        monitor.__exit__(type(error), error, error.__traceback__)
    else:
        if monitor is not None:
            monitor.close()
    logging.getLogger("lossforecast").removeHandler(log)
    found: dict[str, Any] = {
        "losses": losses,
        "rates": rates,
        "log": log.lines,
        "weights": [value for p in model.parameters() for value in p.detach().flatten().tolist()],
    }
    if monitor is not None:
        bins = monitor.forecaster.history.bins()
        found["off"] = monitor.switched_off
        found["events"] = monitor.forecaster.history.events
        found["plan"] = monitor.forecaster.schedule.to_array().tolist()
        found["seen"] = dict(zip(bins.last.tolist(), bins.mean.tolist(), strict=True))
        found["seen rates"] = dict(zip(bins.last[1:].tolist(), bins.lr[1:].tolist(), strict=True))
        found["forecasts"] = {
            update.step: [
                update.forecast.mean,
                update.forecast.std,
                str(update.recommendation.action),
                update.recommendation.message,
            ]
            for update in updates
        }
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    Team.timeouts = PATIENT
    fabric = Fabric(strategy="ddp", accelerator="cpu", devices=2)
    fabric.launch()
    found = {}
    settings: dict[str, dict[str, Any]] = {
        "bare": {"watched": False, "accumulate": 2},
        "whole": {"store": folder / "runs.db", "accumulate": 2},
        "stopped": {"stop": True, "policy": stop_from(60)},
        "saved": {"save_at": 60, "save_to": folder / "between.pt", "stop": True},
        "resumed": {"resume": folder / "between.pt", "stop": True},
        "saved inside": {"save_at": 67, "save_to": folder / "inside.pt"},
        "resumed inside": {"resume": folder / "inside.pt"},
    }
    for name, options in settings.items():
        found[name] = train(fabric, **options)
        fabric.barrier()
    (folder / f"{fabric.global_rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
