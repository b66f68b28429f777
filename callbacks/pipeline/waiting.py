"""`Waiting`: waits for a store, for a limited time in all."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lossforecast.errors import StoreError

__all__ = ["Waiting"]

T = TypeVar("T")


class Waiting:
    """Waits for a store, for a limited time in all.

    Args:
        left_s: the time in seconds.
        url: URL of the store without passwords.
    """

    def __init__(self, left_s: float, url: str) -> None:
        self._limit_s = self._left_s = left_s
        self._url = url

    def result_of(self, task: Callable[[], T]) -> T:
        """Return the result of a task that reads the store.

        Raises:
            StoreError: the time is over.
            Exception: what the task raised.
        """
        began = time.monotonic()
        result = _within(self._left_s, task)
        self._left_s = max(self._left_s - (time.monotonic() - began), 0.0)
        if result is None:
            raise StoreError(
                f"the store {self._url} did not answer within {self._limit_s:g} s: "
                "it is locked, or its server cannot be reached"
            )
        return result


def _within(timeout_s: float, task: Callable[[], T]) -> T | None:
    """Return the result of a task in a thread; None if it takes longer than `timeout_s` seconds.

    Raises:
        Exception: what the task raised.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(task())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="lossforecast store", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # none can be started
        run()
    else:
        thread.join(timeout_s)
    if errors:
        raise errors[0]
    return results[0] if results else None
