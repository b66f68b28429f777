"""`WandbSink`: writes forecasts to a run of Weights & Biases."""

from typing import Any

from lossforecast.callbacks.monitor import Tenths, Update
from lossforecast.callbacks.tensorboard import picture, scalars
from lossforecast.callbacks.trackers.library import draws, library
from lossforecast.errors import ConfigurationError

__all__ = ["WandbSink"]

_STEP = "forecast/step"


class WandbSink:
    """Writes every forecast to a run of W&B, with ``forecast/step`` as the axis of its charts.

    A forecast is added to the row of your next ``log`` call and never starts a row of its own: so
    it does not advance W&B's step, and W&B rejects none of your values for a step that goes back.
    Of several forecasts between two rows, the last is kept.

    Args:
        run: a run of W&B; by default the one that has begun when the first forecast is made, by
            ``wandb.init`` or the Hugging Face ``Trainer``.
        pictures: whether to add a picture after every tenth of the run; by default if matplotlib
            is installed.

    Raises:
        ConfigurationError: W&B is not installed.
    """

    reads_trail = False

    def __init__(self, run: Any = None, *, pictures: bool | None = None) -> None:
        library("wandb", self)
        self._run, self._has_axis = run, False
        self._tenths, self._draws = Tenths(), draws(pictures)

    def __call__(self, update: Update) -> None:
        """Write one forecast; nothing if there was no loss to forecast from.

        Raises:
            ConfigurationError: no run has begun.
        """
        wandb = library("wandb", self)
        values: dict[str, Any] = dict(scalars(update))
        run = wandb.run if self._run is None else self._run
        if not values:
            return
        if run is None:
            raise ConfigurationError("WandbSink has no run: call wandb.init() before, or give one")
        if not self._has_axis:
            self._has_axis = True
            run.define_metric(_STEP, hidden=True)
            run.define_metric("forecast/*", step_metric=_STEP)
        if self._tenths.is_due(update) and self._draws:
            values["forecast/picture"] = wandb.Image(picture(update))
        run.log({_STEP: update.step, **values}, commit=False)
