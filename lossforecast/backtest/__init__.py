"""Replay of recorded runs: forecasts and stopping decisions are scored against the outcome."""

from lossforecast.backtest.backtest import FRACTIONS, Backtest, backtest, prior_without_fold
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.families import (
    MIN_FORECASTS_FOR_RATIO,
    WORSE_FACTOR,
    FamilyScore,
    KindScore,
    select_per_family,
)
from lossforecast.backtest.ladder import LADDER_BASELINES, LadderRecord, replay_ladder
from lossforecast.backtest.learn import Lessons, learn_prior
from lossforecast.backtest.lookback import LookBack, Moment, Tally, look_back
from lossforecast.backtest.plot import plot_errors
from lossforecast.backtest.replay import Told
from lossforecast.backtest.rules import OUR_RULES, RULES
from lossforecast.backtest.scorecard import MIN_FORECASTS_PER_CELL, VIEWS, Cell
from lossforecast.backtest.sweep_plot import plot_sweeps
from lossforecast.backtest.sweeps import LARGE_SWEEP_RUNS, SweepScore, replay_sweeps

__all__ = [
    "FRACTIONS",
    "LADDER_BASELINES",
    "LARGE_SWEEP_RUNS",
    "MIN_FORECASTS_FOR_RATIO",
    "MIN_FORECASTS_PER_CELL",
    "OUR_RULES",
    "RULES",
    "VIEWS",
    "WORSE_FACTOR",
    "Backtest",
    "Cell",
    "FamilyScore",
    "KindScore",
    "LadderRecord",
    "Lessons",
    "LookBack",
    "Moment",
    "RecordedRun",
    "SweepScore",
    "Tally",
    "Told",
    "backtest",
    "learn_prior",
    "load_curves",
    "look_back",
    "plot_errors",
    "plot_sweeps",
    "prior_without_fold",
    "replay_ladder",
    "replay_sweeps",
    "select_per_family",
]
