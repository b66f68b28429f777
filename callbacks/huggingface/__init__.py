"""The adapter for the Hugging Face ``Trainer``."""

from lossforecast.callbacks.huggingface.callback import TransformersLossForecast

__all__ = ["TransformersLossForecast"]
