"""Adapters to training loops and tools.

Accessing an adapter imports its framework, and no other framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossforecast.callbacks.huggingface import TransformersLossForecast
    from lossforecast.callbacks.keras import KerasLossForecast
    from lossforecast.callbacks.lightning import LightningLossForecast
    from lossforecast.callbacks.loop import LossForecast
    from lossforecast.callbacks.lr_schedulers import SteerableLR, schedule_from_torch
    from lossforecast.callbacks.probe import AnnealingProbe
    from lossforecast.callbacks.sweeps.optuna import ForecastPruner
    from lossforecast.callbacks.sweeps.ray import ForecastScheduler, ForecastStopper
    from lossforecast.callbacks.tensorboard import TensorBoardSink
    from lossforecast.callbacks.torch import TorchLossForecast
    from lossforecast.callbacks.trackers import (
        AccelerateSink,
        CSVSink,
        MLflowSink,
        TrackioSink,
        WandbSink,
    )

__all__ = [
    "AccelerateSink",
    "AnnealingProbe",
    "CSVSink",
    "ForecastPruner",
    "ForecastScheduler",
    "ForecastStopper",
    "KerasLossForecast",
    "LightningLossForecast",
    "LossForecast",
    "MLflowSink",
    "SteerableLR",
    "TensorBoardSink",
    "TorchLossForecast",
    "TrackioSink",
    "TransformersLossForecast",
    "WandbSink",
    "schedule_from_torch",
]

_HOME = {
    "AccelerateSink": "lossforecast.callbacks.trackers",
    "AnnealingProbe": "lossforecast.callbacks.probe",
    "CSVSink": "lossforecast.callbacks.trackers",
    "ForecastPruner": "lossforecast.callbacks.sweeps.optuna",
    "ForecastScheduler": "lossforecast.callbacks.sweeps.ray",
    "ForecastStopper": "lossforecast.callbacks.sweeps.ray",
    "KerasLossForecast": "lossforecast.callbacks.keras",
    "LightningLossForecast": "lossforecast.callbacks.lightning",
    "LossForecast": "lossforecast.callbacks.loop",
    "MLflowSink": "lossforecast.callbacks.trackers",
    "SteerableLR": "lossforecast.callbacks.lr_schedulers",
    "TensorBoardSink": "lossforecast.callbacks.tensorboard",
    "TorchLossForecast": "lossforecast.callbacks.torch",
    "TrackioSink": "lossforecast.callbacks.trackers",
    "TransformersLossForecast": "lossforecast.callbacks.huggingface",
    "WandbSink": "lossforecast.callbacks.trackers",
    "schedule_from_torch": "lossforecast.callbacks.lr_schedulers",
}
"""Package of each adapter."""
_NEEDS = {
    "AnnealingProbe": 'PyTorch: pip install "lossforecast[torch]"',
    "ForecastPruner": 'Optuna: pip install "lossforecast[optuna]"',
    "ForecastScheduler": 'Ray Tune: pip install "lossforecast[ray]"',
    "ForecastStopper": 'Ray Tune: pip install "lossforecast[ray]"',
    "KerasLossForecast": 'Keras 3: pip install "lossforecast[keras]"',
    "LightningLossForecast": 'Lightning: pip install "lossforecast[lightning]"',
    "SteerableLR": 'PyTorch: pip install "lossforecast[torch]"',
    "TorchLossForecast": 'PyTorch: pip install "lossforecast[torch]"',
    "TransformersLossForecast": 'Transformers: pip install "lossforecast[huggingface]"',
    "schedule_from_torch": 'PyTorch: pip install "lossforecast[torch]"',
}
"""Framework of each adapter, and how to install it; sinks load theirs when they are created."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if name not in _NEEDS:
            raise
        raise ModuleNotFoundError(f"{name} needs {_NEEDS[name]} ({error})") from error


def __dir__() -> list[str]:
    return sorted(__all__)
