"""`Channel`: sums and maxima over processes, in a gloo group of their own."""

import ctypes
import math
import os
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.distributed.processes import torch_distributed

__all__ = ["Channel"]

_channels: "weakref.WeakSet[Channel]" = weakref.WeakSet()


class Channel:
    """Sums and maxima over the processes, through a gloo group of its own.

    Args:
        store: namespace of torch's key-value store in which the processes of the group meet.
        rank: rank of this process.
        size: number of processes.
        timeout: how long to wait for an answer of another process.
        over: returns True once this process has stopped waiting for others.
    """

    def __init__(
        self, store: Any, rank: int, size: int, timeout: timedelta, over: Callable[[], bool]
    ) -> None:
        self._dist = dist = torch_distributed()
        self._group = dist.ProcessGroupGloo(dist.PrefixStore("group", store), rank, size, timeout)
        self._over = over
        _channels.add(self)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums over all processes, of the shape of `values`."""
        self._all_reduce(values, self._dist.ReduceOp.SUM)
        return values

    def maximum(self, value: int, limit: float = math.inf) -> int | None:
        """Return the largest value of all processes; None if one is missing after `limit` s."""
        values = np.array([value])
        operation = self._dist.ReduceOp.MAX
        return int(values[0]) if self._all_reduce(values, operation, limit) else None

    def _all_reduce(self, values: NDArray[Any], operation: Any, limit: float = math.inf) -> bool:
        """Reduce `values` over all processes, in place; return False if that takes too long.

        Polls for completion, because gloo's own wait cannot be interrupted and would abort a
        process that exits.

        Raises:
            RuntimeError: the team ended before the others took part.
        """
        import torch  # loaded here, as a single process does not need it

        options = self._dist.AllreduceOptions()
        options.reduceOp = operation
        work = self._group.allreduce([torch.from_numpy(values)], options)
        pause, last = 1e-4, time.monotonic() + limit
        while not work.is_completed():
            if self._over() or time.monotonic() > last:
                _never_free(self._group, work, values)
                if self._over():
                    raise RuntimeError("this process left before the others took part")
                return False
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)
        work.wait()  # raises the error of the collective, if any
        return True


def _never_free(*objects: object) -> None:
    """Keep objects alive until the process exits, by a reference that is never released.

    The destructors of a gloo group and of a pending collective wait for the other processes, which
    may never come; and gloo may still write into the array of a pending collective.
    """
    for kept in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


def _keep_all() -> None:
    """Keep all groups in a forked child, where their destructors would wait for missing threads.

    The default group, too, which no child can use: at exit its destructor may wait as well.
    """
    dist = torch_distributed()
    if dist is not None and dist.is_available() and dist.is_initialized():
        with suppress(Exception):  # not every group has a backend for the CPU
            cpu = sys.modules["torch"].device("cpu")
            _never_free(dist.group.WORLD, dist.group.WORLD._get_backend(cpu))
    for channel in list(_channels):
        _never_free(channel, channel._group)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)
