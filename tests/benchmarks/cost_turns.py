"""`measured`: runs several pieces of code in turns of a few steps, and measures each turn.

A shared machine is fast in one second and slow in the next. Code that is measured in turns of a
tenth of a second meets the same machine as the code beside it, so ratios are steady where times are
not. CPU time is counted, all threads together; on a GPU, wall time with its work done.
"""

import gc
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from lossforecast.arrays import FloatArray

__all__ = ["Pause", "Subject", "Times", "measured"]

Pause = Callable[[], None]
"""Ends a turn; returns when the next one begins."""

Subject = Callable[[Pause], object]
"""A piece of code that calls its argument at the end of each of its turns."""

Times = dict[str, FloatArray]
"""Seconds of each turn by name, (n_turns,)."""


class _Worker:
    """A thread that runs a subject while its turn lasts, and waits otherwise."""

    def __init__(self, subject: Subject) -> None:
        self.over = False
        self._subject = subject
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take_turn(self) -> float:
        """Let the subject run to the end of its turn; return the seconds it took."""
        began = _now()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return _now() - began

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._subject(self._pause)
        except BaseException as error:
            self._error = error
        self.over = True
        self._done.release()

    def _pause(self) -> None:
        self._done.release()
        self._go.acquire()


def measured(subjects: Mapping[str, Subject], *, warm_up: int = 1) -> Times:
    """Run all subjects to their end, one turn of each after the other.

    Args:
        subjects: subjects by name, all with the same number of turns.
        warm_up: first turns that are left out.
    """
    gc.collect()
    gc.freeze()  # what was loaded before costs no subject anything
    workers = {name: _Worker(subject) for name, subject in subjects.items()}
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    while not all(worker.over for worker in workers.values()):
        for name in names:
            if not workers[name].over:
                seconds[name].append(workers[name].take_turn())
        names.reverse()  # none always follows the same one
    gc.unfreeze()
    return {name: np.array(turns[warm_up:]) for name, turns in seconds.items()}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
