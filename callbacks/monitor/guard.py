"""Keeps our errors out of somebody's training run."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from lossforecast.log import logger

__all__ = ["P", "R", "guarded", "released", "switch_off"]


P = ParamSpec("P")


R = TypeVar("R")


def guarded(method: Callable[P, R]) -> Callable[P, R | None]:
    """Let no exception out of a method: log the first with its traceback and switch off.

    The object's `switched_off` is set, and from then on guarded methods return None at once.
    """

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        owner: Any = args[0]
        if owner.switched_off:
            return None
        try:
            return method(*args, **kwargs)
        except Exception:
            switch_off(owner)
            return None

    return call


def switch_off(owner: Any) -> None:
    """Forecast no more, and log the exception that is being handled."""
    owner.switched_off = True
    logger.exception("forecasting failed and is switched off; training goes on")


def released(*steps: Callable[[], object]) -> None:
    """Do each of these at the end of a run, whatever becomes of the others; log what they raise."""
    for step in steps:
        try:
            step()
        except Exception:
            logger.exception("the end of a run was not taken note of; all else goes on")
