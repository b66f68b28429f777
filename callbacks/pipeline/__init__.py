"""The way from captured losses to forecasts, shared by the callbacks of all training loops."""

from lossforecast.callbacks.pipeline.loop_callback import LoopCallback
from lossforecast.callbacks.pipeline.metric_direction import is_loss_like
from lossforecast.callbacks.pipeline.pipeline import Pipeline
from lossforecast.callbacks.pipeline.plan_watch import PlanSource
from lossforecast.callbacks.pipeline.recorder import Place, StoreLike
from lossforecast.callbacks.pipeline.settings import Settings
from lossforecast.callbacks.pipeline.start import HostRun, resume, start

__all__ = [
    "HostRun",
    "LoopCallback",
    "Pipeline",
    "Place",
    "PlanSource",
    "Settings",
    "StoreLike",
    "is_loss_like",
    "resume",
    "start",
]
