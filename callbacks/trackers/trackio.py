"""`TrackioSink`: writes forecasts to a run of Trackio."""

from typing import Any

from lossforecast.callbacks.monitor import Update
from lossforecast.callbacks.tensorboard import scalars
from lossforecast.callbacks.trackers.library import library

__all__ = ["TrackioSink"]


class TrackioSink:
    """Writes every forecast to a run of Trackio, at its optimizer step.

    Log your own values with ``step=`` in optimizer steps as well: Trackio numbers values without a
    step from the largest step on.

    Args:
        run: a run of Trackio; by default the one that ``trackio.init`` began.

    Raises:
        ConfigurationError: Trackio is not installed.
    """

    reads_trail = False

    def __init__(self, run: Any = None) -> None:
        self._run = run
        library("trackio", self)

    def __call__(self, update: Update) -> None:
        """Write one forecast; nothing if there was no loss to forecast from."""
        if values := scalars(update):
            run = library("trackio", self) if self._run is None else self._run
            run.log(values, step=update.step)
