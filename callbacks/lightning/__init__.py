"""The adapter for the Lightning ``Trainer``."""

from lossforecast.callbacks.lightning.callback import LightningLossForecast

__all__ = ["LightningLossForecast"]
