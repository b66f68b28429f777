"""`AccelerateSink`: writes forecasts to the trackers of an ``Accelerator``."""

from collections.abc import Callable
from typing import Any

from lossforecast.callbacks.monitor import Sink, Update
from lossforecast.callbacks.tensorboard import TensorBoardSink, scalars
from lossforecast.callbacks.trackers.mlflow import MLflowSink
from lossforecast.callbacks.trackers.trackio import TrackioSink
from lossforecast.callbacks.trackers.wandb import WandbSink
from lossforecast.errors import ConfigurationError

__all__ = ["AccelerateSink"]

_SINKS: dict[str, Callable[[Any], Sink]] = {
    "mlflow": lambda tracker: MLflowSink(tracker.tracker.info.run_id),
    "tensorboard": lambda tracker: TensorBoardSink(tracker.tracker),
    "trackio": lambda tracker: TrackioSink(tracker.tracker),
    "wandb": lambda tracker: WandbSink(tracker.tracker),
}
"""Sinks of trackers that have one of their own, by the name that Accelerate gives them."""


class AccelerateSink:
    """Writes every forecast to all trackers of an ``Accelerator``, at its optimizer step.

    W&B, MLflow, Trackio and TensorBoard (with its panel) are written as by their own sinks.

    Args:
        accelerator: the ``Accelerator``; its ``init_trackers`` may be called later.
    """

    reads_trail = True

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self._sinks: list[Sink] = []

    def __call__(self, update: Update) -> None:
        """Write one forecast.

        Raises:
            ConfigurationError: there are no trackers.
        """
        if not self._sinks:
            self._sinks = [_sink_of(tracker) for tracker in self._accelerator.trackers]
        if not self._sinks:
            raise ConfigurationError(
                "AccelerateSink has no tracker: give Accelerator(log_with=...) and call "
                "accelerator.init_trackers(...) before"
            )
        for sink in self._sinks:
            sink(update)


def _sink_of(tracker: Any) -> Sink:
    if tracker.name in _SINKS:
        return _SINKS[tracker.name](tracker)

    def log(update: Update) -> None:
        if values := scalars(update):
            tracker.log(values, step=update.step)

    return log
