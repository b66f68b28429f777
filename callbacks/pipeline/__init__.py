"""From captured losses to forecasts, in one process or several; shared by all loop callbacks."""

from lossforecast.callbacks.pipeline.describe import widest_group
from lossforecast.callbacks.pipeline.loop_callback import LoopCallback
from lossforecast.callbacks.pipeline.metric_direction import falls
from lossforecast.callbacks.pipeline.pipeline import Pipeline
from lossforecast.callbacks.pipeline.recorder import Place, StoreLike
from lossforecast.callbacks.pipeline.settings import Settings
from lossforecast.callbacks.pipeline.start import HostRun, start

__all__ = [
    "HostRun",
    "LoopCallback",
    "Pipeline",
    "Place",
    "Settings",
    "StoreLike",
    "falls",
    "start",
    "widest_group",
]
