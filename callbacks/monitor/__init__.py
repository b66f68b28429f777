"""A forecaster inside a training run: forecasts, recommendations, sinks, errors kept out."""

from lossforecast.callbacks.monitor.console import ConsoleSink
from lossforecast.callbacks.monitor.guard import clean_up, guarded, state_errors, switch_off
from lossforecast.callbacks.monitor.run_monitor import RunMonitor, adopt_plan
from lossforecast.callbacks.monitor.trail import FAN, Trail, fan, short
from lossforecast.callbacks.monitor.update import Sink, Tenths, Update, listed_sinks

__all__ = [
    "FAN",
    "ConsoleSink",
    "RunMonitor",
    "Sink",
    "Tenths",
    "Trail",
    "Update",
    "adopt_plan",
    "clean_up",
    "fan",
    "guarded",
    "listed_sinks",
    "short",
    "state_errors",
    "switch_off",
]
