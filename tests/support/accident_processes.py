"""Run by `test_accidents` in each of two processes: training in which something happens.

Called with the folder of the results, the rank, and JSON options.
"""

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.distributed import channel, team
from support.logs import WarningLog
from support.policies import stop_from

TOTAL = 100
STEP_S = 0.01  # so that an exchange takes less time than a block of steps
SHORT = team.Timeouts(rendezvous=10.0, drain=3.0, exit=0.5, agreement=1.0)


def freeze_in_agreement(*, before: bool) -> None:
    """Freeze this process as soon as its thread takes part in an agreement, or has its result."""
    whole = channel.Channel.maximum

    def maximum(self: Any, *args: Any) -> Any:
        if before:
            os.kill(os.getpid(), signal.SIGSTOP)
        value = whole(self, *args)
        if not before:
            os.kill(os.getpid(), signal.SIGSTOP)
        return value

    channel.Channel.maximum = maximum  # type: ignore[method-assign,assignment]


def end(how: str) -> None:
    """End this process, or this fork of it, in one of the usual ways."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    elif how == "raise":
        raise ArithmeticError("scripted")
    elif how == "exit":
        sys.exit(3)
    elif how == "_exit":
        os._exit(3)


def fork(how: str) -> None:
    """Fork; the child ends in some way, at once."""
    child = os.fork()
    if not child:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        end(how)
    last = time.monotonic() + 15
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > last:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"a forked child did not end: {how}")
        time.sleep(0.01)


def no_threads() -> None:
    """Have the system refuse to start a thread: there is no address space for its stack."""
    threading.stack_size(2**46)


def train(rank: int, options: dict[str, Any]) -> dict[str, Any]:
    """A training loop; returns the steps taken and the weights."""
    torch.manual_seed(rank if options.get("apart") else 0)
    plain = torch.nn.Linear(4, 1)
    log = WarningLog()
    logging.getLogger("lossforecast").addHandler(log)
    model: Any = DistributedDataParallel(plain) if options.get("ddp") else plain
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = None
    if options.get("watched", True):
        policy = [stop_from(options.get("stop_from", 10**9))]
        monitor = TorchLossForecast(
            optimizer, None, TOTAL, every_n_steps=10, stop=True, policy=policy
        )
    step = 0
    with nullcontext() if monitor is None else monitor:
        while step < TOTAL:
            time.sleep(STEP_S)
            if options.get("at") == step and options["rank"] == rank:
                end(options["how"])
            for how in options.get("forks", {}).get(str(step), ()):
                fork(how)
            loss = model(torch.full((2, 4), 1 / (1 + step))).square().mean()
            if monitor is not None:
                monitor.step(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if monitor is not None and monitor.should_stop:
                break
        began = time.monotonic()
    return {
        "steps": step,
        "weights": plain.weight.tolist(),
        "closing": time.monotonic() - began,
        "off": monitor is not None and monitor.switched_off,
        "forecast": None if monitor is None or not monitor.forecast else monitor.forecast.made_at,
        "log": log.lines,
    }


def world_store(folder: Path, rank: int) -> TCPStore:
    """The store of both processes, served by rank 0, which tells its port in a file."""
    told = folder / "port"
    if rank == 0:
        served = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
        written = folder / "port-to-be"
        written.write_text(str(served.port))
        written.rename(told)
        return served
    while not told.exists():
        time.sleep(0.02)
    return TCPStore("127.0.0.1", int(told.read_text()), 2, is_master=False)


def main(folder: Path, rank: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    random.seed(rank)
    team.Team.timeouts = SHORT
    dist.init_process_group(
        "gloo",
        store=world_store(folder, rank),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    if options.get("threadless") == rank:
        no_threads()
    if options.get("freeze") == rank:
        freeze_in_agreement(before=options["before"])
    found = train(rank, options)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    os._exit(0) if options.get("leave") else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
