"""Forecasts in the logs that the reporters of a Hugging Face ``Trainer`` write."""

import sys
from types import FrameType
from typing import Any, Self

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from lossforecast.callbacks.monitor import Update
from lossforecast.callbacks.tensorboard import scalars

__all__ = ["ReporterLog"]


class ReporterLog:
    """A sink that adds each forecast to the next log of the Trainer, for its reporters alone.

    The reporters (TensorBoard, W&B, MLflow, Comet, Trackio, ...) write a forecast together with
    values of the Trainer, so their step counters do not change. The history of the Trainer and its
    printed logs stay as they are.
    """

    reads_trail = False

    def __init__(self) -> None:
        self._waiting: dict[str, float] = {}

    @classmethod
    def of(cls, callback: TrainerCallback) -> Self | None:
        """Return the log of the Trainer that calls this callback; None if it has no reporters.

        From then on the callback gets each log before the reporters, and what `add_to` has added is
        removed after them.
        """
        handler = _handler(sys._getframe(1))
        kinds = _reporter_kinds()
        if handler is None or not any(isinstance(each, kinds) for each in handler.callbacks):
            return None
        others = [
            each
            for each in handler.callbacks
            if each is not callback and not (isinstance(each, _Remover) and each.of is callback)
        ]
        places = [i for i, each in enumerate(others) if isinstance(each, kinds)]
        log = cls()
        others.insert(places[-1] + 1, _Remover(callback))
        others.insert(places[0], callback)
        handler.callbacks = others  # a new list: the Trainer iterates over the old one
        return log

    def __call__(self, update: Update) -> None:
        """Keep a forecast for the next log."""
        self._waiting = {name: float(value) for name, value in scalars(update).items()}

    def add_to(self, logs: dict[str, Any]) -> None:
        """Add the forecast that is waiting, if any, to a log."""
        logs.update(self._waiting)
        self._waiting = {}


class _Remover(TrainerCallback):
    """Removes forecasts from a log once the reporters have written it."""

    def __init__(self, callback: TrainerCallback) -> None:
        self.of = callback

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Remove what was added."""
        for name in [name for name in logs or () if name.startswith("forecast/")]:
            del logs[name]


def _handler(frame: FrameType | None) -> CallbackHandler | None:
    """Return the handler that calls the callbacks; the Trainer does not pass it to them."""
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None


def _reporter_kinds() -> tuple[type, ...]:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    return tuple(INTEGRATION_TO_CALLBACK.values())
