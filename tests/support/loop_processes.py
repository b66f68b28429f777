"""Run by `test_distributed`, in each of two processes: real training, with a scripted loss.

Called with the folder of the results and the number of repeats.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lossforecast.callbacks import SteerableLR, TorchLossForecast
from lossforecast.callbacks.capture.transfer import Transfer
from lossforecast.callbacks.distributed import channel, team
from lossforecast.policies import Action, Reason, Recommendation, Situation
from support.logs import WarningLog
from support.pacing import LONELY, PATIENT, keep_pace
from support.policies import decay_from, stop_from
from support.sharded_models import recognised_in_processes

TOTAL, EVERY = 120, 10
Model = torch.nn.Module


class Channel(channel.Channel):
    """Counts what it is asked."""

    calls = 0

    def _all_reduce(self, *args: Any) -> Any:
        Channel.calls += 1
        return super()._all_reduce(*args)


def scripted(step: int, rank: int) -> float:
    noise = np.random.default_rng([step, rank]).normal()
    return float(2 + 3 * (step + 5.0) ** -0.5 + 0.01 * noise)


class DecayThenFail:
    """Wants a decay once, and raises when it is asked again."""

    asked = False

    def __call__(self, situation: Situation) -> Recommendation | None:
        if self.asked:
            raise ZeroDivisionError("scripted")
        answer = decay_from(30)(situation)
        self.asked = answer is not None
        return answer


class StopThenFail:
    """Wants to stop once, after a while, and raises when it is asked again."""

    asked = False

    def __call__(self, situation: Situation) -> Recommendation | None:
        if situation.history.last_step < 59:
            return None
        if self.asked:
            raise ZeroDivisionError("scripted")
        self.asked = True
        return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: scripted")


class Progress:
    """The step of a training loop, which a thread can wait for."""

    def __init__(self) -> None:
        self._step, self._changed = 0, threading.Condition()

    def advance(self, step: int) -> None:
        with self._changed:
            self._step = step
            self._changed.notify_all()

    def wait_for(self, step: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._step >= step, 60), "the loop waits"


progress = Progress()


def slow(situation: Situation) -> Recommendation | None:
    """A policy that takes until the loop has gone on by several steps."""
    if situation.history.last_step < 59:
        return None
    progress.wait_for(66)
    return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: scripted")


def two_at_once() -> dict[str, Any]:
    """Two monitors of the same kind, as of the two optimizers of a GAN."""
    optimizers = [torch.optim.SGD([torch.zeros(1)], lr=0.1) for _ in range(2)]
    monitors = [TorchLossForecast(each, None, 40, every_n_steps=5) for each in optimizers]
    for step in range(40):
        for i, (monitor, optimizer) in enumerate(zip(monitors, optimizers, strict=True)):
            monitor.step(torch.tensor(1.0 + 10 * i))
            optimizer.step()
        keep_pace(step + 1)
    for monitor in monitors:
        monitor.close()
    return {"losses": [m.forecaster.history.bins().mean.tolist() for m in monitors]}


def seldom() -> dict[str, Any]:
    """A loss only every 700 optimizer steps, as in reinforcement learning: long blocks."""
    log = WarningLog()
    logging.getLogger("lossforecast").addHandler(log)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    monitor = TorchLossForecast(optimizer, None, 5600, every_n_steps=10)
    for i in range(8):
        monitor.step(torch.tensor(1.0 + i + 2 * dist.get_rank()))
        for _ in range(700):
            optimizer.step()
        dist.barrier()  # as gradients that are averaged keep processes together
    monitor.close()
    logging.getLogger("lossforecast").removeHandler(log)
    bins = monitor.forecaster.history.bins()
    losses = dict(zip(bins.last.tolist(), bins.mean.tolist(), strict=True))
    return {"losses": losses, "log": log.lines}


def slow_to_meet() -> dict[str, Any]:
    """The same, where the run of rank 1 is over before its thread looks for the others."""
    find = team.Team._find_rendezvous

    def later(self: team.Team) -> Any:
        time.sleep(1.0)
        return find(self)

    with mock.patch.object(team.Team, "_find_rendezvous", later):
        return seldom()


def broken(situation: Situation) -> Recommendation | None:
    raise ZeroDivisionError("scripted")


def train(
    *,
    wrap: Callable[[Model], Model] = DistributedDataParallel,
    loss_of: Callable[[int, int], Any] = scripted,
    length: int = TOTAL,
    joined: bool = False,
    watched: bool = True,
    lead: int = 15,
    timeouts: team.Timeouts = PATIENT,
    save_at: int | None = None,
    die_at: int | None = None,
    rewind_at: int | None = None,
    event_at: int | None = None,
    load: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """A usual training loop; returns what can be seen of it in this process."""
    team.Team.timeouts = timeouts
    progress.advance(0)
    rank, log, calls = dist.get_rank(), WarningLog(), Channel.calls
    logging.getLogger("lossforecast").addHandler(log)
    torch.manual_seed(0)
    model = wrap(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TOTAL)
    if options.get("apply"):
        scheduler = SteerableLR(optimizer, TOTAL, decay_fraction=0)
    updates: list[Any] = []
    rates: list[float] = []
    monitor = None
    if watched:
        monitor = TorchLossForecast(
            optimizer, scheduler, TOTAL, every_n_steps=EVERY, sinks=[updates.append], **options
        )
    step = 0
    state: Any = None
    if load is not None:
        step = int(load["step"])
        scheduler.load_state_dict(load["scheduler"])
        optimizer.param_groups[0]["lr"] = scheduler.get_last_lr()[0]
        if monitor is not None and load["monitor"] is not None:
            monitor.load_state_dict(load["monitor"])
            monitor.load_state_dict(monitor.state_dict())  # saved again before anything else
    with Join([model]) if joined else nullcontext():  # type: ignore[list-item]
        while step < length:
            if step == save_at and monitor is not None:
                saved = {"scheduler": scheduler.state_dict(), "monitor": monitor.state_dict()}
                state = {"step": step, **saved}
            if step == die_at:
                os._exit(1)
            if step == rewind_at and monitor is not None and state is not None:
                step, rewind_at = state["step"], None
                scheduler.load_state_dict(state["scheduler"])
                optimizer.param_groups[0]["lr"] = scheduler.get_last_lr()[0]
                monitor.load_state_dict(state["monitor"])
            if step == event_at and monitor is not None:
                monitor.event("other data")
            output = model(torch.ones(2, 4)).sum()
            value = loss_of(step, rank)
            loss = output - output.detach() + (value if isinstance(value, float) else 0.0)
            if monitor is not None:
                monitor.step(loss if isinstance(value, float) else value)
            loss.backward()
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            progress.advance(step)
            keep_pace(step, lead)
            if monitor is not None and monitor.should_stop:
                break
    if monitor is not None:
        monitor.close()
    logging.getLogger("lossforecast").removeHandler(log)
    found: dict[str, Any] = {"steps": step, "log": log.lines, "state": state, "rates": rates}
    found["collectives"] = Channel.calls - calls
    if monitor is not None:
        bins = monitor.forecaster.history.bins()
        found["losses"] = dict(zip(bins.last.tolist(), bins.mean.tolist(), strict=True))
        found["non_finite"] = monitor.forecaster.history.n_non_finite
        found["off"] = monitor.switched_off
        found["events"] = monitor.forecaster.history.events
        found["forecasts"] = {
            update.step: [update.forecast.mean, update.forecast.std, update.forecast.made_at]
            for update in updates
        }
    return found


def shards(model: Model) -> Model:
    fully_shard(model)
    return model


def nan_on_one(step: int, rank: int) -> float:
    return float("nan") if rank == 1 and step >= 40 else scripted(step, rank)


def slowly(what: Callable[[], Any]) -> Any:
    """As on a GPU, where what is sent to the host arrives later."""
    with mock.patch.object(Transfer, "pending", property(lambda _: True)):
        return what()


def other_data(step: int, rank: int) -> float:
    return scripted(step, rank) + (step >= 64)


def slow_to_start(step: int, rank: int) -> float:
    if rank == 1 and step == 0:
        time.sleep(0.5)
    return scripted(step, rank)


def resumed(state_of: Callable[[Any], Any], save_at: int = 47, **options: Any) -> dict[str, Any]:
    whole = train(save_at=save_at, **options)
    return {"whole": whole, "resumed": train(load=state_of(whole["state"]), **options)}


def state_of_rank_0(state: Any) -> Any:
    states = [state]
    dist.broadcast_object_list(states)
    return states[0]


def failing_at(step: int) -> Callable[[int, int], Any]:
    def loss_of(at: int, rank: int) -> Any:
        return "no loss" if rank == 1 and at == step else scripted(at, rank)

    return loss_of


def scenarios(repeats: int) -> dict[str, Callable[[], Any]]:
    rank = dist.get_rank()
    stopping: dict[str, Any] = {"stop": True, "policy": [stop_from(60)]}
    often: dict[str, Callable[[], Any]] = {
        "stop": lambda: train(**stopping),
        "nan": lambda: train(loss_of=nan_on_one, stop=True),
        "stop then fail": lambda: train(stop=True, policy=[StopThenFail()]),
        "resume": lambda: resumed(lambda state: state),
        "decay": lambda: train(apply=True, policy=[decay_from(30)]),
        "decay then fail": lambda: train(apply=True, policy=[DecayThenFail()]),
    }
    once: dict[str, Callable[[], Any]] = {
        "averaged": train,
        "shards": lambda: train(wrap=shards, **stopping),
        "uneven": lambda: train(joined=True, length=TOTAL - 35 * rank, lead=9, **stopping),
        # the loop that ends first closes its monitor only when the other one ends, too
        "uneven end": lambda: train(joined=True, length=TOTAL - 35 * rank, lead=TOTAL),
        "only one": lambda: train(watched=rank == 0, timeouts=LONELY, **stopping),
        "only the other": lambda: train(watched=rank == 1, lead=TOTAL, timeouts=LONELY, **stopping),
        "policy fails": lambda: train(stop=True, policy=[broken]),
        "other state": lambda: resumed(state_of_rank_0),
        "one resumes": lambda: resumed(
            lambda state: state if rank == 0 else state | {"monitor": None}
        ),
        "slow": lambda: train(stop=True, policy=[slow]),
        "two": two_at_once,
        "seldom": seldom,
        "slow to meet": slow_to_meet,
        "unmarked": lambda: train(loss_of=other_data),
        "event": lambda: resumed(
            lambda state: state, save_at=77, loss_of=other_data, event_at=64, stop=True
        ),
        "event on the first": lambda: resumed(
            state_of_rank_0,
            save_at=80,
            loss_of=other_data,
            event_at=64 if rank == 0 else None,
            stop=True,
        ),
        "event on the other": lambda: train(loss_of=other_data, event_at=64 if rank else None),
        # while a forecast of step 60 waits for its losses
        "early event": lambda: train(loss_of=other_data, event_at=61),
        "early event, slow device": lambda: slowly(
            lambda: train(loss_of=other_data, event_at=61 if rank == 0 else None)
        ),
        "one may stop": lambda: train(stop=rank == 0, policy=[stop_from(60)]),
        "rewind": lambda: train(save_at=47, rewind_at=74),
        "decay and stop": lambda: train(
            apply=True, stop=True, policy=[stop_from(80), decay_from(30)]
        ),
        "decay and resume": lambda: resumed(
            lambda state: state, save_at=87, apply=True, policy=[decay_from(30)]
        ),
        "late start": lambda: train(
            loss_of=slow_to_start,
            **stopping,
        ),
        "recognised": recognised_in_processes,
    }
    for step in (0, 13, 59, 61, 70, 72, 75, 78):
        often[f"other fails at {step}"] = lambda step=step: train(  # type: ignore[misc]
            loss_of=failing_at(step), timeouts=PATIENT if step else LONELY, **stopping
        )
    return once | {
        f"{name}, {turn}": what for turn in range(repeats) for name, what in often.items()
    }


def main(folder: Path, repeats: int) -> None:
    torch.set_num_threads(1)
    team.Channel = Channel  # type: ignore[attr-defined]
    dist.init_process_group("gloo", timeout=timedelta(seconds=300))
    rank = dist.get_rank()
    found = {}
    for name, what in scenarios(repeats).items():
        found[name] = what()
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    end_with_exception(folder)


def main_of_elastic(folder: Path) -> None:
    """Dies once in the middle of a block, and goes on from what was saved by itself."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=300))
    rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    path = folder / f"state-{rank}.pt"
    if attempt == 0:
        whole = train(save_at=47)
        torch.save(whole.pop("state"), path)
        (folder / f"whole-{rank}.json").write_text(json.dumps(whole))
        dist.barrier()
        train(die_at=73 if rank else None)
    found = train(load=torch.load(path, weights_only=True))
    (folder / f"resumed-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def end_with_exception(folder: Path) -> None:
    """End this process after an exception of the user's own, in the middle of a block."""
    team.Team.timeouts = PATIENT
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    try:
        with TorchLossForecast(optimizer, None, 100, every_n_steps=10) as monitor:
            for step in range(35 + 4 * dist.get_rank()):
                monitor.step(2.0 + step**-0.5 if step else 3.0)
                optimizer.step()
                keep_pace(step + 1)
            raise ValueError("the user's own")
    except ValueError:
        (folder / f"caught-{dist.get_rank()}.json").write_text(json.dumps(monitor.steps))


if __name__ == "__main__":
    if sys.argv[2] == "elastic":
        main_of_elastic(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]))
