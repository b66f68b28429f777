"""The online object: observes a run, forecasts its final loss and recommends what to do."""

from lossforecast.forecaster.forecaster import Forecaster

__all__ = ["Forecaster"]
