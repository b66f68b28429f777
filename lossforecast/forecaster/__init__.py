"""The online object: observes a run, forecasts its final loss and recommends what to do."""

from lossforecast.forecaster.forecaster import Forecaster
from lossforecast.forecaster.hindsight import Hindsight
from lossforecast.forecaster.replanning import plan_difference

__all__ = ["Forecaster", "Hindsight", "plan_difference"]
