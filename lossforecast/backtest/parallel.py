"""`mapped`: a function applied to many items in several processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

__all__ = ["mapped"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def mapped(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[Result]:
    """Results of the function in the order of the items, from `jobs` processes of one thread each.

    With one job, or fewer than two items, everything runs in this process.
    """
    if jobs == 1 or len(items) < 2:
        yield from map(function, items)
        return
    # spawned, not forked: a fork of a process with threads may deadlock
    with (
        _one_thread(),
        ProcessPoolExecutor(min(jobs, len(items)), mp_context=get_context("spawn")) as pool,
    ):
        yield from pool.map(function, items, chunksize=4)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit processes that are started inside to one computing thread each."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
