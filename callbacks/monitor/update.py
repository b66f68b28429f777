"""`Update`: a new forecast and recommendation, as sinks receive them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Recommendation

__all__ = ["Sink", "Tenths", "Update", "listed_sinks"]


@dataclass(frozen=True)
class Update:
    """A new forecast and recommendation, as sinks receive them.

    Attributes:
        step: optimizer steps taken when the forecast was made.
        forecast: forecast of the final loss.
        recommendation: recommended action.
        target: final loss to reach; None if there is no target.
        forecaster: copy of the forecaster at that step, its losses averaged into bins.
        trail: all forecasts so far, the latest last, as rows of a `Trail`; with fans if one of
            the sinks reads them (`Sink`).
    """

    step: int
    forecast: Forecast
    recommendation: Recommendation
    target: float | None
    forecaster: Forecaster = field(repr=False)
    trail: tuple[dict[str, Any], ...] = field(repr=False)


Sink = Callable[[Update], None]
"""A function called with every update. If it has an attribute `reads_trail` that is False, the
fans of earlier forecasts are not computed, unless another sink reads them."""


class Tenths:
    """Finds the updates that are the first in a tenth of their run, for less frequent output."""

    def __init__(self) -> None:
        self._latest = 0

    def is_due(self, update: Update) -> bool:
        """Return whether an update is in a later tenth than the one before it."""
        tenth = 10 * update.step // update.forecast.schedule.total_steps
        before, self._latest = self._latest, tenth
        return tenth > before


def listed_sinks(sinks: Iterable[Sink]) -> list[Sink]:
    """Return sinks as a list.

    Raises:
        ConfigurationError: a sink cannot be called.
    """
    listed = list(sinks) if isinstance(sinks, Iterable) else [None]
    if not all(map(callable, listed)):
        raise ConfigurationError(
            f"sinks must be functions of an update, in a list such as [print], not {sinks!r:.60}"
        )
    return listed
