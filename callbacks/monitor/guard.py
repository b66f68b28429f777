"""Decorators and helpers that keep errors of the package out of the training run."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

from lossforecast.errors import StateError
from lossforecast.log import logger
from lossforecast.signals import contained, ends

__all__ = ["clean_up", "guarded", "state_errors", "switch_off"]

P = ParamSpec("P")
R = TypeVar("R")


def guarded(method: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a method that must not raise: log its first exception and switch forecasting off.

    The object's `switched_off` becomes True; from then on its guarded methods return None at once.
    KeyboardInterrupt, SystemExit and the exceptions of signal handlers are not caught.
    """

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        owner: Any = args[0]
        if owner.switched_off:
            return None
        handled = sys.exception()
        try:  # like `with contained(...)`, which takes longer than the methods called at every step
            return method(*args, **kwargs)
        except Exception as error:
            if not ends(error, handled, lambda _: switch_off(owner)):
                raise
        return None

    return call


def switch_off(owner: Any) -> None:
    """Switch forecasting off, and log the exception that is being handled with its traceback."""
    owner.switched_off = True
    logger.exception("forecasting failed and is switched off; training goes on")


def clean_up(*steps: Callable[[], object]) -> None:
    """Call every step at the end of a run, even if others fail; log the exceptions."""
    for step in steps:
        with contained(_log_failed_cleanup):
            step()


def state_errors() -> contained:
    """Return a context manager that turns exceptions about a saved state into `StateError`."""
    return contained(_refuse_state)


def _refuse_state(error: Exception) -> NoReturn:
    if isinstance(error, StateError):
        raise error
    raise StateError(f"not a saved run: {error!r}") from error


def _log_failed_cleanup(error: Exception) -> None:
    logger.exception("cleanup at the end of the run failed; training is not affected")
