"""The way from captured losses to forecasts, shared by the callbacks of all training loops."""

from lossforecast.callbacks.pipeline.capture import Capture
from lossforecast.callbacks.pipeline.loop_callback import LoopCallback, finalize_failed
from lossforecast.callbacks.pipeline.losses import Losses
from lossforecast.callbacks.pipeline.metric_direction import is_loss_like
from lossforecast.callbacks.pipeline.pipeline import Pipeline
from lossforecast.callbacks.pipeline.plan_watch import PlanSource
from lossforecast.callbacks.pipeline.recognition import Recognition
from lossforecast.callbacks.pipeline.settings import Settings
from lossforecast.callbacks.pipeline.start import HostRun, resume, start
from lossforecast.callbacks.pipeline.store_place import Place, StoreLike

__all__ = [
    "Capture",
    "HostRun",
    "LoopCallback",
    "Losses",
    "Pipeline",
    "Place",
    "PlanSource",
    "Recognition",
    "Settings",
    "StoreLike",
    "finalize_failed",
    "is_loss_like",
    "resume",
    "start",
]
