"""`Update`: a new forecast as sinks receive it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Recommendation

__all__ = ["Sink", "Update", "listed_sinks"]


@dataclass(frozen=True)
class Update:
    """A new forecast and what to do about it, as sinks get them.

    Attributes:
        step: optimizer steps taken when the forecast was made.
        forecast: of the final loss.
        recommendation: what to do.
        target: the final loss hoped for, if any.
        forecaster: a copy of it as it was then, its losses thinned.
        trail: all forecasts so far, this one last, as rows of a `Trail`.
    """

    step: int
    forecast: Forecast
    recommendation: Recommendation
    target: float | None
    forecaster: Forecaster = field(repr=False)
    trail: tuple[dict[str, Any], ...] = field(repr=False)


Sink = Callable[[Update], None]


def listed_sinks(sinks: Iterable[Sink]) -> list[Sink]:
    """The sinks; a ConfigurationError if they cannot be called."""
    each = list(sinks) if isinstance(sinks, Iterable) else [None]
    if not all(map(callable, each)):
        raise ConfigurationError(
            f"sinks must be functions of an update, in a list such as [print], not {sinks!r:.60}"
        )
    return each
