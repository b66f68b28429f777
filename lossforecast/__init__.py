"""Forecasts of the final loss of a training run, with intervals, while the run is young.

    from lossforecast import Forecaster, LRSchedule

    forecaster = Forecaster(LRSchedule.cosine(total_steps=24_000, peak=3e-4, warmup=2_000))
    forecaster.observe(step, loss)          # at every step, or at every validation
    forecaster.forecast()                   # the final loss with its intervals
    forecaster.recommend(target=2.95)       # continue, stop, ...

Adapters to training loops live in `lossforecast.callbacks`.
"""

from lossforecast.errors import (
    ConfigurationError,
    LossForecastError,
    ObservationError,
    ScheduleError,
    StateError,
    StoreError,
)
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Action, Reason, Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import Bins, History, RunInfo
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat, Status
from lossforecast.store import RunStore
from lossforecast.version import __version__

__all__ = [
    "Action",
    "Bins",
    "Caveat",
    "ConfigurationError",
    "Forecast",
    "Forecaster",
    "History",
    "LRSchedule",
    "LossForecastError",
    "ObservationError",
    "Prior",
    "Reason",
    "Recommendation",
    "RunInfo",
    "RunStore",
    "ScheduleError",
    "StateError",
    "Status",
    "StoreError",
    "__version__",
]
