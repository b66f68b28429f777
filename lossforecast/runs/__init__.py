"""One run as observed: its description, losses, learning rates and outcome."""

from lossforecast.runs.effective_schedule import as_used, observed_rates
from lossforecast.runs.evidence import Evidence, gather
from lossforecast.runs.history import END, Bins, History, observed, points
from lossforecast.runs.outcome import at_end, ended, overran
from lossforecast.runs.overfitting import risen
from lossforecast.runs.run_info import RunInfo
from lossforecast.runs.windows import mean_step

__all__ = [
    "END",
    "Bins",
    "Evidence",
    "History",
    "RunInfo",
    "as_used",
    "at_end",
    "ended",
    "gather",
    "mean_step",
    "observed",
    "observed_rates",
    "overran",
    "points",
    "risen",
]
