"""The prior of a run: the laws' parameters and the annealing drop before its losses."""

from lossforecast.prior.beliefs import Beliefs, Regime
from lossforecast.prior.drops import DropComponent, DropPrior, DropRule, drop_prior
from lossforecast.prior.past_runs import (
    MAX_PAST_RUNS,
    STD_OF_EQUAL_SETUPS,
    PastRun,
    Planned,
    comparable,
    expected_differences,
    fits_budget,
    highest_final_loss,
    in_same_units,
    is_below,
    is_smaller,
    most_similar,
    smaller,
)
from lossforecast.prior.prior import Prior, calibration_key
from lossforecast.prior.probe_gaps import Gap, GapRule, MeasuredDrop

__all__ = [
    "MAX_PAST_RUNS",
    "STD_OF_EQUAL_SETUPS",
    "Beliefs",
    "DropComponent",
    "DropPrior",
    "DropRule",
    "Gap",
    "GapRule",
    "MeasuredDrop",
    "PastRun",
    "Planned",
    "Prior",
    "Regime",
    "calibration_key",
    "comparable",
    "drop_prior",
    "expected_differences",
    "fits_budget",
    "highest_final_loss",
    "in_same_units",
    "is_below",
    "is_smaller",
    "most_similar",
    "smaller",
]
