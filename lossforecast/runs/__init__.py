"""One run as observed: its description, losses, learning rates and outcome."""

from lossforecast.runs.evidence import Evidence, gather
from lossforecast.runs.history import Bins, History
from lossforecast.runs.observed import observed, points
from lossforecast.runs.outcome import (
    END_SHARE,
    Ending,
    EndingRule,
    at_end,
    ending,
    ending_of_curve,
    overran,
)
from lossforecast.runs.overfitting import overfit_rise
from lossforecast.runs.rates import effective_schedule, observed_rates
from lossforecast.runs.run_info import RunInfo
from lossforecast.runs.windows import mean_step

__all__ = [
    "END_SHARE",
    "Bins",
    "Ending",
    "EndingRule",
    "Evidence",
    "History",
    "RunInfo",
    "at_end",
    "effective_schedule",
    "ending",
    "ending_of_curve",
    "gather",
    "mean_step",
    "observed",
    "observed_rates",
    "overfit_rise",
    "overran",
    "points",
]
