"""Work shared out over processes: `mapped`."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

__all__ = ["mapped"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def mapped(work: Callable[[Item], Answer], items: Sequence[Item], jobs: int) -> Iterator[Answer]:
    """The work on every item, in their order, in this process or in fresh ones with one thread."""
    if jobs == 1 or len(items) < 2:
        yield from map(work, items)
        return
    # spawned, not forked: the caller may hold threads, and a child of this process may not
    with (
        _one_thread(),
        ProcessPoolExecutor(min(jobs, len(items)), mp_context=get_context("spawn")) as pool,
    ):
        yield from pool.map(work, items, chunksize=4)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started inside compute with one thread each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
