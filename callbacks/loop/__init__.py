"""Training loops of any framework, which pass their losses to the callback themselves."""

from lossforecast.callbacks.loop.callback import LossForecast
from lossforecast.callbacks.loop.counted_run import CountedRun
from lossforecast.callbacks.loop.own_loop import OwnLoop, console_sinks
from lossforecast.callbacks.loop.plan import plan_of
from lossforecast.callbacks.loop.step_capture import StepCapture

__all__ = ["CountedRun", "LossForecast", "OwnLoop", "StepCapture", "console_sinks", "plan_of"]
