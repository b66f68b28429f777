"""Forecasts of a large run from smaller runs of its family."""

from lossforecast.ladder.departure import Departure
from lossforecast.ladder.foretold import Foretold
from lossforecast.ladder.ladder import Ladder, LadderForecast
from lossforecast.ladder.rung import stretched
from lossforecast.ladder.size_law import SizeLaw

__all__ = ["Departure", "Foretold", "Ladder", "LadderForecast", "SizeLaw", "stretched"]
