"""One run as observed: its description, losses, learning rates and outcome."""

from lossforecast.runs.bins import Bins
from lossforecast.runs.evidence import Evidence, gather
from lossforecast.runs.history import History
from lossforecast.runs.observed import observed, points, same_losses
from lossforecast.runs.outcome import (
    END_SHARE,
    Outcome,
    OutcomeRule,
    at_end,
    outcome_of,
    outcome_of_curve,
    overran,
)
from lossforecast.runs.overfitting import lowest_loss, overfit_rise
from lossforecast.runs.rates import effective_schedule, observed_rates
from lossforecast.runs.run_info import RunInfo, RunKind
from lossforecast.runs.windows import mean_step

__all__ = [
    "END_SHARE",
    "Bins",
    "Evidence",
    "History",
    "Outcome",
    "OutcomeRule",
    "RunInfo",
    "RunKind",
    "at_end",
    "effective_schedule",
    "gather",
    "lowest_loss",
    "mean_step",
    "observed",
    "observed_rates",
    "outcome_of",
    "outcome_of_curve",
    "overfit_rise",
    "overran",
    "points",
    "same_losses",
]
