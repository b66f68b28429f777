"""Forecasts of a large run from smaller runs of its family."""

from lossforecast.ladder.course import Course
from lossforecast.ladder.departure import Departure
from lossforecast.ladder.ladder import Ladder, LadderForecast
from lossforecast.ladder.optimum import Optimum
from lossforecast.ladder.rung import stretched
from lossforecast.ladder.size_law import SizeLaw
from lossforecast.ladder.sweeps import FinalLoss, best_batch, best_peak

__all__ = [
    "Course",
    "Departure",
    "FinalLoss",
    "Ladder",
    "LadderForecast",
    "Optimum",
    "SizeLaw",
    "best_batch",
    "best_peak",
    "stretched",
]
