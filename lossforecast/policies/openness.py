"""`is_open`: whether the end of a run is still open, so that no policy may promise a risk."""

from lossforecast.forecast import Forecast
from lossforecast.status import Caveat, Status

__all__ = ["is_open", "reasons_open"]

_OPEN_CAVEATS = {
    Caveat.REPEATED_DATA: (
        "the data will be seen again, and nothing seen in the first epoch shows how far a training "
        "loss falls then"
    ),
    Caveat.MEMORISING: (
        "the training data is seen more than once, and the loss may fall by any factor while it is "
        "memorised"
    ),
    Caveat.LR_STEP_AHEAD: (
        "the learning rate will fall in steps, and the effect of the first has not been seen yet"
    ),
    Caveat.LR_UNKNOWN: "no learning rate is known, so a decay may still come, or be over already",
    Caveat.FORECASTS_FAILED: "earlier forecasts of this run were far off the later losses",
}
"""Caveats of forecasts whose interval no policy may rely on, and why."""


def is_open(forecast: Forecast) -> bool:
    """Return whether the end of the run is open.

    It is if the forecast is `Status.TOO_SHORT`, or for one of `reasons_open`.
    """
    return forecast.status is Status.TOO_SHORT or bool(reasons_open(forecast))


def reasons_open(forecast: Forecast) -> list[str]:
    """Return why the losses seen so far, however many, do not show how the run will end."""
    return [why for caveat, why in _OPEN_CAVEATS.items() if caveat in forecast.caveats]
