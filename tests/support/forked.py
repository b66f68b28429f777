"""A recorded run that forks children while its store is written to; each ends in another way.

Prints the exit codes of the children; -1 for one that had to be killed.
"""

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lossforecast.callbacks import TorchLossForecast

STEPS_PER_CHILD = 20
ENDINGS = ("exit", "now", "error", "end", "close", "train")


class Run:
    """A run whose loss is scripted."""

    def __init__(self, where: str, total: int) -> None:
        self.optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
        self.monitor = TorchLossForecast(self.optimizer, None, total, store=where, every_n_steps=2)

    def go(self, steps: int) -> None:
        """Train for some steps."""
        for _ in range(steps):
            self.monitor.step(2 + 3 * (self.monitor.steps + 5.0) ** -0.5)
            self.optimizer.step()


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """Let another thread hold a lock, as the one that writes to the store does now and then."""
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield
    free.set()
    thread.join()


def leave(run: Run, how: str) -> None:
    """End a child."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    gc.collect()
    if how == "close":
        run.monitor.close()
    elif how == "train":
        run.go(STEPS_PER_CHILD)
    elif how == "now":
        os._exit(3)
    elif how == "error":
        raise ValueError("the child's own")
    elif how == "exit":
        sys.exit(3)


def code_of(child: int, limit: float) -> int:
    """Exit code of a child; -1 if it has to be killed."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def main(where: str, repeats: int) -> None:
    """Train, and fork at random moments while the store is written to."""
    chance, codes = random.Random(0), []
    run = Run(where, STEPS_PER_CHILD * repeats)
    for i in range(repeats):
        run.go(STEPS_PER_CHILD)
        time.sleep(0.01 * chance.random())
        recorder: Any = run.monitor._pipeline.monitor.recorder
        with held(recorder._enqueued):
            child = os.fork()
            if child == 0:
                leave(run, ENDINGS[i % len(ENDINGS)])
                return
        codes.append(code_of(child, 15.0))
    run.monitor.close()
    print(codes)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
