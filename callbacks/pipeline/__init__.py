"""From captured losses to forecasts, in one process or many; what every loop adapter shares."""

from lossforecast.callbacks.pipeline.describe import default_policies, describe, widest_group
from lossforecast.callbacks.pipeline.metric_direction import falls
from lossforecast.callbacks.pipeline.pipeline import Pipeline
from lossforecast.callbacks.pipeline.recorder import RunRecorder, StoreLike, checked

__all__ = [
    "Pipeline",
    "RunRecorder",
    "StoreLike",
    "checked",
    "default_policies",
    "describe",
    "falls",
    "widest_group",
]
