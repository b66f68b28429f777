"""The adapter for Keras 3."""

from lossforecast.callbacks.keras.callback import KerasLossForecast

__all__ = ["KerasLossForecast"]
