"""`LoopCallback`: the base class of the callbacks of training loops."""

from functools import partial

from lossforecast.callbacks.monitor import clean_up
from lossforecast.callbacks.pipeline.pipeline import Pipeline
from lossforecast.callbacks.pipeline.settings import Settings
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Recommendation

__all__ = ["LoopCallback"]


class LoopCallback:
    """Gives access to the forecasts of the present run's pipeline, and ends the run."""

    settings: Settings
    """The arguments of the callback."""
    switched_off = False
    """True if an internal error has ended forecasting in this run."""
    _pipeline: Pipeline | None = None

    @property
    def forecaster(self) -> Forecaster | None:
        """The forecaster, with all losses read so far; None before training starts."""
        return self._pipeline.forecaster() if self._pipeline else None

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast of the final loss; None before the first and outside process 0."""
        return self._pipeline.monitor.forecast if self._pipeline else None

    @property
    def recommendation(self) -> Recommendation | None:
        """The latest recommendation; None before the first and outside process 0."""
        return self._pipeline.monitor.recommendation if self._pipeline else None

    def _release(self) -> None:
        """Leave the other processes and remove all hooks; log errors."""
        if self._pipeline is not None:
            clean_up(self._pipeline.leave, self._pipeline.close)

    def _record_end(self, error: BaseException | None = None) -> None:
        """Record the end of the run in the store; log errors."""
        if self._pipeline is not None:
            watched = not self.switched_off
            clean_up(partial(self._pipeline.record_end, error, watched=watched))
